"""The command line: `agentmem`. The only importer of click.

Exit codes: 0 done; 1 nothing was found, or the store is unhealthy; 2 wrong usage or input; 3 the store (or the system)
refused; 4 the model failed; 130 interrupted; 141 the reader of the output went away.
"""

import errno
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import agentmem
from agentmem.errors import (
    AgentMemError,
    DeadlineError,
    EmbeddingError,
    InvalidInputError,
    ModelError,
    NotFoundError,
    OverloadedError,
    StoreDamagedError,
    StoreOpenError,
)
from agentmem.progress import progress
from agentmem.terminal import (
    complain,
    escape,
    event_rows,
    explain_line,
    fitted,
    match_rows,
    prepare_output,
    print_json,
    print_lines,
    record_rows,
    stop_output,
)
from agentmem.transcripts import count_lines, moment_of, read_lines, remember

# Late, in the functions that use them: agentmem.memory (numpy, apsw) and agentmem.demo. `--help` and a mistyped
# option should not wait for them.
if TYPE_CHECKING:
    from agentmem.memory import Memory

DONE, NOTHING, WRONG_INPUT, STORE_REFUSED, MODEL_FAILED, INTERRUPTED, UNREAD = 0, 1, 2, 3, 4, 130, 141

PAGE = 1_000
"""Records read at a time by `list --all`; between pages the store is free."""

OWNERS = ("user_id", "agent_id", "run_id")

STORED = ("memories", "deleted", "pending", "vectors", "bytes")
"""The fields of `Stats` that say what the store holds; the others count the work of this process, which just began."""

Function = TypeVar("Function", bound=Callable[..., Any])


class _Commands(click.Group):
    """Turns what commands return or raise into exit codes, and errors into one sentence on standard error."""

    def invoke(self, context: click.Context) -> None:
        prepare_output()
        try:
            code = super().invoke(context) or DONE
            sys.stdout.flush()
        except AgentMemError as error:
            code = _code_of(error)
            complain(f"Error: {error}")
        except (KeyboardInterrupt, click.Abort):
            code = INTERRUPTED
            complain("Interrupted.")
        except OSError as error:
            if error.errno != errno.EPIPE:
                complain(f"Error: {error.filename or 'reading or writing'}: {error.strerror}.")
            code = UNREAD if error.errno == errno.EPIPE else STORE_REFUSED
            stop_output()
        context.exit(code)


def _code_of(error: AgentMemError) -> int:
    if isinstance(error, InvalidInputError | NotFoundError):
        return WRONG_INPUT
    if isinstance(error, ModelError | EmbeddingError | OverloadedError | DeadlineError):
        return MODEL_FAILED
    return STORE_REFUSED


# -- options ------------------------------------------------------------------------------------------------------


