"""LangGraph's long-term store on a Memory: namespaces as paths of owners, found by meaning and words, kept on disk.

    from agentmem import Memory
    from agentmem.integrations.langgraph import AgentMemStore

    store = AgentMemStore(Memory("agent.db"))
    store.put(("memories", "ana"), "seat", {"text": "Prefers window seats"})
    store.search(("memories", "ana"), query="where does she like to sit?")

An item is a memory. Its `user_id` is the namespace, joined by dots, which no label may hold; its id is the key. Its
`agent_id` is the name of the store, so that several stores share a file.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from agentmem.errors import InvalidInputError, NotFoundError
from agentmem.integrations import check_memory, framework
from agentmem.integrations.upsert import NO_TEXT, write
from agentmem.memory import Memory
from agentmem.quoting import shorten
from agentmem.timestamps import now
from agentmem.validation import MAX_LIMIT

with framework("langgraph"):
    from langgraph.store.base import (
        BaseStore,
        GetOp,
        InvalidNamespaceError,
        Item,
        ListNamespacesOp,
        MatchCondition,
        PutOp,
        SearchItem,
        SearchOp,
        get_text_at_path,
        tokenize_path,
        validate_op_namespace,
    )

if TYPE_CHECKING:
    from agentmem.memory import ScopedMemory
    from agentmem.records import Record

Namespace = tuple[str, ...]

REFRESHED_AFTER = 0.01
"""The share of a time to live that passes before a read writes a new expiry, so that a busy item is not written by
every read."""

ORDERS = {"$gt": "gt", "$gte": "gte", "$lt": "lt", "$lte": "lte"}


class AgentMemStore(BaseStore):
    """LangGraph's `BaseStore` on a Memory. Any thread and process may use it; what a put returned is durable.

    A search stays within its namespace prefix. One that has no namespaces below it is scored by its own memories
    alone, so that no other namespace shows in its scores.

    Args:
        memory: A Memory, or a view of an agent; the caller closes it.
        name: The `agent_id` of all items. Stores with the same name share their items.
        fields: Paths of a value whose text is embedded, in LangGraph's syntax; `"$"` is the whole value.
        mode: How queries are ranked, as in `Memory.search`. With `"vector"` a score is the cosine, as elsewhere.
        ttl: LangGraph's `TTLConfig`: `default_ttl` in minutes, `refresh_on_read`. Expired items are never seen.

    Raises:
        InvalidInputError: an argument cannot be used.
    """

    supports_ttl = True

    def __init__(
        self,
        memory: "Memory | ScopedMemory",
        *,
        name: str = "langgraph",
        fields: Sequence[str] = ("$",),
        mode: Literal["hybrid", "vector", "keyword"] = "hybrid",
        ttl: Mapping[str, Any] | None = None,
    ) -> None:
        self.ttl_config: Any = ttl
        self._memory = check_memory(memory).scope(agent_id=name)
        # Owners below a path are found through the index of users only where no agent is asked for beside them.
        self._whole: Callable[..., Any] = memory.scopes
        self._everybody = {"all_scopes": True} if isinstance(memory, Memory) else {}
        self._name = name
        self._fields = _paths(fields)
        if mode not in ("hybrid", "vector", "keyword"):
            raise InvalidInputError(f"mode is {shorten(mode)}; use 'hybrid', 'vector' or 'keyword'.")
        self._mode = mode

    def batch(self, ops: Iterable[Any]) -> list[Any]:
        """Runs operations and returns a result for each, in order. Reads see the state before the batch's puts. The
        puts are committed together; of several to one key the last one counts.

        Raises:
            InvalidNamespaceError, InvalidInputError: an operation cannot be used; nothing was written.
        """
        ops = list(ops)
        puts = {}
        for op in ops:
            _check(op)
            if isinstance(op, PutOp):
                puts[op.namespace, op.key] = op
        prepared = [self._prepared(put) for put in puts.values()]  # Refuses what cannot be stored before all reads.
        results = [None if isinstance(op, PutOp) else self._read(op) for op in ops]
        if prepared:
            write(self._memory, prepared)
        return results

    async def abatch(self, ops: Iterable[Any]) -> list[Any]:
        """`batch`, in a thread of asyncio's pool."""
        return await asyncio.to_thread(self.batch, list(ops))

    def _read(self, op: Any) -> Any:
        if isinstance(op, GetOp):
            path = _path_of(op.namespace)
            record = self._memory.get(op.key, user_id=path)
            if record is None:
                return None
            self._refresh([record], op.refresh_ttl)
            return Item(**_item(record))
        return self._search(op) if isinstance(op, SearchOp) else self._namespaces(op)

    def _search(self, op: Any) -> list[Any]:
        wanted: list[dict[str, Any]] = [_filter_of(op.filter)] if op.filter else []
        owner: dict[str, Any] = {}
        if op.namespace_prefix:
            path = _path_of(op.namespace_prefix)
            if self._scopes(_below(path)):
                wanted.append({"OR": [{"user_id": path}, {"user_id": _below(path)}]})
            else:
                owner["user_id"] = path
        until = op.offset + op.limit
        scored: list[tuple[Record, float | None]] = []
        if until and op.query and op.query.strip():
            matches = self._memory.search(
                op.query,
                filters=_all([*wanted, {"indexed": True}]),
                limit=min(until, MAX_LIMIT),
                mode=self._mode,
                **owner,
            )
            scored = [(match.record, match.score) for match in matches]
            wanted.append({"indexed": False})  # As elsewhere, what has no text comes last, without a score.
        if len(scored) < until:
            room = min(until - len(scored), MAX_LIMIT)
            scored += [(record, None) for record in self._memory.get_all(filters=_all(wanted), limit=room, **owner)]
        found = scored[op.offset :]
        self._refresh([record for record, _ in found], op.refresh_ttl)
        return [SearchItem(**_item(record), score=score) for record, score in found]

    def _namespaces(self, op: Any) -> list[Namespace]:
        conditions = op.match_conditions or ()
        exact = [each.path for each in conditions if each.match_type == "prefix" and "*" not in each.path and each.path]
        if exact:
            path = _path_of(exact[0])
            paths = self._scopes(_below(path)) | self._scopes({"eq": path})
        else:
            paths = self._scopes(None)
        found = {namespace for path in paths if _matches(namespace := tuple(path.split(".")), conditions)}
        if op.max_depth is not None:
            found = {namespace[: op.max_depth] for namespace in found}
        return sorted(found)[op.offset : op.offset + op.limit]

    def _scopes(self, users: dict[str, str] | None) -> set[str]:
        """The namespaces of this store, as paths; those that pass a filter on users."""
        if users is None:
            scopes = self._memory.scopes()
        else:
            scopes = self._whole(filters={"user_id": users, "agent_id": self._name}, **self._everybody)
        return {scope.user_id for scope in scopes if scope.user_id is not None}

    def _refresh(self, records: "Iterable[Record]", refresh: bool) -> None:
        if not refresh:
            return
        for record in records:
            minutes = record.metadata.get("ttl")
            if minutes is not None and record.expires_at is not None:
                life = timedelta(minutes=minutes)
                expires_at = now() + life
                if expires_at - record.expires_at >= life * REFRESHED_AFTER:
                    try:
                        self._memory.update(record.id, expires_at=expires_at, user_id=record.user_id)
                    except NotFoundError:  # Deleted, or expired, since it was read.
                        continue

    def _prepared(self, op: Any) -> dict[str, Any]:
        """The fields of the memory of a put; without content, where it deletes."""
        fields = {"id": op.key, "user_id": _path_of(op.namespace)}
        if op.value is None:
            return fields
        if not isinstance(op.value, Mapping):
            raise InvalidInputError(f"value is {shorten(op.value)}; pass a mapping of JSON values, or None to delete.")
        texts: list[str] = []
        if op.index is not False:
            for path in self._fields if op.index is None else _paths(op.index):
                texts += get_text_at_path(op.value, path)
        text = "\n".join(texts)
        if not text.strip():
            text = ""
        metadata = {"value": dict(op.value), "indexed": bool(text), "ttl": op.ttl}
        expires_at = None if op.ttl is None else now() + timedelta(minutes=_minutes(op.ttl))
        return fields | {"content": text or NO_TEXT, "metadata": metadata, "expires_at": expires_at}


