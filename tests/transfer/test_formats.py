"""Every format, from a file of our own making: what is read has its role, order, time and run; what is not is noted."""

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agentmem import InvalidInputError, Memory
from agentmem.transfer.chats import BY_NAME, FORMATS, format_of

START = datetime(2024, 5, 1, 10, 0, tzinfo=UTC)
SECONDS = START.timestamp()
ISO = "2024-05-01T10:00:0{}.000000Z"

ASKED, ANSWERED = "I moved to Porto", "How do you like it?"
TALK = [("user", ASKED), ("assistant", ANSWERED)]

Said = list[tuple[str | None, str]]


def in_lines(*values) -> str:
    return "\n".join(json.dumps(value) for value in values)


def chatgpt(*messages, **more):
    """A conversation of ChatGPT; a message is its role and its content, and what else it has."""
    nodes = {"root": {"id": "root", "message": None, "parent": None, "children": ["n0"]}}
    for number, (role, content, extra) in enumerate(messages):
        parts = {"content_type": "text", "parts": [content]} if isinstance(content, str) else content
        message = {
            "id": f"n{number}", "author": {"role": role, "name": None, "metadata": {}},
            "create_time": SECONDS + number, "content": parts, "metadata": {}, "recipient": "all", **extra,
        }  # fmt: skip
        parent = f"n{number - 1}" if number else "root"
        nodes[f"n{number}"] = {"id": f"n{number}", "message": message, "parent": parent, "children": []}
    return {
        "title": "Moving", "create_time": SECONDS, "mapping": nodes, "current_node": f"n{len(messages) - 1}",
        "conversation_id": "c-1", **more,
    }  # fmt: skip


def deepseek():
    nodes = {"root": {"id": "root", "parent": None, "children": ["1"], "message": None}}
    fragments = {
        "1": [{"type": "REQUEST", "content": ASKED}],
        "2": [{"type": "THINK", "content": "a long thought"}, {"type": "RESPONSE", "content": ANSWERED}],
    }
    for name, parts in fragments.items():
        children = ["2"] if name == "1" else []
        at = f"2024-05-01T18:00:0{name}.000000+08:00"
        message = {"files": [], "model": "deepseek-chat", "inserted_at": at, "fragments": parts}
        parent = "root" if name == "1" else "1"
        nodes[name] = {"id": name, "parent": parent, "children": children, "message": message}
    return [{"id": "d1", "title": "T", "inserted_at": "2024-05-01T18:00:00+08:00", "mapping": nodes}]


def claude(**more):
    def message(uuid, sender, text, parent, **extra):
        return {
            "uuid": uuid, "sender": sender, "text": text, "content": [{"type": "text", "text": text}],
            "created_at": ISO.format(uuid[1:]), "attachments": [], "files": [], "parent_message_uuid": parent, **extra,
        }  # fmt: skip

    root = "00000000-0000-4000-8000-000000000000"
    attached = [{"file_name": "a.txt", "extracted_content": "a long text"}]
    messages = [
        message("m1", "human", ASKED, root, attachments=attached),
        message("m2", "assistant", "given up at once", "m1"),
        message("m3", "assistant", "", "m1", content=[
            {"type": "thinking", "thinking": "let me think"}, {"type": "text", "text": ANSWERED},
        ]),
    ]  # fmt: skip
    return [{"uuid": "c1", "name": "Trip", "created_at": ISO.format(0), "chat_messages": messages, **more}]


