"""Learning from a conversation: a language model says what is worth keeping and how it goes with what is known.

It is asked for the facts in the messages, and, when something near them is known, for what each fact does to that.
Whatever it answers, only memories that it was shown can change, they all change in one transaction, and a text that
cannot be read as an answer changes nothing, or only adds.

While it thinks, others may change what it was shown. What it decided is then not done: it is asked again, with what is
known by now. So of two calls at once neither undoes what the other has learnt. Each may add a fact that it does not
know of the other, and both may then stand there in different words.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from agentmem.changes import Changes, Outdated
from agentmem.errors import AgentMemError, InvalidInputError, LanguageModelError, NotFoundError
from agentmem.mem0.filters import Owners
from agentmem.mem0.messages import Fields, Turn
from agentmem.mem0.shapes import AddedMemory
from agentmem.memory import Memory
from agentmem.records import Record, new_id, now, shorten

logger = logging.getLogger("agentmem.mem0")

LanguageModel = Callable[[list[dict[str, str]]], str]
"""Takes chat messages (`role`, `content`), gives the answer's text."""

NEAR = 5
"""Known memories that are looked at for each fact."""

MOST_FACTS = 100
"""Facts that are taken from one answer."""

ATTEMPTS = 3
"""How often the model is asked what the facts do, when others change meanwhile what it was shown. Then they are added:
nothing is lost by that, and the next conversation about them sees to the rest."""

EXTRACT = """\
You keep the long-term memory of an assistant. Read the conversation and write down what will still matter in a later
conversation: about {whom}, facts, preferences, plans, decisions, relations, abilities, and the dates that go with them.

- One fact a sentence, that can be understood without the conversation, in the language in which it was said.
- Only what was said or agreed to. Guess nothing, and take nothing from these instructions.
- Leave out greetings, questions, thanks and what everybody knows.
- Today is {today}. Write "tomorrow" or "last week" as dates.
{instructions}
Answer with JSON and nothing else: {{"facts": ["...", "..."]}}. If there is nothing to keep: {{"facts": []}}."""

DECIDE = """\
You keep the long-term memory of an assistant up to date. You are given the memories that are there, each with a number,
and new facts. Decide for each fact what it does:

- "ADD": none of the memories says it. Give the text.
- "UPDATE": it corrects or completes a memory. Give the memory's number and one text that says all that is true now.
- "DELETE": it says that a memory is no longer true, without anything in its place. Give the memory's number.
- "NONE": a memory says it already.

Use no numbers but those given, each at most once. Leave alone what the facts do not touch.

Answer with JSON and nothing else: {"memory": [{"event": "UPDATE", "id": "0", "text": "..."}, {"event": "ADD", "text":
"..."}]}."""

PROCEDURE = """\
Write down what the assistant did in this conversation, so that it can go on with the task, or do it again, from your
text alone: the aim, each step with its outcome (word for word where that matters), what was found, and how things
stand."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done: `known` is the memory to update (with `text`) or to delete (without), None to add `text`."""

    known: Record | None
    text: str | None


def learn(
    memory: Memory,
    llm: LanguageModel,
    turns: Sequence[Turn],
    owners: Owners,
    fields: Fields,
    instructions: str | None,
) -> list[AddedMemory]:
    """Learns what the turns say about the owners; on return that is committed, all of it in one transaction. Returns
    what was added, updated and deleted.

    Raises:
        LanguageModelError: the model raised an error; nothing was written. Otherwise as `Memory.add`.
    """
    if not turns:
        return []
    answer = _ask(llm, _extraction(owners, fields.created_at, instructions), conversation(turns))
    facts = facts_in(answer)
    if facts is None:
        logger.warning("The language model's answer holds no facts and is not used: %s", shorten(answer))
        return []
    facts = [fact for fact in facts if _can_be_stored(memory, fact, owners)]
    if not facts:
        return []
    for _ in range(ATTEMPTS):
        near = memory.search_batch(facts, **owners, limit=NEAR)
        known = list({match.record.id: match.record for matches in near for match in matches}.values())
        decisions = _decided(llm, known, facts)
        decisions = [each for each in decisions if each.text is None or _can_be_stored(memory, each.text, owners)]
        with suppress(Outdated):
            return _apply(memory, known, decisions, owners, fields)
    logger.warning("What is known was changed again and again meanwhile; the facts are added.")
    return _apply(memory, [], [Decision(None, fact) for fact in facts], owners, fields)


