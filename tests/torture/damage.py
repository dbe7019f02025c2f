"""Damage: a file of a store is truncated, zeroed, flipped in some bits, overwritten or swapped for an older one.

A process of its own then asks everything of it. It must end in time, and every answer must be right, or an
AgentMemError, or `check` names a problem.

A consistent older store is right too, since nothing in it can tell. That is a log without its tail or no log (SQLite
takes an invalid frame for the end of the log, as after a crash), or older copies of all files. A page written whole in
the place of another, or not at all, cannot be told either where trees, digests and histories still agree: its checksum
is that of its content. No case met that.
"""

import random
import shutil
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from agentmem import AgentMemError, Memory
from agentmem.search.segments import builder as sealing
from agentmem.testing import HashEmbedder
from tests.torture.nursery import Nursery
from tests.torture.writers import WORDS

HANGS_AFTER = 60.0
TOLERANCE = 0.001
"""Of a score: what it may differ and still be right, since float16 vectors are not exact either."""

PAGE = 4096

Answers = dict[str, Any]


def ask(memory: Memory) -> Answers:
    """Everything that the store knows of one user, or the errors that it answers with, by the question."""
    ids: list[str] = []

    def records() -> Any:
        found = memory.get_all(user_id="ana", limit=10_000, order="oldest").records
        ids.extend(record.id for record in found)
        return {record.id: record for record in found}

    def search(mode: Any) -> Any:
        found = memory.search("who plays the cello on Tuesdays", user_id="ana", limit=100, mode=mode)
        return {match.record.id: match.score for match in found}

    questions: dict[str, Callable[[], Any]] = {
        "records": records,
        "histories": lambda: {each: memory.history(each) for each in ids},
        "count": lambda: memory.count(user_id="ana"),
        "filter": lambda: memory.count(user_id="ana", filters={"n": {"gt": 5}}),
        "vectors": lambda: search("vector"),
        "keywords": lambda: search("keyword"),
        "hybrid": lambda: search("hybrid"),
    }
    answers: Answers = {}
    for name, question in questions.items():
        try:
            answers[name] = question()
        except AgentMemError as error:
            answers[name] = error
    return answers


def build(folder: str, seed: int) -> dict[str, list[Answers]]:
    """Makes the copies that are damaged (see `SETS`); returns the right answers of each, and of all moments before."""
    chance = random.Random(seed)
    place = Path(folder)
    path = place / "store.db"
    truths: list[Answers] = []
    ids: list[str] = []

    def live(memory: Memory, operations: int) -> None:
        for number in range(operations):
            kind = chance.choice(["add", "add", "batch", "update", "delete", "restore", "defer"])
            text = f"{number} {' '.join(chance.choices(WORDS, k=chance.randint(3, 20)))}"
            if kind == "batch":
                more = [f"{text} {each}" for each in range(12)]
                ids.extend(record.id for record in memory.add_batch(more, user_id="ana", metadata={"n": number}))
            elif kind in ("add", "defer") or not ids:
                metadata = {"n": number, "topic": chance.choice(WORDS)}
                record = memory.add(text, user_id="ana", role="user", metadata=metadata, defer=kind == "defer")
                ids.append(record.id)
                memory.flush(60)
            else:
                change: Callable[..., Any] = getattr(memory, kind)
                try:
                    change(chance.choice(ids), *([text] if kind == "update" else []))
                except AgentMemError:
                    continue
            truths.append(ask(memory))

    def copy(name: str) -> None:
        (place / name).mkdir()
        for file in place.glob("store.db*"):
            (shutil.copytree if file.is_dir() else shutil.copy)(file, place / name / file.name)

    with Memory(path, embedder=HashEmbedder()) as memory:
        truths.append(ask(memory))
        live(memory, 6)
        copy("young")
        live(memory, 4)
    copy("old")
    with Memory(path, embedder=HashEmbedder()) as memory:
        live(memory, 6)
        copy("open")
        before = len(truths)
        live(memory, 2)
    copy("closed")
    sealing.SEGMENT = SEGMENT
    with Memory(path, embedder=HashEmbedder()) as memory:
        ask(memory)
        memory._engine.index_cache.seal()
        ask(memory)
        assert memory.stats().store.segments > 1
    copy("sealed")
    return {"open": truths[:before], "closed": truths, "sealed": truths}


SEGMENT = 4
"""Memories of a segment."""

SETS = ("open", "closed", "sealed")
"""Makes copies of three stores: an open one with the newest changes in its log, a closed one, and one with segments."""