OPENWEBUI = [{
    "id": "c", "title": "T", "created_at": SECONDS, "chat": {"title": "T", "history": {"currentId": "b", "messages": {
        "a": {"id": "a", "parentId": None, "role": "user", "content": ASKED, "timestamp": SECONDS},
        "x": {"id": "x", "parentId": "a", "role": "assistant", "content": "given up at once", "timestamp": SECONDS},
        "b": {
            "id": "b", "parentId": "a", "role": "assistant", "timestamp": SECONDS + 5,
            "content": f'<details type="reasoning" done="true">\n> a thought\n</details>\n{ANSWERED}',
        },
    }}},
}]  # fmt: skip
LIBRECHAT = {
    "conversationId": "l1", "title": "T", "endpoint": "openAI", "recursive": True, "messagesTree": [{
        "messageId": "1", "parentMessageId": "00000000-0000-0000-0000-000000000000", "isCreatedByUser": True,
        "text": ASKED, "createdAt": ISO.format(0), "children": [{
            "messageId": "2", "parentMessageId": "1", "isCreatedByUser": False, "text": "", "createdAt": ISO.format(1),
            "content": [{"type": "think", "think": "a thought"}, {"type": "text", "text": ANSWERED}], "children": [],
        }],
    }],
}  # fmt: skip
TAKEOUT = [
    {"header": "Gemini Apps", "title": "Used an Assistant feature", "time": ISO.format(9), "products": ["Gemini Apps"]},
    {"header": "Gemini Apps", "title": "Prompted and you?", "time": ISO.format(5), "products": ["Gemini Apps"],
     "safeHtmlItem": [{"html": "<p>I am <b>fine</b></p><ul><li>one</li></ul>"}]},
    {"header": "Gemini Apps", "title": f"Prompted {ASKED}", "time": ISO.format(0), "products": ["Gemini Apps"],
     "safeHtmlItem": [{"html": f"<p>{ANSWERED}</p>"}]},
]  # fmt: skip
GEMINI_TALK = [*TALK, ("user", "and you?"), ("assistant", "I am fine\n- one")]
TURNS = {
    "title": "T", "creation_time": ISO.format(0), "conversation_turns": [
        {"user_turn": {"prompt": ASKED, "turn_index": 0, "turn_last_modified": ISO.format(0)}},
        {"system_turn": {"text": [{"data": ANSWERED}], "model_thoughts": ["a thought"]}},
    ],
}  # fmt: skip
STUDIO = {
    "runSettings": {}, "systemInstruction": {"text": "Be brief"}, "chunkedPrompt": {"chunks": [
        {"text": ASKED, "role": "user"}, {"text": "a thought", "role": "model", "isThought": True},
        {"text": ANSWERED, "role": "model"},
    ]},
}  # fmt: skip
CONTENTS = {
    "contents": [{"role": "user", "parts": [{"text": ASKED}]}, {"role": "model", "parts": [{"text": ANSWERED}]}]
}
GROK = {"conversations": [{"conversation": {"id": "g1", "title": "T", "create_time": ISO.format(0)}, "responses": [
    {"response": {"_id": "1", "sender": "human", "message": ASKED,
                  "create_time": {"$date": {"$numberLong": str(int(SECONDS * 1000))}}}},
    {"response": {"_id": "2", "sender": "ASSISTANT", "message": ANSWERED, "create_time": ISO.format(1)}},
]}]}  # fmt: skip


def code_line(kind, uuid, content, **more):
    return {
        "type": kind, "uuid": uuid, "parentUuid": None, "sessionId": "s1", "timestamp": ISO.format(uuid[1:]),
        "cwd": "/home/ana/trip", "message": {"role": kind, "content": content}, **more,
    }  # fmt: skip


CLAUDE_CODE = [
    {"type": "file-history-snapshot", "snapshot": {}, "messageId": "x"},
    code_line("user", "u0", ASKED),
    code_line("user", "u1", "Caveat: what follows was run by itself", isMeta=True),
    code_line("assistant", "u2", [{"type": "thinking", "thinking": "a thought"}, {"type": "text", "text": ANSWERED}]),
    code_line("assistant", "u3", [{"type": "tool_use", "name": "Bash", "input": {"command": "ls -l"}}]),
    code_line("user", "u4", [{"type": "tool_result", "tool_use_id": "t", "content": "two files"}]),
    code_line("assistant", "u5", "found by another", isSidechain=True),
]


def codex_line(kind, payload, second=0):
    return {"timestamp": ISO.format(second), "type": kind, "payload": payload}


