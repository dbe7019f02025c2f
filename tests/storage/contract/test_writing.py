"""Batches: what each operation does, all of them or none."""

from datetime import UTC, datetime, timedelta

import pytest

from agentmem import DuplicateIdError, EmbeddingError, InvalidInputError, NotFoundError
from agentmem.filters import parse_filters
from agentmem.records import Scope
from agentmem.storage.operations import Delete, Expect, Restore
from agentmem.storage.types import ModelMoved, Outdated, StoredModel
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
    update,
    upsert,
    vector,
)

DAY = datetime(2024, 5, 1, tzinfo=UTC)


def test_an_inserted_memory_is_there_as_it_was_drafted(store):
    made = insert("likes tea", Scope("ana", "helper", "one"), role="user", metadata={"n": [1, {"a": None}]}, id="own",
                  created_at=DAY, expires_at=DAY + timedelta(days=9_999))  # fmt: skip
    [record] = store.commit([made], model=MODEL.identity)
    assert record == made.draft.record()
    with store.snapshot() as snapshot:
        assert snapshot.get("own", ANA) == record
        assert snapshot.get("own", Scope("ana", "helper", "one")) == record
        assert snapshot.get("own", Scope("ana", "other")) is None
        assert snapshot.get("own", BEN) is None
    assert store.vectors([made.vector.digest, b"?"]) == {made.vector.digest: made.vector.vector}


def test_a_taken_id_refuses_the_batch_and_says_where(store):
    add(store, "one", id="taken")
    batch = [insert("two"), insert("three", id="taken"), insert("four")]
    with pytest.raises(DuplicateIdError) as refused:
        store.commit(batch)
    assert refused.value.position == 1
    assert texts(store) == ["one"]
    two, error, four = store.commit(batch, atomic=False)
    assert isinstance(error, DuplicateIdError)
    assert texts(store) == ["one", two.content, four.content]
    add(store, "of another home", BEN, id="taken")
    store.commit([Delete("taken", ANA)])
    with pytest.raises(DuplicateIdError):
        add(store, "a deleted one keeps its id", id="taken")
    with pytest.raises(DuplicateIdError):
        store.commit([insert("a", id="same"), insert("b", id="same")])


def test_a_text_whose_vector_failed_is_refused_alone(store):
    bad = insert("bad")
    bad.vector = EmbeddingError("the model failed")
    good, error = store.commit([insert("good"), bad], atomic=False)
    assert good.content == "good"
    assert isinstance(error, EmbeddingError)
    with pytest.raises(EmbeddingError) as refused:
        store.commit([insert("fine"), bad])
    assert refused.value.position == 1
    assert texts(store) == ["good"]


def test_a_vector_may_be_set_until_the_batch_is_queued(store):
    made = insert("later", pending=True)
    commit = store.prepare([made], model=MODEL.identity)
    assert texts(store) == []
    made.vector = vector("later")
    commit.enqueue()
    [record] = commit.result(10)
    assert record.content == "later"
    assert store.pending_count() == 0
    gone = store.prepare([insert("never")])
    gone.cancel()
    gone.enqueue()
    assert texts(store) == ["later"]


def test_vectors_of_a_model_that_the_store_is_not_of_are_refused(store):
    with pytest.raises(ModelMoved):
        store.commit([insert("text")], model="another")
    assert texts(store) == []
    assert store.model() == MODEL
    assert store.bind_model(StoredModel("another", "other", 3)) == MODEL


@pytest.mark.parametrize("pending", [False, True])
def test_with_dedupe_a_text_is_stored_once_a_scope(store, pending):
    first = add(store, "tea", dedupe=True, pending=pending)
    assert add(store, "tea", dedupe=True, id="unused") == first
    assert add(store, "tea", BEN, dedupe=True).id != first.id
    assert add(store, "tea", Scope("ana", "helper"), dedupe=True).id != first.id
    second = add(store, "tea")  # Not deduplicated.
    assert add(store, "tea", dedupe=True) == first
    store.commit([Delete(first.id, ANA)])
    assert add(store, "tea", dedupe=True) == second
    one, two, three = store.commit([insert("x", dedupe=True), insert("x", dedupe=True), insert("y", dedupe=True)])
    assert one == two != three
    assert len(listed(store, ANA)) == 4
    past = datetime.now(UTC) - timedelta(seconds=1)
    assert add(store, "gone", expires_at=past, dedupe=True).id != add(store, "gone", expires_at=past, dedupe=True).id


