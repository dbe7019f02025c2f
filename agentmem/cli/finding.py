"""`search`, `get`, `list`, `count` and `history`."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from agentmem.cli import options
from agentmem.cli.exit_codes import DONE, NOTHING
from agentmem.cli.opening import open_memory, scoped
from agentmem.cli.output import (
    MATCH_STYLES,
    RECORD_STYLES,
    complain,
    escape,
    event_rows,
    explain_line,
    fitted,
    match_rows,
    painted,
    print_json,
    print_lines,
    record_block,
    record_rows,
    text_of,
)
from agentmem.errors import AgentMemError, InvalidInputError

if TYPE_CHECKING:
    from agentmem.records import Match

QUERIES = 256
"""Queries of a file that are searched together, in one snapshot of the store."""

PAGE = 1_000
"""Records that `list --all` reads at a time; between pages the store is free."""


def _days(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Returns the days as seconds, which `search` takes."""
    return None if value is None else value * 86_400


@click.command()
@click.argument("query", required=False)
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="Many queries, one on every line; - is a pipe.",
)
@options.owner
@options.all_scopes
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=10, show_default=True, help="At most this many.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Leave out matches that score less.")
@click.option(
    "--mode",
    type=click.Choice(["hybrid", "vector", "keyword"]),
    default="hybrid",
    show_default=True,
    help="By words and meaning, by meaning, or by words (which needs no model).",
)
@click.option("--recency", type=float, callback=_days, metavar="DAYS", help="Half-life: older memories score less.")
@click.option("--importance", metavar="KEY", help="A metadata key with numbers from 0 to 1: lower ones score less.")
@click.option("--collapse", is_flag=True, help="Show equal texts once.")
@click.option("--relevant-only", is_flag=True, help="Leave out what is hardly an answer.")
@options.filters
@options.between
@options.show_expired
@options.as_of
@options.reference_date
@click.option(
    "--effort",
    type=click.Choice(["fast", "full"]),
    help="Compare only fast halves of vectors, or wait for whole ones.  [default: what the owner has]",
)
@click.option("--explain", is_flag=True, help="Print the parts of each score.")
@options.timeout
@options.full
@options.db
@options.model
@options.output
def search(query: str | None, file: str | None, full: bool, db: str, model: str, as_json: bool, **asked: Any) -> int:
    """Print what is relevant to QUERY, best first.

    Score, id, day, text. A QUERY of - is read from standard input. With --json a match on a line. With --file, each
    query is printed above its matches, and with --json as one object with query and matches. Exits with 1 when nothing
    matches.

    \b
    Examples:
      agentmem search "where does she like to sit?" --user ana
      agentmem search "seats" --user ana --filter '{"topic": "travel"}' --explain
      agentmem search "what was planned?" --run monday --recency 30 --limit 3
      agentmem search "peanuts" --all-scopes --mode keyword --json | jq -r .record.id
      agentmem search --file questions.txt --user ana --limit 1 --json
    """
    if (query is None) == (file is None):
        raise click.UsageError("Give either a query, or --file PATH.")
    options.require_owner(asked)
    found = False
    with open_memory(db, None if asked["mode"] == "keyword" else model) as memory:
        if query is not None:
            matches = memory.search(text_of(query), **asked)
            print_json(*matches) if as_json else _print_matches(matches, asked, full=full)
            return DONE if matches else NOTHING
        queries = _queries_in(file or "-")
        while chunk := list(islice(queries, QUERIES)):
            for each, matches in zip(chunk, memory.search_batch(chunk, **asked), strict=True):
                if as_json:
                    print_json({"query": each, "matches": matches})
                else:
                    print_lines(painted(escape(each), "strong"))
                    _print_matches(matches, asked, full=full, indent=2)
                found = found or bool(matches)
    return DONE if found else NOTHING


def _queries_in(file: str) -> Iterator[str]:
    from agentmem.cli.input import read_texts

    with click.open_file(file, "rb") as stream:
        for number, line in read_texts(stream):
            if isinstance(line, AgentMemError):
                raise InvalidInputError(f"Line {number}: {line}")
            yield line["content"]


def _print_matches(matches: Sequence["Match"], asked: dict[str, Any], *, full: bool, indent: int = 0) -> None:
    rows = match_rows(matches, owners=asked["all_scopes"])
    lines = fitted(rows, expendable=(2, 3), full=full, indent=indent, styles=MATCH_STYLES)
    for line, match in zip(lines, matches, strict=True):
        print_lines(line)
        if asked["explain"]:
            print_lines(painted(escape(f"{' ' * indent}      {explain_line(match)}"), "faint"))