CODEX = [
    codex_line("session_meta", {"id": "x1", "timestamp": ISO.format(0), "cwd": "/trip", "instructions": "Be brief"}),
    codex_line("response_item", {"type": "message", "role": "user", "content": [
        {"type": "input_text", "text": "<environment_context>\nhere and there"}]}),
    codex_line("response_item", {"type": "message", "role": "user", "content": [
        {"type": "input_text", "text": ASKED}]}),
    codex_line("event_msg", {"type": "user_message", "message": ASKED}),
    codex_line("response_item", {"type": "function_call", "name": "shell", "arguments": '{"command": "ls -l"}'}, 1),
    codex_line("response_item", {"type": "message", "role": "assistant", "content": [
        {"type": "output_text", "text": ANSWERED}]}, 2),
]  # fmt: skip
SILLYTAVERN = [
    {"user_name": "Ana", "character_name": "Bo", "create_date": "2024-05-01@10h00m00s", "chat_metadata": {}},
    {"name": "Ana", "is_user": True, "send_date": int(SECONDS * 1000), "mes": ASKED},
    {"name": "Bo", "is_user": False, "send_date": ISO.format(1), "mes": ANSWERED, "swipes": ["What?! no", ANSWERED]},
]
LETTA = {
    "agents": [{
        "id": "agent-0", "name": "bo", "agent_type": "memgpt_agent", "system": "Be brief", "block_ids": ["block-0"],
        "messages": [
            {"id": "message-0", "role": "user", "created_at": ISO.format(0), "content": [
                {"type": "text", "text": json.dumps({"type": "user_message", "message": ASKED})}]},
            {"id": "message-1", "role": "assistant", "created_at": ISO.format(1), "content": "an inner thought",
             "tool_calls": [{"function": {"name": "send_message", "arguments": json.dumps({"message": ANSWERED})}}]},
        ],
    }],
    "blocks": [{"id": "block-0", "label": "human", "value": "Name: Ana", "description": "about her"}], "tools": [],
}  # fmt: skip
LANGGRAPH = [
    {"namespace": ["memories", "ana"], "key": "k1", "value": {"content": "Likes tea", "sure": True},
     "created_at": ISO.format(0), "updated_at": ISO.format(0)},
    {"namespace": ["memories", "ana"], "key": "k2", "value": {"a": 1}, "created_at": ISO.format(1)},
]  # fmt: skip
MCP = [
    {"type": "entity", "name": "Ana", "entityType": "person", "observations": ["likes tea", "lives in Porto"]},
    {"type": "relation", "from": "Ana", "to": "Bo", "relationType": "knows"},
]
TELEGRAM = {"name": "Bo", "type": "personal_chat", "id": 7, "messages": [
    {"id": 1, "type": "service", "date": "2024-05-01T09:00:00", "actor": "Ana", "action": "create_group", "text": ""},
    {"id": 2, "type": "message", "date": "2024-05-01T10:00:00", "date_unixtime": str(int(SECONDS)), "from": "Ana",
     "from_id": "user1", "text": ["I moved ", {"type": "bold", "text": "to Porto"}]},
    {"id": 3, "type": "message", "date": "2024-05-01T10:00:01", "date_unixtime": str(int(SECONDS) + 1), "from": "Bo",
     "from_id": "user2", "text": ANSWERED},
]}  # fmt: skip
DISCORD = {"guild": {"id": "1"}, "channel": {"id": "9", "name": "general"}, "messages": [
    {"id": "1", "type": "Default", "timestamp": "2024-05-01T12:00:00+02:00", "content": ASKED,
     "author": {"id": "5", "name": "ana", "nickname": "Ana", "isBot": False}, "embeds": [{"title": "a fine title"}]},
    {"id": "2", "type": "ChannelPinnedMessage", "timestamp": "2024-05-01T12:00:01+02:00",
     "content": "Pinned a message.", "author": {"name": "ana"}},
    {"id": "3", "type": "Reply", "timestamp": "2024-05-01T12:00:02+02:00", "content": ANSWERED,
     "author": {"name": "bo", "isBot": True}},
]}  # fmt: skip
SLACK = [
    {"type": "message", "subtype": "channel_join", "user": "U1", "text": "<@U1> has joined", "ts": f"{SECONDS - 9}"},
    {"type": "message", "user": "U1", "text": ASKED, "ts": f"{SECONDS:.6f}", "client_msg_id": "x"},
    {"type": "message", "bot_id": "B1", "username": "bo", "text": "How do &lt;you&gt; like it, <@U1>?",
     "ts": f"{SECONDS + 1:.6f}", "thread_ts": f"{SECONDS:.6f}"},
]  # fmt: skip
WHATSAPP = (
    "[13/05/24, 09:00:00] Ana: \u200eMessages and calls are end-to-end encrypted.\n"
    "\u200e[13/05/24, 10:15:03] Ana: I moved\nto Porto\n[14/05/24, 10:16:00] Bo: \u200eimage omitted\n"
    "[14/05/24, 10:17:00] Bo: See: Porto\n"
)
MARKDOWN = """---
description: What Ana likes
tags: [food, travel]
created: 2024-05-01
---
# Memory
- Prefers [[window seats|the window]]
  - always

## Work
Works at
Example Corp

```sh
# not a heading
make test
```

| a | b |
|---|---|
| 1 | 2 |
"""
MEM0 = {"results": [
    {"id": "0190aaaa-0000-7000-8000-000000000001", "memory": "Likes tea", "hash": "h", "metadata": {"topic": "food"},
     "created_at": "2024-05-01T03:00:00-07:00", "updated_at": None, "user_id": "ben", "categories": ["drinks"]},
]}  # fmt: skip
MEM0_HISTORY = [
    {"id": "h1", "memory_id": "m-1", "old_memory": None, "new_memory": "Likes tea", "event": "ADD",
     "created_at": ISO.format(0)},
    {"id": "h2", "memory_id": "m-1", "old_memory": "Likes tea", "new_memory": "Likes coffee", "event": "UPDATE",
     "created_at": ISO.format(1)},
    {"id": "h3", "memory_id": "m-2", "old_memory": "Is ill", "new_memory": None, "event": "DELETE",
     "created_at": ISO.format(2)},
]  # fmt: skip
LANGCHAIN = [
    {"type": "human", "data": {"content": ASKED, "type": "human", "id": None}},
    {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", "AIMessage"],
     "kwargs": {"content": [{"type": "text", "text": ANSWERED}]}},
]  # fmt: skip

