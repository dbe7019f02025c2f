"""Claude's memory tool: the reference's replies, files with a history, and no way out of /memories."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmem import InvalidInputError, Memory
from agentmem.testing import HashEmbedder
from tests.frameworks import framework

framework("anthropic")

from anthropic import Anthropic
from anthropic.lib.tools import ToolError
from anthropic.lib.tools._beta_builtin_memory_tool import BetaLocalFilesystemMemoryTool

from agentmem.integrations.anthropic import AgentMemMemoryTool


@pytest.fixture
def tool(memory):
    return AgentMemMemoryTool(memory.scope(user_id="ana"))


def reply(tool, command, **arguments):
    try:
        return tool.call({"command": command, **arguments})
    except ToolError as error:
        return f"error: {error}"


def test_a_conversation_with_a_client_keeps_what_the_model_writes(tool, memory):
    httpx = framework("httpx2")
    turns = [
        {"type": "tool_use", "id": "1", "name": "memory", "input": {
            "command": "create", "path": "/memories/ana.md", "file_text": "Prefers window seats\n"}},
        {"type": "text", "text": "Noted."},
    ]  # fmt: skip
    asked = []

    def answer(request):
        asked.append(json.loads(request.content))
        block = turns[len(asked) - 1]
        return httpx.Response(200, json={
            "id": "m", "type": "message", "role": "assistant", "model": "claude", "content": [block],
            "stop_reason": "tool_use" if block["type"] == "tool_use" else "end_turn", "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        })  # fmt: skip

    with httpx.Client(transport=httpx.MockTransport(answer)) as transport:
        client = Anthropic(api_key="none", http_client=transport)
        last = client.beta.messages.tool_runner(
            model="claude", max_tokens=100, messages=[{"role": "user", "content": "I like the window"}], tools=[tool]
        ).until_done()
    assert last.content[0].text == "Noted."
    assert asked[0]["tools"] == [{"type": "memory_20250818", "name": "memory"}]
    assert "File created successfully at: /memories/ana.md" in json.dumps(asked[1])
    assert memory.search("where does she sit: window?", user_id="ana")[0].record.id == "/memories/ana.md"


PATHS = st.sampled_from(
    ["/memories/a", "/memories/b.md", "/memories/d/a", "/memories/d/e/a", "/memories/d", "/memories"]
)
TEXTS = st.sampled_from(["", "one\n", "one\ntwo\nthree", "two two\n", " \n", "x" * 1500])
COMMANDS = st.one_of(
    st.fixed_dictionaries({"command": st.just("create"), "path": PATHS, "file_text": TEXTS}),
    st.fixed_dictionaries({"command": st.just("view"), "path": PATHS}, optional={
        "view_range": st.lists(st.integers(-1, 4), min_size=2, max_size=2)}),
    st.fixed_dictionaries({"command": st.just("str_replace"), "path": PATHS, "old_str": st.sampled_from(["one", "two"]),
                           "new_str": st.sampled_from(["", "four\nfive", "one"])}),
    st.fixed_dictionaries({"command": st.just("insert"), "path": PATHS, "insert_line": st.integers(-1, 4),
                           "insert_text": st.sampled_from(["six\n", "", "seven"])}),
    st.fixed_dictionaries({"command": st.just("delete"), "path": PATHS}),
    st.fixed_dictionaries({"command": st.just("rename"), "old_path": PATHS, "new_path": PATHS}),
)  # fmt: skip


@given(program=st.lists(COMMANDS, max_size=12))
def test_programs_get_the_replies_of_the_reference(program, tmp_path_factory):
    """But for the sizes of folders, a file in the place of a folder, and folders that have lost their last file."""
    folder = tmp_path_factory.mktemp("files")
    reference = BetaLocalFilesystemMemoryTool(str(folder))
    with Memory(":memory:", embedder=HashEmbedder(8)) as memory:
        tool = AgentMemMemoryTool(memory.scope(user_id="ana"))
        for command in program:
            name, arguments = command["command"], {key: value for key, value in command.items() if key != "command"}
            try:
                expected = reply(reference, name, **arguments)
            except OSError as error:  # What the reference does not answer: it leaves the error of the system.
                expected = type(error).__name__
            told = reply(tool, name, **arguments)
            if expected in ("NotADirectoryError", "FileExistsError", "IsADirectoryError", "OSError"):
                assert told.startswith("error: ")
            else:
                assert without_folders(told) == without_folders(expected)
            for path in sorted(reference.memory_root.rglob("*"), reverse=True):
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
        assert memory.check() == []


def without_folders(told):
    lines = told.split("\n")
    if not lines[0].startswith("Here're the files"):
        return told
    return [line.partition("\t")[2] if line.endswith("/") or number == 1 else line for number, line in enumerate(lines)]


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/memories/../x", "/memories/a/../../x", "/memoriesx", "memories/a", "/memories/./a",
     "/memories/%2e%2e/x", "/memories/..\\x", "/memories/a\0b", "", "/memories/" + "a" * 600],
)  # fmt: skip
def test_paths_that_lead_elsewhere_are_refused(tool, memory, path):
    for command, arguments in (
        ("create", {"path": path, "file_text": "x"}),
        ("view", {"path": path}),
        ("delete", {"path": path}),
        ("rename", {"old_path": "/memories/kept", "new_path": path}),
    ):
        reply(tool, "create", path="/memories/kept", file_text="x")
        assert reply(tool, command, **arguments).startswith("error: "), command
    assert [record.id for record in memory.get_all(all_scopes=True)] == ["/memories/kept"]


def test_files_have_a_history_and_come_back(tool, memory):
    reply(tool, "create", path="/memories/a/b", file_text="one")
    reply(tool, "str_replace", path="/memories/a/b", old_str="one", new_str="two")
    reply(tool, "delete", path="/memories/a")
    ana = memory.scope(user_id="ana")
    assert [event.what for event in ana.history("/memories/a/b")] == ["add", "update", "delete"]
    ana.restore("/memories/a/b")
    assert "two" in reply(tool, "view", path="/memories/a/b")
    reply(tool, "rename", old_path="/memories/a", new_path="/memories/c")
    assert [record.id for record in ana.get_all()] == ["/memories/c/b"]


def test_other_memories_of_the_owner_and_other_owners_are_no_files(tool, memory):
    memory.add("A note", user_id="ana", id="/memories/note")
    memory.add("x", user_id="ben", id="/memories/x", metadata={"file": None})
    assert "note" not in reply(tool, "view", path="/memories")
    assert reply(tool, "view", path="/memories/x").startswith("error: ")
    assert tool.clear_all_memory() == "All memory cleared"
    assert memory.count(all_scopes=True) == 2
    with pytest.raises(InvalidInputError, match="pass a view"):
        AgentMemMemoryTool(memory)
