"""How many lines a second do `import_` and `export` take, and what does a second run of an import cost?

One file of distinct texts for 100 users, metadata beside them, goes into an empty store, once more into the same (all
of it is there), out again with and without vectors, and with them into another store of the same model.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import measure

from agentmem import Memory

USERS = 100


def main() -> None:
    options = measure.arguments(__doc__, lines={"type": int})
    count = options.lines or (100_000 if options.full else 5000)
    figures: dict[str, dict[str, float]] = {}

    def clock(what: str, work: Callable[[], object]) -> None:
        began = time.perf_counter()
        work()
        seconds = time.perf_counter() - began
        figures[what] = {"lines a second": count / seconds, "seconds": seconds, "rss MiB": measure.rss_bytes() / 2**20}

    with tempfile.TemporaryDirectory() as folder, measure.temporary_store() as path:
        lines, plain, vectors = (Path(folder) / name for name in ("lines.jsonl", "plain.jsonl", "vectors.jsonl"))
        with lines.open("w", encoding="utf-8") as file:
            for number, text in enumerate(measure.texts(count)):
                line = {"content": text, "user_id": f"user-{number % USERS}", "metadata": {"n": number}}
                file.write(json.dumps(line) + "\n")
        with Memory(path, model=options.model) as memory:
            memory.add("the model is loaded", user_id="nobody")
            clock("import without vectors", lambda: memory.import_(lines))
            clock("the same again", lambda: memory.import_(lines))
            clock("export", lambda: memory.export(plain, all_scopes=True))
            clock("export, compressed", lambda: memory.export(f"{plain}.gz", all_scopes=True))
            clock("export with vectors", lambda: memory.export(vectors, all_scopes=True, vectors=True))
        with Memory(Path(folder) / "other.db", model=options.model) as memory:
            clock("import with vectors", lambda: memory.import_(vectors))
    measure.report(f"Files of {count:,} lines, {options.model}", figures, options)


if __name__ == "__main__":
    main()
