"""`shell`: questions and answers, line by line."""

import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from agentmem.cli import options
from agentmem.cli.exit_codes import DONE, NOTHING
from agentmem.cli.opening import open_memory, scoped
from agentmem.cli.output import (
    ERROR,
    complain,
    counted,
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
    standard_input,
    stored_cells,
    stored_fields,
)
from agentmem.errors import AgentMemError, InvalidInputError

if TYPE_CHECKING:
    from agentmem.memory import Memory, ScopedMemory
    from agentmem.records import Match, Record


@click.command()
@options.path
@options.owner
@options.all_scopes
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=5, show_default=True, help="Matches an answer.")
@options.full
@options.db
@options.model
@options.output
def shell(
    path: str | None, all_scopes: bool, limit: int, full: bool, db: str, model: str, as_json: bool, **owner: str | None
) -> int:
    """Ask a store questions, line by line (PATH, or --db).

    A line is a question; +TEXT remembers; /help lists the other commands. An error does not end it: Ctrl-D or /quit
    does. Ctrl-C interrupts the present line. From a pipe it takes the same lines, and exits with 1 when one of them
    failed. With --json every answer is JSON Lines, as the commands print them.

    \b
    Examples:
      agentmem shell agent.db --user ana
      printf '+Has a cat\\nwhich pets are there?\\n' | agentmem shell --user ana --json
    """
    options.require_owner({**owner, "all_scopes": all_scopes})
    with open_memory(path or db, model) as memory:
        session = Session(memory, owner, limit=limit, full=full, as_json=as_json)
        asked = sys.stdin.isatty()
        prompt = f"{escape(' '.join(value for value in owner.values() if value) or 'everybody')}> "
        if asked:
            complain("Ask, or +TEXT to remember; /help lists more, Ctrl-D ends.")
        failed = False
        for line in _typed(prompt) if asked else _piped():
            try:
                if not session.obey(line):
                    break
            except AgentMemError as error:
                failed = True
                complain(f"{ERROR} {options.told(error)}")
            except KeyboardInterrupt:
                if not asked:
                    raise
                complain("Interrupted.")
    return NOTHING if failed and not asked else DONE


def _typed(prompt: str) -> Iterator[str]:
    """Yields the typed lines, with readline's editing and history (of this session, in memory) if it is there."""
    try:
        import readline

        readline.set_completer(_completed)
        readline.set_completer_delims(" ")
        readline.parse_and_bind("tab: complete")
    except ImportError:
        pass
    while True:
        try:
            yield input(prompt)
        except KeyboardInterrupt:
            print_lines("")
        except EOFError:
            print_lines("")
            return
        except UnicodeDecodeError as error:
            complain(f"{ERROR} This line is not UTF-8 ({error.reason}).")


def _piped() -> Iterator[str]:
    stream = standard_input()
    while raw := stream.readline():  # Read line by line, and not in blocks: the writer may wait for the answer.
        yield raw.decode(errors="replace").rstrip("\r\n")


def _completed(text: str, state: int) -> str | None:
    fitting = [f"/{name} " for name in COMMANDS if f"/{name}".startswith(text)] if text.startswith("/") else []
    return fitting[state] if state < len(fitting) else None


