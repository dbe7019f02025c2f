"""`export`, `import` and `import-mem0`."""

import json
import re
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from agentmem.cli import options
from agentmem.cli.exit_codes import DONE, NOTHING
from agentmem.cli.opening import open_memory, trial_memory
from agentmem.cli.options import OWNERS
from agentmem.cli.output import complain, counted, escape, print_json, print_lines, standard_input
from agentmem.errors import InvalidInputError
from agentmem.transfer.chats import FORMATS

if TYPE_CHECKING:
    from agentmem.memory import Memory
    from agentmem.records import Record
    from agentmem.transfer.importer import ImportReport

SHOWN = 100
"""Characters of a text that a dry run shows."""


def owners_in(record: "Record") -> list[tuple[str, str]]:
    """Returns the owners of a memory, as the options name them."""
    return [(name.removesuffix("_id"), value) for name in OWNERS if (value := getattr(record, name)) is not None]


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


def _formats(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        width = max(map(len, FORMATS)) + 2
        print_lines(*(f"{name:{width}}{about}" for name, about in FORMATS.items()))
        context.exit()


def _preview(report: "ImportReport") -> list[str]:
    """What a dry run found, a line each."""
    preview = report.preview
    assert preview is not None
    formats = ", ".join(f"{name} ({counted(count, 'file', 'files')})" for name, count in preview.formats.items())
    roles = ", ".join(f"{role or 'no role'} {count:,}" for role, count in sorted(preview.roles.items(), key=str))
    lines = [f"Format: {formats or 'none'}.", f"Conversations: {preview.conversations:,}."]
    lines.append(f"Would be stored: {counted(report.imported)}{f' ({roles})' if roles else ''}.")
    if preview.first is not None and preview.last is not None:
        lines.append(f"Times: {preview.first:%Y-%m-%d %H:%M:%S} to {preview.last:%Y-%m-%d %H:%M:%S} UTC.")
    lines += [f"Note: {note}." for note in report.notes]
    lines += [f"Could not be used: {report.failures:,} lines."] if report.failures else []
    for record in preview.records:
        owners = ", ".join(f"{name}={value}" for name, value in owners_in(record))
        text = " ".join(record.content.split())
        shown = text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
        lines += [f"  {record.created_at:%Y-%m-%d %H:%M}  {record.role or '-'}  {shown}", f"    {owners}"]
        if record.metadata:
            lines.append(f"    {json.dumps(record.metadata, ensure_ascii=False)[: SHOWN * 2]}")
    return lines


def _watch(
    memory: "Memory", folder: str, interval: float, count: int | None, asked: dict[str, Any], *, as_json: bool
) -> int:
    """Keeps a folder in step, a line for every look that changed something."""
    from agentmem.cli.syncing import FolderSync
    from agentmem.config import Config

    owners = {name: asked.pop(name) for name in OWNERS}
    timeout = asked.pop("timeout")
    sync = FolderSync(
        memory, folder, {name: value for name, value in owners.items() if value is not None},
        owners=tuple(owners.values()), on_error="skip", progress=False,
        timeout=Config().timeout if timeout is None else timeout, **asked,
    )  # fmt: skip
    told, looks = set[str](), 0
    with suppress(KeyboardInterrupt):
        while True:
            step = sync.step()
            complain(*(f"Skipped {options.told(each, of_file=True)}" for each in step.failed if each not in told))
            told = set(step.failed)
            if as_json:
                print_json(asdict(step))
            elif step.imported or step.replaced or step.deleted:
                print_lines(f"{counted(step.imported)} imported, {step.replaced:,} replaced, {step.deleted:,} deleted.")
            looks += 1
            if looks == count:
                break
            threading.Event().wait(interval)
    return DONE


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
@click.argument("files", metavar="FILE...", nargs=-1, type=click.Path(exists=True, allow_dash=True))
@click.option(
    "--list-formats",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_formats,
    help="Print the formats that are known, and exit.",
)
@click.option(
    "--format",
    "format",
    type=click.Choice(sorted(FORMATS)),
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
@click.option("--dry-run", is_flag=True, help="Show what would be stored, and store nothing.")
@click.option(
    "--watch",
    type=click.Path(exists=True, file_okay=False),
    metavar="FOLDER",
    help="Keep the files of FOLDER in step, until Ctrl-C.",
)
@click.option(
    "--interval", type=click.FloatRange(0.1, 86_400), default=2.0, show_default=True, help="Seconds between two looks."
)
@click.option("--count", type=click.IntRange(1), metavar="LOOKS", help="End after this many looks.")
@options.durability
@options.timeout
@options.progress
@options.db
@options.model
@options.output
def import_(
    files: tuple[str, ...], dry_run: bool, watch: str | None, interval: float, count: int | None,
    rename: dict[str, dict[str, str]], skip_bad: bool, bar: bool, db: str, model: str, as_json: bool,
    **asked: Any,
) -> int:  # fmt: skip
    """Store the memories or the chats of FILEs (- is a pipe).

    Takes exports of agentmem, of assistants and of messengers, sessions of agents, Markdown, and JSON Lines of texts or
    objects: --list-formats has them. A FILE may be a folder, a zip archive, or compressed. Each chat becomes a run.
    --user, --agent and --run replace the owners of the lines.

    With --watch, changed files of a folder replace their memories, and removed files delete them.

    An interrupted import resumes when run again. A bad line ends it with its number; with --skip-bad the bad lines are
    reported and the others are stored. With --json one object: imported, replaced, skipped, failures, failed, notes,
    and of a --dry-run the preview. Exits with 1 when nothing of the file is stored.

    \b
    Examples:
      agentmem import ana.jsonl
      agentmem import data-2026-11-30.zip --user ana --dry-run
      agentmem import conversations.json MEMORY.md --user ana --defer
      agentmem import --watch ~/.claude/projects --user ana
      agentmem import everything.jsonl.gz --rename user:anna=ana --on-conflict skip --skip-bad
    """
    for kind in (name.removesuffix("_id") for name in rename if asked[name] is not None):
        raise click.UsageError(f"--rename {kind}:OLD=NEW goes without --{kind}.")
    if watch is not None:
        if files or dry_run or rename:
            raise click.UsageError("--watch goes without FILE, --dry-run and --rename.")
        options.require_owner(asked)
        with open_memory(db, model, create=True) as memory:
            return _watch(memory, watch, interval, count, asked, as_json=as_json)
    if not files:
        raise click.UsageError("Missing argument 'FILE...'; pass files or folders, or - for a pipe.")
    given = [standard_input() if file == "-" else file for file in files]
    with trial_memory() if dry_run else open_memory(db, model, create=True) as memory:
        try:
            report = memory.import_(
                given if len(given) > 1 else given[0],
                on_error="skip" if skip_bad else "raise", progress=bar, dry_run=dry_run, **asked | rename,
            )  # fmt: skip
        except InvalidInputError as refused:
            if not skip_bad and re.match(r"Line \d+: (?!.* name it with format=)", str(refused)):
                hint = "With --skip-bad such lines are reported, and the others stored."
                raise type(refused)(f"{refused} {hint}") from refused
            raise
    for line, error in report.failed:
        complain(f"Skipped line {line}: {options.told(error, of_file=True)}")
    if report.failures > len(report.failed):
        complain(f"... and {report.failures - len(report.failed):,} lines more.")
    if as_json:
        failed = [{"line": line, "error": options.told(error, of_file=True)} for line, error in report.failed]
        found = {name: value for name, value in asdict(report).items() if name != "preview" or value is not None}
        print_json({**found, "failed": failed})
    elif report.preview is not None:
        print_lines(*(escape(line) for line in _preview(report)))
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
