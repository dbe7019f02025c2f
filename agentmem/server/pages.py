"""The page: what is remembered, why it was found, and how to correct or erase it, as HTML that needs no other host.

The address is the whole state of a screen, and the same address with `.json` after its path is the same screen as JSON.
A change is a form; it is taken from a page of this server only (see `doors`), and only where the access may write.
"""

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool

from agentmem.analyzer import query_terms
from agentmem.errors import AgentMemError, InvalidInputError, NotFoundError
from agentmem.quoting import shorten
from agentmem.records import Match, Record, Scope
from agentmem.server.access import Access
from agentmem.server.doors import COOKIE
from agentmem.server.http_api import access_of, writing
from agentmem.server.problems import status_of
from agentmem.timestamps import now
from agentmem.validation import moment_of

OWNERS = ("user_id", "agent_id", "run_id")
PAGE = 50
FACETS_OF = 500
"""Newest memories whose metadata make the facets."""
COMPARED = 1_000
"""Memories of a moment that are compared with those of another."""
SHOWN = 20_000
"""Characters of a text on a screen; the whole is in its JSON."""
DIFFED = 2_000
"""Words of a version that a diff looks at."""
PARTS = ("keyword", "vector", "neighbours", "recency", "importance")
STATIC = Path(__file__).with_name("static")
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}

router = APIRouter(include_in_schema=False)
Screen = Callable[["Asked"], dict[str, Any]]


class Asked:
    """The query of a screen, or the fields of a form."""

    def __init__(self, access: Access, fields: Sequence[tuple[str, str]]) -> None:
        self.access = access
        self.fields = {name: value for name, value in fields if value != ""}
        self.ids = [value for name, value in fields if name == "id"]

    @property
    def owner(self) -> dict[str, Any]:
        """The owner that is named, as keywords."""
        return {name: self.fields[name] for name in OWNERS if name in self.fields}

    @property
    def whose(self) -> dict[str, Any]:
        """The owner as keywords for a read of many: all owners, where an administrator names none."""
        return self.owner or ({"all_scopes": True} if self.access.is_admin else {})

    def moment(self, name: str) -> datetime | None:
        """A moment among the fields: ISO 8601, or seconds since 1970 as a slider has them."""
        text = self.fields.get(name)
        if text is None:
            return None
        if text.isascii() and text.isdecimal() and len(text) < 12:
            return datetime.fromtimestamp(int(text), UTC)
        return moment_of(name, text)

    def said(self, name: str) -> str:
        """A field as it was given; an empty text where it was not."""
        return self.fields.get(name, "")

    @property
    def filters(self) -> dict[str, Any] | None:
        """The filter of the language, from its JSON."""
        text = self.fields.get("filters")
        try:
            found = None if text is None else json.loads(text)
        except (ValueError, RecursionError):
            raise InvalidInputError(f"filters is {shorten(text)}; write a JSON object.") from None
        if found is not None and not isinstance(found, dict):
            raise InvalidInputError(f"filters is {shorten(text)}; write a JSON object.")
        return found

    def link(self, path: str, **changes: str | None) -> str:
        """An address with the fields of this one, changed."""
        fields = {name: value for name, value in {**self.fields, **changes}.items() if value is not None}
        return f"{path}?{urlencode(fields)}" if fields else path


# -- screens ----------------------------------------------------------------------------------------------------------


def owners(asked: Asked) -> dict[str, Any]:
    """Whose memories there are, as a tree, a page of users at a time."""
    memory = asked.access.memory
    everybody: dict[str, Any] = {"all_scopes": True} if asked.access.is_admin else {}
    found = memory.scopes(**everybody)
    prefix = asked.fields.get("prefix", "")
    tops: dict[tuple[str, str], list[Scope]] = {}
    for scope in found:
        top = scope.owners()[0]
        if top[1].startswith(prefix):
            tops.setdefault(top, []).append(scope)
    start = _whole(asked.fields.get("from", "0"))
    names = sorted(tops)[start : start + PAGE]
    rows = []
    for name, value in names:
        parts = [_owner_row(asked, scope.owners()) for scope in tops[name, value][:PAGE] if len(scope.owners()) > 1]
        rows.append(
            _owner_row(asked, [(name, value)]) | {"parts": parts, "more": max(len(tops[name, value]) - PAGE, 0)}
        )
    following = str(start + PAGE) if start + PAGE < len(tops) else None
    return {"owners": rows, "total": len(tops), "next": following, "prefix": prefix}


def _owner_row(asked: Asked, owner: Sequence[tuple[str, str]]) -> dict[str, Any]:
    named: dict[str, Any] = dict(owner)
    newest = asked.access.memory.get_all(**named, limit=1).records
    return {
        "owner": named,
        "count": asked.access.memory.count(**named),
        "newest": newest[0].created_at if newest else None,
        "query": urlencode(named),
    }