def test_an_update_merges_and_the_one_before_stays_in_the_history(store):
    record = add(store, "tea", metadata={"a": 1, "b": 2}, created_at=DAY)
    [new] = store.commit([update(record, "green tea", metadata={"b": 3, "c": None})], model=MODEL.identity)
    assert (new.content, new.metadata, new.created_at) == ("green tea", {"a": 1, "b": 3, "c": None}, DAY)
    assert new.updated_at > record.updated_at
    [new] = store.commit([update(new, metadata={"z": 0}, replace_metadata=True, expires_at=DAY + timedelta(9_999))])
    assert (new.content, new.metadata) == ("green tea", {"z": 0})
    assert listed(store) == [new]
    with store.snapshot() as snapshot:
        events = snapshot.history(record.id, ANA)
    assert [event.what for event in events] == ["add", "update", "update"]
    assert [event.before and event.before.content for event in events] == [None, "tea", "green tea"]
    assert [event.after.metadata for event in events] == [{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}, {"z": 0}]
    assert events[0].seq < events[1].seq < events[2].seq
    with pytest.raises(InvalidInputError):
        store.commit([update(new, metadata={"long": "x" * 100_000})])
    with pytest.raises(NotFoundError):
        store.commit([update(listed(store)[0]), update(insert("nobody").draft.record(), metadata={"a": 1})])
    assert listed(store) == [new]


def test_deleted_and_expired_memories_come_back(store):
    record = add(store, "tea")
    expired = add(store, "milk", expires_at=datetime.now(UTC) - timedelta(seconds=5))
    assert store.commit([Delete(record.id, ANA), Delete(record.id, ANA), Delete("nobody", ANA)]) == [True, False, False]
    assert store.commit([Delete(expired.id, ANA)]) == [False]
    assert texts(store) == []
    assert texts(store, show_expired=True) == ["milk"]
    assert store.commit([Restore(record.id, ANA), Restore(record.id, ANA)]) == [record, record]
    [back] = store.commit([Restore(expired.id, EVERYBODY)])
    assert back.expires_at is None
    assert texts(store) == ["tea", "milk"]
    with pytest.raises(NotFoundError):
        store.commit([Restore(record.id, BEN)])
    with store.snapshot() as snapshot:
        assert [event.what for event in snapshot.history(record.id, ANA)] == ["add", "delete", "restore"]
        assert [event.what for event in snapshot.history(expired.id, ANA)] == ["add", "expire", "restore"]


def test_a_mixed_batch_is_made_whole_or_not_at_all(store):
    tea, milk = add(store, "tea"), add(store, "milk")
    batch = [insert("cake"), update(tea, "green tea"), Delete(milk.id, ANA), Expect(tea.id, ANA, "green tea")]
    cake, green, was_there, nothing = store.commit(batch)
    assert (cake.content, green.content, was_there, nothing) == ("cake", "green tea", True, None)
    for expected in (Expect(tea.id, ANA, "tea"), Expect(milk.id, ANA, "milk"), Expect("nobody", ANA, "")):
        with pytest.raises(Outdated):
            store.commit([insert("bread"), Delete(cake.id, ANA), expected])
    assert sorted(texts(store)) == ["cake", "green tea"]
    done = store.commit([Restore("nobody", ANA), Delete(cake.id, ANA)], atomic=False)
    assert isinstance(done[0], NotFoundError)
    assert done[1] is True


def test_a_version_from_elsewhere_keeps_its_date(store):
    record = add(store, "one", id="old")
    step = update(record, "two")
    step.since = DAY
    [new] = store.commit([step])
    assert new.updated_at == DAY
    with store.snapshot() as snapshot:
        added, updated = snapshot.history("old", ANA)
    assert updated.after.updated_at == DAY
    assert updated.at > added.at


