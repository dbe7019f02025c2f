"""Changes of a store past agentmem, each page with its checksum, so that only what the rows say can tell of it."""

from pathlib import Path
from typing import Any

import apsw

from agentmem.storage.sqlite.database.vfs import checked_vfs


def forge(path: str | Path, *statements: str, parameters: Any = ()) -> None:
    connection = apsw.Connection(str(path), vfs=checked_vfs())
    connection.set_busy_timeout(60_000)
    for statement in statements:
        connection.execute(statement, parameters)
    connection.close()
