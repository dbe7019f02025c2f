"""The format of `export`: JSON Lines, UTF-8, one memory a line, in the order in which they were added.

A header line comes first:

    {"format":"agentmem","version":1}
    {"format":"agentmem","version":1,"model":{"identity":...,"name":...,"dimension":...}}   with vectors

A memory is an object with these keys, in this order; what it does not have is left out:

    id, content, user_id, agent_id, run_id, role    text
    metadata                                        an object
    created_at, updated_at, expires_at              ISO 8601 in UTC, to the microsecond where there are any
    vector                                          base64 of float16, little-endian, of unit length
    digest                                          hex; what ties the vector to model and text, so that one of a text
                                                    that was edited afterwards is not taken for its own

The same memories make the same bytes. A reader takes headers anywhere (files may be joined), lines without a header
(then without vectors), lines without an id, and texts alone.
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.quoting import quote, shorten
from agentmem.records import Embedded, Record
from agentmem.validation import FIELDS, moment_of

FORMAT = "agentmem"

VERSION = 1

KEYS = (FIELDS - {"ttl"}) | {"updated_at", "vector", "digest"}
"""What a line may hold. A `ttl` would count from each reading anew."""

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False).encode


@dataclass(frozen=True, slots=True)
class VectorModel:
    """Which model made the vectors of a file, or those of a store."""

    identity: str
    name: str
    dimension: int


def header_of(model: VectorModel | None) -> bytes:
    """The first line; of a file with vectors, with their model."""
    header: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    if model is not None:
        header["model"] = {"identity": model.identity, "name": model.name, "dimension": model.dimension}
    return _encode(header).encode() + b"\n"


def line_of(record: Record, embedded: Embedded | None) -> bytes:
    """A memory's line, with its vector if there is one."""
    fields: dict[str, Any] = {"id": record.id, "content": record.content}
    for name in ("user_id", "agent_id", "run_id", "role"):
        value = getattr(record, name)
        if value is not None:
            fields[name] = value
    if record.metadata:
        fields["metadata"] = record.metadata
    fields["created_at"] = record.created_at.isoformat()
    fields["updated_at"] = record.updated_at.isoformat()
    if record.expires_at is not None:
        fields["expires_at"] = record.expires_at.isoformat()
    if embedded is not None:
        fields["vector"] = base64.b64encode(embedded.vector).decode()
        fields["digest"] = embedded.digest.hex()
    return _encode(fields).encode() + b"\n"


def is_header(value: Any) -> bool:
    """Whether a decoded line is a header, of whatever version."""
    return isinstance(value, dict) and value.get("format") == FORMAT and "content" not in value


def model_of(header: Mapping[str, Any]) -> VectorModel | None:
    """The model that a header names, or None.

    Raises:
        InvalidInputError: it is of another version of the format, or makes no sense.
    """
    version = header.get("version")
    if version != VERSION:
        raise InvalidInputError(
            f"the file is in version {shorten(version)} of the format, and this agentmem reads version {VERSION}; "
            "upgrade it, or export again with this one."
        )
    model = header.get("model")
    if model is None:
        return None
    try:
        return VectorModel(str(model["identity"]), str(model["name"]), int(model["dimension"]))
    except (TypeError, KeyError, ValueError):
        raise InvalidInputError(
            f"the header names the model {shorten(model)}; give it identity, name and dimension, or no model."
        ) from None


@dataclass(slots=True)
class Item:
    """What a file says of one memory: the fields of `add`, and when it was changed last. `vector` are the bytes that
    were made of a text with this `digest` (None: it is not told)."""

    fields: dict[str, Any]
    updated_at: datetime | None = None
    vector: bytes | None = None
    digest: bytes | None = None


def item_of(value: Any) -> Item:
    """Returns the memory of a decoded line.

    Raises:
        InvalidInputError: It is none. (The maker of the memory checks the contents of its fields.)
    """
    if isinstance(value, str):
        return Item({"content": value})
    if not isinstance(value, dict):
        raise InvalidInputError(f"{shorten(value)} is neither a text nor an object; write one of them.")
    if unknown := value.keys() - KEYS:
        raise InvalidInputError(
            f"unknown field {quote(min(unknown))}; the fields are {', '.join(sorted(KEYS))}"
            + (" (a ttl would count from the reading; write expires_at)." if "ttl" in unknown else ".")
        )
    fields = {name: part for name, part in value.items() if name not in ("updated_at", "vector", "digest")}
    for name in ("created_at", "expires_at"):
        if fields.get(name) is not None:
            fields[name] = moment_of(name, fields[name])
    updated_at = value.get("updated_at")
    return Item(
        fields,
        None if updated_at is None else moment_of("updated_at", updated_at),
        _bytes_of("vector", value.get("vector"), base64.b64decode),
        _bytes_of("digest", value.get("digest"), bytes.fromhex),
    )


def _bytes_of(name: str, text: Any, decode: Callable[[str], bytes]) -> bytes | None:
    if text is None:
        return None
    try:
        return decode(text)
    except (TypeError, ValueError, AttributeError, binascii.Error):
        raise InvalidInputError(
            f"{name} is {shorten(text)}, which is not as export writes it; leave vector and digest out."
        ) from None
