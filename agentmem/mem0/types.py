"""The types of the drop-in's arguments and results."""

from typing import Any, Literal, NotRequired, TypedDict


class ChatMessage(TypedDict):
    """One message of a chat. `content` is a text, or a list of parts whose texts are joined."""

    role: str
    content: Any
    name: NotRequired[str]


class _Promoted(TypedDict, total=False):
    """Fields beside the text, where the memory has them."""

    user_id: str
    agent_id: str
    run_id: str
    actor_id: str
    role: str
    attributed_to: str
    expiration_date: str


class ListedMemory(_Promoted):
    """A memory in a listing. `hash` is the MD5 of the text in hexadecimal; times are ISO 8601 in UTC."""

    id: str
    memory: str
    hash: str
    metadata: dict[str, Any] | None
    created_at: str
    updated_at: str


class StoredMemory(ListedMemory):
    """A memory by its id; it has no score."""

    score: float | None


class ScoreDetails(TypedDict):
    """The parts of a score: `semantic_score` is the cosine, `bm25_score` the share of the words."""

    semantic_score: float
    bm25_score: float
    entity_boost: float
    raw_score: float
    max_possible_score: float
    final_score: float
    threshold: float


class FoundMemory(StoredMemory):
    """A memory that a search found."""

    score_details: NotRequired[ScoreDetails]


class Listing(TypedDict):
    """The result of `get_all`."""

    results: list[ListedMemory]


class Found(TypedDict):
    """The result of `search`."""

    results: list[FoundMemory]


class AddedMemory(TypedDict):
    """The outcome of a message (with `actor_id` and `role`) or of a fact. An update has the previous text too."""

    id: str
    memory: str
    event: Literal["ADD", "UPDATE", "DELETE"]
    actor_id: NotRequired[str | None]
    role: NotRequired[str]
    previous_memory: NotRequired[str]


class Added(TypedDict):
    """The result of `add`.

    Where a language model had memories updated or deleted, `call` is the id under which the log names them. `withheld`
    has the changes beyond `max_changes`, which were not made.
    """

    results: list[AddedMemory]
    call: NotRequired[str]
    withheld: NotRequired[list[AddedMemory]]


class Confirmation(TypedDict):
    """The result of `update`, `delete` and `delete_all`."""

    message: str


class HistoryEntry(TypedDict):
    """One event of a memory."""

    id: str
    memory_id: str
    old_memory: str | None
    new_memory: str | None
    event: Literal["ADD", "UPDATE", "DELETE"]
    created_at: str
    updated_at: str
    is_deleted: bool
    actor_id: str | None
    role: str | None
