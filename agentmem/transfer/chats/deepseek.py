"""DeepSeek: `conversations.json` of its export, an array of conversations.

A conversation is `{id, title, inserted_at, mapping}`; `mapping` is a tree of nodes `{id, parent, children, message}`,
and a message `{model, inserted_at, fragments: [{type: "REQUEST" | "RESPONSE" | "THINK" | "SEARCH", content}]}`. The
last child is followed everywhere.
"""

from collections.abc import Iterator
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.quoting import shorten
from agentmem.transfer.chats.conversation import (
    Context,
    Conversation,
    Message,
    chain,
    last_leaf,
    list_of,
    mapping_of,
    named_in,
    own_id,
    plain_text,
    text_or_none,
    time_of,
    time_or_none,
)

NAME = "deepseek"
ABOUT = "conversations.json of DeepSeek's export"
SIGNS = (
    "mapping.{} inserted_at", "mapping.{} inserted_at mapping.*.message.fragments",
    "mapping.{} inserted_at title mapping.*.message.inserted_at mapping.*.message.fragments",
    "mapping.*.message.fragments mapping.*.message.inserted_at",
)  # fmt: skip

ROLES = {"REQUEST": "user", "RESPONSE": "assistant"}

KNOWN = frozenset({"id", "title", "inserted_at", "updated_at", "mapping", "current_node"})


def read(value: Any, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the conversation of a value."""
    if not isinstance(value, dict) or not isinstance(value.get("mapping"), dict):
        raise InvalidInputError(
            f"{shorten(value)} is no conversation of DeepSeek; it needs the key mapping, an object."
        )
    nodes = value["mapping"]
    path = chain(nodes, _last(nodes), "parent")
    found = Conversation(
        text_or_none(value.get("id")), text_or_none(value.get("title")), at=time_or_none(value.get("inserted_at")),
        in_order=True,
    )  # fmt: skip
    for node in path:
        message = mapping_of(node).get("message")
        if isinstance(message, dict):
            try:
                found.messages += _messages(message, mapping_of(node).get("id"), len(found.messages), context)
            except InvalidInputError as error:
                found.messages.append(InvalidInputError(f"message {shorten(mapping_of(node).get('id'))}: {error}"))
    kept = set(map(id, path))
    for node in nodes.values():
        if id(node) not in kept:
            fragments = list_of(mapping_of(mapping_of(node).get("message")).get("fragments"))
            context.left.text("of branches that were given up", [mapping_of(each).get("content") for each in fragments])
    context.left.unknown(value, KNOWN, " of a conversation")
    yield found


def _last(nodes: dict[str, Any]) -> str | None:
    """The node to which the last child leads, from the first node that has no parent."""
    root = next((name for name, node in nodes.items() if not named_in(nodes, mapping_of(node).get("parent"))), None)
    last, passed = root, set[str]()
    while last is not None and last not in passed:
        passed.add(last)
        children = [child for child in list_of(mapping_of(nodes[last]).get("children")) if named_in(nodes, child)]
        if not children:
            # Where no node names its children, the tree is that of the parents.
            return last if len(passed) > 1 else last_leaf(nodes, "parent")
        last = children[-1]
    return last_leaf(nodes, "parent")


def _messages(message: dict[str, Any], id: Any, number: int, context: Context) -> Iterator[Message]:
    at = time_of(message.get("inserted_at"))
    fragments = message.get("fragments")
    if not isinstance(fragments, list):  # Older exports have one text, and take turns.
        context.left.text("of reasoning", message.get("reasoning_content"))
        role = message.get("role") or ("assistant" if number % 2 else "user")
        yield Message(
            role.lower() if isinstance(role, str) else role, plain_text(message.get("content")), text_or_none(id), at
        )
        return
    texts: dict[str, list[str]] = {}
    for fragment in map(mapping_of, fragments):
        kind = fragment.get("type")
        role = ROLES.get(kind) if isinstance(kind, str) else None
        if role and plain_text(fragment.get("content")):
            texts.setdefault(role, []).append(fragment["content"])
        elif not role:
            what = "of reasoning" if kind == "THINK" else f"in fragments of the type {shorten(kind)}"
            context.left.text(what, {key: part for key, part in fragment.items() if key != "type"})
    for place, (role, said) in enumerate(texts.items()):
        yield Message(role, "\n".join(said), own_id(id, role) if place else text_or_none(id), at)
    if not texts:
        yield Message("assistant", None)
