"""ChatGPT: `conversations.json` of its export, an array of conversations; one conversation alone does as well.

A conversation is `{title, create_time, update_time, mapping, current_node, conversation_id}`; `mapping` is a tree of
nodes `{id, message, parent, children}`, because a question that was edited, or an answer that was asked for anew, is a
branch. The branch that was current is read; of a file that does not say, the one that ends last in it.

What a message is, its `content.content_type` and its `recipient` say: text and spoken parts, code for the interpreter,
documents of the canvas, quotes of pages; what is sent to `bio` is a memory. The profile, the instructions and the
memories that stand before every conversation are stored once, outside the runs.
"""

import json
import re
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.messages import text_of, without_citations
from agentmem.quoting import shorten
from agentmem.transfer.chats.conversation import (
    Context,
    Conversation,
    Message,
    chain,
    last_leaf,
    list_of,
    mapping_of,
    own_id,
    plain_text,
    text_or_none,
    time_of,
    time_or_none,
)

NAME = "chatgpt"
ABOUT = "conversations.json of ChatGPT's export, with the memories and the profile in it"
SIGNS = (
    "mapping.{} mapping.*.message.author mapping.*.message.content",
    "mapping.{} mapping.*.message.author mapping.*.message.content current_node",
    "mapping.{} current_node", "mapping.{} create_time title", "mapping.{} conversation_id",
)  # fmt: skip