@click.command()
@click.argument("ids", nargs=-1, required=True)
@options.owner
@options.show_expired
@options.as_of
@options.db
@options.output
def get(
    ids: tuple[str, ...], show_expired: bool, as_of: datetime | None, db: str, as_json: bool, **owner: str | None
) -> int:
    """Print memories by their ids, every field on a line.

    With an owner, only that owner's memories are found. With --json a record on a line. Exits with 1 when one is
    missing.

    \b
    Examples:
      agentmem get 01a2024a-36e1-7cc2-89ab-3d8a1d8c3f0e
      agentmem get m1 m2 --user ana --json
      agentmem get m1 --as-of 2026-03-01T00:00:00Z
    """
    missing = 0
    with open_memory(db) as memory:
        scope = scoped(memory, owner)
        for position, each in enumerate(ids):
            record = scope.get(each, show_expired=show_expired, as_of=as_of)
            if record is None:
                missing += 1
                complain(f"There is no memory {each!r} to show.")
            elif as_json:
                print_json(record)
            else:
                print_lines(*([""] if position else []), *record_block(record))
    return NOTHING if missing else DONE


@click.command("list")
@options.owner
@options.all_scopes
@options.filters
@options.between
@options.show_expired
@options.as_of
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=20, show_default=True, help="Memories a page (without --all)."
)
@click.option("--after", metavar="PAGE", help="Start after a page; the listing before printed its name.")
@click.option("--all", "everything", is_flag=True, help="Every page, one after the other.")
@click.option(
    "--order",
    type=click.Choice(["newest", "oldest"]),
    default="newest",
    show_default=True,
    help="Which memories come first.",
)
@options.full
@options.db
@options.output
def list_(everything: bool, full: bool, db: str, as_json: bool, **asked: Any) -> int:
    """Print memories by the time they were made.

    Id, day, text. With --json a record on a line. When there are more, standard error names the next page. Exits
    with 1 when there are none.

    \b
    Examples:
      agentmem list --user ana
      agentmem list --user ana --between 2026-03-01T00:00:00Z.. --order oldest
      agentmem list --all-scopes --all --json > everything.jsonl
      agentmem list --run monday --filter '{"role": "user"}' --limit 5
    """
    options.require_owner(asked)
    found = False
    if everything:
        asked["limit"] = PAGE
    with open_memory(db) as memory:
        while True:
            page = memory.get_all(**asked)
            found = found or bool(page.records)
            if as_json:
                print_json(*page.records)
            else:
                rows = record_rows(page.records, owners=asked["all_scopes"])
                print_lines(*fitted(rows, expendable=(1, 2), full=full, styles=RECORD_STYLES))
            if page.next is None or not everything:
                break
            asked["after"] = page.next
    if page.next is not None:
        complain(f"There are more: --after {page.next}")
    return DONE if found else NOTHING


@click.command()
@options.owner
@options.all_scopes
@options.filters
@options.between
@options.show_expired
@options.as_of
@options.db
@options.output
def count(db: str, as_json: bool, **asked: Any) -> int:
    """Print how many memories `list` would print in all.

    With --json one object: count. Exits with 0 for a count of 0 too.

    \b
    Examples:
      agentmem count --user ana
      agentmem count --all-scopes --filter '{"topic": "travel"}'
      agentmem count --user ana --as-of 2026-03-01T00:00:00Z --json
    """
    options.require_owner(asked)
    with open_memory(db) as memory:
        number = memory.count(**asked)
    print_json({"count": number}) if as_json else print_lines(str(number))
    return DONE


@click.command()
@click.argument("id")
@options.owner
@options.full
@options.db
@options.output
def history(id: str, full: bool, db: str, as_json: bool, **owner: str | None) -> int:
    """Print every event of a memory, oldest first.

    Number, time, event, the text afterwards. With --json an event on a line. Exits with 1 when there never was such a
    memory.

    \b
    Examples:
      agentmem history 01a2024a-36e1-7cc2-89ab-3d8a1d8c3f0e
      agentmem history m1 --json | jq -r .what
    """
    with open_memory(db) as memory:
        events = scoped(memory, owner).history(id)
    if not events:
        complain(f"There never was a memory {id!r}.")
    if as_json:
        print_json(*events)
    else:
        print_lines(*fitted(event_rows(events), expendable=(0,), full=full, styles={0: "faint", 1: "faint"}))
    return DONE if events else NOTHING
