"""A purged memory is gone from every view, with the vectors that no other memory uses."""

from datetime import UTC, datetime, timedelta

from agentmem.storage.operations import Delete
from tests.storage.contract.making import ANA, BEN, EVERYBODY, MODEL, add, texts, untold, update, vector


def test_a_purged_memory_is_gone_from_the_past_too(store):
    one, two = add(store, "one"), add(store, "two")
    store.commit([update(one, "one again")], model=MODEL.identity)
    with store.snapshot() as snapshot:
        then = snapshot.history(two.id, ANA)[0].at
        seq = snapshot.seq
    erased = store.purge(ANA, one.id, tell=untold)
    assert (erased.count, erased.owners) == (1, {("user_id", "ana")})
    assert erased.digests == {vector("one").digest, vector("one again").digest}
    assert texts(store) == texts(store, as_of=then) == ["two"]
    with store.snapshot() as snapshot:
        assert snapshot.history(one.id, ANA) == []
        gone, changed = snapshot.changed(("user_id", "ben"), seq)
        assert (len(gone), len(changed)) == (1, 0)
    assert store.vectors([vector("one").digest, vector("one again").digest]) == {}
    assert add(store, "anew", id=one.id).id == one.id
    assert store.purge(ANA, "nobody", tell=untold).count == 0


def test_a_vector_stays_where_its_home_has_the_text_in_another_memory(store):
    first, second = add(store, "same"), add(store, "same")
    add(store, "same", BEN)
    store.purge(ANA, first.id, tell=untold)
    assert set(store.vectors([vector("same").digest])) == {vector("same").digest}
    store.purge(ANA, second.id, tell=untold)
    assert store.vectors([vector("same").digest]) == {}
    assert set(store.vectors([vector("same", BEN).digest])) == {vector("same", BEN).digest}


def test_a_scope_is_purged_with_all_that_is_hidden_in_it(store):
    hidden = add(store, "hidden")
    add(store, "expired", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    add(store, "seen")
    add(store, "of ben", BEN)
    store.commit([Delete(hidden.id, ANA)])
    assert store.purge(ANA, tell=untold).count == 3
    assert texts(store, EVERYBODY, show_expired=True) == ["of ben"]
    assert store.purge(EVERYBODY, tell=untold).count == 1
    assert texts(store) == []


def test_what_was_hidden_before_an_instant_goes(store):
    hidden = add(store, "hidden")
    add(store, "seen")
    store.commit([Delete(hidden.id, ANA)])
    assert store.purge(EVERYBODY, hidden_before=datetime.now(UTC) - timedelta(hours=1), tell=untold).count == 0
    assert store.purge(EVERYBODY, hidden_before=datetime.now(UTC) + timedelta(seconds=1), tell=untold).count == 1
    assert texts(store) == ["seen"]