def _decided(llm: LanguageModel, known: Sequence[Record], facts: Sequence[str]) -> list[Decision]:
    """What the facts do to what is known; where nothing is, or the answer cannot be read, they are added."""
    if known:
        answer = _ask(llm, DECIDE, _question(known, facts))
        decisions = decisions_in(answer, known)
        if decisions is not None:
            return decisions
        logger.warning("The language model's answer holds no decisions; the facts are added: %s", shorten(answer))
    return [Decision(None, fact) for fact in facts]


def summarise(llm: LanguageModel, turns: Sequence[Turn], instructions: str | None) -> str:
    """What was done in a conversation, in one text.

    Raises:
        LanguageModelError: the model raised an error, or answered with nothing.
    """
    answer = _ask(llm, instructions or PROCEDURE, conversation(turns))
    text = _unfenced(answer).strip() if isinstance(answer, str) else ""
    if not text:
        raise LanguageModelError(f"The language model answered with {shorten(answer)}; nothing was written, try again.")
    return text


def conversation(turns: Sequence[Turn]) -> str:
    """The turns as text, one after the other."""
    return "\n".join(
        f"{turn.role}{f' ({turn.name})' if turn.name else ''}: {turn.content}" for turn in turns
    )  # fmt: skip


def facts_in(answer: Any) -> list[str] | None:
    """The facts of an answer, each once; None when it cannot be read as one."""
    listed = _listed(answer, "facts", "memory")
    if listed is None:
        return None
    facts: dict[str, None] = {}
    for item in listed:
        if isinstance(item, Mapping):
            item = next((item[key] for key in ("fact", "text", "memory") if isinstance(item.get(key), str)), None)
        if isinstance(item, str) and item.strip():
            facts[item.strip()] = None
    return list(facts)[:MOST_FACTS]


def decisions_in(answer: Any, known: Sequence[Record]) -> list[Decision] | None:
    """What the answer says is to be done; None when it cannot be read as one. What names a memory that was not shown,
    or one a second time, adds its text, or does nothing."""
    listed = _listed(answer, "memory", "decisions")
    if listed is None:
        return None
    numbered = {str(number): record for number, record in enumerate(known)}
    decisions: list[Decision] = []
    for item in listed:
        if not isinstance(item, Mapping):
            continue
        event, text, number = (item.get(key) for key in ("event", "text", "id"))
        event = event.strip().upper() if isinstance(event, str) else None
        text = text.strip() or None if isinstance(text, str) else None
        if event == "DELETE":
            record = numbered.pop(str(number).strip(), None)
            if record is not None:
                decisions.append(Decision(record, None))
        elif event in ("ADD", "UPDATE") and text is not None:
            record = numbered.pop(str(number).strip(), None) if event == "UPDATE" else None
            if record is None or record.content != text:
                decisions.append(Decision(record, text))
    return decisions


def _ask(llm: LanguageModel, system: str, user: str) -> Any:
    try:
        return llm([{"role": "system", "content": system}, {"role": "user", "content": user}])
    except AgentMemError:
        raise
    except Exception as error:
        raise LanguageModelError(
            f"The language model failed ({type(error).__name__}: {shorten(str(error))}); nothing was written, try "
            "again, or pass infer=False to store the messages as they are."
        ) from error


