"""`stats`, `check`, `repair`, `backup`, `vacuum` and `flush`."""

from datetime import datetime, timedelta
from pathlib import Path

import click

from agentmem.cli import options
from agentmem.cli.exit_codes import DONE, NOTHING
from agentmem.cli.forgetting import confirmed
from agentmem.cli.opening import existing, open_memory, scoped
from agentmem.cli.output import counted, escape, fitted, painted, print_json, print_lines, stored_cells, stored_fields
from agentmem.errors import StoreDamagedError
from agentmem.progress import following


@click.command()
@options.path
@options.db
@options.output
def stats(path: str | None, db: str, as_json: bool) -> int:
    """Print how much a store holds (PATH, or --db).

    With --json one object. Caches and model runs belong to a running process, which has them in its `Memory.stats()`.

    \b
    Examples:
      agentmem stats
      agentmem stats agent.db --json | jq .pending
    """
    with open_memory(path or db) as memory:
        told = {"path": memory.path, **stored_fields(memory.stats())}
    if as_json:
        print_json(told)
    else:
        print_lines(*fitted(stored_cells(told), full=True, styles={0: "faint"}))
    return DONE


@click.command()
@options.path
@options.progress
@options.db
@options.output
def check(path: str | None, bar: bool, db: str, as_json: bool) -> int:
    """Print what is wrong with a store (PATH, or --db).

    Reads the whole file; no model is needed. Exits with 0 when it is healthy, with 1 when something is wrong. With
    --json one object: healthy, problems.

    \b
    Examples:
      agentmem check
      agentmem check copy.db --json
    """
    try:
        with open_memory(path or db) as memory:
            problems = memory.check(progress=bar)
    except StoreDamagedError as error:
        problems = [str(error)]
    problems = [options.told(each) for each in problems]
    if as_json:
        print_json({"healthy": not problems, "problems": problems})
    else:
        print_lines(*(painted(escape(each), "bad") for each in problems))
        print_lines(*([] if problems else [painted("healthy", "good")]))
    return NOTHING if problems else DONE


@click.command()
@options.path
@options.progress
@options.db
@options.output
def repair(path: str | None, bar: bool, db: str, as_json: bool) -> int:
    """Repair a store (PATH, or --db), also an unreadable one.

    Prints what was done, and names what was set aside. No model is needed. Exits with 0 when the store is healthy now,
    with 1 when something could not be repaired or saved. With --json one object: healthy, done, problems.

    \b
    Examples:
      agentmem repair
      agentmem repair agent.db --json
    """
    store = existing(path or db)
    from agentmem.cli.rescue import rescue

    done, problems = rescue(store, progress=bar)
    lost = any("set aside" in each or "is lost" in each or "was damaged" in each for each in done)
    if as_json:
        print_json({"healthy": not problems, "done": done, "problems": problems})
    else:
        print_lines(*map(escape, [*done, *(f"Still: {each}" for each in problems)] or ["healthy; nothing to mend"]))
    return NOTHING if problems or lost else DONE


@click.command()
@click.argument("store", type=click.Path())
@click.argument("copy", type=click.Path())
@click.option("--overwrite", is_flag=True, help="Replace an existing file (never one that is open).")
@options.progress
@options.output
def backup(store: str, copy: str, overwrite: bool, bar: bool, as_json: bool) -> int:
    """Copy STORE to COPY in its state of one moment, in use or not.

    To restore, open the copy. It is verified before it gets its name. With --json one object: path, bytes.

    \b
    Examples:
      agentmem backup agent.db "backups/$(date +%F).db"
      agentmem backup agent.db latest.db --overwrite --json
    """
    with open_memory(store) as memory, following("B", memory.stats().store.bytes, lambda: _copied(copy), shown=bar):
        path = memory.backup(copy, overwrite=overwrite)
    size = Path(path).stat().st_size
    print_json({"path": path, "bytes": size}) if as_json else print_lines(escape(f"{path}: {size:,} bytes."))
    return DONE


@click.command()
@options.path
@click.option(
    "--deleted-before",
    callback=options.past,
    metavar="AGE|WHEN",
    help="Erase for good what was deleted, or had expired, so long ago (30d, 12h) or by then (ISO 8601).",
)
@click.option("--full", is_flag=True, help="Rewrite the file as compactly as possible; other processes' writes wait.")
@options.yes
@options.progress
@options.db
@options.output
def vacuum(
    path: str | None,
    deleted_before: datetime | timedelta | None,
    full: bool,
    yes: bool,
    bar: bool,
    db: str,
    as_json: bool,
) -> int:
    """Free the unused space of a store (PATH, or --db).

    Other processes can use the store meanwhile, and no answer changes. Deleted memories stay, for `restore`, unless
    --deleted-before erases them, as `purge` does. With --json one object: bytes_before, bytes_after, vectors, purged,
    deleted.

    \b
    Examples:
      agentmem vacuum
      agentmem vacuum agent.db --deleted-before 30d --yes
      agentmem vacuum --full --json
    """
    with open_memory(path or db) as memory:
        if deleted_before is not None and not confirmed("erase old deleted memories for good", yes, as_json):
            return NOTHING
        done = memory.vacuum(deleted_before=deleted_before, full=full, progress=bar)
    if as_json:
        print_json(done)
        return DONE
    erased = f", {counted(done.purged)} erased" if deleted_before is not None else ""
    print_lines(f"{done.bytes_before:,} bytes before, {done.bytes_after:,} after{erased}.")
    if done.deleted:
        kept = counted(done.deleted, "deleted memory stays", "deleted memories stay")
        print_lines(f"{kept}; --deleted-before erases them.")
    return DONE


def _copied(copy: str) -> int:
    """Returns the bytes of a copy so far, under the name that it has while it is made."""
    path = Path(copy)
    sizes = [each.stat().st_size for each in path.parent.iterdir() if each.name.startswith(f"{path.name}.")]
    return max(sizes, default=0)


@click.command()
@options.path
@options.owner
@options.timeout
@options.progress
@options.db
@options.model
@options.output
def flush(
    path: str | None, timeout: float | None, bar: bool, db: str, model: str, as_json: bool, **owner: str | None
) -> int:
    """Embed deferred memories now (in PATH, or --db).

    Of an owner, or in the whole store. When the time is up, the finished part is kept. With --json one object:
    embedded, pending, failed. Exits with 1 when something could not be embedded; `check` names it.

    \b
    Examples:
      agentmem flush
      agentmem flush agent.db --timeout 3600
      agentmem flush --user ana --json
    """
    with open_memory(path or db, model) as memory:
        before = memory.stats().store
        with following("memory", before.pending, lambda: before.pending - memory.stats().store.pending, shown=bar):
            scoped(memory, owner).flush(timeout)
        after = memory.stats().store
    embedded = before.pending - after.pending
    if as_json:
        print_json({"embedded": embedded, "pending": after.pending, "failed": after.pending_failed})
    else:
        failed = f", {after.pending_failed:,} could not be" if after.pending_failed else ""
        print_lines(f"{counted(embedded)} embedded{failed}.")
    return NOTHING if after.pending_failed else DONE