FILES: dict[str, tuple[str, str, object, Said, str]] = {
    "openai": ("openai", "a.json", {"id": "o1", "messages": [
        {"role": "user", "content": ASKED, "timestamp": SECONDS},
        {"role": "assistant", "content": None, "audio": {"id": "a", "transcript": ANSWERED}},
    ]}, TALK, ""),
    "responses": ("openai", "a.json", [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": ASKED}]},
        {"type": "function_call", "call_id": "c", "name": "w", "arguments": '{"where": "in Porto"}'},
        {"type": "function_call_output", "call_id": "c", "output": "18 degrees"},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot"}]},
    ], [("user", ASKED), ("tool", "18 degrees"), ("assistant", "I cannot")], "of calls of tools"),
    "anthropic": ("openai", "a.jsonl", in_lines({"system": "Be brief", "messages": [
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "two files"},
                                     {"type": "text", "text": ASKED}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "a thought"},
                                          {"type": "text", "text": ANSWERED}]},
    ]}), [("system", "Be brief"), ("tool", "two files"), *TALK], "of reasoning"),
    "ai sdk": ("openai", "a.json", [
        {"id": "m1", "role": "user", "parts": [{"type": "text", "text": ASKED}], "createdAt": SECONDS * 1000},
        {"id": "m2", "role": "assistant", "parts": [{"type": "step-start"}, {"type": "text", "text": ANSWERED}]},
    ], TALK, ""),
    "thread, newest first": ("openai", "a.json", {"object": "list", "data": [
        {"id": "m2", "object": "thread.message", "created_at": int(SECONDS) + 1, "thread_id": "t", "role": "assistant",
         "content": [{"type": "text", "text": {"value": ANSWERED, "annotations": []}}]},
        {"id": "m1", "object": "thread.message", "created_at": int(SECONDS), "thread_id": "t", "role": "user",
         "content": [{"type": "text", "text": {"value": ASKED, "annotations": []}}]},
    ]}, TALK, ""),
    "batch": ("openai", "a.jsonl", in_lines({"custom_id": "1", "method": "POST", "url": "/v1/chat", "body": {
        "model": "m", "messages": [{"role": "user", "content": ASKED}]}}), TALK[:1], ""),
    "preference": ("openai", "a.jsonl", in_lines({"input": {"messages": [{"role": "user", "content": ASKED}]},
        "preferred_output": [{"role": "assistant", "content": ANSWERED}],
        "non_preferred_output": [{"role": "assistant", "content": "Go away"}]}), TALK, "not preferred"),
    "sharegpt": ("sharegpt", "a.json", [{"conversations": [{"from": "human", "value": ASKED}],
        "chosen": {"from": "gpt", "value": ANSWERED}, "rejected": {"from": "gpt", "value": "No"}}],
        TALK, "not preferred"),
    "chatgpt": ("chatgpt", "conversations.json", [chatgpt(
        ("user", {"content_type": "multimodal_text", "parts": [
            {"content_type": "audio_transcription", "text": ASKED}, {"content_type": "audio_asset_pointer"}]}, {}),
        ("assistant", "User lives in Porto.", {"recipient": "bio"}),
        ("assistant", {"content_type": "thoughts", "thoughts": [{"summary": "a thought", "content": "so long"}]}, {}),
        ("assistant", "How do you like it \ue200cite\ue202turn0search3\ue201?", {}),
    )], [("user", ASKED), (None, "User lives in Porto."), ("assistant", ANSWERED)], "of reasoning"),
    "claude": ("claude", "conversations.json", claude(), TALK, "of attachments"),
    "claude memories": ("claude-memories", "memories.json", [{
        "conversations_memory": "# Work\n- Is an engineer\n- Bikes",
        "project_memories": {"p": "uses uv"}, "memory_files": [{"path": "a.md", "content": "Likes tea"}]}],
        [(None, "Is an engineer"), (None, "Bikes"), (None, "uses uv"), (None, "Likes tea")], ""),
    "mem0": ("mem0", "a.json", MEM0, [(None, "Likes tea")], ""),
    "mem0 history": ("mem0", "a.json", {"results": MEM0_HISTORY}, [(None, "Likes coffee")], "that were deleted"),
    "openwebui": ("openwebui", "chat-export.json", OPENWEBUI, TALK, "of branches that were given up"),
    "librechat": ("librechat", "a.json", LIBRECHAT, TALK, "of reasoning"),
    "gemini takeout": ("gemini", "MyActivity.json", TAKEOUT, GEMINI_TALK, "that are no prompts"),
    "gemini conversation": ("gemini", "conversation_1.txt", TURNS, TALK, "of reasoning"),
    "ai studio": ("gemini", "prompt.json", STUDIO, [("system", "Be brief"), *TALK], "of reasoning"),
    "gemini api": ("gemini", "a.json", CONTENTS, TALK, ""),
    "claude code": ("claude-code", "s1.jsonl", in_lines(*CLAUDE_CODE), TALK, "of sub-agents"),
    "codex": ("codex", "rollout-1.jsonl", in_lines(*CODEX), TALK, "that the program inserts"),
    "deepseek": ("deepseek", "conversations.json", deepseek(), TALK, "of reasoning"),
    "grok": ("grok", "prod-grok-backend.json", GROK, TALK, ""),
    "sillytavern": ("sillytavern", "chat.jsonl", in_lines(*SILLYTAVERN), TALK, "of other swipes"),
    "letta": ("letta", "bo.af", json.dumps(LETTA), [*TALK, (None, "Name: Ana")], "of instructions"),
    "letta within a text": ("letta", "bo.af", json.dumps(json.dumps(LETTA)), [*TALK, (None, "Name: Ana")], ""),
    "langchain": ("langchain", "a.json", LANGCHAIN, TALK, ""),
    "langgraph": ("langgraph", "a.json", LANGGRAPH, [(None, "Likes tea"), (None, '{"a": 1}')], ""),
    "mcp": ("mcp", "memory.jsonl", in_lines(*MCP),
        [(None, "Ana: likes tea"), (None, "Ana: lives in Porto"), (None, "Ana knows Bo")], ""),
    "telegram": ("telegram", "result.json", TELEGRAM, [("user", ASKED), ("user", ANSWERED)], ""),
    "telegram, all": ("telegram", "result.json", {"about": "x", "chats": {"list": [TELEGRAM]}},
        [("user", ASKED), ("user", ANSWERED)], ""),
    "discord": ("discord", "general.json", DISCORD, TALK, "of embeds"),
    "slack": ("slack", "general/2024-05-01.json", SLACK,
        [("user", ASKED), ("assistant", "How do <you> like it, @U1?")], "of service messages"),
    "whatsapp": ("whatsapp", "WhatsApp Chat with Bo.txt", WHATSAPP, [
        ("user", "Messages and calls are end-to-end encrypted."), ("user", "I moved\nto Porto"), ("user", "See: Porto"),
    ], ""),
    "markdown": ("markdown", "MEMORY.md", MARKDOWN, [
        (None, "Prefers the window\n  - always"), (None, "Works at\nExample Corp"),
        (None, "```sh\n# not a heading\nmake test\n```"), (None, "| a | b |\n|---|---|\n| 1 | 2 |"),
    ], ""),
    "memory list": ("memory-list", "pasted.txt", "1. [2024-05-01]. Likes tea\n2. [2024-05-02]. Bikes\n",
        [(None, "Likes tea"), (None, "Bikes")], ""),
}  # fmt: skip


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def said_of(memory: Memory, **asked) -> Said:
    records = memory.get_all(**(asked or {"user_id": "ana"}), order="oldest", limit=10_000).records
    return [(record.role, record.content) for record in records]


