"""Claude's memory tool (`memory_20250818`) on a Memory: files under /memories, each a memory with its history.

    from anthropic import Anthropic
    from agentmem import Memory
    from agentmem.integrations.anthropic import AgentMemMemoryTool

    tool = AgentMemMemoryTool(Memory("agent.db").scope(user_id="ana"))
    Anthropic().beta.messages.tool_runner(model=..., max_tokens=1024, messages=[...], tools=[tool])

The replies are those of the tool's reference, `BetaLocalFilesystemMemoryTool`, to the letter.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from agentmem.errors import InvalidInputError, NotFoundError
from agentmem.integrations import check_view, framework
from agentmem.integrations.upsert import NO_TEXT, write

with framework("anthropic"):
    from anthropic.lib.tools import BetaAbstractMemoryTool, ToolError

if TYPE_CHECKING:
    from agentmem.memory import ScopedMemory
    from agentmem.records import Record

ROOT = "/memories"
FILES = {"file": "*"}
"""A filter: files are memories with this key in their metadata, which holds the text of one that is blank."""

MOST_LINES = 999_999
WIDTH = len(str(MOST_LINES))
DEPTH = 2
PAGE = 1000


class AgentMemMemoryTool(BetaAbstractMemoryTool):
    """The memory tool of one owner. A file is a memory whose id is its path; searches of the owner find it.

    A folder is there while a file is in it. Deleting hides files, so that `restore` brings them back, and `history`
    tells every version. Any thread and process may call the tool.

    Args:
        memory: A view of an owner, `memory.scope(...)`.
        cache_control: As in the reference.

    Raises:
        InvalidInputError: the memory is no view.
    """

    def __init__(self, memory: "ScopedMemory", *, cache_control: Any = None) -> None:
        super().__init__(cache_control=cache_control)
        self._memory = check_view(memory)

    def view(self, command: Any) -> str:
        """Returns the lines of a file, numbered, or the names in a folder, two levels deep."""
        path = _checked(command.path)
        record = self._file(path)
        if record is not None:
            return _numbered(command.path, _text(record), command.view_range)
        inside = dict(self._sizes(path))
        if path != ROOT and not inside:
            raise ToolError(f"The path {command.path} does not exist. Please provide a valid path.")
        header = f"Here're the files and directories up to 2 levels deep in {command.path}, excluding hidden items:"
        lines = [f"{_size(sum(inside.values()))}\t{command.path}"]
        lines += [f"{_size(size)}\t{command.path}/{name}" for name, size in _listed(inside)]
        return "\n".join([header, *lines])

    def create(self, command: Any) -> str:
        """Makes a file that is not there yet."""
        path = _checked(command.path)
        if self._file(path) is not None or self._is_folder(path):
            raise ToolError(f"File {command.path} already exists")
        self._no_file_above(path)
        self._write(path, command.file_text)
        return f"File created successfully at: {command.path}"

    def str_replace(self, command: Any) -> str:
        """Replaces a text that stands in a file exactly once."""
        path, text = self._existing(command.path)
        count = text.count(command.old_str)
        if count == 0:
            raise ToolError(
                f"No replacement was performed, old_str `{command.old_str}` did not appear verbatim in {command.path}."
            )
        if count > 1:
            places = ", ".join(map(str, _lines_with(text, command.old_str)))
            raise ToolError(
                f"No replacement was performed. Multiple occurrences of old_str `{command.old_str}` "
                f"in lines: {places}. Please ensure it is unique"
            )
        at = text[: text.find(command.old_str)].count("\n")
        changed = text.replace(command.old_str, command.new_str)
        self._write(path, changed)
        lines = changed.split("\n")
        shown = range(max(0, at - 2), min(len(lines), at + 3))
        snippet = "\n".join(f"{str(line + 1).rjust(WIDTH)}\t{lines[line]}" for line in shown)
        return (
            f"The memory file has been edited. Here is the snippet showing the change (with line numbers):\n{snippet}"
        )

    def insert(self, command: Any) -> str:
        """Inserts a line after the line with a number; 0 is the beginning."""
        path, text = self._existing(command.path)
        lines = text.split("\n")
        if lines[-1] == "":
            lines.pop()
        if not 0 <= command.insert_line <= len(lines):
            raise ToolError(
                f"Invalid `insert_line` parameter: {command.insert_line}. "
                f"It should be within the range [0, {len(lines)}]."
            )
        lines.insert(command.insert_line, command.insert_text.rstrip("\n"))
        changed = "\n".join(lines)
        self._write(path, changed if changed.endswith("\n") else f"{changed}\n")
        return f"The file {command.path} has been edited."

    def delete(self, command: Any) -> str:
        """Hides a file, or all files of a folder, in one commit."""
        path = _checked(command.path)
        if path == ROOT:
            raise ToolError("Cannot delete the /memories directory itself")
        found = list(self._below(path))
        if not found:
            raise ToolError(f"The path {command.path} does not exist")
        write(self._memory, [{"id": record.id} for record in found])
        return f"Successfully deleted {command.path}"

    def rename(self, command: Any) -> str:
        """Moves a file, or all files of a folder, in one commit."""
        old, new = _checked(command.old_path), _checked(command.new_path)
        if old == ROOT:
            raise ToolError("Cannot rename the /memories directory itself")
        if self._file(new) is not None or self._is_folder(new):
            raise ToolError(f"The destination {command.new_path} already exists")
        found = list(self._below(old))
        if not found:
            raise ToolError(f"The path {command.old_path} does not exist")
        if new.startswith(f"{old}/"):
            raise ToolError(f"The destination {command.new_path} is inside {command.old_path}")
        self._no_file_above(new)
        moved = [_fields(new + record.id[len(old) :], _text(record)) for record in found]
        write(self._memory, [*({"id": record.id} for record in found), *moved])
        return f"Successfully renamed {command.old_path} to {command.new_path}"

    def clear_all_memory(self) -> str:
        """Hides every file."""
        self._memory.delete_all(filters=FILES)
        return "All memory cleared"

    def _file(self, path: str) -> "Record | None":
        record = _refusing(lambda: self._memory.get(path))
        return record if record is not None and "file" in record.metadata else None

    def _existing(self, named: str) -> tuple[str, str]:
        path = _checked(named)
        record = self._file(path)
        if record is not None:
            return path, _text(record)
        if path == ROOT or self._is_folder(path):
            raise ToolError(f"The path {named} is not a file.")
        raise ToolError(f"The path {named} does not exist. Please provide a valid path.")

    def _is_folder(self, path: str) -> bool:
        return path == ROOT or any(record.id != path for record in self._below(path))

    def _no_file_above(self, path: str) -> None:
        parts = path.split("/")
        for end in range(len(ROOT.split("/")) + 1, len(parts)):
            if self._file(above := "/".join(parts[:end])) is not None:
                raise ToolError(f"The path {above} is not a directory.")

    def _below(self, path: str) -> "Iterator[Record]":
        """The file of a path, and the files in its folder. A zero follows the slash in code point order."""
        wanted = {"AND": [FILES, {"OR": [{"id": path}, {"id": {"gte": f"{path}/", "lt": f"{path}0"}}]}]}
        after = None
        while True:
            page = self._memory.get_all(filters=wanted, limit=PAGE, after=after, order="oldest")
            yield from page
            after = page.next
            if after is None:
                return

    def _sizes(self, path: str) -> Iterator[tuple[str, int]]:
        """The names of files below a folder and their bytes; hidden ones are left out."""
        for record in self._below(path):
            name = record.id[len(path) + 1 :]
            if not any(part.startswith(".") for part in name.split("/")):
                yield name, len(_text(record).encode())

    def _write(self, path: str, text: str) -> None:
        _refusing(lambda: write(self._memory, [_fields(path, text)]))


def _checked(path: str) -> str:
    """The path without a slash at its end. Whatever could lead out of /memories is refused, not resolved."""
    if path != ROOT and not path.startswith(f"{ROOT}/"):
        raise ToolError(f"Path must start with /memories, got: {path}")
    parts = path[len(ROOT) :].strip("/").split("/")
    if any(part in (".", "..") for part in parts) or "\\" in path or "\0" in path or "%2e" in path.lower():
        raise ToolError(f"Path {path} would escape /memories directory")
    return "/".join([ROOT, *filter(None, parts)])


def _fields(path: str, text: str) -> dict[str, Any]:
    blank = not text.strip()
    return {"id": path, "content": NO_TEXT if blank else text, "metadata": {"file": text if blank else None}}


def _text(record: "Record") -> str:
    kept = record.metadata["file"]
    return record.content if kept is None else str(kept)


def _refusing(call: Callable[[], Any]) -> Any:
    """What a memory refuses is told to the model as the tool's own error."""
    try:
        return call()
    except (InvalidInputError, NotFoundError) as error:
        raise ToolError(str(error)) from error


