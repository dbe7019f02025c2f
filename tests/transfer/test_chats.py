"""Chat transcripts: every format becomes runs of messages, in order; what is no text is left out, and that is said."""

import io
import itertools
import json
from datetime import UTC, datetime, timedelta

import pytest

from agentmem import InvalidInputError, Memory

TALK = [("user", "I moved to Porto"), ("assistant", "How do you like it?"), ("user", "It rains")]

OPENAI = [{"role": role, "content": text} for role, text in TALK]
NAMES = {"user": "human", "assistant": "gpt"}
SHAREGPT = [{"from": NAMES[role], "value": text} for role, text in TALK]


def chatgpt(talk=TALK, **more):
    """A conversation as ChatGPT exports it, with a branch that was given up."""
    nodes = {"root": {"id": "root", "message": None, "parent": None, "children": ["n0"]}}
    for number, (role, text) in enumerate(talk):
        message = {
            "id": f"n{number}", "author": {"role": role, "name": None, "metadata": {}}, "create_time": 1.7e9 + number,
            "content": {"content_type": "text", "parts": [text]}, "metadata": {}, "recipient": "all",
        }  # fmt: skip
        parent = f"n{number - 1}" if number else "root"
        nodes[f"n{number}"] = {"id": f"n{number}", "message": message, "parent": parent, "children": []}
    nodes["other"] = {**nodes["n1"], "id": "other"}
    return {
        "title": "Moving", "create_time": 1.7e9, "update_time": 1.7e9, "mapping": nodes,
        "current_node": f"n{len(talk) - 1}", "conversation_id": "c-1", "id": "c-1", **more,
    }  # fmt: skip


def talk_of(memory: Memory, **asked) -> list[tuple[str | None, str]]:
    records = memory.get_all(**(asked or {"user_id": "ana"}), order="oldest", limit=10_000).records
    assert all(first.created_at < second.created_at for first, second in itertools.pairwise(records))
    return [(record.role, record.content) for record in records]


def in_lines(*values) -> io.BytesIO:
    return io.BytesIO(b"".join(json.dumps(value).encode() + b"\n" for value in values))


def in_one(value, indent=None) -> io.BytesIO:
    return io.BytesIO(json.dumps(value, indent=indent).encode())


FILES = {
    "openai: messages a line": lambda: in_lines(*OPENAI),
    "openai: an array of messages": lambda: in_one(OPENAI),
    "openai: an array over lines": lambda: in_one(OPENAI, indent=2),
    "openai: a conversation a line": lambda: in_lines({"messages": OPENAI, "tools": []}),
    "openai: an object over lines": lambda: in_one({"messages": OPENAI}, indent=2),
    "openai: an array of arrays": lambda: in_one([OPENAI]),
    "openai: an array of objects": lambda: in_one([{"messages": OPENAI}]),
    "sharegpt: a conversation a line": lambda: in_lines({"conversations": SHAREGPT, "source": "x"}),
    "sharegpt: an array": lambda: in_one([{"conversations": SHAREGPT}], indent=4),
    "sharegpt: messages": lambda: in_one(SHAREGPT),
    "sharegpt: with roles": lambda: in_lines({"conversations": OPENAI}),
    "chatgpt: its export": lambda: in_one([chatgpt()]),
    "chatgpt: one conversation": lambda: in_one(chatgpt(), indent=1),
}


@pytest.mark.parametrize("name", FILES)
def test_every_shape_of_a_conversation_is_told_by_itself_and_by_name(memory, name):
    report = memory.import_(FILES[name](), user_id="ana")
    assert (report.imported, report.skipped, report.failures, report.notes) == (3, 0, 0, ())
    assert talk_of(memory) == TALK
    [run] = {record.run_id for record in memory.get_all(user_id="ana")}
    assert memory.import_(FILES[name](), user_id="ana", format=name.split(":")[0]).skipped == 3
    assert memory.import_(FILES[name](), user_id="ana", run_id="r").imported == 3
    assert talk_of(memory, run_id="r") == TALK
    assert run != "r"