def test_every_format_has_a_file_here():
    assert {name for name, *_ in FILES.values()} | {"agentmem"} == set(FORMATS) == {*BY_NAME, "agentmem"}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_known_by_its_signs_and_comes_in_once(open_memory, tmp_path, name):
    known, file, content, said, note = FILES[name]
    memory = open_memory(":memory:")
    path = write(tmp_path, file, content)
    looked = memory.import_(path, user_id="ana", dry_run=True)
    assert looked.preview.formats == {known: 1}
    assert (looked.imported, looked.failures, memory.count(user_id="ana")) == (len(said), 0, 0)
    report = memory.import_(path, user_id="ana")
    assert said_of(memory) == said
    assert (report.imported, report.failures, report.notes) == (len(said), 0, looked.notes)
    assert note in " ".join(report.notes)
    again = memory.import_(path, user_id="ana", format=known)
    assert (again.imported, again.replaced, again.skipped) == (0, 0, len(said))


@pytest.mark.parametrize("name", [name for name, (_, _, content, *_) in FILES.items() if not isinstance(content, str)])
@pytest.mark.parametrize("layout", ["indented", "utf-16", "marked", "a line"])
def test_json_is_read_however_it_is_laid_out(open_memory, name, layout):
    _, _, content, said, _ = FILES[name]
    values = content if isinstance(content, list) else [content]
    raw = {
        "indented": lambda: json.dumps(content, indent=2).encode(),
        "utf-16": lambda: json.dumps(content).encode("utf-16"),
        "marked": lambda: b"\xef\xbb\xbf" + json.dumps(content).encode(), "a line": lambda: in_lines(*values).encode(),
    }[layout]()  # fmt: skip
    memory = open_memory(":memory:")
    assert memory.import_(io.BytesIO(raw), user_id="ana").imported == len(said)
    assert said_of(memory) == said


