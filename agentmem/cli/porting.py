"""`export`, `import` and `import-mem0`."""

import sys
from dataclasses import asdict
from typing import Any

import click

from agentmem.cli import options
from agentmem.cli.exit_codes import DONE, NOTHING
from agentmem.cli.opening import open_memory
from agentmem.cli.options import OWNERS
from agentmem.cli.output import complain, counted, escape, print_json, print_lines, standard_input


@click.command()
@click.argument("file", required=False, default="-", type=click.Path(allow_dash=True))
@options.owner
@options.all_scopes
@options.filters
@options.between
@options.show_expired
@click.option("--vectors", is_flag=True, help="Include the vectors, so that a store of the same model embeds nothing.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@options.progress
@options.db
@options.output
def export(file: str, overwrite: bool, bar: bool, db: str, as_json: bool, **asked: Any) -> int:
    """Write memories to FILE, or to standard output, as JSON Lines.

    The export has the state of one moment, while others use the store; `import` reads it. A FILE that ends in .gz is
    compressed. FILE gets its name when it is complete. Deleted memories and the history are not in it: `backup` has
    them. With a FILE and --json one object: path, exported. Exits with 1 when there was nothing.

    \b
    Examples:
      agentmem export ana.jsonl --user ana
      agentmem export everything.jsonl.gz --all-scopes --vectors --overwrite
      agentmem export --run monday | agentmem import - --db copy.db
    """
    options.require_owner(asked)
    to_file = file != "-"
    with open_memory(db) as memory:
        target = file if to_file else sys.stdout.buffer
        exported = memory.export(target, overwrite=overwrite, progress=bar, **asked)
    if not to_file:
        sys.stdout.buffer.flush()
        complain(f"{counted(exported)} exported.")
    elif as_json:
        print_json({"path": file, "exported": exported})
    else:
        print_lines(escape(f"{file}: {counted(exported)}."))
    return DONE if exported else NOTHING


def _renamed(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Parses `user:anna=ana` into the argument of `import_` for that kind of owner."""
    renamed: dict[str, dict[str, str]] = {}
    for each in value:
        kind, _, names = each.partition(":")
        old, equals, new = names.partition("=")
        if f"{kind}_id" not in OWNERS or not equals or not old or not new:
            raise click.BadParameter(f"{each!r} is not KIND:OLD=NEW, such as user:anna=ana (or agent:, run:).")
        renamed.setdefault(f"{kind}_id", {})[old] = new
    return renamed


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--format",
    "format",
    type=click.Choice(["agentmem", "openai", "sharegpt", "chatgpt"]),
    help="The format. [default: found from its first line]",
)
@options.owner
@click.option(
    "--rename", callback=_renamed, multiple=True, metavar="KIND:OLD=NEW", help="Rename an owner, such as user:anna=ana."
)
@click.option(
    "--on-conflict",
    type=click.Choice(["error", "skip", "replace", "new_id"]),
    default="error",
    show_default=True,
    help="When an id belongs to another memory.",
)
@options.dedupe
@options.defer
@options.skip_bad
@options.durability
@options.timeout
@options.progress
@options.db
@options.model
@options.output
def import_(
    file: str, rename: dict[str, dict[str, str]], skip_bad: bool, bar: bool, db: str, model: str, as_json: bool,
    **asked: Any,
) -> int:  # fmt: skip
    """Store the memories or the chats of FILE (- is a pipe).

    Takes an export, other JSON Lines of texts or objects, or chats of OpenAI, ShareGPT or ChatGPT, compressed or not.
    Each chat becomes a run. --user, --agent and --run replace the owners of the lines.

    An interrupted import resumes when run again. A bad line ends it with its number; with --skip-bad the bad lines are
    reported and the others are stored. With --json one object: imported, replaced, skipped, failures, failed, notes.
    Exits with 1 when nothing of the file is stored.

    \b
    Examples:
      agentmem import ana.jsonl
      agentmem import chats.json --format chatgpt --user ana --defer
      agentmem import everything.jsonl.gz --rename user:anna=ana --on-conflict skip --skip-bad
    """
    for kind in (name.removesuffix("_id") for name in rename if asked[name] is not None):
        raise click.UsageError(f"--rename {kind}:OLD=NEW goes without --{kind}.")
    with open_memory(db, model, create=True) as memory:
        report = memory.import_(
            standard_input() if file == "-" else file,
            on_error="skip" if skip_bad else "raise", progress=bar, **asked | rename,
        )  # fmt: skip
    for line, error in report.failed:
        complain(f"Skipped line {line}: {options.told(error, of_file=True)}")
    if report.failures > len(report.failed):
        complain(f"... and {report.failures - len(report.failed):,} lines more.")
    if as_json:
        failed = [{"line": line, "error": options.told(error, of_file=True)} for line, error in report.failed]
        print_json({**asdict(report), "failed": failed})
    else:
        complain(*(f"Note: {note}." for note in report.notes))
        told = {"replaced": report.replaced, "there already": report.skipped, "lines skipped": report.failures}
        others = [f", {number:,} {what}" for what, number in told.items() if number]
        print_lines(f"{counted(report.imported)} imported{''.join(others)}.")
    return DONE if report.imported or report.replaced or report.skipped else NOTHING


@click.command("import-mem0")
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--history", type=click.Path(exists=True, dir_okay=False), help="Mem0's history database.")
@click.option("--collection", metavar="NAME", help="The collection, where the folder has several.")
@options.progress
@options.db
@options.model
@options.output
def import_mem0(
    folder: str, history: str | None, collection: str | None, bar: bool, db: str, model: str, as_json: bool
) -> int:
    """Import the memories of Mem0's local Qdrant FOLDER.

    Ids, owners, metadata and dates stay; with --history the earlier texts are imported too. Nothing is written to
    Mem0's files. An interrupted import resumes when run again. With --json one object: stored, present, failed. Exits
    with 1 when a memory failed, or there was none.

    \b
    Examples:
      agentmem import-mem0 /tmp/qdrant --history ~/.mem0/history.db
      agentmem import-mem0 ./qdrant --collection mem0 --db agent.db
    """
    from agentmem.mem0.migrate import import_mem0 as bring

    with open_memory(db, model, create=True) as memory:
        told = bring(memory, folder, history=history, collection=collection, progress=bar)
    for name, error in told.failed.items():
        complain(f"Memory {name!r} was not imported: {error}")
    if as_json:
        failed = {name: str(error) for name, error in told.failed.items()}
        print_json({"stored": told.stored, "present": told.present, "failed": failed})
    else:
        there = f", {told.present:,} there already" if told.present else ""
        print_lines(f"{counted(told.stored)} imported{there}.")
    return NOTHING if told.failed or not (told.stored or told.present) else DONE