def _moment(context: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    try:
        return None if value is None else moment_of("The time", value)
    except InvalidInputError as error:
        raise click.BadParameter(str(error)) from None


def _object(context: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, Any] | None:
    try:
        decoded = None if value is None else json.loads(value)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{value!r} is not JSON ({error}).") from None
    if value is not None and not isinstance(decoded, dict):
        raise click.BadParameter(f'{value!r} is not a JSON object, such as \'{{"topic": "travel"}}\'.')
    return decoded


def _between(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[datetime | None, datetime | None] | None:
    if value is None:
        return None
    start, dots, end = value.partition("..")
    if not dots:
        raise click.BadParameter(f"{value!r} has no '..'; write START..END, of which either may be left out.")
    return _moment(context, parameter, start or None), _moment(context, parameter, end or None)


def _together(*options: Callable[[Function], Function]) -> Callable[[Function], Function]:
    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_model = click.option(
    "--model", envvar="AGENTMEM_MODEL", show_envvar=True, help="A model's name or folder. [default: all-MiniLM-L6-v2]"
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
_store = _together(
    click.option(
        "--db", envvar="AGENTMEM_DB", show_envvar=True, default="agentmem.db", show_default=True, help="The store."
    ),
    _model,
    _json,
)
_path = click.argument("path", required=False)
_owner = _together(
    click.option("--user", "user_id", metavar="NAME", help="The user who owns the memories."),
    click.option("--agent", "agent_id", metavar="NAME", help="The agent who does."),
    click.option("--run", "run_id", metavar="NAME", help="The run or conversation that does."),
)
_all_scopes = click.option("--all-scopes", is_flag=True, help="Of every owner.")
_filter = click.option(
    "--filter",
    "filters",
    callback=_object,
    metavar="JSON",
    help='Such as \'{"topic": "travel", "stars": {"gte": 3}}\'.',
)
_created_between = click.option(
    "--between",
    callback=_between,
    metavar="START..END",
    help="Made from START on and before END, such as 2026-03-01T00:00:00Z..2026-04-01T00:00:00Z, or only one of them.",
)
_show_expired = click.option("--show-expired", is_flag=True, help="Expired ones too.")
_as_of = click.option("--as-of", callback=_moment, metavar="WHEN", help="What was known at that moment.")


def _days(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """As the seconds that `search` takes."""
    return None if value is None else value * 86_400


_full = click.option("--full", is_flag=True, help="Do not cut texts to the width of the terminal.")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(agentmem.__version__, prog_name="agentmem")
def main() -> None:
    """Memory for AI agents, in one file. Start with `agentmem demo`.

    \b
    Exit codes: 0 done, 1 nothing found or unhealthy, 2 wrong usage or input,
    3 the store refused, 4 the model failed, 130 interrupted.
    """


# -- commands -----------------------------------------------------------------------------------------------------


@main.command()
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the store under this path, which must be new.")
@click.option("--limit", type=click.IntRange(1, 80), default=3, show_default=True, help="Matches a question.")
@_model
@_json
def demo(keep: Path | None, limit: int, model: str | None, as_json: bool) -> int:
    """Remember a conversation of 80 turns in a temporary store, and ask it five questions."""
    if keep is not None and keep.exists():
        raise click.UsageError(f"{str(keep)!r} exists already; --keep takes a path that does not.")
    with tempfile.TemporaryDirectory(prefix="agentmem-demo-") as folder:
        path = str(keep or Path(folder) / "demo.db")
        with _open(path, model, create=True) as memory:
            from agentmem.demo import conversation, demonstrate

            with progress("turn", len(conversation()), hidden=as_json) as advance:
                result = demonstrate(memory, limit, advance)
    if as_json:
        print_json({**asdict(result), "kept": None if keep is None else path})
        return DONE
    print_lines(*result.summary())
    for answer in result.answers:
        print_lines("", answer.question, *fitted(match_rows(answer.matches, ids=False), indent=2))
    print_lines(
        "\nThe temporary store is deleted." if keep is None else f"\nKept. Try: agentmem list --user demo --db {keep}"
    )
    return DONE


@main.command()
@click.argument("text", required=False)
@click.option(
    "--file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), help="What to read; - is a pipe."
)
@_owner
@click.option("--role", metavar="NAME", help="Who said it: user, assistant ...")
@click.option("--metadata", callback=_object, metavar="JSON", help="A JSON object to keep with it.")
@click.option("--id", metavar="ID", help="An id of your own (for one text).")
@click.option("--created-at", callback=_moment, help="When it was said, as 2026-03-05T18:30:00+01:00; otherwise now.")
@click.option("--expires-at", callback=_moment, help="When it is to be forgotten.")
@click.option("--ttl", type=float, metavar="SECONDS", help="The same, so many seconds from now.")
@click.option("--dedupe", is_flag=True, help="Not twice: where the owner has the text already, that memory stands.")
@click.option("--defer", is_flag=True, help="Do not wait for the model; a search embeds what is still to be embedded.")
@click.option("--skip-bad", is_flag=True, help="Report bad lines and go on, instead of stopping at the first one.")
@_store
def add(
    text: str | None, file: str | None, id: str | None, skip_bad: bool, db: str, model: str | None, as_json: bool,
    **fields: Any,
) -> int:  # fmt: skip
    """Remember TEXT, or what a file or a pipe (-) holds.

    A file is UTF-8 and holds JSON Lines or one JSON array. An item is a text, an object with the fields content,
    user_id, agent_id, run_id, role, metadata, id, created_at, expires_at, ttl (or as `list --json` prints it), or a
    chat message with role, content and name. What an item does not say, the options say.

    A bad line stops everything with its number: what stands before it is stored, it and the rest is not. With
    --skip-bad the bad lines are reported and the others are stored.

    Prints the id of one text, the number of several; with --json each record on a line.
    """
    if (text is None) == (file is None):
        raise click.UsageError("Give either a text, or --file PATH, or - for standard input.")
    if text is None or text == "-":
        if id is not None:
            raise click.UsageError("--id is for one text; in a file each item may have its own.")
        return _add_lines(file or "-", skip_bad, db, model, as_json, fields)
    _require_owner(fields)
    with _open(db, model, create=True) as memory:
        record = memory.add(text, id=id, **fields)
    print_json(record) if as_json else print_lines(escape(record.id))
    return DONE


def _add_lines(source: str, skip_bad: bool, db: str, model: str | None, as_json: bool, fields: dict[str, Any]) -> int:
    stored = skipped = last = 0
    hidden = as_json and sys.stdout.isatty()
    with (
        click.open_file(source, "rb") as stream,
        _open(db, model, create=True) as memory,
        progress("memory", count_lines(source), hidden=hidden) as advance,
    ):
        try:
            for line, outcome in remember(memory, read_lines(stream, fields["metadata"]), skip_bad=skip_bad, **fields):
                if isinstance(outcome, AgentMemError):
                    skipped += 1
                    complain(f"Skipped line {line}: {outcome}")
                else:
                    stored, last = stored + 1, line
                    advance(1)
                    if as_json:
                        print_json(outcome)
        except BaseException as error:
            # What was interrupted may have been committed without an answer.
            known = "" if isinstance(error, InvalidInputError | EmbeddingError) else "at least "
            complain(f"Stored: {known}{_counted(stored)}, up to line {last}.")
            raise
    if not as_json:
        there = " or there already" if fields["dedupe"] else ""
        print_lines(f"{_counted(stored)} stored{there}{f', {skipped:,} lines skipped' if skipped else ''}.")
    return DONE if stored else NOTHING


@main.command()
@click.argument("query")
@_owner
@_all_scopes
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=10, show_default=True, help="At most this many.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Leave out what scores less.")
@click.option("--mode", type=click.Choice(["hybrid", "vector", "keyword"]), default="hybrid", show_default=True)
@click.option("--recency", type=float, callback=_days, metavar="DAYS", help="Half-life: older memories score less.")
@click.option("--importance", metavar="KEY", help="A metadata key with numbers from 0 to 1: lower ones score less.")
@click.option("--collapse", is_flag=True, help="Show equal texts once.")
@_filter
@_created_between
@_show_expired
@_as_of
@click.option("--explain", is_flag=True, help="Say how each score came about.")
@_full
@_store
def search(query: str, full: bool, db: str, model: str | None, as_json: bool, **asked: Any) -> int:
    """Print what is relevant to QUERY, best first: score, id, day, text.

    With --json a match on a line. Exits with 1 when nothing matches.
    """
    _require_owner(asked)
    with _open(db, model) as memory:
        matches = memory.search(query, **asked)
    if as_json:
        print_json(*matches)
    else:
        lines = fitted(match_rows(matches, owners=asked["all_scopes"]), expendable=(2, 3), full=full)
        for line, match in zip(lines, matches, strict=True):
            print_lines(line)
            if asked["explain"]:
                print_lines(escape(f"      {explain_line(match)}"))
    return DONE if matches else NOTHING


@main.command("list")
@_owner
@_all_scopes
@_filter
@_created_between
@_show_expired
@_as_of
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=20, show_default=True, help="Memories a page (without --all)."
)
@click.option("--after", metavar="PAGE", help="Go on after a page, as the listing before named it.")
@click.option("--all", "everything", is_flag=True, help="Every page, one after the other.")
@click.option("--order", type=click.Choice(["newest", "oldest"]), default="newest", show_default=True)
@_full
@_store
def list_(everything: bool, full: bool, db: str, model: str | None, as_json: bool, **asked: Any) -> int:
    """Print memories by the time they were made: id, day, text.

    With --json a record on a line. When there are more, standard error names the next page. Exits with 1 when there
    are none.
    """
    _require_owner(asked)
    found = False
    if everything:
        asked["limit"] = PAGE
    with _open(db, model, model_needed=False) as memory:
        while True:
            page = memory.get_all(**asked)
            found = found or bool(page.records)
            if as_json:
                print_json(*page.records)
            else:
                print_lines(
                    *fitted(record_rows(page.records, owners=asked["all_scopes"]), expendable=(1, 2), full=full)
                )
            if page.next is None or not everything:
                break
            asked["after"] = page.next
    if page.next is not None:
        complain(f"There are more: --after {page.next}")
    return DONE if found else NOTHING


@main.command()
@click.argument("id")
@_full
@_store
def history(id: str, full: bool, db: str, model: str | None, as_json: bool) -> int:
    """Print every event of the memory ID, oldest first: number, time, what happened, the text afterwards.

    With --json an event on a line. Exits with 1 when there never was such a memory.
    """
    with _open(db, model, model_needed=False) as memory:
        events = memory.history(id)
    if not events:
        complain(f"There never was a memory {id!r}.")
    if as_json:
        print_json(*events)
    else:
        print_lines(*fitted(event_rows(events), expendable=(0,), full=full))
    return DONE if events else NOTHING


@main.command()
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every memory of the owner (that passes the filter).")
@_owner
@_all_scopes
@_filter
@_created_between
@click.option("--dry-run", is_flag=True, help="Say how many it would be, and delete none.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_store
def delete(
    ids: tuple[str, ...], everything: bool, dry_run: bool, yes: bool, db: str, model: str | None, as_json: bool,
    **asked: Any,
) -> int:  # fmt: skip
    """Hide the memories IDS, or with --all those of an owner, from every read. Their history stays.

    With --json one object: deleted, missing, dry_run. Exits with 1 when an id is missing, or nothing was there.
    """
    if bool(ids) == everything:
        raise click.UsageError("Give either ids, or --all with an owner.")
    if ids and (asked["filters"] or asked["between"] or asked["all_scopes"]):
        raise click.UsageError("--filter, --between and --all-scopes go with --all.")
    if everything:
        _require_owner(asked)
    with _open(db, model, model_needed=False) as memory:
        if everything:
            missing: list[str] = []
            deleted = _delete_all(memory, asked, dry_run=dry_run, ask=not yes, as_json=as_json)
        else:
            deleted, missing = _delete_ids(memory, ids, asked, dry_run=dry_run)
    for name in missing:
        complain(f"There is no memory {name!r} to delete.")
    if as_json:
        print_json({"deleted": deleted, "missing": missing, "dry_run": dry_run})
    else:
        print_lines(f"{_counted(deleted)} {'would be ' if dry_run else ''}deleted.")
    return NOTHING if missing or not deleted else DONE


def _delete_ids(memory: "Memory", ids: Sequence[str], asked: dict[str, Any], *, dry_run: bool) -> tuple[int, list[str]]:
    owner = {name: asked[name] for name in OWNERS if asked[name] is not None}
    scope = memory.scope(**owner) if owner else memory
    different = list(dict.fromkeys(ids))
    missing = [each for each in different if not (scope.get(each) if dry_run else scope.delete(each))]
    return len(different) - len(missing), missing


def _delete_all(memory: "Memory", asked: dict[str, Any], *, dry_run: bool, ask: bool, as_json: bool) -> int:
    count = memory.delete_all(**asked, dry_run=True)
    if dry_run or not count:
        return count
    if ask:
        if as_json or not sys.stdin.isatty():
            raise click.UsageError(f"This would delete {_counted(count)}; pass --yes to do it, or --dry-run.")
        if not click.confirm(f"Delete {_counted(count)}?", err=True):
            return 0
    return memory.delete_all(**asked)


@main.command()
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every memory of the owner, deleted ones too.")
@_owner
@click.option("--yes", is_flag=True, help="Do not ask.")
@_store
def purge(
    ids: tuple[str, ...], everything: bool, yes: bool, db: str, model: str | None, as_json: bool, **owner: str | None
) -> int:
    """Erase the memories IDS, or with --all those of an owner, for good: no byte of them stays in the store's files.

    Deleted and expired memories too; nothing brings them back. With --json one object: purged, missing. Exits with 1
    when an id is missing, or nothing was there.
    """
    if bool(ids) == everything:
        raise click.UsageError("Give either ids, or --all with an owner.")
    named = {name: value for name, value in owner.items() if value is not None}
    if everything and not named:
        raise click.UsageError("Name an owner with --user, --agent or --run.")
    different = list(dict.fromkeys(ids))
    with _open(db, model, model_needed=False) as memory:
        scope = memory.scope(**named) if named else memory
        whose = " and ".join(f"{name.removesuffix('_id')} {value!r}" for name, value in named.items())
        what = f"every memory of {whose}" if everything else _counted(len(different))
        if not yes:
            if as_json or not sys.stdin.isatty():
                raise click.UsageError(f"This would erase {what} for good; pass --yes to do it.")
            if not click.confirm(f"Erase {what} for good?", err=True):
                return NOTHING
        missing = [each for each in different if not scope.purge(each)]
        purged = scope.purge() if everything else len(different) - len(missing)
    for name in missing:
        complain(f"There is no memory {name!r} to erase.")
    print_json({"purged": purged, "missing": missing}) if as_json else print_lines(f"{_counted(purged)} erased.")
    return NOTHING if missing or not purged else DONE


@main.command()
@_store
def stats(db: str, model: str | None, as_json: bool) -> int:
    """Print how much the store holds. With --json one object."""
    with _open(db, model, model_needed=False) as memory:
        counts = memory.stats()
        told = {"path": memory.path, **{name: getattr(counts, name) for name in STORED}}
    if as_json:
        print_json(told)
    else:
        cells = [[name, f"{value:,}" if isinstance(value, int) else value] for name, value in told.items()]
        print_lines(*fitted(cells, full=True))
    return DONE


@main.command()
@_path
@_store
def check(path: str | None, db: str, model: str | None, as_json: bool) -> int:
    """Read the whole store (PATH, or --db) and print what is wrong with it. No model is needed.

    Exits with 0 when it is healthy, with 1 when something is wrong. With --json one object: healthy, problems.
    """
    try:
        with _open(path or db, model, model_needed=False) as memory:
            problems = memory.check()
    except StoreDamagedError as error:
        problems = [str(error)]
    if as_json:
        print_json({"healthy": not problems, "problems": problems})
    else:
        print_lines(*map(escape, problems or ["healthy"]))
    return NOTHING if problems else DONE


@main.command()
@_path
@click.option(
    "--db", envvar="AGENTMEM_DB", show_envvar=True, default="agentmem.db", show_default=True, help="The store."
)
@_json
def repair(path: str | None, db: str, as_json: bool) -> int:
    """Mend the store (PATH, or --db) and print what was done; also one that cannot be opened. No model is needed.

    Exits with 0 when it is healthy now, with 1 when something could not be saved or mended: what was set aside and kept
    is named. With --json one object: healthy, done, problems.
    """
    store = _existing(path or db)
    from agentmem.rescue import rescue

    done, problems = rescue(store)
    lost = any("set aside" in each or "is lost" in each or "was damaged" in each for each in done)
    if as_json:
        print_json({"healthy": not problems, "done": done, "problems": problems})
    else:
        print_lines(*map(escape, [*done, *(f"Still: {each}" for each in problems)] or ["healthy; nothing to mend"]))
    return NOTHING if problems or lost else DONE


@main.command()
@click.argument("store")
@click.argument("copy")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there (never one that is open).")
@_json
def backup(store: str, copy: str, overwrite: bool, as_json: bool) -> int:
    """Copy STORE to COPY as it is at one moment, while others use it. To restore is to open the copy.

    The copy is verified before it gets its name. With --json one object: path, bytes.
    """
    with _open(store, None, model_needed=False) as memory:
        path = memory.backup(copy, overwrite=overwrite)
    size = Path(path).stat().st_size
    print_json({"path": path, "bytes": size}) if as_json else print_lines(escape(f"{path}: {size:,} bytes."))
    return DONE


# -- what the commands share --------------------------------------------------------------------------------------


def _open(db: str, model: str | None, *, create: bool = False, model_needed: bool = True) -> "Memory":
    """The store at a path. Only a command that adds makes one that is not there, and one that embeds nothing takes the
    store of any model.

    Raises:
        StoreOpenError: there is none.
    """
    if not create:
        _existing(db)
    if db == ":memory:":
        raise click.UsageError("':memory:' would be gone when the command ends; pass the path of a file.")
    from agentmem.memory import DEFAULT_MODEL, Memory

    return Memory(db, model=model or (DEFAULT_MODEL if model_needed else None))


def _existing(db: str) -> str:
    if db == ":memory:":
        raise click.UsageError("':memory:' would be gone when the command ends; pass the path of a file.")
    path = Path(db)
    if not path.exists() or (path.is_file() and not path.stat().st_size):
        raise StoreOpenError(f"There is no store at {db!r}; make one with `agentmem add`, or name another with --db.")
    return db


def _require_owner(asked: dict[str, Any]) -> None:
    named = any(asked[name] is not None for name in OWNERS)
    if "all_scopes" not in asked and not named:
        raise click.UsageError("Name an owner with --user, --agent or --run.")
    if "all_scopes" in asked and named == asked["all_scopes"]:
        raise click.UsageError("Name an owner with --user, --agent or --run; or else pass --all-scopes.")


def _counted(count: int) -> str:
    return f"{count:,} {'memory' if count == 1 else 'memories'}"


if __name__ == "__main__":
    main(prog_name="agentmem")