def test_stated_times_runs_and_owners_are_those_of_the_file(open_memory, tmp_path):
    memory = open_memory(":memory:")
    runs = {
        "openai": "o1", "claude": "c1", "chatgpt": "c-1", "openwebui": "c", "librechat": "l1", "deepseek": "d1",
        "grok": "g1", "claude code": "s1", "codex": "x1", "telegram": "telegram-7", "discord": "discord-9",
        "slack": "slack-general", "gemini takeout": "gemini-2024-05-01", "sillytavern": "Bo 2024-05-01@10h00m00s",
    }  # fmt: skip
    for name, run in runs.items():
        _, file, content, *_ = FILES[name]
        memory.import_(write(tmp_path, file, content), user_id=name)
        records = memory.get_all(user_id=name, order="oldest").records
        assert {record.run_id for record in records} == {run}, name
        assert abs(records[0].created_at - START) <= timedelta(seconds=2), name
        assert all(record.created_at - START < timedelta(minutes=1) for record in records), name
        positions = [record.metadata["position"] for record in records]
        assert positions == sorted(set(positions)), name
    memory.import_(write(tmp_path, "mem0.json", MEM0), on_conflict="skip")
    [record] = memory.get_all(user_id="ben").records
    assert (record.id, record.created_at) == ("0190aaaa-0000-7000-8000-000000000001", START)
    assert record.metadata == {"topic": "food", "categories": ["drinks"]}
    memory.import_(write(tmp_path, "bo.af", json.dumps(LETTA)))
    assert said_of(memory, agent_id="bo") == [*TALK, (None, "Name: Ana")]


