"""The names that filters and indexes go by: the record's own fields, and the metadata keys that SQL can spell."""

import re

TEXT_FIELDS = frozenset({"id", "role", "user_id", "agent_id", "run_id"})
TIME_FIELDS = frozenset({"created_at", "updated_at", "expires_at"})
CONNECTIVES = frozenset({"AND", "OR", "NOT"})
PLAIN_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # what may stand in SQL itself; all else is bound


def plain_path(key: str) -> str | None:
    """The metadata key as filters spell it in SQL (`a.b` of `a.b` and of `metadata.a.b`), or None when it is a field
    of the record, or has a label that is no plain ASCII name."""
    path = key.removeprefix("metadata.")
    if path == key and key in TEXT_FIELDS | TIME_FIELDS | CONNECTIVES:
        return None
    return path if all(PLAIN_LABEL.fullmatch(label) for label in path.split(".")) else None
