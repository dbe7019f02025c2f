"""near_words.npz: the words of the vocabulary that `minilm-static` finds near each other, for searches by words.

Two words are near from a cosine of `LEAST` on; a word keeps the `MOST` nearest of other stems. Only whole
pieces of Latin letters count. Stop words are left out, and so are the names of days and months: one is not the other.
"""

from __future__ import annotations

import io

import numpy as np

from agentmem.analyzer import ANALYSIS, DAYS, MONTHS, STOP_WORDS, stored_term

LEAST = 0.5
MOST = 8
SHORTEST = 3  # letters
STEPS = 255  # of a cosine

FOREIGN = frozenset(
    """
    der die das und ist nicht ein eine einen einem einer des den dem von mit auf fur wie war aber auch aus bei bis durch
    sich sie wir ihr ich noch nur oder uber unter vom zum zur les des est dans que qui pour par sur avec pas plus une
    aux son ses elle nous vous leur mais del los las por con para una como mas pero sus este esta entre sin dos che
    della non per nel een het van voor met zijn som til och att det dla nie jest vom sein las ser foi nao sua seu uma
    """.split()  # noqa: SIM905 - read as a text
)


def eligible(vocabulary: dict[str, int]) -> list[str]:
    """Returns the words that may be near others, in the order of the vocabulary: frequent ones first."""
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    words = [piece for piece in pieces if piece.isascii() and piece.isalpha() and len(piece) >= SHORTEST]
    silent = {stored_term(word) for word in STOP_WORDS | FOREIGN | {*DAYS, *MONTHS}}
    return [word for word in words if stored_term(word) not in silent]


def table(words: list[str], vectors: np.ndarray) -> bytes:
    """Returns the file. For each stem (`keys`, ascending), `near[starts[k] : starts[k + 1]]` are indexes of its nearest
    words, with `cosines` in 255ths. `terms` are the stems of the words as the analyzer hashes them."""
    terms = np.array([stored_term(word) for word in words], np.uint32)
    found: dict[int, dict[int, tuple[float, int]]] = {}
    for start in range(0, len(words), 1024):
        cosines = vectors[start : start + 1024] @ vectors.T
        for row, near in enumerate(cosines):
            own = found.setdefault(int(terms[start + row]), {})
            for place in np.flatnonzero(near >= LEAST).tolist():
                stem, cosine = int(terms[place]), float(near[place])
                if stem != terms[start + row] and cosine > own.get(stem, (0.0, 0))[0]:
                    own[stem] = (cosine, place)
    kept = {stem: sorted(near.values(), reverse=True)[:MOST] for stem, near in sorted(found.items()) if near}
    pairs = [pair for near in kept.values() for pair in near]
    used = sorted({place for _, place in pairs})
    index = {place: number for number, place in enumerate(used)}
    file = io.BytesIO()
    np.savez(
        file,
        analysis=np.frombuffer(ANALYSIS.encode(), np.uint8),
        words=np.frombuffer("\n".join(words[place] for place in used).encode(), np.uint8),
        terms=terms[used],
        keys=np.array(list(kept), np.uint32),
        starts=np.append(0, np.cumsum([len(near) for near in kept.values()])).astype(np.uint32),
        near=np.array([index[place] for _, place in pairs], np.uint16),
        cosines=np.array([round(min(cosine, 1.0) * STEPS) for cosine, _ in pairs], np.uint8),
    )
    return file.getvalue()
