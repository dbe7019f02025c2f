"""Whatever is done in whatever order, a Memory answers as a plain dictionary and a scan over all vectors would."""

import itertools
import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from agentmem import Config, Memory, ModelMismatchError, NotFoundError, Record
from agentmem.testing import NAMES, WORDS, HashEmbedder, metadata
from tests import failpoints
from tests.conftest import our_threads
from tests.turned import Turned

PAST, FUTURE = datetime(2001, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
MODELS = [HashEmbedder(), Turned(32), Turned(64)]
POINTS = [
    "reembed: after it has begun",
    "reembed: before new vectors are kept",
    "reembed: after the models have changed places",
    "reembed: before old vectors are erased",
    "reembed: before a target is given up",
]
OWNER_FIELDS = ("user_id", "agent_id", "run_id")

sentences = st.lists(st.sampled_from(WORDS[:12]), min_size=1, max_size=4).map(" ".join)
few_owners = st.sampled_from(
    [
        {name: value for name, value in zip(OWNER_FIELDS, values, strict=True) if value is not None}
        for values in itertools.product([None, *NAMES[:4]], repeat=3)
    ][1:]
).map(dict)  # No filter: one that fails too often ends an example long before its last step.
expiries = st.sampled_from([None, None, None, FUTURE, PAST])
moments = st.one_of(st.none(), st.sampled_from([PAST, FUTURE, datetime(2020, 2, 29, 12, tzinfo=UTC)]))


@dataclass
class Remembered:
    """The model of one memory. `order` is the order of being added, which breaks ties."""

    record: Record
    order: int
    deleted: bool = False
    events: list[str] = field(default_factory=lambda: ["add"])

    @property
    def visible(self) -> bool:
        return not self.deleted and self.record.expires_at is not PAST

    def belongs_to(self, owner: dict[str, str]) -> bool:
        return all(getattr(self.record, name) == value for name, value in owner.items())


class MemoryMachine(RuleBasedStateMachine):
    ids = Bundle("ids")
    instants = Bundle("instants")
    place: str | None = None
    """Where the stores are made; None is the usual place."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=self.place)
        self.embedder = HashEmbedder()
        self.expected: dict[str, Remembered] = {}
        self.numbers = itertools.count()
        self.pasts: list[list[Remembered]] = []
        self.reopen_with: dict[str, Any] = {}
        self.memory = self._open()

    def _open(self) -> Memory:
        # Little room, so that indexes and cached vectors come and go.
        config = Config(durability="process", index_bytes=20_000, cache_bytes=5_000)
        return Memory(Path(self.folder.name) / "store.db", embedder=self.embedder, config=config)

    def teardown(self) -> None:
        try:
            assert self.memory.check() == []
        finally:
            self.memory.close()
            self.folder.cleanup()
        assert our_threads() == []

    # -- what is expected -----------------------------------------------------------------------------------------

    def _remember(self, record: Record, content: str, owner: dict[str, str], **given: Any) -> str:
        assert record.content == content
        assert {name: getattr(record, name) for name in OWNER_FIELDS} == dict.fromkeys(OWNER_FIELDS) | owner
        for name, value in given.items():
            if value is not None:
                assert getattr(record, name) == value
        # The very same object, so that `visible` may compare by identity.
        record = replace(record, expires_at=given.get("expires_at"))
        self.expected[record.id] = Remembered(record, next(self.numbers))
        return record.id

    def _visible(self, owner: dict[str, str]) -> list[Remembered]:
        return [each for each in self.expected.values() if each.visible and each.belongs_to(owner)]

    # -- the rules ------------------------------------------------------------------------------------------------

    @initialize(target=ids)
    def begin_with_some(self):
        records = self.memory.add_batch([{"content": word, "user_id": "ana"} for word in WORDS[:6]])
        return multiple(*(self._remember(record, record.content, {"user_id": "ana"}) for record in records))

    @rule(target=ids, content=sentences, owner=few_owners, extra=metadata(), expires_at=expiries, created_at=moments,
          defer=st.booleans())  # fmt: skip
    def add(self, content, owner, extra, expires_at, created_at, defer):
        record = self.memory.add(
            content, **owner, metadata=extra, expires_at=expires_at, created_at=created_at, defer=defer
        )
        return self._remember(record, content, owner, metadata=extra, expires_at=expires_at, created_at=created_at)

    @rule(target=ids, contents=st.lists(sentences, max_size=5), owner=few_owners, defer=st.booleans())
    def add_batch(self, contents, owner, defer):
        records = self.memory.add_batch(contents, **owner, defer=defer)
        assert len(records) == len(contents)
        pairs = zip(records, contents, strict=True)
        return multiple(*(self._remember(record, content, owner) for record, content in pairs))

    @rule(key=ids, content=st.one_of(st.none(), sentences), extra=st.one_of(st.none(), metadata()),
          whole=st.booleans(), expires_at=expiries)  # fmt: skip
    def update(self, key, content, extra, whole, expires_at):
        known = self.expected[key]
        call = {"metadata": extra, "replace_metadata": whole, "expires_at": expires_at}
        if not known.visible:
            with pytest.raises(NotFoundError):
                self.memory.update(key, content, **call)
            return
        record = self.memory.update(key, content, **call)
        merged = known.record.metadata
        if extra is not None:
            merged = extra if whole else merged | extra
        expected = replace(
            known.record, content=content or known.record.content, metadata=merged, expires_at=expires_at,
            updated_at=record.updated_at,
        )  # fmt: skip
        assert record == expected
        assert record.updated_at >= known.record.updated_at
        known.record = expected
        known.events.append("update")

    @rule(key=ids)
    def delete(self, key):
        known = self.expected[key]
        assert self.memory.delete(key) is known.visible
        if known.visible:
            known.deleted = True
            known.events.append("delete")

    @rule(key=ids)
    def restore(self, key):
        known = self.expected[key]
        if not known.visible:
            expired = known.record.expires_at is PAST
            if expired and not known.deleted:
                known.events.append("expire")
            known.record = replace(known.record, expires_at=None if expired else known.record.expires_at)
            known.events.append("restore")
            known.deleted = False
        assert self.memory.restore(key) == known.record

    @rule(owner=few_owners, word=st.one_of(st.none(), st.sampled_from(WORDS[:12])), dry_run=st.booleans())
    def delete_all(self, owner, word, dry_run):
        doomed = self._visible(owner)
        filters = None
        if word is not None:
            doomed = [each for each in doomed if each.record.metadata.get("topic") == word]
            filters = {"topic": {"eq": word}}
        assert self.memory.delete_all(**owner, filters=filters, dry_run=dry_run) == len(doomed)
        if not dry_run:
            for each in doomed:
                each.deleted = True
                each.events.append("delete")

    @rule(key=consumes(ids))
    def purge(self, key):
        assert self.memory.purge(key) == 1
        assert self.memory.purge(key) == 0
        assert self.memory.get(key) is None
        assert self.memory.history(key) == []
        del self.expected[key]
        for past in self.pasts:  # It is as one that never was.
            past[:] = [each for each in past if each.record.id != key]

    @rule()
    def close_and_open_again(self):
        self.memory.close()
        self.memory = self._open()

    @rule(model=st.sampled_from(MODELS))
    def move_to_another_model(self, model):
        self.memory.reembed(model)
        self.embedder = model

    @rule(model=st.sampled_from(MODELS), point=st.sampled_from(POINTS), after=st.integers(0, 1))
    def fail_to_move(self, model, point, after):
        """Where it fails before the models have changed places, the old one stays."""
        failpoints.arm(point, failpoints.fail, after=after)
        try:
            self.memory.reembed(model)
            self.embedder = model
        except OSError:
            self.embedder = model if "old vectors" in point and self._is_moved_to(model) else self.embedder
        finally:
            failpoints.disarm()

    def _is_moved_to(self, target):
        try:
            Memory(Path(self.folder.name) / "store.db", embedder=target).close()
        except ModelMismatchError:
            return False
        return True

    @rule(key=consumes(ids))
    def look_closely(self, key):
        known = self.expected[key]
        assert self.memory.get(key) == (known.record if known.visible else None)
        events = self.memory.history(key)
        swept = ["expire"] if events[-1].what == "expire" and not known.visible else []
        assert [event.what for event in events] == known.events + swept
        last = [event.after for event in events if event.after is not None][-1]
        assert (last.content, last.metadata, last.expires_at) == (
            known.record.content, known.record.metadata, known.record.expires_at,
        )  # fmt: skip

    @rule(owner=few_owners, order=st.sampled_from(["newest", "oldest"]), limit=st.integers(1, 7))
    def list_in_pages(self, owner, order, limit):
        expected = sorted(self._visible(owner), key=lambda each: (each.record.created_at, each.order))
        if order == "newest":
            expected.reverse()
        listed, after = [], None
        while True:
            page = self.memory.get_all(**owner, order=order, limit=limit, after=after)
            listed += page
            after = page.next
            if after is None:
                break
        assert listed == [each.record for each in expected]
        assert self.memory.count(**owner) == len(expected)

    @rule(target=instants)
    def note_the_time(self):
        self.pasts.append([replace(each) for each in self.expected.values()])
        return datetime.now(UTC), len(self.pasts) - 1

    @rule(instant=instants, owner=few_owners, query=sentences,
          filters=st.sampled_from([None, {"topic": "*"}, {"NOT": {"topic": "*"}}]))  # fmt: skip
    def look_back(self, instant, owner, query, filters):
        moment, past = instant
        known = [each for each in self.pasts[past] if each.visible and each.belongs_to(owner)]
        if filters is not None:
            known = [each for each in known if ("topic" in each.record.metadata) == ("topic" in filters)]
        known.sort(key=lambda each: (each.record.created_at, each.order))
        asked = {**owner, "filters": filters, "as_of": moment}
        assert list(self.memory.get_all(**asked, order="oldest")) == [each.record for each in known]
        assert self.memory.count(**asked) == len(known)
        for each in self.expected.values():
            seen = [then.record for then in known if then.order == each.order]
            if each.belongs_to(owner) and filters is None:
                assert self.memory.get(each.record.id, as_of=moment) == (seen[0] if seen else None)
        matches = self.memory.search(query, **asked, limit=1000, mode="vector")
        scores = self._brute_force(query, known)
        found = {match.record.id for match in matches}
        assert found <= set(scores)
        for each in known:  # What was deferred, and deleted or replaced before its turn came, has no vector.
            now = self.expected[each.record.id]
            assert each.record.id in found or not now.visible or now.record.content != each.record.content
        for match in matches:
            assert match.record == next(each.record for each in known if each.record.id == match.record.id)
            assert match.score == pytest.approx(scores[match.record.id], abs=3e-3)

    @rule(owner=st.one_of(few_owners, st.none()), query=sentences, limit=st.integers(1, 8),
          threshold=st.sampled_from([None, 0.5]),
          filters=st.sampled_from([None, {"topic": "*"}, {"NOT": {"topic": "*"}}]))  # fmt: skip
    def search(self, owner, query, limit, threshold, filters):
        candidates = self._visible(owner or {})
        if filters is not None:
            candidates = [each for each in candidates if ("topic" in each.record.metadata) == ("topic" in filters)]
        scope = {"all_scopes": True} if owner is None else owner
        matches = self.memory.search(query, **scope, limit=limit, threshold=threshold, filters=filters, mode="vector")
        scores = self._brute_force(query, candidates)
        found = {match.record.id: match.score for match in matches}
        by_id = {each.record.id: each.record for each in candidates}
        assert len(found) == len(matches) <= limit
        assert [match.record for match in matches] == [by_id[each] for each in found]
        assert list(found.values()) == sorted(found.values(), reverse=True)
        for each, score in found.items():
            assert score == pytest.approx(scores[each], abs=3e-3)
        bar = threshold or 0.0
        enough = [each for each, score in scores.items() if score >= bar + 4e-3]
        assert len(matches) >= min(limit, len(enough))
        if matches and len(matches) == limit:
            worst = matches[-1].score
            assert {each for each, score in scores.items() if score > worst + 6e-3} <= set(found)

    def _brute_force(self, query: str, candidates: list[Remembered]) -> dict[str, float]:
        if not candidates:
            return {}
        vectors = self.embedder.embed([query, *(each.record.content for each in candidates)])
        cosines = np.clip(vectors[1:] @ vectors[0], 0, 1)
        return {each.record.id: float(cosine) for each, cosine in zip(candidates, cosines, strict=True)}

    @invariant()
    def the_count_of_everybody_is_right(self):
        assert self.memory.count(all_scopes=True) == len(self._visible({}))


TestMemoryMachine = MemoryMachine.TestCase
