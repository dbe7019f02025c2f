"""The memory server of MCP: `memory.jsonl`, a knowledge graph, an entity or a relation a line.

`{type: "entity", name, entityType, observations: [...]}` becomes a memory for every observation, which begins with the
entity's name; `{type: "relation", from, to, relationType}` becomes one. A graph in one object, `{entities, relations}`,
is read likewise.
"""

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.quoting import shorten
from agentmem.transfer.chats.conversation import (
    Context,
    Conversation,
    Message,
    list_of,
    mapping_of,
    plain_text,
    text_or_none,
    time_of,
)

NAME = "mcp"
ABOUT = "memory.jsonl of MCP's memory server"
SIGNS = (
    "type=entity name observations", "type=entity name entityType observations", "type=relation from to relationType",
    "entities.*.observations relations.[]", "entities.*.name entities.*.observations entities.*.entityType",
)  # fmt: skip


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the memories of a line, or of a graph."""
    graph = mapping_of(value)
    parts: list[tuple[str, Any]] = [("entity", each) for each in list_of(graph.get("entities"))]
    parts += [("relation", each) for each in list_of(graph.get("relations"))]
    parts = parts or [(str(graph.get("type"))[:60], value)]
    found = Conversation("mcp", is_run=False)
    for kind, part in parts:
        try:
            found.messages += _memories(kind, mapping_of(part), context)
        except InvalidInputError as error:
            found.messages.append(error)
    yield found


def _memories(kind: str, part: Mapping[str, Any], context: Context) -> Iterator[Message]:
    if kind == "entity" and text_or_none(part.get("name")) and isinstance(part.get("observations", []), list):
        name, of = text_or_none(part["name"]), text_or_none(part.get("entityType"))
        metadata: dict[str, Any] = {"entity": name} | ({"entity_type": of} if of else {})
        for observation in part.get("observations", []):
            inner = mapping_of(observation)
            text = plain_text(observation) or plain_text(inner.get("content", inner.get("contents")))
            if text is None and observation:
                raise InvalidInputError(f"an observation is {shorten(observation)}, no text.")
            at = time_of(inner.get("timestamp", inner.get("createdAt")))
            whole = f"{name}: {text}" if text else None
            yield Message(None, whole, _digest(kind, whole), at, dict(metadata))
        context.left.unknown(part, frozenset({"type", "name", "entityType", "observations"}), " of an entity")
    elif kind == "relation" and all(text_or_none(part.get(key)) for key in ("from", "to", "relationType")):
        ends = [text_or_none(part[key]) or "" for key in ("from", "relationType", "to")]
        metadata = {"from": ends[0], "to": ends[2], "relation": ends[1]}
        yield Message(None, " ".join(ends), _digest(kind, *ends), None, metadata)
        context.left.unknown(part, frozenset({"type", "from", "to", "relationType"}), " of a relation")
    else:
        raise InvalidInputError(
            f"{shorten(part)} is no entity with name and observations, and no relation with from, to and relationType."
        )


def _digest(*parts: str | None) -> str:
    return blake2b("\0".join(map(str, parts)).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
