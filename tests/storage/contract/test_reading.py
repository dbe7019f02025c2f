"""Snapshots, pages, cursors and past moments."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from agentmem import InvalidInputError
from agentmem.filters import parse_filters
from agentmem.records import Scope
from agentmem.storage.operations import Delete, Restore
from agentmem.storage.types import NEVER
from agentmem.timestamps import from_microseconds
from tests.storage.contract.making import (
    ANA,
    BEN,
    EVERYBODY,
    MODEL,
    add,
    insert,
    later,
    listed,
    texts,
    untold,
    update,
    vector,
)

DAY = datetime(2024, 5, 1, tzinfo=UTC)


def test_a_snapshot_goes_on_seeing_its_moment(store):
    add(store, "before")
    with store.snapshot() as snapshot:
        seq = snapshot.seq
        assert snapshot.count(ANA, None) == 1
    record = add(store, "after")
    with store.snapshot() as snapshot:
        assert snapshot.seq > seq
        assert snapshot.model == MODEL.identity
        erased, changed = snapshot.changed(("user_id", "ana"), seq)
        assert (len(erased), len(changed)) == (0, 1)
        assert snapshot.records(changed, ANA) == {int(changed[0]): record}
        assert snapshot.records(changed, BEN) == {}


@pytest.mark.parametrize("newest_first", [True, False])
def test_pages_follow_each_other_whatever_comes_and_goes(store, newest_first):
    moments = [DAY + timedelta(days=number % 3) for number in range(20)]
    store.commit([insert(f"text {number}", created_at=moment) for number, moment in enumerate(moments)])
    seen, after = [], None
    while True:
        with store.snapshot() as snapshot:
            page = snapshot.page(ANA, None, newest_first=newest_first, after=after, limit=3)
        if not page:
            break
        seen += [record for _, record in page]
        after = page[-1][0]
        if len(seen) == 6:
            store.commit([Delete(seen[0].id, ANA)])
            add(store, "meanwhile", created_at=DAY + timedelta(days=-5 if newest_first else 9))
    assert [record.content for record in seen if record.content != "meanwhile"] == [
        f"text {number}"
        for number in sorted(range(20), key=lambda number: (moments[number], number), reverse=newest_first)
    ]
    assert seen[-1].content == "meanwhile"


def test_owners_see_their_own_and_every_narrower_scope(store):
    scopes = [Scope("ana"), Scope("ana", "a"), Scope("ana", "a", "r"), Scope(None, "a"), Scope(None, None, "r"), BEN]
    for scope in scopes:
        add(store, str(scope), scope)
    for asked in (*scopes, EVERYBODY, Scope(None, "a", "r")):
        expected = [str(each) for each in scopes if set(asked.owners()) <= set(each.owners())]
        assert texts(store, asked) == expected
        with store.snapshot() as snapshot:
            assert snapshot.count(asked, None) == len(expected)
            found = [str(each) for each in snapshot.scopes(asked, None)]
            assert sorted(found) == sorted(expected)
    with store.snapshot() as snapshot:
        assert snapshot.scopes(EVERYBODY, parse_filters({"agent_id": "a"}))[0] == Scope(None, "a")


def test_an_id_of_several_homes_needs_an_owner(store):
    add(store, "of ana", Scope("ana", "a"), id="x")
    add(store, "of ben", Scope("ben", "a"), id="x")
    with store.snapshot() as snapshot:
        assert snapshot.get("x", ANA).content == "of ana"
        for scope in (EVERYBODY, Scope(None, "a")):
            with pytest.raises(InvalidInputError, match="several"):
                snapshot.get("x", scope)
    add(store, "of the agent", Scope(None, "a"), id="x")
    with store.snapshot() as snapshot:  # Its own home comes first.
        assert snapshot.get("x", Scope(None, "a")).content == "of the agent"
        assert snapshot.history("nobody", ANA) == []


def test_the_past_is_as_it_was(store):
    record = add(store, "tea", metadata={"n": 1})
    other = add(store, "milk")
    with store.snapshot() as snapshot:
        then = snapshot.history(other.id, ANA)[0].at
        [first] = [event.at for event in snapshot.history(record.id, ANA)]
    store.commit([update(record, "coffee", metadata={"n": 2})], model=MODEL.identity)
    store.commit([Delete(other.id, ANA)])
    late = add(store, "late")
    assert texts(store, ANA, as_of=then) == ["tea", "milk"]
    assert texts(store, ANA, as_of=first) == ["tea"]
    assert texts(store, ANA, as_of=first - timedelta(microseconds=1)) == []
    assert texts(store, ANA) == ["coffee", "late"]
    with store.snapshot(as_of=then) as snapshot:
        assert snapshot.get(record.id, ANA).metadata == {"n": 1}
        assert snapshot.get(late.id, ANA) is None
        assert snapshot.count(ANA, parse_filters({"n": 1})) == 1
        assert snapshot.count(ANA, parse_filters({"n": 2})) == 0
        keys = np.sort(snapshot.keys(ANA, None))
        [states] = snapshot.states(("user_id", "ana"), keys)
        order = np.argsort(states.keys)
        vectors = states.vectors.reshape(-1, MODEL.dimension)[order]
        assert [each.tobytes() for each in vectors] == [vector("tea").vector, vector("milk").vector]
    store.commit([Restore(other.id, ANA)])
    assert texts(store, ANA, as_of=then) == ["tea", "milk"]
    assert texts(store, ANA) == ["coffee", "milk", "late"]


def test_expired_memories_are_seen_when_asked_for(store):
    past = datetime.now(UTC) - timedelta(seconds=3)
    add(store, "gone", expires_at=past)
    add(store, "stays", expires_at=past + timedelta(days=1))
    deleted = add(store, "deleted before", expires_at=past + timedelta(days=1))
    store.commit([Delete(deleted.id, ANA)])
    assert texts(store) == ["stays"]
    assert texts(store, show_expired=True) == ["gone", "stays"]
    with store.snapshot(as_of=past - timedelta(hours=1)) as snapshot:
        assert snapshot.count(ANA, None) == 0  # Not yet remembered.


def test_a_cursor_fixes_its_moment_and_leaves_out_what_is_purged(store):
    records = store.commit([insert(f"text {number}") for number in range(1_500)], model=MODEL.identity)
    pages = store.cursor(ANA, None, show_expired=False, digest_of=MODEL.digests(), deadline=later())
    first = next(pages)
    assert [record.content for record, _ in first] == [f"text {number}" for number in range(len(first))]
    assert all(embedded == vector(record.content) for record, embedded in first)
    add(store, "meanwhile")
    store.purge(ANA, records[-1].id, tell=untold)
    rest = [record.content for page in pages for record, _ in page]
    assert rest == [f"text {number}" for number in range(len(first), 1_499)]
    [page] = store.cursor(ANA, parse_filters({"id": records[3].id}), show_expired=False, digest_of=None)
    assert page == [(records[3], None)]


def test_an_index_learns_what_changed(store):
    owner = ("user_id", "ana")
    one, two = add(store, "one"), add(store, "two", pending=True, expires_at=DAY + timedelta(days=9_999))
    add(store, "of ben", BEN)
    with store.snapshot() as snapshot:
        seq = snapshot.seq
        _, keys = snapshot.changed(owner, 0)
        [states] = snapshot.states(owner, keys)
        by_key = dict(zip(states.keys.tolist(), states.embedded.tolist(), strict=True))
        assert [by_key[key] for key in keys.tolist()] == [True, False]
        assert sorted(states.expires_at.tolist())[1] == NEVER
        assert len(states.terms) == states.term_counts.sum() > 0
        assert states.runs == [("ana", None)] * 2
        assert from_microseconds(int(states.created_at.min())) <= one.created_at
        assert snapshot.first_pending(owner) is not None
        assert snapshot.first_pending(("user_id", "ben")) is None
        assert snapshot.live_count(owner, 0, seq) == 2
        assert snapshot.nth_change(owner, 0, 2) is not None
        assert snapshot.nth_change(owner, 0, 3) is None
        assert len(snapshot.changed(None, 0)[1]) == 3
    store.commit([update(one, "changed")], model=MODEL.identity)
    store.commit([Delete(two.id, ANA)])
    with store.snapshot() as snapshot:
        _, changed = snapshot.changed(owner, seq)
        assert changed.tolist() == keys.tolist()
        [states] = snapshot.states(owner, changed)
        assert states.keys.tolist() == keys.tolist()[:1]
        assert len(snapshot.changed(("user_id", "ben"), seq)[1]) == 0
    assert len(listed(store, ANA)) == 1
