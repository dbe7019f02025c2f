"""How often is the evidence in the context? By budget of tokens, on conversations in LoCoMo's form.

DATA is as in perf/retrieval.py. `context` is `memory.context`. `search` takes the matches of a search in their order
until the budget is full, and `newest` the newest turns of the conversation. "all" is the share of the questions whose
whole evidence is there, "some" of those of which a part is.

For `relevant_only` it tells the share of the evidence among ten matches that stays. Beside it stands the share that
stays of ten matches in another conversation, where everything is wrong.
"""

from pathlib import Path
from typing import Any, get_args

import measure
import numpy as np
from retrieval import memory_of, read

from agentmem import Match, Memory
from agentmem.context import Template
from agentmem.search.searcher import Mode

BUDGETS = (250, 500, 1000, 2000, 4000)
DEEP = 600


def shares(found: list[set[str]], questions: list[dict[str, Any]]) -> dict[str, float]:
    gold = [set(question["gold"]) for question in questions]
    return {
        "all": float(np.mean([wanted <= ids for wanted, ids in zip(gold, found, strict=True)])),
        "some": float(np.mean([bool(wanted & ids) for wanted, ids in zip(gold, found, strict=True)])),
    }


def cut(matches: list[Match], budget: int, costs: dict[str, int]) -> set[str]:
    """The first matches whose lines fit, without passing any over."""
    kept: set[str] = set()
    for match in matches:
        budget -= costs[match.record.id]
        if budget < 0:
            break
        kept.add(match.record.id)
    return kept


def main() -> None:
    options = measure.arguments(__doc__, data={"positional": True, "type": Path}, every={"type": int, "default": 1})
    turns = read(options.data / "turns.jsonl")
    questions = [question for question in read(options.data / "questions.jsonl") if question["gold"]][:: options.every]
    names = list(dict.fromkeys(turn["conv"] for turn in turns))
    figures: dict[str, Any] = {}
    with measure.temporary_store() as path, Memory(path, model=options.model) as memory:
        memory.add_batch([memory_of(turn) for turn in turns])
        counter = memory._counter(None)
        newest: dict[str, list[Match]] = {}
        costs: dict[str, int] = {}
        for name in names:
            records = memory.get_all(user_id=name, limit=5000)
            newest[name] = [Match(record, 1.0) for record in records]
            lines = counter([f'[100] "{record.content}"\n' for record in records])
            costs |= {record.id: count for record, count in zip(records, lines, strict=True)}
        frame = counter([Template().head + Template().foot])[0]
        searched = [memory.search(each["text"], user_id=each["conv"], limit=DEEP) for each in questions]
        for budget in BUDGETS:
            contexts = [memory.context(each["text"], user_id=each["conv"], max_tokens=budget) for each in questions]
            assert max(context.tokens for context in contexts) <= budget
            found = [{match.record.id for match in context.matches} for context in contexts]
            room = budget - frame
            figures[f"context, {budget} tokens"] = shares(found, questions) | {
                "tokens": float(np.mean([context.tokens for context in contexts])),
                "memories": float(np.mean([len(ids) for ids in found])),
            }
            plain = [cut(matches, room, costs) for matches in searched]
            figures[f"search, {budget} tokens"] = shares(plain, questions)
            last = [cut(newest[each["conv"]], room, costs) for each in questions]
            figures[f"newest, {budget} tokens"] = shares(last, questions)
        for mode in get_args(Mode):
            figures[f"relevant_only, {mode}"] = relevance(memory, questions, names, mode)
    measure.report(f"Context, {options.model}", figures, options)


def relevance(memory: Memory, questions: list[dict[str, Any]], names: list[str], mode: Any) -> dict[str, float]:
    evidence = kept = wrong = wrong_kept = 0
    for question in questions:
        other = names[(names.index(question["conv"]) + 1) % len(names)]
        gold = set(question["gold"])
        for only in (False, True):
            right = memory.search(question["text"], user_id=question["conv"], mode=mode, relevant_only=only)
            foreign = memory.search(question["text"], user_id=other, mode=mode, relevant_only=only)
            found = sum(match.record.id in gold for match in right)
            if only:
                kept, wrong_kept = kept + found, wrong_kept + len(foreign)
            else:
                evidence, wrong = evidence + found, wrong + len(foreign)
    return {"evidence kept": kept / evidence, "of another conversation kept": wrong_kept / wrong}


if __name__ == "__main__":
    main()
