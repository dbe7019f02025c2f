"""Measures how well the right memories are found, on conversations in LoCoMo's form, with evidence known by turn.

DATA is a folder with `turns.jsonl` (_id, conv, session, date, speaker, text, caption) and `questions.jsonl` (_id, conv,
category, text, gold). Each turn is a memory of the user `conv` and the run `conv/session`; each question that has
evidence is a search for that user. R@k is the mean share of a question's evidence among the first k matches.

The ablation takes one part of the ranking away at a time. Weights were tuned on the first three conversations and
confirmed on the others, so both halves are reported. The thresholds are asked of the first ten matches in every mode:
the share of the evidence found among them that passes, how many matches pass, and how many of those are evidence. Below
them stands the share of the questions for which nothing passes.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, get_args

import measure
import numpy as np

from agentmem import Memory
from agentmem.search import bm25 as keywords
from agentmem.search import ranking
from agentmem.search.searcher import Mode

DEPTHS = (1, 5, 10)
TUNED = 3
THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)

Scores = dict[str, dict[str, list[float]]]

PARTS: dict[str, list[tuple[Any, str, Any]]] = {
    "no neighbours": [(ranking, "KEYWORD_NEIGHBOURS", (0.0, 0.0)), (ranking, "VECTOR_NEIGHBOURS", (0.0, 0.0))],
    "no neighbours of words": [(ranking, "KEYWORD_NEIGHBOURS", (0.0, 0.0))],
    "no neighbours of vectors": [(ranking, "VECTOR_NEIGHBOURS", (0.0, 0.0))],
    "no vectors": [(ranking, "VECTOR_WEIGHT", 0.0)],
    "no words": [(ranking, "KEYWORD_WEIGHT", 0.0)],
    "texts of any length alike": [(keywords, "B", 0.0)],
    "K1 and B as elsewhere (1.2, 0.75)": [(keywords, "K1", 1.2), (keywords, "B", 0.75)],
}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def memory_of(turn: dict[str, Any]) -> dict[str, Any]:
    caption = f" [{turn['caption']}]" if turn["caption"] else ""
    return {
        "id": turn["_id"],
        "content": f"{turn['speaker']}: {turn['text']}{caption}",
        "user_id": turn["conv"],
        "run_id": f"{turn['conv']}/{turn['session']}",
        "created_at": datetime.strptime(turn["date"], "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC),
    }


def ndcg(found: list[str], gold: set[str], depth: int) -> float:
    """Returns the normalised discounted cumulative gain with binary relevance (Jarvelin and Kekalainen, 2002)."""
    gain = sum(1 / np.log2(rank + 2) for rank, name in enumerate(found[:depth]) if name in gold)
    best = sum(1 / np.log2(rank + 2) for rank in range(min(depth, len(gold))))
    return float(gain / best)


@contextmanager
def changed(changes: list[tuple[Any, str, Any]]) -> Iterator[None]:
    before = [(module, name, getattr(module, name)) for module, name, _ in changes]
    for module, name, value in changes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def ask(
    search: Callable[..., Any], questions: list[dict[str, Any]], group_of: Callable[[dict[str, Any]], list[str]]
) -> tuple[Scores, list[float]]:
    """Returns the results of each group of questions, and the seconds of each search."""
    scores: Scores = defaultdict(lambda: defaultdict(list))
    calls = []
    for question in questions:
        began = time.perf_counter()
        matches = search(question["text"], user_id=question["conv"], limit=max(DEPTHS))
        calls.append(time.perf_counter() - began)
        found, gold = [match.record.id for match in matches], set(question["gold"])
        for group in group_of(question):
            for depth in DEPTHS:
                scores[group][f"R@{depth}"].append(len(gold & set(found[:depth])) / len(gold))
            scores[group]["nDCG@10"].append(ndcg(found, gold, 10))
    return scores, calls


def thresholds(search: Callable[..., Any], questions: list[dict[str, Any]], mode: str) -> dict[str, Any]:
    """Returns what each threshold leaves of the first ten matches of all questions."""
    answers = [
        [(match.score, match.record.id in question["gold"]) for match in matches]
        for question in questions
        for matches in [search(question["text"], user_id=question["conv"], limit=10, mode=mode)]
    ]
    found = sum(right for matches in answers for _, right in matches)
    figures = {}
    for threshold in THRESHOLDS:
        kept = [[right for score, right in matches if score >= threshold] for matches in answers]
        matches, right = sum(map(len, kept)), sum(map(sum, kept))
        figures[f"{mode}, threshold {threshold}"] = {
            "evidence kept": right / found,
            "matches": matches / len(kept),
            "right of these": right / matches if matches else 0.0,
            "questions without a match": sum(not each for each in kept) / len(kept),
        }
    return figures


def means(scores: Scores, prefix: str) -> dict[str, Any]:
    return {
        f"{prefix}, {group}": {name: float(np.mean(values)) for name, values in scores[group].items()}
        | {"questions": len(scores[group]["R@1"])}
        for group in sorted(scores)
    }


def main() -> None:
    options = measure.arguments(__doc__, data={"positional": True, "type": Path})
    turns = read(options.data / "turns.jsonl")
    questions = [question for question in read(options.data / "questions.jsonl") if question["gold"]]
    tuned = list(dict.fromkeys(turn["conv"] for turn in turns))[:TUNED]

    def halves(question: dict[str, Any]) -> list[str]:
        return ["all", "tuned on" if question["conv"] in tuned else "confirmed on"]

    def groups(question: dict[str, Any]) -> list[str]:
        return [*halves(question), f"category {question['category']}", f"conversation {question['conv']}"]

    figures: dict[str, Any] = {}
    with measure.temporary_store() as path, Memory(path, model=options.model) as memory:
        began = time.perf_counter()
        memory.add_batch([memory_of(turn) for turn in turns])
        figures["turns remembered a second"] = len(turns) / (time.perf_counter() - began)
        for mode in get_args(Mode):
            scores, calls = ask(partial(memory.search, mode=mode), questions, groups if mode == "hybrid" else halves)
            figures |= means(scores, mode) | {f"{mode}, search": measure.percentiles(calls)}
            figures |= thresholds(memory.search, questions, mode)
        # Their queries are cached now.
        for part, changes in PARTS.items():
            with changed(changes):
                scores, calls = ask(memory.search, questions, halves)
            figures |= means(scores, part) | {f"{part}, search": measure.percentiles(calls)}
        assert memory.check() == []
    measure.report(f"Retrieval, {options.model}", figures, options)


if __name__ == "__main__":
    main()
