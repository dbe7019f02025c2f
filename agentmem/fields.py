"""The names that filters and indexes use: the record's own fields, and the metadata keys that SQL can spell."""

import re

TEXT_FIELDS = frozenset({"id", "role", "user_id", "agent_id", "run_id"})
TIME_FIELDS = frozenset({"created_at", "updated_at", "expires_at"})
CONNECTIVES = frozenset({"AND", "OR", "NOT"})
PLAIN_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # May stand in SQL itself; every other label is bound.


def plain_path(key: str) -> str | None:
    """Returns the metadata key as filters spell it in SQL: `a.b` for `a.b` and for `metadata.a.b`.

    Returns None for a field of the record, and for a key with a label that is no plain ASCII name.
    """
    path = key.removeprefix("metadata.")
    if path == key and key in TEXT_FIELDS | TIME_FIELDS | CONNECTIVES:
        return None
    return path if all(PLAIN_LABEL.fullmatch(label) for label in path.split(".")) else None