@pytest.mark.parametrize("on_conflict", ["error", "skip", "replace", "new_id"])
def test_memories_from_elsewhere_come_in_once(store, on_conflict):
    coming = [upsert(f"text {number}", id=str(number), on_conflict=on_conflict) for number in range(3)]
    assert store.present(coming) == [False] * 3
    assert store.commit(coming) == ["imported"] * 3
    again = [upsert(f"text {number}", id=str(number), on_conflict=on_conflict) for number in range(3)]
    assert store.present(again) == [True] * 3
    assert store.commit(again) == ["skipped"] * 3
    assert texts(store) == ["text 0", "text 1", "text 2"]


def test_a_conflict_of_ids_is_decided_by_the_policy(store):
    old = add(store, "old", id="same")
    other = add(store, "of an agent", Scope("ana", "helper"), id="agents")
    with pytest.raises(DuplicateIdError) as refused:
        store.commit([upsert("fine", id="fine"), upsert("new", id="same")])
    assert refused.value.position == 1
    assert store.commit([upsert("new", id="same", on_conflict="skip")]) == ["skipped"]
    assert sorted(texts(store)) == ["of an agent", "old"]
    assert store.commit([upsert("new", id="same", on_conflict="replace", metadata={"a": 1})]) == ["replaced"]
    with store.snapshot() as snapshot:
        new = snapshot.get("same", ANA)
        assert (new.content, new.metadata, new.created_at) == ("new", {"a": 1}, old.created_at)
    with pytest.raises(DuplicateIdError):  # Never across scopes.
        store.commit([upsert("new", id="agents", on_conflict="replace")])
    coming = upsert("third", id="same", on_conflict="new_id")
    assert store.commit([coming]) == ["imported"]
    with store.snapshot() as snapshot:
        assert snapshot.get(coming.other_id, ANA).content == "third"
        assert snapshot.get("agents", ANA) == other
    store.commit([Delete("same", ANA)])
    assert store.commit([upsert("new", id="same", on_conflict="replace", metadata={"a": 1})]) == ["replaced"]
    assert "new" in texts(store)


def test_a_derived_id_is_the_memory_itself_whatever_became_of_it(store):
    add(store, "old", id="derived")
    assert store.commit([upsert("changed", id="derived", derived=True)]) == ["skipped"]
    store.commit([Delete("derived", ANA)])
    assert store.commit([upsert("changed", id="derived", derived=True)]) == ["skipped"]
    assert store.commit([upsert("twin", id="a", dedupe=True), upsert("twin", id="b", dedupe=True)]) == [
        "imported", "skipped",
    ]  # fmt: skip


def test_a_derived_id_takes_a_new_version_where_that_is_asked_and_stays_deleted(store):
    add(store, "old", id="derived")
    version = {"id": "derived", "derived": True, "on_conflict": "replace"}
    assert store.present([upsert("old", **version), upsert("new", **version)]) == [True, False]
    assert store.commit([upsert("old", **version)]) == ["skipped"]
    assert store.commit([upsert("new", **version)]) == ["replaced"]
    assert texts(store) == ["new"]
    store.commit([Delete("derived", ANA)])
    assert store.commit([upsert("newer", **version)]) == ["skipped"]
    assert texts(store) == []


def test_everything_that_passes_a_filter_is_hidden_at_once(store):
    store.commit([insert(f"text {number}", metadata={"n": number}) for number in range(9)])
    add(store, "of ben", BEN, metadata={"n": 1})
    assert store.delete_all(ANA, parse_filters({"n": {"lt": 5}}), later()) == 5
    assert texts(store) == [f"text {number}" for number in range(5, 9)] + ["of ben"]
    assert store.delete_all(ANA, parse_filters({"n": {"lt": 5}}), later()) == 0
    assert store.delete_all(EVERYBODY, None, later()) == 5
    assert texts(store) == []


def test_an_update_of_nothing_but_the_expiry(store):
    record = add(store, "tea", metadata={"a": 1})
    [new] = store.commit([update(record, expires_at=DAY + timedelta(days=9_999))])
    assert (new.expires_at, new.metadata) == (DAY + timedelta(days=9_999), {"a": 1})
