"""Adapters for agent frameworks, each with the real package, a fake model and no network."""

import asyncio

import pytest

from agentmem import InvalidInputError
from tests.frameworks import framework

pytestmark = pytest.mark.filterwarnings("ignore")  # What the frameworks deprecate among themselves.


@pytest.fixture
def ana(memory):
    return memory.scope(user_id="ana")


class TestOpenAIAgents:
    @pytest.fixture(autouse=True)
    def needed(self):
        framework("agents")

    def test_a_session_gives_the_runner_what_was_said_before(self, ana):
        from agents import Agent, Runner
        from agents.testing import ScriptedModel, assistant_message

        from agentmem.integrations.openai_agents import AgentMemSession

        model = ScriptedModel([[assistant_message("Noted.")], [assistant_message("By the window.")]])
        agent = Agent("Helper", model=model)
        for asked in ("I like window seats", "Where do I sit?"):
            last = Runner.run_sync(agent, asked, session=AgentMemSession(ana, "1"))
        assert last.final_output == "By the window."
        items = asyncio.run(AgentMemSession(ana, "1").get_items())
        assert [item["role"] for item in items] == ["user", "assistant", "user", "assistant"]
        assert ana.search("window seats", limit=1)[0].content == "I like window seats"

    def test_items_come_back_whole_in_order_and_the_newest_is_popped_once(self, ana):
        from agentmem.integrations.openai_agents import AgentMemSession

        session = AgentMemSession(ana, "1")
        items = [
            {"role": "user", "content": "tea"},
            {"type": "function_call", "call_id": "1", "name": "brew", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "done"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Brewed."}]},
        ]

        async def work():
            await session.add_items(items)
            assert await session.get_items() == items
            assert await session.get_items(2) == items[2:]
            popped = await asyncio.gather(session.pop_item(), session.pop_item())
            assert [popped[0] in items[2:], popped[1] in items[2:]] == [True, True]
            assert popped[0] != popped[1] or None in popped
            await session.clear_session()
            assert await session.pop_item() is None
            return await session.get_items()

        assert asyncio.run(work()) == []

    def test_the_recall_tool_answers_from_one_owner(self, ana, memory):
        from agents import Agent, Runner
        from agents.testing import ScriptedModel, assistant_message, function_call

        from agentmem.integrations.openai_agents import recall_tool

        ana.add("Prefers window seats")
        memory.add("Window seats are for ben", user_id="ben")
        model = ScriptedModel(
            [[function_call("recall", {"query": "window seats"}, call_id="1")], [assistant_message("Window.")]]
        )
        result = Runner.run_sync(Agent("Helper", model=model, tools=[recall_tool(ana)]), "Where?")
        told = [item["output"] for item in result.to_input_list() if item.get("type") == "function_call_output"]
        assert "Prefers window seats" in told[0]
        assert "ben" not in told[0]
        with pytest.raises(InvalidInputError, match="pass a view"):
            recall_tool(memory)


class TestGoogleADK:
    @pytest.fixture(autouse=True)
    def needed(self):
        framework("google.adk.memory.base_memory_service")

    def test_sessions_are_remembered_once_and_searched_by_their_user(self, memory):
        from google.adk.events.event import Event
        from google.adk.sessions.session import Session
        from google.genai import types

        from agentmem.integrations.google_adk import AgentMemMemoryService

        def event(id, author, *texts):
            return Event(id=id, author=author, content=types.Content(parts=[types.Part(text=text) for text in texts]))

        service = AgentMemMemoryService(memory)
        events = [event("1", "user", "I like window seats"), event("2", "helper", "Noted."), Event(author="helper")]
        session = Session(id="s", app_name="app", user_id="ana", events=events)

        async def work():
            await service.add_session_to_memory(session)
            await service.delete_memory(app_name="app", user_id="ana", memory_id="2")
            session.events.append(event("3", "user", "And tea"))
            await service.add_session_to_memory(session)
            assert (await service.search_memory(app_name="app", user_id="ben", query="window")).memories == []
            return (await service.search_memory(app_name="app", user_id="ana", query="window seats")).memories

        first, second = asyncio.run(work())
        assert (first.id, first.author, first.content.parts[0].text) == ("1", "user", "I like window seats")
        assert second.id == "3"
        assert memory.get("1", user_id="ana").run_id == "s"

    def test_its_registry_opens_an_address(self, tmp_path):
        registry = framework("google.adk.cli.service_registry")
        from agentmem.integrations.google_adk import register

        register()
        service = registry.get_service_registry().create_memory_service(f"agentmem://{tmp_path}/agent.db")
        service._memory.close()
        assert (tmp_path / "agent.db").exists()
        with pytest.raises(InvalidInputError, match="address"):
            registry.get_service_registry().create_memory_service("agentmem://")


class TestPydanticAI:
    @pytest.fixture(autouse=True)
    def needed(self):
        framework("pydantic_ai")

    def test_an_agent_remembers_and_recalls_with_its_tools(self, ana):
        from pydantic_ai import Agent
        from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
        from pydantic_ai.models.function import FunctionModel

        from agentmem.integrations.pydantic_ai import memory_tools

        calls = iter(
            [ToolCallPart("remember", {"fact": "Prefers window seats"}), ToolCallPart("recall", {"query": "seats"})]
        )

        def model(messages, info):
            assert {tool.name for tool in info.function_tools} == {"remember", "recall"}
            part = next(calls, None)
            return ModelResponse([part or TextPart(str(messages[-1].parts[0].content))])

        agent = Agent(FunctionModel(model), toolsets=[memory_tools(ana)])
        assert "Prefers window seats" in agent.run_sync("Where do I sit?").output
        assert [record.content for record in ana.get_all()] == ["Prefers window seats"]


class TestLlamaIndex:
    @pytest.fixture(autouse=True)
    def needed(self):
        framework("llama_index.core.memory")

    def test_what_leaves_the_short_memory_comes_back_from_the_long_one(self, ana):
        from llama_index.core.base.llms.types import ChatMessage
        from llama_index.core.memory import Memory

        from agentmem.integrations.llama_index import AgentMemBlock

        chat = Memory.from_defaults(
            session_id="s", token_limit=400, chat_history_token_ratio=0.2, token_flush_size=20,
            memory_blocks=[AgentMemBlock(memory=ana, priority=0, max_tokens=200)], tokenizer_fn=str.split,
        )  # fmt: skip

        async def work():
            await chat.aput(ChatMessage(role="user", content="I like window seats"))
            for number in range(30):
                await chat.aput(ChatMessage(role="user", content=f"Something else, number {number}, of no importance"))
                await chat.aput(ChatMessage(role="assistant", content="I see."))
            await chat.aput(ChatMessage(role="user", content="Which window seats do I like?"))
            return await chat.aget()

        told = "\n".join(str(message.content) for message in asyncio.run(work()))
        assert "I like window seats" in told
        assert ana.search("window seats", limit=1)[0].record.run_id == "s"
        with pytest.raises(ValueError, match="pass a view"):
            AgentMemBlock(memory="x")


class TestStrands:
    @pytest.fixture(autouse=True)
    def needed(self):
        framework("strands.memory")

    def test_a_manager_searches_adds_and_takes_messages(self, ana, memory):
        from strands.memory import MemoryManager

        from agentmem.integrations.strands import AgentMemStore

        memory.add("Window seats are for ben", user_id="ben")
        store = AgentMemStore(ana, max_search_results=2)
        manager = MemoryManager(stores=[store], add_tool_config=True)

        async def work():
            await manager.add("Prefers window seats", {"metadata": {"topic": "travel"}})
            await manager.add("Prefers window seats")
            await store.add_messages([{"role": "user", "content": [{"text": "I like tea"}, {"image": {}}]}])
            return await manager.search("window seats")

        found = asyncio.run(work())
        assert [entry.content for entry in found] == ["Prefers window seats", "I like tea"]
        assert (found[0].store_name, found[0].metadata["topic"]) == ("agentmem", "travel")
        assert ana.count() == 2