def _check(op: Any) -> None:
    if not isinstance(op, GetOp | SearchOp | PutOp | ListNamespacesOp):
        raise InvalidInputError(f"{shorten(op)} is no operation; pass GetOp, SearchOp, PutOp or ListNamespacesOp.")
    validate_op_namespace(op)
    if isinstance(op, PutOp | GetOp):
        if not op.namespace:
            raise InvalidNamespaceError("Namespace cannot be empty.")
        if not isinstance(op.key, str):
            raise InvalidInputError(f"key is {shorten(op.key)}; pass a str.")
    else:
        for name in ("limit", "offset"):
            if isinstance(number := getattr(op, name), bool) or not isinstance(number, int) or number < 0:
                raise InvalidInputError(f"{name} is {shorten(number)}; pass a whole number from 0.")


def _minutes(ttl: Any) -> float:
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl < 1e9:
        raise InvalidInputError(f"ttl is {shorten(ttl)}; pass minutes greater than 0, or None to keep for ever.")
    return float(ttl)


def _paths(fields: Any) -> list[Any]:
    if isinstance(fields, str) or not isinstance(fields, Sequence) or not all(isinstance(each, str) for each in fields):
        raise InvalidInputError(f"fields is {shorten(fields)}; pass a list of paths such as ['text'], or ['$'].")
    return [field if field == "$" else tokenize_path(field) for field in fields]


