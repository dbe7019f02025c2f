"""Memories that wait for their vectors, and the leases of the processes that work on them."""

from agentmem import EmbeddingError
from agentmem.storage.operations import Delete, Restore, SetVector
from tests.storage.contract.making import ANA, BEN, EVERYBODY, MODEL, add, insert, untold, update, vector


def waiting(store, scope=EVERYBODY):
    last = store.last_pending(scope)
    return [] if last is None else store.pending(scope, after=0, until=last, limit=100)


def test_a_pending_memory_waits_for_its_vector_oldest_first(store):
    assert waiting(store) == []
    store.commit([insert("one", pending=True), insert("two", BEN, pending=True), insert("three", pending=True)])
    add(store, "has one")
    assert store.pending_count() == 3
    assert [memory.content for memory in waiting(store)] == ["one", "two", "three"]
    one, three = waiting(store, ANA)
    assert store.pending(ANA, after=one.key, until=three.key, limit=5) == [three]
    assert store.pending(ANA, after=0, until=three.key, limit=1) == [one]
    with store.snapshot() as snapshot:
        assert snapshot.has_pending
        _, keys = snapshot.changed(("user_id", "ana"), 0)
        assert sorted(snapshot.unembedded(("user_id", "ana"), keys).values()) == ["one", "three"]
        assert snapshot.unembedded(("user_id", "ana"), keys[:0]) == {}
    batch = [SetVector(memory, vector(memory.content)) for memory in (one, three)]
    assert store.commit(batch, model=MODEL.identity) == [None, None]
    assert [memory.content for memory in waiting(store)] == ["two"]
    with store.snapshot() as snapshot:
        _, keys = snapshot.changed(("user_id", "ana"), 0)
        [states] = snapshot.states(("user_id", "ana"), keys)
        assert states.embedded.all()
        assert (
            snapshot.history(snapshot.page(ANA, None, newest_first=False, after=None, limit=1)[0][1].id, ANA)[-1].what
            == "add"
        )


def test_a_text_that_cannot_be_embedded_is_given_up(store):
    record = add(store, "bad", pending=True)
    [memory] = waiting(store)
    store.commit([SetVector(memory, EmbeddingError("no"))], model=MODEL.identity)
    assert len(store.check(untold)) == 1
    assert store.pending_count() == 0
    with store.snapshot() as snapshot:
        assert not snapshot.has_pending
        assert snapshot.unembedded(None, snapshot.keys(ANA, None)) == {}
    store.commit([update(record, "good")], model=MODEL.identity)


def test_what_changed_meanwhile_is_left_alone(store):
    changed, deleted, done = (add(store, text, pending=True) for text in ("changed", "deleted", "done"))
    old = waiting(store)
    step = update(changed, "new text")
    step.vector = None
    store.commit([step, Delete(deleted.id, ANA)])
    store.commit([SetVector(memory, vector(memory.content)) for memory in old], model=MODEL.identity)
    assert [memory.content for memory in waiting(store)] == ["new text"]
    store.commit([Restore(deleted.id, ANA)])
    assert [memory.content for memory in waiting(store)] == ["new text"]
    [memory] = waiting(store)
    store.commit([SetVector(memory, vector("new text"))])
    assert store.pending_count() == 0
    assert done.content == "done"


def test_a_text_that_its_home_knows_has_its_vector_at_once(store):
    add(store, "tea")
    add(store, "tea", pending=True)
    assert store.pending_count() == 0
    add(store, "tea", BEN, pending=True)
    milk = add(store, "milk")
    step = update(milk, "tea")
    step.vector = None
    store.commit([step])
    assert [memory.content for memory in waiting(store)] == ["tea"]
    assert waiting(store, ANA) == []
    store.commit([insert("new", pending=True), insert("new", pending=True)])
    assert [memory.content for memory in waiting(store, ANA)] == ["new", "new"]


def test_a_lease_has_one_holder_at_a_time(store):
    assert store.lease("work", "1:a", 60) == 0
    assert store.lease("work", "1:a", 60) == 0
    assert 0 < store.lease("work", "1:b", 60) <= 60
    assert store.lease("other work", "1:b", 60) == 0
    store.release("work", "1:b")
    assert store.lease("work", "1:b", 60) > 0
    store.release("work", "1:a")
    assert store.lease("work", "1:b", 60) == 0