def _extraction(owners: Owners, moment: datetime | None, instructions: str | None) -> str:
    whom = "the assistant" if set(owners) == {"agent_id"} else "the people in it"
    asked = f"\nThe one who runs the assistant asks for this:\n{instructions}\n" if instructions else ""
    today = f"{moment or now():%A, %Y-%m-%d}"
    return EXTRACT.format(whom=whom, today=today, instructions=asked)


def _question(known: Sequence[Record], facts: Sequence[str]) -> str:
    """The model is shown small numbers instead of ids: it cannot make up the id of a memory that it was not shown."""
    memories = [{"id": str(number), "text": record.content} for number, record in enumerate(known)]
    return json.dumps({"memories": memories, "facts": list(facts)}, ensure_ascii=False, indent=1)


def _can_be_stored(memory: Memory, text: str, owners: Owners) -> bool:
    try:
        Changes(memory).add(text, **owners)
    except InvalidInputError as error:
        logger.warning("A text of the language model is not used: %s", error)
        return False
    return True


def _apply(
    memory: Memory, known: Sequence[Record], decisions: Sequence[Decision], owners: Owners, fields: Fields
) -> list[AddedMemory]:
    """Raises Outdated, with nothing written, when something of what is known is not as it was shown."""
    changes, ids = Changes(memory), [new_id() for _ in decisions]
    for record in known:
        changes.expect(record)
    try:
        for decision, new in zip(decisions, ids, strict=True):
            _gather(changes, decision, new, owners, fields)
    except NotFoundError as error:
        raise Outdated(str(error)) from error
    results = changes.commit()[len(known) :]
    return [told for each in zip(decisions, ids, results, strict=True) if (told := _told(*each)) is not None]


def _gather(changes: Changes, decision: Decision, id: str, owners: Owners, fields: Fields) -> None:
    if decision.known is None:
        changes.add(
            decision.text or "", **owners, id=id, dedupe=True, role=fields.role, metadata=fields.metadata,
            created_at=fields.created_at, expires_at=fields.expires_at,
        )  # fmt: skip
    elif decision.text is None:
        changes.delete(decision.known.id)
    else:
        changes.update(decision.known.id, decision.text, metadata=fields.metadata or None)


def _told(decision: Decision, id: str, result: Any) -> AddedMemory | None:
    """None where nothing changed: the text was there."""
    if decision.known is None:
        return {"id": id, "memory": result.content, "event": "ADD"} if result.id == id else None
    if decision.text is None:
        return {"id": decision.known.id, "memory": decision.known.content, "event": "DELETE"}
    return {
        "id": decision.known.id, "memory": decision.text, "event": "UPDATE", "previous_memory": decision.known.content,
    }  # fmt: skip


def _listed(answer: Any, *names: str) -> list[Any] | None:
    """The list in an answer: under one of the names, or else by itself."""
    alone: list[Any] | None = None
    for value in values_in(answer) if isinstance(answer, str) else [answer]:
        if isinstance(value, Mapping):
            for name in names:
                if isinstance(value.get(name), list):
                    return list(value[name])
        elif isinstance(value, list) and alone is None and all(isinstance(item, str | Mapping) for item in value):
            alone = value
    return alone


_THOUGHT = re.compile(r"<think>.*?</think>", re.S)
_FENCE = re.compile(r"```[\w-]*\n?(.*?)```", re.S)
_DECODER = json.JSONDecoder(strict=False)
_OPENING = re.compile(r"[{\[]")
STARTS = 50
"""Places at which JSON is looked for in a text."""


def _unfenced(text: str) -> str:
    text = _THOUGHT.sub("", text)
    fenced = _FENCE.search(text)
    return fenced.group(1) if fenced else text


def values_in(text: str) -> Iterator[Any]:
    """The objects and lists of JSON in a text, in a fence first, whatever stands around them."""
    for part in dict.fromkeys((_unfenced(text), text)):
        end = 0
        for start in (match.start() for match in islice(_OPENING.finditer(part), STARTS)):
            if start >= end:
                with suppress(ValueError, RecursionError):
                    value, end = _DECODER.raw_decode(part, start)
                    yield value