def test_markdown_keeps_headings_links_and_front_matter(open_memory, tmp_path):
    memory = open_memory(":memory:")
    memory.import_(write(tmp_path, "MEMORY.md", MARKDOWN), user_id="ana")
    first, second, *_ = memory.get_all(user_id="ana", order="oldest").records
    assert first.metadata["headings"] == ["Memory"]
    assert first.metadata["links"] == ["window seats"]
    assert first.metadata["tags"] == ["food", "travel"]
    assert (second.metadata["headings"], second.metadata["file"]) == (["Memory", "Work"], "MEMORY.md")
    assert second.created_at == datetime(2024, 5, 1, tzinfo=UTC)


# -- identity -------------------------------------------------------------------------------------------------------


def test_a_later_export_adds_what_is_new_and_changes_what_was_edited(memory):
    talk = [("user", "tea", {}), ("assistant", "ok", {}), ("user", "coffee", {}), ("assistant", "ok", {})]
    memory.import_(io.StringIO(json.dumps([chatgpt(*talk)])), user_id="ana")
    deleted = memory.get_all(user_id="ana", filters={"position": 2}).records[0]
    memory.delete(deleted.id)
    talk[0] = ("user", "green tea", {})
    report = memory.import_(io.StringIO(json.dumps([chatgpt(*talk, ("user", "bye", {}))])), user_id="ana")
    assert (report.imported, report.replaced, report.skipped, report.failures) == (1, 1, 3, 0)
    assert said_of(memory) == [("user", "green tea"), ("assistant", "ok"), ("assistant", "ok"), ("user", "bye")]
    assert memory.get(deleted.id) is None


def test_repeated_texts_stay_where_messages_have_no_ids(memory):
    messages = [{"role": "user", "content": text} for text in ("yes", "no", "yes", "yes")]
    chat = {"conversation_id": "c", "messages": messages}
    assert memory.import_(io.StringIO(json.dumps(chat)), user_id="ana").imported == 4
    chat["messages"] = [*messages, {"role": "user", "content": "yes"}]
    report = memory.import_(io.StringIO(json.dumps(chat)), user_id="ana")
    assert (report.imported, report.skipped) == (1, 4)
    assert [text for _, text in said_of(memory)] == ["yes", "no", "yes", "yes", "yes"]


def test_two_conversations_of_one_id_in_a_file_are_both_kept(memory):
    one, other = chatgpt(("user", "tea", {})), chatgpt(("user", "coffee", {}))
    for expected in (2, 0):
        assert memory.import_(io.StringIO(json.dumps([one, other, one])), user_id="ana").imported == expected
    assert said_of(memory) == [("user", "tea"), ("user", "coffee")]


def test_what_is_known_of_the_user_is_stored_once_for_all_conversations(memory):
    context = {"content_type": "user_editable_context", "user_profile": "Preferred name: Ana"}
    listed = {"content_type": "model_editable_context", "model_set_context": "1. [2025-01-01]. Lives in Porto\n2. [2025-01-02]. Bikes"}  # fmt: skip  # noqa: E501
    hidden = {"create_time": None, "metadata": {"is_visually_hidden_from_conversation": True}}
    said = [("user", context, hidden), ("assistant", listed, {"create_time": None}), ("user", "hi", {})]
    memory.import_(io.StringIO(json.dumps([chatgpt(*said), chatgpt(*said, conversation_id="c-2")])), user_id="ana")
    records = memory.get_all(user_id="ana", order="oldest").records
    about = [
        (record.content, record.run_id, record.metadata["kind"]) for record in records if "kind" in record.metadata
    ]
    assert sorted(about) == [
        ("Bikes", None, "remembered"), ("Lives in Porto", None, "remembered"), ("Preferred name: Ana", None, "profile"),
    ]  # fmt: skip
    assert len(records) == 5


