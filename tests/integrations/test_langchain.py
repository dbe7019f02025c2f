"""LangChain: its own suite for vector stores, the retriever, and a chat that stays."""

import asyncio

import pytest

from agentmem import InvalidInputError
from tests.frameworks import framework

framework("langchain_core.vectorstores")
suites = framework("langchain_tests.integration_tests")

from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables.history import RunnableWithMessageHistory

from agentmem.integrations.langchain import AgentMemChatMessageHistory, AgentMemVectorStore


class TestTheSuiteOfLangChain(suites.VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, open_memory):
        return AgentMemVectorStore(open_memory(":memory:").scope(user_id="ana"))


@pytest.fixture
def store(memory):
    return AgentMemVectorStore(memory.scope(user_id="ana"))


def test_a_retriever_finds_by_words_and_filters_of_one_owner(store, memory):
    memory.add("Prefers window seats", user_id="ben")
    store.add_documents(
        [Document("Prefers window seats", metadata={"topic": "travel"}), Document("Is allergic to peanuts")]
    )
    retriever = store.as_retriever(search_kwargs={"k": 5, "filter": {"topic": "travel"}})
    [found] = retriever.invoke("where does she like to sit?")
    assert (found.page_content, found.metadata) == ("Prefers window seats", {"topic": "travel"})
    strict = store.as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.5})
    assert [each.page_content for each in strict.invoke("window seats")] == ["Prefers window seats"]
    [(document, score)] = store.similarity_search_with_score("Prefers window seats", k=1, mode="vector")
    assert (document.page_content, round(score, 2)) == ("Prefers window seats", 1.0)


def test_a_document_that_is_stored_again_replaces_its_metadata_and_keeps_its_history(store, memory):
    store.add_texts(["tea"], [{"a": 1}], ids=["x"])
    store.add_texts(["coffee"], [{"b": 2}], ids=["x"])
    [found] = store.get_by_ids(["x", "y"])
    assert (found.page_content, found.metadata) == ("coffee", {"b": 2})
    assert [event.what for event in memory.history("x", user_id="ana")] == ["add", "update"]
    store.delete(["x", "y"])
    assert store.get_by_ids(["x"]) == []
    store.add_texts(["water", "milk"])
    store.delete()
    assert store.similarity_search("water") == []


def test_many_texts_come_back_by_the_ids_in_the_order_of_the_texts(store):
    texts = [f"fact {number}" for number in range(300)]
    ids = store.add_texts(texts)
    assert [document.page_content for document in store.get_by_ids(ids)] == texts


def test_bad_input_is_refused(store, memory):
    for call in (
        lambda: AgentMemVectorStore(memory),
        lambda: AgentMemVectorStore(memory.scope(user_id="ana"), mode="exact"),
        lambda: store.add_texts(["a"], [{}, {}]),
        lambda: store.add_texts(["a"], ids=["x", "y"]),
        lambda: store.add_texts(["good", " "]),
        lambda: store.add_texts(["a"], namespace="b"),
        lambda: AgentMemVectorStore.from_texts(["a"], object(), memory=memory.scope(user_id="ana")),
        lambda: AgentMemChatMessageHistory(memory, 7),
    ):
        with pytest.raises(InvalidInputError):
            call()
    assert memory.count(all_scopes=True) == 0
    made = AgentMemVectorStore.from_texts(["a"], memory=memory.scope(user_id="ana"), ids=["x"])
    assert made.get_by_ids(["x"])


def test_a_chat_comes_back_as_it_was_and_is_found_by_searches(memory):
    view = memory.scope(user_id="ana")
    said = [
        SystemMessage("Be brief."),
        HumanMessage("I like window seats"),
        AIMessage("", tool_calls=[{"name": "book", "args": {"seat": "7A"}, "id": "1"}]),
        ToolMessage("done", tool_call_id="1"),
        AIMessage([{"type": "text", "text": "Booked 7A."}]),
    ]
    history = AgentMemChatMessageHistory(view, "chat-1")
    history.add_messages(said)
    AgentMemChatMessageHistory(view, "chat-2").add_user_message("Other")
    assert AgentMemChatMessageHistory(view, "chat-1").messages == said
    assert asyncio.run(history.aget_messages()) == said
    [match] = view.search("window seats", limit=1)
    assert (match.content, match.record.role, match.record.run_id) == ("I like window seats", "user", "chat-1")
    view.add("A note of the same run", run_id="chat-1")
    history.clear()
    assert history.messages == []
    assert [record.content for record in view.get_all()] == ["A note of the same run", "Other"]


@pytest.mark.filterwarnings("ignore")  # LangChain deprecates the class, for LangGraph's.
def test_a_model_that_is_called_again_sees_what_was_said(memory):
    seen = []

    class Model(GenericFakeChatModel):
        def _generate(self, messages, *arguments, **more):
            seen.append([message.content for message in messages])
            return super()._generate(messages, *arguments, **more)

    model = Model(messages=iter(["Noted.", "By the window."]))
    prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{input}")])
    chain = RunnableWithMessageHistory(
        prompt | model,
        lambda session_id: AgentMemChatMessageHistory(memory, session_id),
        input_messages_key="input",
        history_messages_key="history",
    )
    settings = {"configurable": {"session_id": "1"}}
    chain.invoke({"input": "I like window seats"}, settings)
    chain.invoke({"input": "Where do I sit?"}, settings)
    assert seen[-1] == ["I like window seats", "Noted.", "Where do I sit?"]
