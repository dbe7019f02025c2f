"""Gemini: its activity in Takeout, conversations of Workspace, prompts of AI Studio, requests of the API.

- `My Activity/Gemini Apps/MyActivity.json`: an array, newest first, of `{header, title: "Prompted ...", time,
  safeHtmlItem: [{html}]}`: a question and an answer each. It names no conversation: every day (UTC) is a run.
- `conversation_<N>.txt`: `{title, creation_time, conversation_turns: [{user_turn: {prompt}} | {system_turn: {text}}]}`.
- AI Studio: `{chunkedPrompt: {chunks: [{role, text, isThought?}]}, systemInstruction?}`.
- the API: `{contents: [{role, parts: [{text}]}], systemInstruction?}`, and answers with `candidates`.
"""

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from html.parser import HTMLParser
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.messages import text_of
from agentmem.quoting import shorten
from agentmem.transfer.chats.conversation import (
    Context,
    Conversation,
    Message,
    list_of,
    mapping_of,
    own_id,
    plain_text,
    text_or_none,
    time_of,
    time_or_none,
)

NAME = "gemini"
ABOUT = "Gemini: MyActivity.json of Takeout, conversations, AI Studio, requests of the API"
SIGNS = (
    "header title time products", "conversation_turns.[]", "conversation_turns.*.user_turn title",
    "chunkedPrompt.chunks.[]", "chunkedPrompt.chunks.*.role", "contents.*.parts", "contents.*.parts contents.*.role",
    "candidates.*.content.parts", "header title time products safeHtmlItem",
)  # fmt: skip

ASKED = ("Prompted ", "Asked ", "Said ", "Searched for ", "Eingegebener Prompt: ", "Requête : ", "Prompt: ")
ROLES = {"user": "user", "model": "assistant", "function": "tool", "tool": "tool", "assistant": "assistant"}