def test_every_conversation_is_a_run_by_its_id_or_by_its_place(memory):
    lines = [
        {"messages": OPENAI},
        {"messages": OPENAI},
        {"id": "c7", "messages": OPENAI},
        {"id": 8, "messages": OPENAI},
    ]
    assert memory.import_(in_lines(*lines), user_id="ana").imported == 12
    runs = {record.run_id for record in memory.get_all(user_id="ana")}
    assert len(runs) == 4
    assert {"c7", "8"} < runs
    assert all(talk_of(memory, run_id=run) == TALK for run in runs)
    # The same words in another file are another conversation.
    assert memory.import_(in_lines({"messages": OPENAI}, {"messages": []}), user_id="ana").imported == 3
    assert len({record.run_id for record in memory.get_all(user_id="ana")}) == 5
    renamed = memory.import_(in_lines(*lines), user_id="ben", run_id={"c7": "c-seven"})
    assert renamed.imported == 12
    assert talk_of(memory, run_id="c-seven") == TALK


def test_parts_are_joined_and_what_is_no_text_is_counted(memory):
    messages = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}], "weight": 0},
        {"role": "assistant", "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": "17 degrees"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "It is"}, {"type": "text", "text": "warm"}]},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": {"value": "thanks", "annotations": []}}], "name": "ana"},
    ]  # fmt: skip
    report = memory.import_(in_lines({"messages": messages}), user_id="ana")
    assert report.notes == ("messages without text (calls of tools, images, nothing), left out: 4",)
    assert talk_of(memory) == [
        ("system", "Be brief"), ("user", "look"), ("tool", "17 degrees"), ("assistant", "It is\nwarm"),
        ("user", "thanks"),
    ]  # fmt: skip
    assert memory.get_all(user_id="ana", filters={"name": "ana"}).records[0].content == "thanks"


def test_sharegpt_has_its_own_names_for_who_speaks(memory):
    said = ["system", "human", "function_call", "observation", "gpt", "user", "chatgpt", "tool", "assistant"]
    messages = [{"from": name, "value": name} for name in said]
    report = memory.import_(in_lines({"id": "x_0", "conversations": messages}), user_id="ana")
    assert report.notes[0].endswith("left out: 1")
    assert talk_of(memory, run_id="x_0") == [
        ("system", "system"), ("user", "human"), ("tool", "observation"), ("assistant", "gpt"), ("user", "user"),
        ("assistant", "chatgpt"), ("tool", "tool"), ("assistant", "assistant"),
    ]  # fmt: skip


def test_chatgpts_branch_that_was_current_is_read(memory):
    conversation = chatgpt()
    nodes = conversation["mapping"]
    nodes["n0"]["message"]["metadata"]["is_visually_hidden_from_conversation"] = True
    nodes["n1"]["message"]["content"] = {"content_type": "code", "language": "python", "text": "print()"}
    nodes["n2"]["message"]["content"] = {
        "content_type": "multimodal_text",
        "parts": [{"asset_pointer": "x"}, "It rains"],
    }
    report = memory.import_(in_one([conversation]), user_id="ana")
    assert (report.imported, report.notes[0][-1]) == (2, "1")
    code, record = memory.get_all(user_id="ana", order="oldest")
    assert (code.content, code.metadata["kind"], code.metadata["language"]) == ("print()", "code", "python")
    assert (record.content, record.run_id, record.metadata) == ("It rains", "c-1", {"title": "Moving", "position": 2})
    assert record.created_at == datetime.fromtimestamp(1.7e9 + 2, UTC)
    loop = chatgpt()
    loop["mapping"]["root"]["parent"] = "n2"
    assert memory.import_(in_one([loop]), user_id="ben").imported == 3


def test_stated_times_are_kept_and_the_order_has_a_place_of_its_own(memory):
    times = [1_700_000_000, "2023-11-14T22:13:20+00:00", None, 1_600_000_000.5, 1_700_000_000_500]
    messages = [{"role": "user", "content": f"{n}", "created_at": at} for n, at in enumerate(times)]
    memory.import_(in_lines({"messages": messages}), user_id="ana")
    records = sorted(memory.get_all(user_id="ana"), key=lambda record: record.metadata["position"])
    assert [record.content for record in records] == ["0", "1", "2", "3", "4"]
    second = timedelta(seconds=1)
    begun = datetime.fromtimestamp(1_700_000_000, UTC)
    assert [record.created_at - begun for record in records] == [
        0 * second, 0 * second, second / 10**6, -99_999_999.5 * second, second / 2,
    ]  # fmt: skip
    assert [record.metadata.get("dated_by") for record in records] == [None, None, "the message before", None, None]