def _numbered(path: str, text: str, view_range: list[int] | None) -> str:
    lines = text.split("\n")
    if len(lines) > MOST_LINES:
        raise ToolError(f"File {path} exceeds maximum line limit of 999,999 lines.")
    start, end = 0, len(lines)
    if view_range and len(view_range) == 2:
        start = max(1, view_range[0]) - 1
        end = end if view_range[1] == -1 else view_range[1]
    shown = "\n".join(f"{str(start + n + 1).rjust(WIDTH)}\t{line}" for n, line in enumerate(lines[start:end]))
    return f"Here's the content of {path} with line numbers:\n{shown}"


def _listed(inside: dict[str, int]) -> list[tuple[str, int]]:
    """The names to show: files, and folders with a slash at their end, sorted as the reference walks them."""
    sizes: dict[tuple[str, ...], int] = {}
    for name, size in inside.items():
        parts = tuple(name.split("/"))
        for depth in range(1, min(len(parts), DEPTH) + 1):
            shown = parts[:depth] if depth == len(parts) else (*parts[:depth], "")
            sizes[shown] = sizes.get(shown, 0) + size
    return [("/".join(parts), sizes[parts]) for parts in sorted(sizes)]


def _lines_with(text: str, part: str) -> Iterator[int]:
    at = text.find(part)
    while at != -1:
        yield text[:at].count("\n") + 1
        at = text.find(part, at + 1)


def _size(count: int) -> str:
    if count == 0:
        return "0B"
    power = min((count.bit_length() - 1) // 10, 3)
    size = count / 1024**power
    return f"{int(size) if size == int(size) else f'{size:.1f}'}{'BKMG'[power]}"