KNOWN = frozenset(
    {"title", "create_time", "update_time", "mapping", "moderation_results", "current_node", "plugin_ids", "id",
     "voice", "conversation_id", "conversation_template_id", "gizmo_id", "gizmo_type", "is_archived", "is_starred",
     "safe_urls", "blocked_urls", "default_model_slug", "conversation_origin", "async_status", "disabled_tool_ids",
     "memory_scope", "is_do_not_remember", "context_scopes", "sugar_item_id", "sugar_item_visible", "is_study_mode",
     "owner", "pinned_time", "is_read_only"}
)  # fmt: skip
KNOWN_MESSAGE = frozenset(
    {"id", "author", "create_time", "update_time", "content", "status", "end_turn", "weight", "metadata", "recipient",
     "channel"}
)  # fmt: skip
QUOTES = ("tether_quote", "sonic_webpage", "tether_browsing_display", "citable_code_output")
REASONING = ("thoughts", "reasoning_recap")
REMEMBERED = re.compile(r"^\s*(?:\d+\.|[-*])?\s*\[(\d{4}-\d\d-\d\d)\][.:]?\s*(?:[-\u2013\u2014]\s*)?(.*)$")
"""A memory in a list of them: "1. [2025-05-02]. The user ..." or "[2025-05-02] - The user ..."."""


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the memories and profiles before a conversation, and the conversation itself."""
    if not isinstance(value, dict) or not isinstance(value.get("mapping"), dict):
        raise InvalidInputError(f"{shorten(value)} is no conversation of ChatGPT; it needs the key mapping, an object.")
    nodes, current = value["mapping"], value.get("current_node")
    if current is not None and not (isinstance(current, str) and current in nodes) and nodes:
        raise InvalidInputError(f"current_node is {shorten(current)}, which is not in mapping; export it again.")
    path = chain(nodes, current or last_leaf(nodes, "parent"), "parent")
    at = time_or_none(value.get("create_time"))
    title = text_or_none(value.get("title"))
    run = text_or_none(value.get("conversation_id", value.get("id")))
    conversation = Conversation(run, title, at=at, in_order=True)
    remembered = Conversation("context", None, at=at, is_run=False)
    for node in path:
        message = mapping_of(node).get("message")
        if not isinstance(message, dict):
            continue
        try:
            for found in _messages(message, mapping_of(node), context):
                about_all = found.metadata.get("kind") in ("profile", "instructions", "remembered")
                (remembered if about_all else conversation).messages.append(found)
        except InvalidInputError as error:
            name = shorten(message.get("id"))
            conversation.messages.append(InvalidInputError(f"message {name}: {error}"))
    context.left.unknown(value, KNOWN, " of a conversation")
    _count_branches(nodes, path, conversation, context)
    if remembered.messages:
        yield remembered
    yield conversation


def _messages(message: dict[str, Any], node: Mapping[str, Any], context: Context) -> Iterator[Message]:
    author, content = message.get("author"), message.get("content")
    if not isinstance(author, dict) or not isinstance(content, dict):
        raise InvalidInputError(f"{shorten(message)} is no message of ChatGPT; it needs the keys author and content.")
    role, name = author.get("role", ""), text_or_none(author.get("name"))
    own = text_or_none(message.get("id")) or text_or_none(node.get("id"))
    at = time_of(message.get("create_time"))
    kind = content.get("content_type")
    more: dict[str, Any] = {"name": name} if name else {}
    context.left.unknown(message, KNOWN_MESSAGE, " of a message")
    if kind in ("user_editable_context", "model_editable_context"):
        yield from _about_the_user(message, content, at, context)
        return
    text = _text_of(kind, content, context)
    if mapping_of(message.get("metadata")).get("is_visually_hidden_from_conversation"):
        context.left.text("of hidden messages", text)
        yield Message(role, None)
        return
    recipient = message.get("recipient")
    if role == "assistant" and isinstance(recipient, str) and recipient not in ("all", "user"):
        yield from _sent(recipient, text, Message(role, None, own, at, more), content, context)
        return
    if kind == "code":
        more |= {"kind": "code"} | _language(content)
    elif kind in QUOTES:
        more |= {"kind": "quote"} | _page(content)
    elif kind == "system_error":
        more["kind"] = "error"
    yield Message(role, text, own, at, more)


def _text_of(kind: Any, content: dict[str, Any], context: Context) -> Any:
    if kind in ("text", "multimodal_text"):
        context.left.unknown(content, frozenset({"content_type", "parts"}), f" of the content {kind}")
        text = text_of(content.get("parts") or [], context.left)
    elif kind in ("code", "execution_output", "system_error", *QUOTES):
        text = next((content[key] for key in ("text", "result", "output_str") if plain_text(content.get(key))), None)
        known = {"content_type", "language", "text", "result", "output_str", "url", "domain", "title", "name"}
        context.left.unknown(
            content, frozenset(known | {"response_format_name", "assets", "tether_id"}), " of a content"
        )
    else:
        what = "of reasoning" if kind in REASONING else f"in contents of the type {shorten(kind)}"
        context.left.text(what, {key: content[key] for key in content if key not in ("content_type", "language")})
        return None
    return without_citations(text) if isinstance(text, str) else text


def _page(content: Mapping[str, Any]) -> dict[str, str]:
    names = {"url": "url", "page": "title"}
    return {name: found for name, key in names.items() if (found := plain_text(content.get(key)))}


def _language(content: Mapping[str, Any]) -> dict[str, str]:
    language = plain_text(content.get("language"))
    return {"language": language} if language and language != "unknown" else {}


def _sent(
    recipient: str, text: Any, message: Message, content: Mapping[str, Any], context: Context
) -> Iterator[Message]:
    """What an assistant sends to a tool: a memory, code, a document; the other calls are counted."""
    if recipient == "bio" and isinstance(text, str):
        yield Message(None, text, message.id, message.at, message.metadata | {"kind": "memory"})
    elif recipient in ("python", "python_user_visible", "container.exec") and isinstance(text, str):
        message.text = text
        message.metadata |= {"kind": "code"} | _language(content)
        yield message
    elif recipient.startswith("canmore."):
        yield from _of_canvas(text, message, context)
    else:
        context.left.text("of calls of tools", text)
        yield message


def _of_canvas(text: Any, message: Message, context: Context) -> Iterator[Message]:
    try:
        call = mapping_of(json.loads(text)) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        call = {"content": text}
    title = plain_text(call.get("name"))
    texts = [call.get("content"), *(mapping_of(update).get("replacement") for update in list_of(call.get("updates")))]
    texts += [mapping_of(comment).get("comment") for comment in list_of(call.get("comments"))]
    found = [each for each in texts if plain_text(each)]
    for number, each in enumerate(found):
        own = own_id(message.id, f"document {number}") if number else message.id
        yield Message("assistant", each, own, message.at, {"kind": "canvas"} | ({"document": title} if title else {}))
    if not found:
        context.left.text("of calls of tools", text)
        yield message


def _about_the_user(message: dict[str, Any], content: dict[str, Any], at: Any, context: Context) -> Iterator[Message]:
    told = mapping_of(mapping_of(message.get("metadata")).get("user_context_message_data"))
    profile = plain_text(told.get("about_user_message")) or plain_text(content.get("user_profile"))
    instructions = plain_text(told.get("about_model_message")) or plain_text(content.get("user_instructions"))
    for kind, text in (("profile", profile), ("instructions", instructions)):
        if text:
            yield Message(None, text, _digest(kind, text), at, {"kind": kind})
    yield from remembered(content.get("model_set_context"), at)
    known = {"content_type", "user_profile", "user_instructions", "model_set_context", "structured_context"}
    context.left.unknown(content, frozenset(known), " of a context")


def remembered(listed: Any, at: Any = None) -> Iterator[Message]:
    """Yields the memories of a list that ChatGPT or Claude writes, each with its day; a text that is no list is one."""
    found: list[tuple[Any, str]] = []
    for line in (plain_text(listed) or "").splitlines():
        begun = REMEMBERED.match(line)
        if begun:
            found.append((time_or_none(begun[1]) or at, begun[2]))
        elif found and line.strip():
            found[-1] = found[-1][0], f"{found[-1][1]}\n{line.strip()}"
        elif line.strip():
            found.append((at, line.strip()))
    for day, text in found:
        if text.strip():
            yield Message(None, text.strip(), _digest("remembered", text.strip()), day, {"kind": "remembered"})


def _digest(*parts: str) -> str:
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _count_branches(nodes: Mapping[str, Any], path: list[Any], conversation: Conversation, context: Context) -> None:
    """Counts the texts that only branches have that were given up."""
    if len(path) == len(nodes):
        return
    kept = {each.text for each in conversation.messages if isinstance(each, Message) and isinstance(each.text, str)}
    on_path = set(map(id, path))
    for node in nodes.values():
        content = mapping_of(mapping_of(mapping_of(node).get("message")).get("content"))
        if id(node) not in on_path and content:
            texts = (text_of(content.get("parts") or []), content.get("text"))
            if any(isinstance(text, str) and without_citations(text) not in kept for text in texts):
                context.left.text("of branches that were given up", "a text")
