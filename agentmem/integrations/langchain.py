"""LangChain on a Memory: a vector store with its retriever, and the history of a chat.

from agentmem import Memory
from agentmem.integrations.langchain import AgentMemVectorStore

store = AgentMemVectorStore(Memory("agent.db").scope(user_id="ana"))
store.add_texts(["Prefers window seats"])
store.as_retriever().invoke("where does she like to sit?")
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from agentmem.errors import InvalidInputError
from agentmem.ids import new_id
from agentmem.integrations import check_view, framework
from agentmem.integrations.transcript import Transcript
from agentmem.integrations.upsert import write
from agentmem.quoting import shorten

with framework("langchain"):
    from langchain_core.chat_history import BaseChatMessageHistory
    from langchain_core.documents import Document
    from langchain_core.messages import BaseMessage, message_to_dict, messages_from_dict
    from langchain_core.vectorstores import VectorStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentmem.memory import Memory, ScopedMemory
    from agentmem.records import Record

CHUNK = 256
"""Documents that are committed together."""

ROLES = {"human": "user", "ai": "assistant"}


class AgentMemVectorStore(VectorStore):
    """LangChain's `VectorStore` on the memories of one owner. The memory embeds texts with its own model.

    Documents are memories: `page_content` is the content, and the metadata is the metadata. A document whose id is
    there already replaces it, with its history. `filter=` of the searches takes agentmem's filters, `mode=` a mode
    of its own. A score runs from 0 to 1, higher is better.

    Args:
        memory: A view of an owner, `memory.scope(...)`.
        mode: How documents are ranked, as in `Memory.search`; with `"vector"` a score is the cosine.

    Raises:
        InvalidInputError: an argument cannot be used.
    """

    def __init__(self, memory: "ScopedMemory", *, mode: Literal["hybrid", "vector", "keyword"] = "hybrid") -> None:
        self._memory = check_view(memory)
        self._home = memory._scope(None, None, None).home
        if mode not in ("hybrid", "vector", "keyword"):
            raise InvalidInputError(f"mode is {shorten(mode)}; use 'hybrid', 'vector' or 'keyword'.")
        self._mode = mode

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: "list[dict[str, Any]] | None" = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Stores texts, in commits of 256, and returns their ids. On return they are durable and found.

        Raises:
            InvalidInputError: a text, an id or metadata cannot be used, or their numbers differ. Commits before stay.
        """
        if kwargs:
            raise InvalidInputError(f"add_texts has no argument {min(kwargs)!r}; it takes texts, metadatas and ids.")
        texts = list(texts)
        for name, given in (("metadatas", metadatas), ("ids", ids)):
            if given and len(given) != len(texts):
                raise InvalidInputError(f"{name} has {len(given)} entries for {len(texts)} texts; pass one for each.")
        puts = {}
        taken = []
        for position, text in enumerate(texts):
            name = (ids[position] if ids else None) or new_id(self._home)
            taken.append(name)
            puts[name] = {"id": name, "content": text, "metadata": metadatas[position] if metadatas else {}}
        remaining = iter(puts.values())
        while chunk := list(islice(remaining, CHUNK)):
            write(self._memory, chunk)
        return taken

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Hides documents; ids that are not there are passed over. None asks for all of the owner's.

        Raises:
            InvalidInputError: an id cannot be one.
        """
        if ids is None:
            self._memory.delete_all()
        else:
            write(self._memory, [{"id": name} for name in dict.fromkeys(ids)])
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> "list[Document]":
        """Returns the documents with these ids, in their order; those that are not there are left out."""
        return [_document(record) for name in ids if (record := self._memory.get(name)) is not None]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> "list[Document]":
        """Returns the best documents for a query, best first. Takes `filter=` and `mode=`."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Mapping[str, Any] | None = None,
        mode: Any = None,
    ) -> "list[tuple[Document, float]]":
        """Returns the best documents for a query with their scores, best first."""
        matches = self._memory.search(query, limit=k, filters=filter, mode=mode or self._mode)
        return [(_document(match.record), match.score) for match in matches]

    def _select_relevance_score_fn(self) -> "Callable[[float], float]":
        return lambda score: score

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Any = None,
        metadatas: "list[dict[str, Any]] | None" = None,
        *,
        ids: list[str] | None = None,
        memory: Any = None,
        **kwargs: Any,
    ) -> "AgentMemVectorStore":
        """Makes a store on `memory=` and adds the texts.

        Raises:
            InvalidInputError: an embedding was given: the memory has its own, `Memory(embedder=...)`.
        """
        if embedding is not None:
            raise InvalidInputError("embedding was given, but a memory embeds by itself; pass None, and memory=.")
        store = cls(memory, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store


class AgentMemChatMessageHistory(BaseChatMessageHistory):
    """LangChain's history of one chat, kept as memories of a run that searches find.

    Args:
        memory: A Memory, or a view of the user whose chat it is.
        session_id: The chat; it is the `run_id` of its memories.

    Raises:
        InvalidInputError: an argument cannot be used.
    """

    def __init__(self, memory: "Memory | ScopedMemory", session_id: str) -> None:
        self._transcript = Transcript(memory, session_id)

    @property
    def messages(self) -> "list[BaseMessage]":
        """The messages, oldest first."""
        return list(messages_from_dict(self._transcript.messages()))

    def add_messages(self, messages: "Sequence[BaseMessage]") -> None:
        """Appends messages; on return they are durable."""
        self._transcript.add(
            (message.text, ROLES.get(message.type, message.type), message_to_dict(message)) for message in messages
        )

    def clear(self) -> None:
        """Removes every message of the chat."""
        self._transcript.clear()


def _document(record: "Record") -> Any:
    return Document(id=record.id, page_content=record.content, metadata=record.metadata)