# -- times ----------------------------------------------------------------------------------------------------------


def test_no_time_of_one_conversation_is_that_of_another(memory):
    late = {
        "messages": [{"role": "user", "content": "a", "timestamp": 4_102_444_800}, {"role": "user", "content": "b"}]
    }
    other = {"messages": [{"role": "user", "content": "c"}]}
    memory.import_(io.StringIO(in_lines(late, other)), user_id="ana")
    found = {record.content: record for record in memory.get_all(user_id="ana")}
    assert found["b"].created_at - found["a"].created_at == timedelta(microseconds=1)
    assert found["b"].metadata["dated_by"] == "the message before"
    assert found["c"].created_at < datetime.now(UTC)
    assert found["c"].metadata["dated_by"] == "the import"


def test_a_file_that_stands_newest_first_is_turned(memory):
    lines = [{"role": "user", "content": f"day {day}", "timestamp": SECONDS + day * 86_400} for day in (3, 2, 1)]
    memory.import_(io.StringIO(in_lines(*lines)), user_id="ana")
    records = memory.get_all(user_id="ana", order="oldest").records
    assert [record.content for record in records] == ["day 1", "day 2", "day 3"]
    assert [record.created_at for record in records] == [START + timedelta(days=day) for day in (1, 2, 3)]
    positions = [record.metadata["position"] for record in records]
    assert positions == sorted(positions)


def test_messages_name_their_conversation(memory):
    lines = [
        {"conversation_id": "a", "role": "user", "content": "1"},
        {"conversation_id": "b", "role": "user", "content": "2"},
        {"session_id": "a", "role": "assistant", "content": "3"},
    ]  # fmt: skip
    memory.import_(io.StringIO(in_lines(*lines)), user_id="ana")
    assert said_of(memory, run_id="a") == [("user", "1"), ("assistant", "3")]
    assert said_of(memory, run_id="b") == [("user", "2")]


@pytest.mark.parametrize(
    ("text", "month", "note"),
    [("13/05/24, 10:00 - Ana: a", 5, ""), ("5/13/24, 10:00 - Ana: a", 5, ""), ("5/6/24, 10:00 - Ana: a", 6, "the day"),
     ("5/6/24, 1:00\u202fPM - Ana: a", 5, "the month"), ("2024-05-06, 10:00 - Ana: a", 5, "")],
)  # fmt: skip
def test_whether_the_day_or_the_month_comes_first_is_told_by_the_dates(memory, text, month, note):
    report = memory.import_(io.StringIO(text + "\n"), user_id="ana")
    assert memory.get_all(user_id="ana").records[0].created_at.month == month
    assert [note in each for each in report.notes] == ([True] if note else [])


# -- what is not read -----------------------------------------------------------------------------------------------


def test_text_under_an_unknown_key_is_noted(memory):
    conversation = chatgpt(("user", "hi", {"thoughts": "a text that nobody knows"}), memo="another of some words")
    report = memory.import_(io.StringIO(json.dumps([conversation])), user_id="ana")
    assert [note for note in report.notes if note.startswith("texts under the unknown key")] == [
        "texts under the unknown key a text of 8 characters of a message, left out: 1",
        "texts under the unknown key 'memo' of a conversation, left out: 1",
    ]


def test_a_bad_conversation_is_one_error_and_the_others_are_stored(memory):
    good = chatgpt(("user", "hi", {}))
    file = json.dumps([{"title": "broken", "id": "c"}, good, {"mapping": []}, "x", [], None])
    with pytest.raises(InvalidInputError, match="Line 1: a dict of 2 is no conversation of ChatGPT"):
        memory.import_(io.StringIO(file), user_id="ana")
    report = memory.import_(io.StringIO(file), user_id="ana", on_error="skip")
    assert (report.imported, report.failures) == (1, 5)


def test_a_file_of_no_format_is_named_by_the_signs_that_it_has(memory):
    with pytest.raises(InvalidInputError, match=r"in a format that is known \(it has mapping.* \(of chatgpt\)"):
        memory.import_(io.StringIO(json.dumps([{"mapping": {"a": {}}, "name": "x"}])), user_id="ana")
    assert format_of(deepseek()) == "deepseek"
    assert format_of([{"mapping": 5}]) is None