def memories(asked: Asked) -> dict[str, Any]:
    """A page of a listing, with the facets of its metadata."""
    memory = asked.access.memory
    order = asked.fields.get("order", "newest")
    wanted = {**asked.whose, "filters": asked.filters}
    page = memory.get_all(**wanted, limit=PAGE, after=asked.fields.get("after"), order=order)  # type: ignore[arg-type]
    newest = memory.get_all(**wanted, limit=FACETS_OF).records if "after" not in asked.fields else []
    counted: dict[str, Counter[Any]] = {}
    for record in newest:
        for key, value in record.metadata.items():
            if isinstance(value, str | int | float | bool) and len(str(value)) <= 60 and "." not in key:
                counted.setdefault(key, Counter())[value] += 1
    facets = [
        {"key": key, "value": value, "count": count, "filters": _narrowed(asked.filters, key, value)}
        for key, values in sorted(counted.items())
        for value, count in values.most_common(8)
    ]
    return {"records": page.records, "next": page.next, "facets": facets[:40], "order": order, "looked_at": len(newest)}


def count(asked: Asked) -> dict[str, Any]:
    """How many memories the listing has on all its pages."""
    return {"count": asked.access.memory.count(**asked.whose, filters=asked.filters)}


def _narrowed(filters: dict[str, Any] | None, key: str, value: Any) -> str:
    one = {key: value}
    return json.dumps(one if not filters else {"AND": [filters, one]}, ensure_ascii=False)


def memory(asked: Asked) -> dict[str, Any]:
    """A memory: its text, its history with what changed, and what is near it."""
    name = asked.fields.get("id")
    if name is None:
        raise InvalidInputError("No id was given; open a memory from a listing.")
    calls = asked.access.memory
    events = calls.history(name, **asked.owner)
    if not events:
        raise NotFoundError(f"There never was a memory {shorten(name)} here.")
    record = calls.get(name, **asked.owner, show_expired=True)
    timeline = []
    for event in events:
        before = event.before.content if event.before else ""
        after = event.after.content if event.after else ""
        timeline.append({"event": event, "diff": word_diff(before, after) if event.what == "update" else None})
    near: list[Record] = []
    similar: list[Match] = []
    if record is not None:
        whose = {name: value for name in OWNERS if (value := getattr(record, name)) is not None}
        if record.run_id is not None:
            moment = record.created_at
            earlier = calls.get_all(**whose, between=(None, moment), limit=2).records
            later = calls.get_all(**whose, between=(moment, None), limit=4, order="oldest").records
            near = [*reversed(earlier), *later]
        try:
            found = calls.search(record.content[:2_000], **whose, limit=6)
            similar = [match for match in found if match.record.id != record.id][:5]
        except AgentMemError:
            similar = []  # Without its model a store can still be looked at.
    return {"record": record, "id": name, "timeline": timeline, "near": near, "similar": similar, "now": now()}


def word_diff(before: str, after: str) -> list[tuple[str, str]]:
    """What became of the words: pieces, each "same", "removed" or "added"."""
    old, new = (re.findall(r"\s+|\S+", text)[:DIFFED] for text in (before, after))
    pieces: list[tuple[str, str]] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=True).get_opcodes():
        if tag == "equal":
            pieces.append(("same", "".join(old[a:b])))
            continue
        pieces += [(kind, "".join(words)) for kind, words in (("removed", old[a:b]), ("added", new[c:d])) if words]
    return pieces


def recall(asked: Asked) -> dict[str, Any]:
    """What a query finds, with the parts of each score; with two settings side by side."""
    query = asked.fields.get("query")
    if query is None:
        return {"query": None, "sides": []}
    sides = [_side(asked, query, asked.fields.get("mode", "hybrid"))]
    if other := asked.fields.get("other"):
        sides.append(_side(asked, query, other))
    return {"query": query, "sides": sides}


def _side(asked: Asked, query: str, mode: str) -> dict[str, Any]:
    days = asked.fields.get("recency")
    try:
        recency = None if days is None else timedelta(days=float(days))
    except (ValueError, OverflowError):
        raise InvalidInputError(f"recency is {shorten(days)}; write a number of days.") from None
    found = asked.access.memory.search(
        query, **asked.whose, filters=asked.filters, mode=mode, recency=recency,  # type: ignore[arg-type]
        importance=asked.fields.get("importance"), explain=True, limit=10,
    )  # fmt: skip
    terms = set(query_terms(query))
    rows = []
    for match in found:
        told = dict(match.explanation or {})
        bars = [(part, float(told.get(part) or 0.0)) for part in PARTS if told.get(part)]
        rows.append({"match": match, "bars": _stacked(bars), "marked": marked(match.record.content, terms)})
    first = dict(found[0].explanation or {}) if found else {}
    return {"mode": mode, "rows": rows, "plan": first.get("plan"), "candidates": first.get("candidates")}