def test_a_message_is_dated_by_whichever_key_has_a_time(memory):
    message = {"role": "user", "content": "tea", "created_at": None, "timestamp": 1_700_000_000}
    memory.import_(io.BytesIO(json.dumps([message]).encode()), user_id="ana", format="openai")
    [record] = memory.get_all(user_id="ana")
    assert record.created_at == datetime.fromtimestamp(1_700_000_000, UTC)


def test_no_time_of_a_message_ends_the_reading(memory):
    """Moments that are outside the calendar, in seconds or in UTC, and the last moment of all, which has no next."""
    times = [1e300, "9999-12-31T23:59:59-05:00", "9999-12-31T23:59:59.999999Z", None]
    messages = [{"role": "user", "content": f"tea {number}", "created_at": at} for number, at in enumerate(times)]
    report = memory.import_(io.BytesIO(json.dumps(messages).encode()), user_id="ana", format="openai", on_error="skip")
    reasons = [str(error) for _, error in report.failed]
    assert [record.content for record in memory.get_all(user_id="ana", order="oldest")] == ["tea 2", "tea 3"]
    assert ["milliseconds" in reasons[0], "outside the years" in reasons[1]] == [True] * 2


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"messages": [OPENAI[0], {"content": "x"}]}, "message 1: "),
        ({"messages": [OPENAI[0], {"role": "user"}]}, "message 1: "),
        ({"messages": [OPENAI[0], {"role": "user", "content": 5}]}, "message 1: content is 5"),
        ({"messages": [OPENAI[0], {"role": 5, "content": "x"}]}, "message 1: role is 5"),
        ({"messages": [OPENAI[0], "x"]}, "message 1: 'x' is no chat message"),
        ({"messages": [OPENAI[0], {"role": "user", "content": "x", "created_at": "now"}]}, "the time is 'now'"),
        ({"messages": [OPENAI[0], {"role": "user", "content": "x", "created_at": 1e30}]}, "the time is 1e+30"),
        ({"conversations": [SHAREGPT[0], {"from": "nobody", "value": "x"}]}, "message 1: from is 'nobody'"),
        ({"conversations": [SHAREGPT[0], {"value": "x"}]}, "message 1: "),
    ],
)  # fmt: skip
def test_a_bad_message_is_told_by_its_line_and_place(memory, value, reason):
    good = {"messages": OPENAI} if "messages" in value else {"conversations": SHAREGPT}
    with pytest.raises(InvalidInputError, match=r"^Line 2: ") as raised:
        memory.import_(in_lines(good, value), user_id="ana")
    assert reason in str(raised.value)
    assert talk_of(memory) == []
    report = memory.import_(in_lines(good, value), user_id="ana", on_error="skip")
    assert (report.imported, [line for line, _ in report.failed]) == (4, [2])


@pytest.mark.parametrize(
    ("format", "value"),
    [
        ("openai", {"messages": 5}), ("openai", 5), ("sharegpt", {"conversations": {}}), ("sharegpt", "x"),
        ("chatgpt", {"mapping": 5}), ("chatgpt", chatgpt(current_node="gone")), ("chatgpt", "x"),
        ("chatgpt", {"mapping": {"a": {"message": {"author": 5}}}, "current_node": "a"}),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_an_error_of_its_line(memory, format, value):
    report = memory.import_(in_lines(value), user_id="ana", format=format, on_error="skip")
    assert (report.imported, [line for line, _ in report.failed]) == (0, [1])


def test_memories_with_roles_are_no_chat(memory):
    line = {"id": "m1", "content": "hi", "role": "user", "user_id": "ana", "agent_id": None, "run_id": None}
    assert memory.import_(in_lines(line)).imported == 1
    assert memory.get("m1").run_id is None
    memory.import_(in_lines({"content": "hi", "role": "user", "metadata": {"topic": "x"}}), user_id="ben")
    assert memory.get_all(user_id="ben").records[0].metadata == {"topic": "x"}