def is_message(value: Any) -> bool:
    """Returns whether a value is one entry of the activity."""
    return isinstance(value, dict) and "title" in value and "time" in value


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the conversation of a value, or of an entry of the activity the part that it is."""
    outer = mapping_of(value)
    if is_message(value):
        yield _of_activity(outer, context)
    elif isinstance(outer.get("conversation_turns"), list):
        yield _of_turns(outer, context)
    elif isinstance(mapping_of(outer.get("chunkedPrompt")).get("chunks"), list):
        yield _of_chunks(outer, context)
    elif isinstance(outer.get("contents"), list) or isinstance(outer.get("candidates"), list):
        yield _of_contents(outer, context)
    else:
        raise InvalidInputError(
            f"{shorten(value)} is nothing of Gemini; it needs title and time, conversation_turns, "
            "chunkedPrompt or contents."
        )


def _of_activity(entry: Mapping[str, Any], context: Context) -> Conversation:
    at, title = time_of(entry["time"]), plain_text(entry.get("title"))
    if at is None:
        raise InvalidInputError("time is empty; an entry of the activity needs one.")
    verb = next((verb for verb in ASKED if title and title.startswith(verb)), "")
    question = title[len(verb) :] if title else None
    answers = [text_of_html(mapping_of(item).get("html")) for item in list_of(entry.get("safeHtmlItem"))]
    answer = "\n".join(text for text in answers if text) or None
    found = Conversation(f"gemini-{at:%Y-%m-%d}", continues=True, newest_first=True)
    if not verb and answer is None:
        context.left.text("of activities that are no prompts", title)
        found.messages.append(Message("user", None))
        return found
    named = f"{entry['time']}\0{title}"
    own = blake2b(named.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    found.messages.append(Message("user", question, own, at))
    if answer is not None:
        found.messages.append(Message("assistant", answer, own_id(own, "answer"), at))
    context.left.text("of attachments", [mapping_of(each).get("name") for each in list_of(entry.get("subtitles"))])
    known = {"header", "title", "titleUrl", "time", "products", "activityControls", "safeHtmlItem", "subtitles"}
    context.left.unknown(
        entry, frozenset(known | {"attachedFiles", "imageFile", "details", "locationInfos"}), " of an entry"
    )
    return found


def _of_turns(outer: Mapping[str, Any], context: Context) -> Conversation:
    at, title = time_or_none(outer.get("creation_time")), text_or_none(outer.get("title"))
    run = text_or_none(outer.get("conversation_id")) or (f"gemini {title} {outer.get('creation_time')}" if at else None)
    found = Conversation(run and run[:200], title, at=at)
    for turn in map(mapping_of, outer["conversation_turns"]):
        asked, answered = mapping_of(turn.get("user_turn")), mapping_of(turn.get("system_turn"))
        try:
            if asked:
                at = time_of(asked.get("turn_last_modified"))
                found.messages.append(Message("user", plain_text(asked.get("prompt")), at=at))
                context.left.unknown(asked, frozenset({"prompt", "turn_index", "turn_last_modified"}), " of a turn")
            else:
                texts = [
                    text for part in list_of(answered.get("text")) if (text := plain_text(mapping_of(part).get("data")))
                ]
                at = time_of(answered.get("turn_last_modified"))
                found.messages.append(Message("assistant", "\n".join(texts) or None, at=at))
                context.left.text("of cards", [mapping_of(part).get("cards") for part in list_of(answered.get("text"))])
                context.left.text("of reasoning", answered.get("model_thoughts"))
        except InvalidInputError as error:
            found.messages.append(error)
    context.left.unknown(
        outer,
        frozenset({"title", "creation_time", "last_modification_time", "conversation_turns", "conversation_id"}),
        " of a conversation",
    )
    return found


def _of_chunks(outer: Mapping[str, Any], context: Context) -> Conversation:
    found = Conversation(messages=_system(outer, context))
    for chunk in map(mapping_of, outer["chunkedPrompt"]["chunks"]):
        text = plain_text(chunk.get("text"))
        role = chunk.get("role")
        if chunk.get("isThought"):
            context.left.text("of reasoning", text)
            continue
        if text is None:  # Some have their text in parts alone.
            text = text_of(chunk.get("parts") or [], context.left)
        try:
            at = time_of(chunk.get("createTime"))
            found.messages.append(Message(ROLES.get(role, role) if isinstance(role, str) else role, text, at=at))
        except InvalidInputError as error:
            found.messages.append(error)
    context.left.text("of prompts that were not sent", outer["chunkedPrompt"].get("pendingInputs"))
    context.left.unknown(
        outer, frozenset({"chunkedPrompt", "systemInstruction", "runSettings", "citations"}), " of a prompt"
    )
    return found


def _of_contents(outer: Mapping[str, Any], context: Context) -> Conversation:
    found = Conversation(messages=_system(outer, context))
    candidates = [mapping_of(mapping_of(each).get("content")) for each in list_of(outer.get("candidates"))]
    context.left.text("of other answers", [each.get("parts") for each in candidates[1:]])
    for content in [*map(mapping_of, list_of(outer.get("contents"))), *candidates[:1]]:
        role = content.get("role", "model" if content in candidates else "user")
        parts = [
            {"type": "thinking", **part} if isinstance(part, dict) and part.get("thought") is True else part
            for part in list_of(content.get("parts"))
        ]
        calls = [part for part in parts if isinstance(part, dict) and "text" not in part]
        context.left.text("of calls of tools", [part.get("functionCall") for part in calls])
        context.left.text("in answers of tools", [part.get("functionResponse") for part in calls])
        text = text_of(parts, context.left)
        found.messages.append(Message(ROLES.get(role, role) if isinstance(role, str) else role, text))
    return found


def _system(outer: Mapping[str, Any], context: Context) -> list[Message | InvalidInputError]:
    given = outer.get("systemInstruction", outer.get("system_instruction"))
    text = plain_text(given) or plain_text(mapping_of(given).get("text"))
    text = text or text_of(mapping_of(given).get("parts") or [], context.left)
    return [Message("system", text)] if text else []


class _Text(HTMLParser):
    """The text of HTML, a line for every block."""

    BLOCKS = frozenset(
        {"p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "ul", "ol", "table", "hr"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.BLOCKS:
            self.parts.append("\n")
        if tag == "li":
            self.parts.append("- ")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.BLOCKS:
            self.parts.append("\n")
        elif tag in ("td", "th"):
            self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def text_of_html(html: Any) -> str | None:
    """Returns the text of HTML; None where there is none."""
    if not isinstance(html, str):
        return None
    parser = _Text()
    parser.feed(html)
    parser.close()
    lines = [" ".join(line.split()) for line in "".join(parser.parts).splitlines()]
    return "\n".join(line for line in lines if line and line != "-") or None