def _stacked(bars: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    placed, at = [], 0.0
    for part, value in bars:
        width = round(100 * abs(value), 2)
        placed.append({"part": part, "value": value, "x": round(at, 2), "width": width})
        at += width
    return placed


def marked(text: str, terms: set[int]) -> list[tuple[bool, str]]:
    """A text in pieces, each with whether it is a word of the query."""
    words = re.split(r"(\w+)", text[:SHOWN])
    found = {word: bool(terms & set(query_terms(word))) for word in set(words[1::2][:DIFFED])}
    pieces = [(at % 2 == 1 and found.get(word, False), word) for at, word in enumerate(words) if word]
    joined: list[tuple[bool, str]] = []
    for hit, piece in pieces:
        if joined and joined[-1][0] == hit:
            joined[-1] = (hit, joined[-1][1] + piece)
        else:
            joined.append((hit, piece))
    return joined


def case(asked: Asked) -> dict[str, Any]:
    """A query and the ids that answer it, as a case of an evaluation."""
    query = asked.fields.get("query")
    if query is None or not asked.ids:
        raise InvalidInputError("A case has a query and at least one id; tick what answers the query.")
    return {"query": query, "relevant": asked.ids, **asked.owner}


def time(asked: Asked) -> dict[str, Any]:
    """What was known at a moment, and what changed since another one."""
    calls, whose = asked.access.memory, asked.whose
    oldest = calls.get_all(**whose, limit=1, order="oldest").records
    last = now()
    first = min(oldest[0].created_at, last) if oldest else last
    moment, since = asked.moment("at") or last, asked.moment("since")
    there = calls.get_all(**whose, as_of=min(moment, last), limit=COMPARED if since else PAGE).records
    changes = None
    if since is not None:
        before = {record.id: record for record in calls.get_all(**whose, as_of=min(since, last), limit=COMPARED)}
        after = {record.id for record in there}
        changes = {
            "added": [record for record in there if record.id not in before],
            "gone": [record for record in before.values() if record.id not in after],
            "changed": [
                {"record": record, "diff": word_diff(before[record.id].content, record.content)}
                for record in there
                if record.id in before and before[record.id].updated_at != record.updated_at
            ],
        }
    known = calls.count(**whose, as_of=min(moment, last))
    return {"first": first, "last": last, "at": moment, "since": since, "records": there[:PAGE], "known": known,
            "changes": changes, "compared": COMPARED}  # fmt: skip


def now_(asked: Asked) -> dict[str, Any]:
    """The figures of this process, and of the store."""
    asked.access.require_admin()
    return {"at": now(), "stats": asdict(asked.access.store.stats())}


def health(asked: Asked) -> dict[str, Any]:
    """What `stats` and, when asked for, `check` say of the store."""
    asked.access.require_admin()
    problems = asked.access.store.check() if "check" in asked.fields else None
    return {"problems": problems, "stats": asdict(asked.access.store.stats())}


SCREENS: dict[str, tuple[Screen, str]] = {
    "/": (owners, "Owners"),
    "/owners": (owners, "Owners"),
    "/memories": (memories, "Memories"),
    "/memory": (memory, "A memory"),
    "/recall": (recall, "Recall"),
    "/time": (time, "Time"),
    "/now": (now_, "Now"),
    "/health": (health, "Health"),
}
ONLY_JSON: dict[str, Screen] = {"/count": count, "/case": case}


# -- forms ------------------------------------------------------------------------------------------------------------


def _edit(asked: Asked) -> str:
    content = asked.fields.get("content")
    try:
        metadata = json.loads(asked.fields.get("metadata", "{}"))
    except (ValueError, RecursionError):
        raise InvalidInputError("metadata is not JSON; write an object, such as {}.") from None
    for each in asked.ids[:1]:
        asked.access.memory.update(each, content, **asked.owner, metadata=metadata, replace_metadata=True)
    return asked.link("/memory", content=None, metadata=None)


def _delete(asked: Asked) -> str:
    for each in asked.ids:
        asked.access.memory.delete(each, **asked.owner)
    if asked.fields.get("back") == "memory":
        return asked.link("/memory", back=None)
    return asked.link("/memories", id=None, back=None)


def _restore(asked: Asked) -> str:
    for each in asked.ids:
        asked.access.memory.restore(each, **asked.owner)
    return asked.link("/memory")


def _erase(asked: Asked) -> dict[str, Any]:
    """Tries first: only with `confirm` as the owner's name, typed once more, anything is erased."""
    if not asked.owner and not asked.access.scope:
        raise InvalidInputError("No owner was given; open an owner first.")
    owner = asked.owner or dict(asked.access.scope.owners())
    name = list(owner.values())[-1]
    visible = asked.access.memory.count(**asked.owner)
    told: dict[str, Any] = {"name": name, "count": visible, "erased": None, "at": now()}
    if asked.fields.get("confirm") == name:
        told["erased"] = asked.access.memory.purge(**asked.owner)
    return told


FORMS: dict[str, Callable[[Asked], str]] = {
    "/memory/edit": _edit, "/memory/delete": _delete, "/memory/restore": _restore, "/memories/delete": _delete,
}  # fmt: skip


# -- answers ----------------------------------------------------------------------------------------------------------


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("agentmem.server"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["moment"] = lambda moment: f"{moment:%Y-%m-%d %H:%M:%S}" if moment else ""
    environment.filters["compact"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.filters["clip"] = lambda text: text if len(text) <= 300 else f"{text[:300]}…"
    environment.filters["bound"] = lambda text: text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
    environment.globals["link_of"] = _link_of
    return environment


def _link_of(record: Record) -> str:
    whose = {name: value for name in OWNERS if (value := getattr(record, name)) is not None}
    return f"/memory?{urlencode({'id': record.id, **whose})}"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Record | Match):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _render(template: str, asked: Asked, title: str, told: Mapping[str, Any], status: int = 200) -> Response:
    page = _templates().get_template(template)
    html = page.render(**told, asked=asked, title=title, access=asked.access, owner=asked.owner)
    return HTMLResponse(html, status)


def _refused(asked: Asked, error: AgentMemError) -> Response:
    told = {"message": str(error), "kind": type(error).__name__}
    return _render("error.html", asked, "Not done", told, status_of(error))


def _add_screen(path: str, screen: Screen, title: str | None) -> None:
    def as_json(request: Request) -> Response:
        told = screen(Asked(access_of(request), request.query_params.multi_items()))
        return Response(json.dumps(told, default=_plain, ensure_ascii=False), media_type="application/json")

    def as_page(request: Request) -> Response:
        asked = Asked(access_of(request), request.query_params.multi_items())
        try:
            return _render(f"{screen.__name__.strip('_')}.html", asked, title or "", screen(asked))
        except AgentMemError as error:
            return _refused(asked, error)

    if path != "/":
        router.add_api_route(f"{path}.json", as_json, methods=["GET"])
    if title is not None:
        router.add_api_route(path, as_page, methods=["GET"])


def _add_form(path: str, act: Callable[[Asked], str]) -> None:
    async def form(request: Request) -> Response:
        asked = await _asked(request)
        try:
            return RedirectResponse(await run_in_threadpool(act, asked), 303)
        except AgentMemError as error:
            return _refused(asked, error)

    router.add_api_route(path, form, methods=["POST"])


async def _asked(request: Request) -> Asked:
    fields = parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=2_000)
    return Asked(writing(request), fields)


for _path, (_screen, _title) in SCREENS.items():
    _add_screen(_path, _screen, _title)
for _path, _screen in ONLY_JSON.items():
    _add_screen(_path, _screen, None)
for _path, _act in FORMS.items():
    _add_form(_path, _act)


@router.post("/owners/erase")
async def erase(request: Request) -> Response:
    """Says what erasing an owner would take, and, once that is confirmed, erases it and gives a receipt."""
    asked = await _asked(request)
    try:
        told = await run_in_threadpool(_erase, asked)
    except AgentMemError as error:
        return _refused(asked, error)
    return _render("erase.html", asked, "Erase an owner", told)


@router.get("/login")
def login() -> Response:
    """Asks for a token."""
    return HTMLResponse(_templates().get_template("login.html").render(title="Sign in"))


@router.post("/login")
async def sign_in(request: Request) -> Response:
    """Keeps a token in a cookie that no script reads and no other site sends."""
    fields = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
    answer = RedirectResponse("/", 303)
    secure = request.headers.get("origin", "").startswith("https:")
    token = re.sub(r"[^\w-]", "", fields.get("token", ""), flags=re.ASCII)
    answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure, path="/")
    return answer


@router.post("/logout")
async def sign_out() -> Response:
    """Forgets the cookie."""
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE, path="/")
    return answer


@router.get("/static/{name}")
def static(name: str) -> Response:
    """A file of the page, by its name: never a path."""
    there = {path.name: path for path in STATIC.iterdir() if path.suffix in TYPES}
    if name not in there:
        raise NotFoundError(f"There is no file {shorten(name)}.")
    return Response(there[name].read_bytes(), media_type=TYPES[there[name].suffix])


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InvalidInputError(f"from is {shorten(text)}; pass the `next` of a page.")
    return int(text)
