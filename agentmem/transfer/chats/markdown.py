"""Markdown memory: MEMORY.md, CLAUDE.md, AGENTS.md, the files of a memory folder, notes of Obsidian.

Front matter (`key: value` between lines of three dashes) becomes metadata. A memory is a bullet of the top level with
its sub-bullets, or a paragraph; its metadata have the path of headings above it and the file. Fences and tables are
whole. `[[target|alias]]` is read as its alias, `[[target]]` as the target, and both are listed as links.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import Any

from agentmem.errors import InvalidInputError
from agentmem.transfer.chats.conversation import Context, Conversation, Message, plain_text, time_or_none

NAME = "markdown"
ABOUT = "memory in Markdown: MEMORY.md, CLAUDE.md, AGENTS.md, notes of Obsidian"
NAMES = re.compile(r"\.(?:md|markdown|mdx)$", re.I)

_HEADING = re.compile(r"^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_BULLET = re.compile(r"^( {0,3})(?:[-*+]|\d{1,9}[.)])(?:[ \t]+|$)")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_RULE = re.compile(r"^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$")
_TABLE = re.compile(r"^ {0,3}\|")
_COMMENT = re.compile(r"<!--.*?-->", re.S)
_WIKI = re.compile(r"(!?)\[\[([^\[\]|\n]{1,500})(?:\|([^\[\]\n]{1,500}))?\]\]")
_LINK = re.compile(r"\[[^\[\]\n]{1,500}\]\(([^()\s]{1,500})\)")
_KEY = re.compile(r"^([A-Za-z_][\w .-]{0,60}):(?:[ \t]+(.*))?$")
_SKIPPED_KEYS = frozenset({"cssclass", "cssclasses"})


@dataclass(slots=True)
class Block:
    """One memory of a text: a bullet, a paragraph, a fence or a table; and the headings above it."""

    text: str
    headings: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)


def read_text(text: str, context: Context) -> Iterator[Conversation | InvalidInputError]:
    """Yields the memories of a text."""
    matter, body = front_matter(text)
    name = context.name or "notes"
    at = next((at for key in ("created", "date", "updated", "modified") if (at := time_or_none(matter.get(key)))), None)
    found = Conversation("markdown", at=at, is_run=False)
    seen: dict[str, int] = {}
    for block in blocks(body):
        more = {key: part for key, part in matter.items() if key not in _SKIPPED_KEYS} | {"file": name}
        more |= {"headings": block.headings} if block.headings else {}
        more |= {"links": block.links} if block.links else {}
        named = "\0".join([f"{context.folder}/{PurePosixPath(name).name}", *block.headings, "", block.text])
        seen[named] = seen.get(named, 0) + 1
        own = blake2b(f"{named}\0{seen[named]}".encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
        found.messages.append(Message(None, block.text, own, at, more))
    yield found


def blocks(text: str) -> Iterator[Block]:
    """Yields the memories of Markdown, in order, with the headings above each."""
    headings: list[tuple[int, str]] = []
    for kind, lines in _pieces(_COMMENT.sub("", text).splitlines()):
        if kind == "heading":
            begun = _HEADING.match(lines[0])
            assert begun is not None
            level, title = len(begun[1]), begun[2] or ""
            headings = [each for each in headings if each[0] < level] + [(level, _resolved(title)[0])]
        else:
            whole = "\n".join(lines).strip("\n")
            plain, links = (whole, []) if kind == "fence" else _resolved(whole)
            plain = _BULLET.sub("", plain, count=1).strip() if kind == "bullet" else plain.strip()
            if plain:
                yield Block(plain, [title for _, title in headings if title], links)


def _resolved(text: str) -> tuple[str, list[str]]:
    links = [PurePosixPath(found[2].split("#")[0]).name or found[2] for found in _WIKI.finditer(text)]
    links += [found for found in _LINK.findall(text) if not found.startswith("#")]
    return _WIKI.sub(lambda found: (found[3] or found[2].replace("#", " > ")).strip(), text), links


def _pieces(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The blocks of a text as kinds and lines."""
    kind, held = "", list[str]()
    fence: str | None = None
    for line in lines:
        line = line.rstrip()
        opened = _FENCE.match(line)
        if fence is not None:
            held.append(line)
            if opened and opened[1][0] == fence[0] and len(opened[1]) >= len(fence) and not line.strip("`~ "):
                fence = None
                if kind == "fence":
                    yield kind, held
                    kind, held = "", []
            continue
        indented = line.startswith(("  ", "\t"))
        if opened or (kind == "bullet" and indented and _FENCE.match(line.strip())):
            if not (kind == "bullet" and indented):
                if held:
                    yield kind, held
                kind, held = "fence", []
            mark = _FENCE.match(line.strip())
            assert mark is not None
            fence = mark[1]
            held.append(line)
        elif not line:
            if kind == "bullet":
                held.append(line)
            elif held:
                yield kind, held
                kind, held = "", []
        elif _HEADING.match(line) and not (kind == "bullet" and indented):
            if held:
                yield kind, held
            yield "heading", [line]
            kind, held = "", []
        elif _RULE.match(line):
            if held:
                yield kind, held
            kind, held = "", []
        elif (begun := _BULLET.match(line)) and not (kind == "bullet" and len(begun[1]) >= 2):
            if held:
                yield kind, held
            kind, held = "bullet", [line]
        else:
            table = bool(_TABLE.match(line))
            ended = kind == "bullet" and held[-1] == "" and not indented
            if held and (ended or (kind == "table") != table) and not (kind == "bullet" and not ended):
                yield kind, held
                held = []
            if not held:
                kind = "table" if table else "paragraph"
            held.append(line)
    if held:
        yield kind or "paragraph", held


def front_matter(text: str) -> tuple[dict[str, Any], str]:
    """Returns the keys of the front matter, and the text below it. Of YAML it reads texts, numbers, flags and lists;
    what is nested stays text."""
    lines = text.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].rstrip() != "---":
        return {}, text
    end = next((place for place, line in enumerate(lines[1:200], 1) if line.rstrip() in ("---", "...")), None)
    if end is None or not all(_is_matter(line) for line in lines[1:end]):
        return {}, text
    found: dict[str, Any] = {}
    key = ""
    for line in lines[1:end]:
        begun = _KEY.match(line)
        if begun:
            key = begun[1]
            found[key] = _value(begun[2] or "")
        elif key and line.strip() and not line.lstrip().startswith("#"):
            part = line.strip()
            if part.startswith("- ") and isinstance(found[key] or [], list):
                found[key] = [*(found[key] or []), _value(part[2:])]
            else:
                block = found[key] if isinstance(found[key], str) and found[key] not in ("|", ">", "|-", ">-") else ""
                found[key] = f"{block}\n{part}".strip()
    return {key: part for key, part in found.items() if part not in (None, "", [])}, "\n".join(lines[end + 1 :])


def _is_matter(line: str) -> bool:
    return not line.strip() or line[0] in " \t#-" or _KEY.match(line) is not None


def _value(text: str) -> Any:
    text = text.strip()
    if text[:1] in "\"'" and text[-1:] == text[:1] and len(text) > 1:
        return text[1:-1]
    text = re.sub(r"\s+#.*$", "", text)
    if text.startswith("[") and text.endswith("]"):
        return [part for each in text[1:-1].split(",") if (part := plain_text(each.strip().strip("\"'")))]
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if re.fullmatch(r"-?\d{1,15}", text) else text
