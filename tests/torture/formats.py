"""Files of every format with something wrong in their structure: whatever they hold, what reads them raises errors of
agentmem alone, and its memory stays bounded.

`python -m tests.torture.formats --cases 100000` runs that many cases a format and prints a line for each. A case is a
good file in which one to four values were replaced, removed, repeated, renamed, wrapped or made another type's.
"""

import argparse
import io
import json
import pickle
import random
import resource
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from agentmem.config import Config
from agentmem.errors import AgentMemError
from agentmem.messages import LeftOut
from agentmem.records import Scope
from agentmem.transfer.containers import File
from agentmem.transfer.files import source_of
from agentmem.transfer.reader import Entry, Reader
from tests.transfer.test_formats import FILES

STRANGE: list[Any] = [
    None, True, False, 0, -1, 2**31, 2**63, 2**64, 1e308, -1e308, 5e-324, 1_700_000_000, 1_700_000_000_000, "", " ",
    "a text of some words", "0", "-5", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "not-a-date", "\x00",
    "\ud800", "x", "\u202e\u200e", "x" * 5000, "<details type=\"x\">", "[[a|b]]", "{", "[", "{}", "[]", {}, [], [[]],
    [None], [{}],
    {"": ""}, {"type": "text"}, {"type": ["text"], "text": "x"}, {"text": {"value": "y"}}, [["a", "b"], {"c": []}],
    {"$date": {"$numberLong": "x"}}, {"role": "user", "content": "hi"}, ["text", {"type": "bold", "text": 5}],
]  # fmt: skip


def copied(value: Any) -> Any:
    """Returns a copy that shares nothing with the value; faster than `copy.deepcopy`."""
    return pickle.loads(pickle.dumps(value))


def places_of(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yields every place in a value, as its container and key."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        keys = range(len(each)) if isinstance(each, list) else list(each) if isinstance(each, dict) else ()
        for key in keys:
            yield each, key
            waiting.append(each[key])


def harmed(value: Any, chance: random.Random) -> Any:
    """Returns a value with something wrong in it."""
    root = [copied(value)]
    for _ in range(chance.randint(1, 4)):
        container, key = chance.choice(list(places_of(root)))
        what = chance.randrange(8)
        if what == 0 and container is not root:
            del container[key]
        elif what == 1:
            container[key] = [container[key]]
        elif what == 2:
            container[key] = {"value": container[key]}
        elif what == 3 and isinstance(container, list) and container is not root:
            container.insert(chance.randrange(len(container) + 1), copied(container[key]))
        elif what == 4 and isinstance(container, dict):
            container[chance.choice(["role", "id", "content", "text", "message", "type", "x"])] = container.pop(key)
        elif what == 5:
            other, place = chance.choice(list(places_of(root)))
            container[key] = copied(other[place])
        elif what == 6 and isinstance(container[key], str):
            cut = chance.randrange(len(container[key]) + 1)
            container[key] = container[key][:cut] + chance.choice(["", "\x00", "\ud800", "\n", '"', "x" * 100])
        else:
            container[key] = copied(chance.choice(STRANGE))
    return root[0]


def harmed_text(text: str, chance: random.Random) -> str:
    """Returns a text with something wrong in it."""
    lines = text.splitlines(keepends=True)
    for _ in range(chance.randint(1, 4)):
        place, what = chance.randrange(len(lines) or 1), chance.randrange(5)
        if what == 0 and lines:
            del lines[place]
        elif what == 1 and lines:
            lines.insert(chance.randrange(len(lines) + 1), lines[place])
        elif what == 2 and lines:
            cut = chance.randrange(len(lines[place]) + 1)
            lines[place] = lines[place][:cut] + chance.choice(
                ["\x00", "```", "[", "|", ": ", "99/99/99", "---\n", "[["]
            )
        else:
            strange = ["---\n", "```\n", "# \n", "[1/1/1, 1:1] x: y\n", "- \n", "    \n", "\u2028", "a: [b\n", "<!--"]
            lines.insert(place, chance.choice(strange))
    return "".join(lines)


def case_of(content: Any, chance: random.Random) -> bytes:
    """Returns the bytes of a harmed file."""
    if isinstance(content, str) and content[:1] not in '{"':
        return harmed_text(content, chance).encode("utf-8", "surrogatepass")
    values = [json.loads(line) for line in content.splitlines()] if isinstance(content, str) else content
    value = harmed(values, chance)
    if isinstance(content, str) and isinstance(value, list):
        raw = "\n".join(json.dumps(each) for each in value).encode()
    else:
        raw = json.dumps(value, indent=chance.choice([None, None, 1])).encode()
    if chance.randrange(20) == 0:
        raw = raw[: chance.randrange(len(raw) + 1)]
    return raw


def read(raw: bytes, name: str, format: str | None) -> tuple[int, int]:
    """Reads a file and returns its memories and its errors.

    Raises:
        AgentMemError: It is refused as a whole.
    """
    found = errors = 0
    reader = Reader(
        Config(), format, ("ana", None, None), Scope.of, False, None, lambda text: b"", None, Counter(), LeftOut(),
        Counter(),
    )  # fmt: skip
    with source_of(io.BytesIO(raw)) as source:
        for each in reader.read(File(source, name, None, None, alone=True, folder="f")):
            found += isinstance(each, Entry)
            errors += not isinstance(each, Entry)
    reader.told()
    return found, errors


def torture(format: str, cases: int, seed: int) -> dict[str, int]:
    """Runs this number of cases of a format and returns their results. Foreign errors are raised unchanged."""
    samples = [(file, content) for known, file, content, *_ in FILES.values() if known == format]
    told: Counter[str] = Counter(cases=cases, memories=0, errors=0, refused=0)
    for number in range(cases):
        chance = random.Random(seed * 10**9 + number)
        file, content = chance.choice(samples)
        raw = case_of(content, chance)
        try:
            found, errors = read(raw, file, format if chance.randrange(4) else None)
        except AgentMemError:
            told["refused"] += 1
        except Exception as error:
            error.add_note(f"seed {seed}, format {format}, case {number}: {raw!r}")
            raise
        else:
            told["memories"] += found
            told["errors"] += errors
    return dict(told)


def main() -> None:
    """Runs them as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("formats", nargs="*")
    arguments = parser.parse_args()
    for known in arguments.formats or sorted({known for known, *_ in FILES.values()}):
        began = time.process_time()
        told = torture(known, arguments.cases, arguments.seed)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{known}: {told}, {time.process_time() - began:.0f} s of processor time, {peak} MiB", flush=True)


if __name__ == "__main__":
    main()
