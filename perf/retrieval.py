"""How well are the right memories found? Measured on conversations in LoCoMo's form, with evidence known by turn.

DATA is a folder with `turns.jsonl` (_id, conv, session, date, speaker, text, caption) and `questions.jsonl` (_id, conv,
category, text, gold). Each turn is a memory of the user `conv` and the run `conv/session`; each question that has
evidence is a search for that user. R@k is the mean share of a question's evidence among the first k matches.
"""

import json
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import measure
import numpy as np

from agentmem import Memory

DEPTHS = (1, 5, 10)


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
    """Normalised discounted cumulative gain with binary relevance (Jarvelin and Kekalainen, 2002)."""
    gain = sum(1 / np.log2(rank + 2) for rank, name in enumerate(found[:depth]) if name in gold)
    best = sum(1 / np.log2(rank + 2) for rank in range(min(depth, len(gold))))
    return float(gain / best)


def main() -> None:
    options = measure.arguments(__doc__, data={"positional": True, "type": Path})
    turns = read(options.data / "turns.jsonl")
    questions = [question for question in read(options.data / "questions.jsonl") if question["gold"]]
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with measure.temporary_store() as path, Memory(path, model=options.model) as memory:
        began = time.perf_counter()
        memory.add_batch([memory_of(turn) for turn in turns])
        seconds = time.perf_counter() - began
        calls = []
        for question in questions:
            began = time.perf_counter()
            matches = memory.search(question["text"], user_id=question["conv"], limit=max(DEPTHS))
            calls.append(time.perf_counter() - began)
            found, gold = [match.record.id for match in matches], set(question["gold"])
            for group in ("all", f"category {question['category']}", f"conversation {question['conv']}"):
                for depth in DEPTHS:
                    scores[group][f"R@{depth}"].append(len(gold & set(found[:depth])) / len(gold))
                scores[group]["nDCG@10"].append(ndcg(found, gold, 10))
        assert memory.check() == []
    figures: dict[str, Any] = {"turns remembered a second": len(turns) / seconds, "search": measure.percentiles(calls)}
    for group in sorted(scores):
        figures[group] = {name: float(np.mean(values)) for name, values in scores[group].items()} | {
            "questions": len(scores[group]["R@1"])
        }
    measure.report(f"Retrieval, {options.model}, vectors alone", figures, options)


if __name__ == "__main__":
    main()
