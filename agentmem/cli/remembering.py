"""`add` and `update`."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any

import click

from agentmem.cli import options
from agentmem.cli.exit_codes import DONE, NOTHING
from agentmem.cli.opening import open_memory, scoped
from agentmem.cli.output import complain, counted, escape, print_json, print_lines, text_of
from agentmem.errors import AgentMemError, EmbeddingError, InvalidInputError
from agentmem.progress import progress

if TYPE_CHECKING:
    from agentmem.cli.input import Line


@click.command()
@click.argument("text", required=False)
@click.option(
    "--file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), help="The file to read; - is a pipe."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "lines", "text"]),
    default="json",
    show_default=True,
    help="JSON, or one text on every line, or all of it as one text.",
)
@options.owner
@click.option("--role", callback=options.named, metavar="NAME", help="The speaker: user, assistant ...")
@click.option("--metadata", callback=options.metadata_object, metavar="JSON", help="A JSON object to keep with it.")
@click.option("--id", metavar="ID", help="An id of your own (for one text).")
@click.option(
    "--created-at",
    callback=options.moment,
    metavar="WHEN",
    help="The moment that dates it, as 2026-03-05T18:30:00+01:00. [default: now]",
)
@options.expiry
@options.dedupe
@options.defer
@options.skip_bad
@options.durability
@options.timeout
@options.progress
@options.db
@options.model
@options.output
def add(
    text: str | None, file: str | None, form: str, id: str | None, skip_bad: bool, durability: str | None,
    bar: bool, db: str, model: str, as_json: bool, **fields: Any,
) -> int:  # fmt: skip
    """Remember TEXT, or what a file or a pipe (-) holds.

    A file is UTF-8 and holds JSON Lines or one JSON array. An item is a text, an object, or a chat message with role,
    content and name. An object has some of the fields content, user_id, agent_id, run_id, role, metadata, id,
    created_at, expires_at and ttl, or is one that `list --json` prints. The options fill in fields that an item lacks.

    Of a long text the model reads the first 256 word pieces (or its own max_tokens), some 180 English words. The rest
    is found by its words only.

    A bad line stops everything with its number: items before it are stored, that line and the rest are not. With
    --skip-bad the bad lines are reported and the others are stored.

    Prints the id of one text, the number of several; with --json each record on a line.

    \b
    Examples:
      agentmem add "Prefers window seats" --user ana --metadata '{"topic": "travel"}'
      agentmem add "In the garden until six" --user ana --ttl 3600
      agentmem add --file chat.jsonl --user ana --run monday --skip-bad
      grep -v '^#' facts.txt | agentmem add - --format lines --user ana
      agentmem list --user ana --json --all | agentmem add - --db copy.db
    """
    if (text is None) == (file is None):
        raise click.UsageError("Give either a text, or --file PATH, or - for standard input.")
    from agentmem.cli.input import count_lines, read_lines, read_text, read_texts

    source = file or ("-" if text == "-" else None)
    if source is not None and form == "text":
        with click.open_file(source, "rb") as stream:
            text, source = read_text(stream), None
    if source is not None and id is not None:
        raise click.UsageError("--id is for one text; in a file each item may have its own.")
    if source is None and text is not None:
        options.require_owner(fields)
        with open_memory(db, model, create=True, durability=durability) as memory:
            record = memory.add(text, id=id, **fields)
        print_json(record) if as_json else print_lines(escape(record.id))
        return DONE
    read = read_texts if form == "lines" else lambda stream: read_lines(stream, fields["metadata"])
    with click.open_file(source or "-", "rb") as stream:
        return _add_lines(
            stream, read, count_lines(source or "-"), skip_bad, bar, as_json, fields,
            lambda: open_memory(db, model, create=True, durability=durability),
        )  # fmt: skip


def _add_lines(
    stream: IO[bytes], read: Callable[[IO[bytes]], Iterator["Line"]], total: int | None, skip_bad: bool,
    bar: bool, as_json: bool, fields: dict[str, Any], opened: Callable[[], Any],
) -> int:  # fmt: skip
    from agentmem.cli.input import remember

    stored = skipped = last = 0
    with opened() as memory, progress("memory", total, shown=bar) as advance:
        try:
            for line, outcome in remember(memory, read(stream), skip_bad=skip_bad, **fields):
                if isinstance(outcome, AgentMemError):
                    skipped += 1
                    complain(f"Skipped line {line}: {options.told(outcome, of_file=True)}")
                else:
                    stored, last = stored + 1, line
                    advance(1)
                    if as_json:
                        print_json(outcome)
        except BaseException as error:
            # An interrupted item may have been committed without an answer.
            known = "" if isinstance(error, InvalidInputError | EmbeddingError) else "at least "
            complain(f"Stored: {known}{counted(stored)}, up to line {last}.")
            raise
    if not as_json:
        there = " or there already" if fields["dedupe"] else ""
        print_lines(f"{counted(stored)} stored{there}{f', {skipped:,} lines skipped' if skipped else ''}.")
    return DONE if stored else NOTHING


@click.command()
@click.argument("id")
@click.argument("text", required=False)
@click.option("--metadata", callback=options.json_object, metavar="JSON", help="Metadata keys to set; the others stay.")
@click.option("--replace-metadata", is_flag=True, help="The others go.")
@options.expiry
@click.option("--never-expires", is_flag=True, help="Keep it for ever.")
@options.owner
@options.timeout
@options.db
@options.model
@options.output
def update(
    id: str, text: str | None, metadata: dict[str, Any] | None, replace_metadata: bool, expires_at: datetime | None,
    ttl: float | None, never_expires: bool, timeout: float | None, db: str, model: str, as_json: bool,
    **owner: str | None,
) -> int:  # fmt: skip
    """Give a memory a new text, other metadata, or another expiry.

    A TEXT of - is read from standard input. The earlier text stays in its history. With an owner, only that owner's
    memories are found. Prints the id; with --json the record.

    \b
    Examples:
      agentmem update 01a2024a-36e1-7cc2-89ab-3d8a1d8c3f0e "Prefers aisle seats"
      agentmem update m1 --metadata '{"sure": true}' --user ana
      agentmem update m1 - --never-expires < note.txt
    """
    if never_expires and (expires_at or ttl):
        raise click.UsageError("--never-expires goes without --expires-at and --ttl.")
    if text is None and metadata is None and not (replace_metadata or expires_at or ttl or never_expires):
        raise click.UsageError("Give a TEXT, --metadata, --expires-at, --ttl or --never-expires.")
    text = None if text is None else text_of(text)
    changes: dict[str, Any] = {"expires_at": expires_at} if expires_at or never_expires else {}
    embeds = text is not None
    with open_memory(db, model if embeds else None) as memory:
        scope = scoped(memory, owner)
        record = scope.update(
            id, text, metadata=metadata, replace_metadata=replace_metadata, ttl=ttl, timeout=timeout, **changes
        )
    print_json(record) if as_json else print_lines(escape(record.id))
    return DONE