class Session:
    """The settings, the memories of the last answer, and the commands."""

    def __init__(
        self, memory: "Memory", owner: dict[str, str | None], *, limit: int, full: bool, as_json: bool
    ) -> None:
        self._memory = memory
        self._scope: Memory | ScopedMemory = scoped(memory, owner)
        self._everybody: dict[str, Any] = {} if any(owner.values()) else {"all_scopes": True}
        self._settings: dict[str, Any] = {"limit": limit, "mode": "hybrid", "explain": False, "filters": None}
        self._full = full
        self._as_json = as_json
        self._shown: list[str] = []  # The ids that the last answer numbered.

    def obey(self, line: str) -> bool:
        """Runs a line. Returns False when it ends the shell.

        Raises:
            AgentMemError: The line cannot be understood or run.
        """
        line = line.strip()
        if not line:
            return True
        if line.startswith("+"):
            self.add(line[1:].strip())
        elif not line.startswith("/"):
            self.ask(line)
        else:
            name, _, rest = line[1:].partition(" ")
            if name in ("quit", "exit"):
                return False
            if name not in COMMANDS:
                raise InvalidInputError(f"There is no /{name}; /help lists what there is.")
            COMMANDS[name](self, rest.strip())
        return True

    def ask(self, query: str) -> None:
        """QUESTION: what is relevant to it, best first."""
        matches = self._scope.search(query, **self._settings, **self._everybody)
        if not matches:
            complain("Nothing was found.")
        self._show(matches, [match.record for match in matches])

    def add(self, text: str) -> None:
        """TEXT: remember it (or +TEXT)."""
        self._told(self._scope.add(text))

    def newest(self, rest: str) -> None:
        """The newest memories that pass the filters."""
        page = self._scope.get_all(limit=self._settings["limit"], filters=self._settings["filters"], **self._everybody)
        self._show(page.records, page.records)

    def count(self, rest: str) -> None:
        """How many memories pass the filters."""
        number = self._scope.count(filters=self._settings["filters"], **self._everybody)
        print_json({"count": number}) if self._as_json else print_lines(counted(number))

    def get(self, rest: str) -> None:
        """ID: every field of a memory."""
        record = self._scope.get(self._id(rest))
        if record is None:
            raise InvalidInputError(f"There is no memory {rest!r} to show.")
        print_json(record) if self._as_json else print_lines(*record_block(record))

    def update(self, rest: str) -> None:
        """ID TEXT: give a memory a new text."""
        named, _, text = rest.partition(" ")
        self._told(self._scope.update(self._id(named), text.strip()))

    def delete(self, rest: str) -> None:
        """ID: hide a memory; /restore undoes it."""
        named = self._id(rest)
        if not self._scope.delete(named):
            raise InvalidInputError(f"There is no memory {named!r} to delete.")
        print_json({"deleted": 1, "missing": []}) if self._as_json else print_lines(f"{escape(named)} deleted.")

    def restore(self, rest: str) -> None:
        """ID: bring a deleted memory back."""
        self._told(self._scope.restore(self._id(rest)))

    def history(self, rest: str) -> None:
        """ID: every event of a memory."""
        events = self._scope.history(self._id(rest))
        if not events:
            raise InvalidInputError(f"There never was a memory {rest!r}.")
        if self._as_json:
            print_json(*events)
        else:
            print_lines(*fitted(event_rows(events), full=self._full, styles={0: "faint", 1: "faint"}))

    def stats(self, rest: str) -> None:
        """How much the store holds."""
        told = stored_fields(self._memory.stats())
        print_json(told) if self._as_json else print_lines(*fitted(stored_cells(told), full=True))

    def explain(self, rest: str) -> None:
        """Print the parts of each score, or stop that."""
        self._set("explain", not self._settings["explain"])

    def filters(self, rest: str) -> None:
        """JSON: only memories that pass, such as {"topic": "travel"}; alone: all again."""
        try:
            value = json.loads(rest) if rest else None
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"{rest!r} is not JSON ({error}).") from None
        self._scope.count(filters=value, **self._everybody)  # A bad filter is refused now, and not at a question.
        self._set("filters", value)

    def limit(self, rest: str) -> None:
        """N: the most matches of an answer."""
        if not rest.isascii() or not rest.isdigit() or not 1 <= int(rest[:9]) <= 1_000_000:
            raise InvalidInputError(f"The limit is {rest!r}; give a whole number from 1 to 1,000,000.")
        self._set("limit", int(rest))

    def mode(self, rest: str) -> None:
        """hybrid, vector or keyword: how to search."""
        if rest not in ("hybrid", "vector", "keyword"):
            raise InvalidInputError(f"The mode is {rest!r}; give hybrid, vector or keyword.")
        self._set("mode", rest)

    def help(self, rest: str) -> None:
        """Print this list."""
        rows = [["QUESTION", "What is relevant to it, best first."], ["+TEXT", "Remember it."]]
        for name, command in COMMANDS.items():
            argument, _, does = (command.__doc__ or "").rpartition(": ")
            rows.append([f"/{name} {argument}".rstrip(), does.split("\n")[0].capitalize()])
        rows.append(["/quit", "End, as Ctrl-D does."])
        print_lines(*fitted(rows), "An ID may be the number of a memory in the last answer.")

    def _set(self, name: str, value: Any) -> None:
        self._settings[name] = value
        complain(f"{name}: {json.dumps(value, ensure_ascii=False)}")

    def _id(self, given: str) -> str:
        """Returns an id, or the id of a number in the last answer."""
        if given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= len(self._shown):
            return self._shown[int(given) - 1]
        return given

    def _told(self, record: "Record") -> None:
        print_json(record) if self._as_json else print_lines(escape(record.id))

    def _show(self, found: "list[Match] | list[Record]", records: "list[Record]") -> None:
        from agentmem.records import Match

        self._shown = [record.id for record in records]
        if self._as_json:
            print_json(*found)
            return
        owners = bool(self._everybody)
        matches = [each for each in found if isinstance(each, Match)]
        cells = match_rows(matches, ids=False, owners=owners) if matches else record_rows(records, owners=owners)
        rows = [[str(number), *row] for number, row in enumerate(cells, 1)]
        for position, line in enumerate(fitted(rows, full=self._full, styles={0: "faint", 1: "strong"})):
            print_lines(line)
            if matches and self._settings["explain"]:
                print_lines(painted(escape(f"     {explain_line(matches[position])}"), "faint"))


COMMANDS: dict[str, Callable[[Session, str], None]] = {
    "add": Session.add, "list": Session.newest, "count": Session.count, "get": Session.get, "update": Session.update,
    "delete": Session.delete, "restore": Session.restore, "history": Session.history, "stats": Session.stats,
    "explain": Session.explain, "filters": Session.filters, "limit": Session.limit, "mode": Session.mode,
    "help": Session.help,
}  # fmt: skip