def damage(folder: Path, store: Path, chance: random.Random) -> str:
    """Does one of the things that happen to files, to a file of a copy of a store; says what."""
    file = chance.choice(sorted(each for each in store.rglob("*") if each.is_file()))
    name = file.relative_to(store).as_posix()
    content = bytearray(file.read_bytes())
    size = len(content)
    start = chance.randrange(size) if size else 0
    kind = chance.choice(["truncated", "zeroed", "flipped", "flipped", "flipped", "overwritten", "swapped", "removed"])
    said = kind
    if kind == "truncated":
        start = chance.choice([start, start // PAGE * PAGE])
        del content[start:]
        said = f"{kind} at {start} of {size}"
    elif kind == "zeroed":
        length = chance.choice([1, 16, 512, PAGE, 3 * PAGE])
        content[start : start + length] = bytes(len(content[start : start + length]))
        said = f"{kind} from {start}, {length} bytes of {size}"
    elif kind == "flipped" and size:
        places = [chance.randrange(size * 8) for _ in range(chance.choice([1, 1, 1, 2, 8, 64]))]
        for bit in places:
            content[bit // 8] ^= 1 << bit % 8
        said = f"{kind} in bits {places[:8]}"
    elif kind == "overwritten" and size >= 2 * PAGE:  # A page that was written in the wrong place.
        source, target = (chance.randrange(size // PAGE) * PAGE for _ in range(2))
        content[target : target + PAGE] = content[source : source + PAGE]
        said = f"{kind}: page at {target} by that at {source}"
    file.write_bytes(content)
    if kind == "swapped":
        older = [each for each in (folder / "young" / name, folder / "old" / name) if each.exists()]
        if older:
            source_file = chance.choice(older)
            shutil.copy(source_file, file)
            said = f"{kind} for the {source_file.parent.name} one"
    elif kind == "removed":
        file.unlink()
    return f"{name} {said}"


def examine(path: str) -> Answers:
    """What a process is answered by a store that may be damaged."""
    try:
        return _examine(path)
    except Exception:
        return {"foreign": traceback.format_exc()[-1500:]}


def _examine(path: str) -> Answers:
    try:
        memory = Memory(path, embedder=HashEmbedder())
    except AgentMemError as error:
        return {"open": error}
    answers = ask(memory)
    answers["check"] = memory.check()
    try:
        record = memory.add("and this is new", user_id="ben")
        answers["new"] = [match.record == record for match in memory.search("this is new", user_id="ben")] == [True]
    except AgentMemError as error:
        answers["new"] = error
    memory.close()
    return answers


def judge(answers: Answers, truths: list[Answers]) -> tuple[str, str]:
    """A verdict on the answers, and what is wrong when they are."""
    if "foreign" in answers:
        return "not one of our errors", answers["foreign"]
    errors = [answer for answer in answers.values() if isinstance(answer, AgentMemError)]
    if errors:
        return "an error said so", ""
    if answers["check"]:
        return "check() said so", ""
    if not answers["new"]:
        return "wrong and unsaid", "a new memory is not found"
    differences = [difference(answers, truth) for truth in truths]
    if not differences[-1]:
        return "unharmed", ""
    if "" in differences:
        return "older, consistent", ""
    return "wrong and unsaid", min(differences, key=len)


def difference(answers: Answers, truth: Answers) -> str:
    """The names of what differs, empty when nothing does."""
    wrong = []
    for name, right in truth.items():
        got = answers[name]
        if name in ("vectors", "keywords", "hybrid"):
            if set(got) != set(right) or any(abs(got[each] - right[each]) > TOLERANCE for each in right):
                wrong.append(name)
        elif name == "records" and got != right:
            if set(got) != set(right):
                wrong.append("records")
            else:
                fields = ("content", "role", "metadata", "created_at", "updated_at", "expires_at")
                wrong += [
                    f"records.{field}"
                    for field in fields
                    if any(getattr(got[each], field) != getattr(right[each], field) for each in right)
                ]
        elif got != right:
            wrong.append(name)
    return ", ".join(wrong)


def run(folder: Path, cases: int, seed: int) -> dict[str, Any]:
    """`cases` damaged stores."""
    folder.mkdir(parents=True, exist_ok=True)
    verdicts: Counter[str] = Counter()
    unsaid: Counter[str] = Counter()
    failures: list[str] = []
    with Nursery() as nursery:
        _, truths = nursery.run("tests.torture.damage:build", str(folder), seed)
        assert truths, "the store could not be built"
        for case in range(cases):
            chance = random.Random(f"{seed}/{case}")
            copies = chance.choice(SETS)
            store = folder / f"case-{case}"
            shutil.copytree(folder / copies, store)
            what = damage(folder, store, chance)
            try:
                status, answers = nursery.run(
                    "tests.torture.damage:examine", str(store / "store.db"), seconds=HANGS_AFTER
                )
            except TimeoutError as error:
                verdict, detail = "hung", str(error)
            else:
                verdict, detail = judge(answers, truths[copies]) if answers else ("crashed", f"status {status}")
            verdicts[verdict] += 1
            if verdict == "wrong and unsaid":
                unsaid[detail] += 1
            if verdict in ("hung", "crashed", "not one of our errors", "wrong and unsaid"):
                failures.append(f"case {case}, {copies}, {what}: {verdict}: {detail}")
            shutil.rmtree(store)
    return {
        "seed": seed, "cases": cases, "sqlite": apsw.sqlite_lib_version(), **verdicts, "unsaid": dict(unsaid),
        "failures": failures,
    }  # fmt: skip
