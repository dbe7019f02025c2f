"""Keeps a folder of notes or sessions in step with a store, for `import --watch`."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentmem.errors import AgentMemError, NotFoundError
from agentmem.transfer.containers import is_read, paths_in

if TYPE_CHECKING:
    from agentmem.memory import Memory
    from agentmem.records import Record

SOURCE = "source_file"
"""The metadata that name the file of a memory, with its whole path."""

PAGE = 1000


@dataclass(slots=True)
class Step:
    """What one look at the folder changed, and what could not be read."""

    imported: int = 0
    replaced: int = 0
    deleted: int = 0
    failed: list[str] = field(default_factory=list)


class FolderSync:
    """A folder and the memories of its files. A changed file replaces its memories, a removed file deletes them."""

    def __init__(self, memory: "Memory", folder: str, scope: dict[str, Any], **options: Any) -> None:
        """`options` are those of `Memory.import_`, as `transfer.importer.Options` takes them."""
        self._memory = memory
        self._folder = Path(folder).resolve()
        self._owners = scope
        self._options = options
        self._stamps: dict[str, tuple[int, ...]] = {}
        self._ids: dict[str, set[str]] = {}

    def step(self) -> Step:
        """Looks at the folder once, and returns what that changed."""
        step = Step()
        present = {str(path): stamp for path in paths_in(self._folder) if is_read(path) and (stamp := _stamp(path))}
        if not self._stamps:  # Files that were removed between two looks.
            listed = self._records({SOURCE: {"contains": f"{self._folder}{os.sep}"}})
            for record in [record for record in listed if record.metadata[SOURCE] not in present]:
                step.deleted += self._memory.delete(record.id, **self._owners)
        for name in self._stamps.keys() - present.keys():
            self._keep(name, set(), step)
            del self._stamps[name]
            self._ids.pop(name, None)
        for name, stamp in present.items():
            if self._stamps.get(name) != stamp:
                self._read(name, step)
                self._stamps[name] = stamp
        return step

    def _read(self, name: str, step: Step) -> None:
        from agentmem.transfer.importer import Options, import_

        ids = set[str]()
        options = Options(**self._options, tag={SOURCE: name}, ids=ids)
        try:
            report = import_(self._memory._engine, self._memory._scope, name, options)
        except AgentMemError as error:
            step.failed.append(f"{name}: {error}")
            return
        step.imported += report.imported
        step.replaced += report.replaced
        step.failed += [f"{name}, line {line}: {error}" for line, error in report.failed]
        for new in ids - self._ids.get(name, ids):
            if self._memory.get(new, **self._owners) is None:  # It was in the file before, and is again.
                try:
                    self._memory.restore(new, **self._owners)
                except NotFoundError:
                    continue
                step.imported += 1
        self._keep(name, ids, step)
        self._ids[name] = ids

    def _keep(self, name: str, ids: set[str], step: Step) -> None:
        """Deletes the memories of a file that are not among those."""
        for record in [record for record in self._records({SOURCE: name}) if record.id not in ids]:
            step.deleted += self._memory.delete(record.id, **self._owners)

    def _records(self, filters: dict[str, Any]) -> "Iterator[Record]":
        after = None
        while True:
            page = self._memory.get_all(**self._owners, filters=filters, limit=PAGE, after=after)
            yield from page
            if (after := page.next) is None:
                return


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes with a file; empty where there is none any more."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino
