"""Reads a language model's answer: finds the end of its reasoning, and then all JSON that can be read.

A model may think aloud first, in tags of any spelling, and draft answers there that it then rejects. It may repeat its
question, break its JSON, or be cut off. So nothing counts before the end of the reasoning, or in reasoning that never
ends. Of several answers the last one counts, and of a broken one its complete items. Tags within a JSON string are part
of that text. Everything here takes time in proportion to the text.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_TAG = r"""
(?:<|&lt;|◁|＜|⟨|〈) (?P<lead>[|｜]?) \s{0,3} (?P<slash>/?) \s{0,3} (?P<name>[A-Za-z][\w:.▁-]{0,40})
(?:\s[^<>◁▷]{0,200}?)? (?P<trail>[|｜]?) (?:>|&gt;|▷|＞|⟩|〉)
| \[ (?P<square_slash>/?) (?P<square>think|thinking|thought|thoughts|reasoning) \]
| (?P<final>assistantfinal)
"""  # noqa: RUF001
_MARK = re.compile(_TAG, re.X | re.I)
_MARK_OR_JSON = re.compile(rf"{_TAG} | (?P<json>\{{(?=\s*[\"}}])|\[(?=\s*[\[\]{{\"\-0-9tfn]))", re.X | re.I)
_MARK_OR_CODE = re.compile(rf"{_TAG} | (?P<code>^```|`[^`\n]{{1,200}}`)", re.X | re.I | re.M)
_FENCE = re.compile(r"^```[^`\n]*$", re.M)
_CHANNEL = re.compile(r"\s*(\w*)[^<]{0,80}(?:<\|constrain\|>[^<]{0,80})?(?:<\|message\|>)?")
_LAST = ("<|return|>", "<|end|>", "<|im_end|>", "<|eot_id|>")
"""What some templates leave at the end of an answer."""

_REASONING = re.compile(r"think|thought|reason|reflect|analy[sz]|scratch|deliberat|rational|monolog|ponder|\bcot\b")
_ANSWERING = re.compile(
    r"answer|final|output|respon|result|json|code|pre|solution|reply|message|assistant|fact|memor|decision|data|tool|"
    r"function|html|body|div|span|xml|root|box|^[a-z]$|^[uo]l$|^li$"
)
"""Names of tags that models put around an answer. The contents of any other pair of tags are no answer."""

_TOKEN = re.compile(
    r"""[ \t\r\n]*+(?:
    (?P<mark>[\[\]{},:]) | (?P<text>"[^"\\]*+(?:\\.[^"\\]*+)*+")
    | (?P<bare>(?:-?[0-9][0-9.eE+-]*+|true|false|null)(?!\w)) | (?P<cut>") | (?P<end>\Z))""",
    re.X | re.S,
)
_ESCAPE = re.compile(r"\\(.)", re.S)
_DECODER = json.JSONDecoder(strict=False)
DEEPEST = 50
"""Most levels of JSON that are followed."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value of JSON between two places of a text.

    A value that is not `whole` was broken or cut; it has the members that were complete.
    """

    content: Any
    whole: bool
    start: int
    end: int


def values_in(text: str) -> Iterator[Any]:
    """Returns the objects and lists of JSON in an answer, whatever stands around them."""
    return (value.content for value in _answered(text, _MARK_OR_JSON)[1])


def prose_of(text: str) -> str:
    """Returns the text after the reasoning, without a fence around all of it. Empty when the reasoning never ends."""
    answer = text[_answered(text, _MARK_OR_CODE)[0] :].strip()
    for end in _LAST:
        answer = answer.removesuffix(end).rstrip()
    fences = list(_FENCE.finditer(answer))
    if len(fences) < 2 or fences[0].start() or fences[-1].end() < len(answer) or fences[-1][0] != "```":
        return answer
    is_around = len(fences) == 2 or fences[0][0][3:].strip().lower() in ("markdown", "md")
    return answer[fences[0].end() : fences[-1].start()].strip() if is_around else answer


def listed(answer: Any, *names: str) -> tuple[Sequence[Any], bool] | None:
    """Returns the list of an answer, and whether it is complete.

    That is the last list under one of the names, else the last list that stands alone, or the last objects in sequence.
    """
    values = _answered(answer, _MARK_OR_JSON)[1] if isinstance(answer, str) else [Value(answer, True, 0, 0)]
    for value in reversed(values):
        inner = value.content.values() if isinstance(value.content, Mapping) else ()
        for content in (value.content, *inner):
            for name in names if isinstance(content, Mapping) else ():
                if isinstance(content.get(name), list):
                    return content[name], value.whole
                if isinstance(content.get(name), Mapping):
                    return [content[name]], value.whole
    for last in range(len(values) - 1, -1, -1):
        value = values[last]
        if isinstance(value.content, list):
            if (value.whole or value.content) and all(isinstance(item, str | Mapping) for item in value.content):
                return value.content, value.whole
        elif value.whole and _is_item(value.content):
            first = last
            while first and _is_item(values[first - 1].content) and _adjoin(answer, values[first - 1], values[first]):
                first -= 1
            return [each.content for each in values[first : last + 1]], True
    return None


def _is_item(content: Any) -> bool:
    return isinstance(content, Mapping) and any(name in content for name in ("event", "fact", "text"))


def _adjoin(text: str, before: Value, after: Value) -> bool:
    return not text[before.end : after.start].strip(", \t\r\n")


def text_of(item: Any, *names: str) -> str | None:
    """Returns the text of an item: the item, or its first name that has text. None for "...", which the question
    has."""
    if isinstance(item, Mapping):
        item = next((item[name] for name in names if isinstance(item.get(name), str)), None)
    return item.strip() if isinstance(item, str) and item.strip(" \t\r\n.…") else None


def _answered(text: str, pattern: re.Pattern[str]) -> tuple[int, list[Value]]:
    """Returns where the answer begins, and its values of JSON, for the pattern that finds any. The other pattern skips
    code."""
    values: list[Value] = []
    pairs = _Pairs()
    start, depth, in_channel, fenced, begun, at = 0, 0, False, True, 0, 0
    # Within reasoning a quote or a brace has no meaning: only the reasoning's end counts.
    while found := (_MARK if depth or in_channel else pattern).search(text, at):
        groups, at = found.groupdict(), found.end()
        if groups.get("json"):
            value, at = _read(text, found.start())
            values.append(value)
            continue
        if groups.get("code"):
            if found[0] == "```" and fenced:
                end = _FENCE.search(text, at + 1)
                fenced, at = end is not None, at if end is None else end.end()
            continue
        name, ends = _named(found)
        token = groups["lead"] or groups["trail"]
        if groups["final"]:
            if not text.startswith("analysis"):
                continue
            depth, in_channel = 0, False
        elif token and (name == "channel" or (in_channel and name in ("end", "start", "return", "call"))):
            depth, in_channel = 0, False
            if name == "channel" and groups["lead"] and (channel := _CHANNEL.match(text, at)):
                in_channel, at = channel[1].lower() != "final", channel.end()
        elif _REASONING.search(name):
            begun = begun if depth else found.start()
            depth = max(0, depth - 1) if ends else depth + 1
        else:
            pairs.meet(name, ends, values)
            continue
        if not depth and not in_channel:
            start = at
            values.clear()
            pairs = _Pairs()
    # A tag within a line of prose that never closes is only mentioned.
    is_spoken_of = pattern is _MARK_OR_CODE and text[max(start, text.rfind("\n", 0, begun) + 1) : begun].strip(" \t")
    if in_channel or (depth and not is_spoken_of):
        return len(text), []
    return start, values


def _named(found: re.Match[str]) -> tuple[str, bool]:
    """Returns the name of a tag, and whether it is a closing tag."""
    name = (found["name"] or found["square"] or "").replace("▁", "_").lower()
    return name, bool(found["slash"] or found["square_slash"]) or name.startswith("end")


class _Pairs:
    """Tags that mean neither reasoning nor an answer."""

    def __init__(self) -> None:
        self._open: list[tuple[str, int]] = []  # Each tag with the number of values before it.
        self._names: Counter[str] = Counter()

    def meet(self, name: str, ends: bool, values: list[Value]) -> None:
        """Drops the values between two tags of the same name."""
        if _ANSWERING.search(name):
            return
        if not ends:
            self._open.append((name, len(values)))
            self._names[name] += 1
            return
        while self._names[name]:
            last, before = self._open.pop()
            self._names[last] -= 1
            del values[before:]
            if last == name:
                return


def _read(text: str, start: int) -> tuple[Value, int]:
    """Returns the value of JSON that begins at a place, as far as it can be read, and the place after it. A superfluous
    comma is skipped."""
    containers: list[Any] = []
    keys: list[str] = []  # The key of each container in its parent.
    key, awaited, at = "", "value", start
    quote = 0  # Where the text just before begins, if there is one.
    while (token := _TOKEN.match(text, at)) and token.lastgroup not in ("cut", "end"):
        mark, item = token["mark"], None
        if mark in ("{", "[") and awaited == "value" and len(containers) < DEEPEST:
            containers.append({} if mark == "{" else [])
            keys.append(key)
            awaited, at, quote = "key" if mark == "{" else "value", token.end(), 0
            continue
        if mark in (",", ":"):
            if awaited != {",": "after", ":": "colon"}[mark]:
                break
            awaited = "key" if mark == "," and isinstance(containers[-1], dict) else "value"
            at, quote = token.end(), 0
            continue
        if mark in ("}", "]"):
            if not (awaited in ("key", "after") if mark == "}" else awaited in ("value", "after")):
                break
            if isinstance(containers[-1], dict) != (mark == "}"):
                break
            item, key = containers.pop(), keys.pop()
        elif token["text"] is not None and awaited in ("key", "value"):
            item, quote = _string(token["text"]), token.start("text")
        elif token["bare"] is not None and awaited == "value":
            try:
                item = json.loads(token["bare"])
            except ValueError:
                break
        else:
            break
        at = token.end()
        if mark:
            quote = 0
        if awaited == "key" and not mark:
            key, awaited = item, "colon"
            continue
        awaited = "after"
        if not containers:
            return Value(item, True, start, at), at
        if isinstance(containers[-1], dict):
            containers[-1][key] = item
        else:
            containers[-1].append(item)
    kind = token.lastgroup if token else None
    if kind not in ("cut", "end") and awaited == "after" and quote:  # The rest is no JSON: its quotes are in doubt.
        containers[-1].pop(*([key] if isinstance(containers[-1], dict) else []))
    if kind == "cut" and token:
        quote = token.start("cut")
    is_cut = kind == "end" or (kind == "cut" and not _ends_reasoning(text, quote))
    go_on = len(text) if is_cut else max(quote + 1 if quote else at, start + 1)
    return Value(_whole_members(containers, keys), False, start, go_on), go_on


def _whole_members(containers: list[Any], keys: list[str]) -> Any:
    """Returns the outermost of the containers that never closed, without an object that was a list's last member."""
    inner = containers.pop()
    while containers:
        key = keys.pop()
        if isinstance(containers[-1], dict):
            containers[-1][key] = inner
        elif isinstance(inner, list):
            containers[-1].append(inner)
        inner = containers.pop()
    return inner


def _ends_reasoning(text: str, at: int) -> bool:
    """Whether reasoning ends after a place, without having begun there."""
    depth = 0
    for found in _MARK.finditer(text, at):
        name, ends = _named(found)
        if name == "channel":
            return True
        if _REASONING.search(name):
            depth += -1 if ends else 1
            if depth < 0:
                return True
    return False


def _string(quoted: str) -> str:
    """Returns the text in quotes. Escapes that JSON does not have stand for themselves."""
    if "\\" not in quoted:
        return quoted[1:-1]
    for attempt in (quoted, _ESCAPE.sub(lambda found: found[0] if found[1] in '"\\/bfnrtu' else found[1], quoted)):
        with suppress(ValueError):
            return str(_DECODER.decode(attempt))
    return quoted[1:-1]