def _path_of(namespace: Namespace) -> str:
    return ".".join(namespace)


def _below(path: str) -> dict[str, str]:
    """A filter on users: the paths that go on after a dot. A slash follows the dot in code point order."""
    return {"gte": f"{path}.", "lt": f"{path}/"}


def _item(record: "Record") -> dict[str, Any]:
    assert record.user_id is not None
    return {
        "namespace": tuple(record.user_id.split(".")),
        "key": record.id,
        "value": record.metadata["value"],
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }


def _matches(namespace: Namespace, conditions: "Iterable[MatchCondition]") -> bool:
    for condition in conditions:
        path: Sequence[str] = condition.path
        if condition.match_type not in ("prefix", "suffix"):
            raise InvalidInputError(f"match_type is {shorten(condition.match_type)}; use 'prefix' or 'suffix'.")
        part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[-len(path) :] if path else ()
        if len(part) < len(path) or any(wanted not in ("*", label) for label, wanted in zip(part, path, strict=True)):
            return False
    return True


def _all(filters: list[dict[str, Any]]) -> dict[str, Any] | None:
    return {"AND": filters} if filters else None


def _filter_of(wanted: Any, at: str = "metadata.value") -> dict[str, Any]:
    """LangGraph's filter on a value, as one on the metadata."""
    if not isinstance(wanted, Mapping) or not wanted:
        raise InvalidInputError(f"filter has {shorten(wanted)}; pass a mapping such as {{'kind': 'note'}}.")
    parts = []
    for name, operand in wanted.items():
        if not isinstance(name, str):
            raise InvalidInputError(f"filter has the key {shorten(name)}; pass a str.")
        key = f"{at}.{json.dumps(name)}"
        if isinstance(operand, Mapping) and not any(str(operator).startswith("$") for operator in operand):
            parts.append(_filter_of(operand, key))
        elif isinstance(operand, Mapping):
            parts += [_comparison(key, name, operator, value) for operator, value in operand.items()]
        else:
            parts.append(_equals(key, name, operand))
    return {"AND": parts}


def _comparison(key: str, name: str, operator: Any, value: Any) -> dict[str, Any]:
    if operator == "$eq":
        return _equals(key, name, value)
    if operator == "$ne":
        return {"NOT": _equals(key, name, value)}
    if operator not in ORDERS:
        raise InvalidInputError(f"filter has {shorten(operator)} on {name!r}; use $eq, $ne, $gt, $gte, $lt or $lte.")
    return {key: {ORDERS[operator]: value}}


def _equals(key: str, name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, list | tuple | Mapping):
        raise InvalidInputError(f"filter compares {name!r} with {shorten(value)}; compare with a text, number or None.")
    if value is None:
        return {"OR": [{key: {"eq": None}}, {key: {"exists": False}}]}
    return {key: {"eq": value}}
