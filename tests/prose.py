"""Reads the prose of the sources: docstrings, comments and messages, with their lines.

`python -m tests.prose` prints what `tests/test_prose.py` refuses, and lowers the bounds that it compares with.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("agentmem", "models", "perf", "tests")
BOUNDS = Path(__file__).with_name("prose_bounds.txt")
MOST_WORDS = 25

REFUSED = re.compile(
    r"\b(?:he|him|his|himself|who|whom|whoever|every(?:body|one)|some(?:body|one)|anybody|nobody"
    r"|so many|so much|one's own|by itself|by themselves"
    r"|lens|lenses|parcels?|shelf|shelves|lanes?|twins?|intake|backlog|salvages?|salvaged|mends?|mended|mending)\b",
    re.IGNORECASE,
)
"""Pronouns of persons, which are wrong for owners, threads and processes; phrases without a noun; names of our own for
things that have a name (evict, rebuild, repair, index, queue)."""

_WORD = re.compile(r"[^\W_][\w'.,/+-]*")
_SENTENCE_END = re.compile(r"(?<=[.!?])[)\"'`]*\s+(?=[A-Z0-9`\"'(*{-])")
_CODE = re.compile(r"`[^`\n]*`")


class Passage(NamedTuple):
    """A docstring, a block of comments or a message."""

    line: int
    kind: str  # "docstring", "comment" or "message".
    text: str


def sources() -> list[Path]:
    """Returns the Python files whose prose is read."""
    return sorted(path for folder in SOURCES for path in (ROOT / folder).rglob("*.py"))


def pages() -> list[Path]:
    """Returns the pages, but for the changes, which tell of the past."""
    patterns = (
        "README.md",
        "agentmem/*.md",
        "agentmem/*/README.md",
        "models/*.md",
        "perf/*.md",
        "tests/*.md",
        ".github/*.md",
    )
    found = {path for pattern in patterns for path in ROOT.glob(pattern)}
    return sorted(path for path in found if path.name != "CHANGELOG.md")


def text_of_page(path: Path) -> str:
    """Returns a page without its code."""
    return re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S)


def passages(source: str) -> Iterator[Passage]:
    """Yields the docstrings, those below attributes included, then the comments, then the messages."""
    tree = ast.parse(source)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            for statement in body:
                constant = statement.value if isinstance(statement, ast.Expr) else None
                if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                    docstrings.add(constant)
                    yield Passage(constant.lineno, "docstring", constant.value)
    yield from _comments(source)
    formatted = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    inside = {part for node in formatted for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else "`x`" for part in node.values]
            yield from _message(node.lineno, "".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings | inside:
            yield from _message(node.lineno, node.value)


def _comments(source: str) -> Iterator[Passage]:
    block: list[tuple[int, int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not re.match(r"#\s*(type:|noqa|fmt:|!)", token.string):
            (line, column), text = token.start, token.string.lstrip("# ")
            alone = not token.line[:column].strip()
            if block and (not alone or (line, column) != (block[-1][0] + 1, block[-1][1])):
                yield Passage(block[0][0], "comment", " ".join(text for _, _, text in block))
                block = []
            block.append((line, column if alone else -1, text))
    if block:
        yield Passage(block[0][0], "comment", " ".join(text for _, _, text in block))


def _message(line: int, text: str) -> Iterator[Passage]:
    """Yields a string that reads as a sentence: four words or more on a line, a capital first, and no SQL."""
    if re.match(r"[A-Z`](?![A-Z]{2})", text) and "\n" not in text.strip() and len(_WORD.findall(text)) >= 4:
        yield Passage(line, "message", text)


def prose_of(path: Path) -> Iterator[Passage]:
    """Yields the passages of a file. The strings of tests are data, and no messages."""
    for passage in passages(path.read_text("utf-8")):
        if passage.kind != "message" or "tests" not in path.relative_to(ROOT).parts:
            yield passage


def plain(text: str) -> str:
    """Returns the text without what stands in backticks, in double quotes or in an indented example."""
    text = re.sub("\b\\n\\s*Examples:\\n.*", "", text, flags=re.S)  # Of a command's help.
    return re.sub(r'"[^"\n]{0,80}"', "X", _CODE.sub("X", text))


def sentences(text: str) -> list[str]:
    """Returns the sentences: one ends with a full stop, at an empty line, and before an entry of a list or section."""
    found = []
    for paragraph in re.split(r"\n\s*\n|\n\s*(?=[-*] |\w+(?:, \w+)*(?: \([^)]*\))?: )|:\n", text):
        found += _SENTENCE_END.split(" ".join(plain(paragraph).split()))
    return [sentence for sentence in found if sentence]


def long_sentences(text: str) -> list[str]:
    """Returns the sentences of more than MOST_WORDS words."""
    return [sentence for sentence in sentences(text) if len(_WORD.findall(sentence)) > MOST_WORDS]


def refused(text: str) -> list[str]:
    """Returns the refused words outside of code and quotes."""
    return REFUSED.findall(plain(text))


def count_long(path: Path) -> int:
    """Returns the number of long sentences of a file."""
    return sum(len(long_sentences(passage.text)) for passage in prose_of(path))


def bounds() -> dict[str, int]:
    """Returns the number of long sentences that each file may have; a file without an entry may have none."""
    lines = BOUNDS.read_text("utf-8").splitlines()
    return {path: int(number) for number, path in (line.split() for line in lines)}


def main() -> None:
    """Prints every passage that is refused, and lowers the bounds to the present numbers."""
    counted = {}
    for path in sources():
        name = str(path.relative_to(ROOT))
        counted[name] = count_long(path)
        for passage in prose_of(path):
            for word in refused(passage.text):
                print(f"{name}:{passage.line}: {word!r}: {' '.join(passage.text.split())}")
    earlier = bounds() if BOUNDS.exists() else counted
    lowered = {name: min(number, earlier.get(name, 0)) for name, number in counted.items()}
    BOUNDS.write_text("".join(f"{number} {name}\n" for name, number in lowered.items() if number), "utf-8")


if __name__ == "__main__":
    main()
