"""Several changes in one transaction: all of them, or none."""

from datetime import UTC, datetime, timedelta

import pytest

from agentmem import DuplicateIdError, EmbeddingError, InvalidInputError, NotFoundError
from agentmem.engine.write_batch import PastVersion
from agentmem.records import Scope
from agentmem.storage.operations import Delete, Expect, Update
from agentmem.storage.types import KEEP, Revision
from agentmem.testing import HashEmbedder


def texts(memory, **scope):
    return {record.content for record in memory.get_all(**(scope or {"user_id": "ana"}))}


def test_changes_are_made_in_their_order_in_one_commit(memory):
    tea, old = (memory.add(text, user_id="ana") for text in ("Likes tea", "Lives in Rome"))
    commits = memory.stats().store.commits
    changes = memory._changes()
    changes.add("Has a cat", user_id="ana", metadata={"topic": "pets"}, role="user")
    changes.update(tea.id, "Likes green tea", metadata={"topic": "drinks"})
    changes.delete(old.id)
    changes.delete("nobody")
    assert texts(memory) == {"Likes tea", "Lives in Rome"}
    cat, green, *gone = changes.commit()
    assert memory.stats().store.commits == commits + 1
    assert texts(memory) == {"Has a cat", "Likes green tea"}
    assert gone == [True, False]
    assert (memory.get(cat.id), memory.get(tea.id)) == (cat, green)
    assert [event.what for event in memory.history(tea.id)] == ["add", "update"]
    assert memory.search("green tea", user_id="ana")[0].record == green
    assert memory._changes().commit() == []


@pytest.mark.parametrize("place", [0, 1, 2])
def test_when_one_cannot_be_made_none_is(memory, place):
    kept, lost = (memory.add(text, user_id="ana") for text in ("Likes tea", "Lives in Rome"))
    changes = memory._changes()
    for number in range(3):
        if number == place:
            changes.update(lost.id, "Lives in Porto")
        changes.add(f"Fact {number}", user_id="ana")
    changes.delete(kept.id)
    memory.delete(lost.id)
    events = memory.history(kept.id)
    with pytest.raises(NotFoundError, match=lost.id):
        changes.commit()
    assert texts(memory) == {"Likes tea"}
    assert memory.history(kept.id) == events
    assert memory.add("Fact 0", user_id="ana", dedupe=True).content == "Fact 0"


def test_who_shares_the_commit_is_not_touched_by_changes_that_cannot_be_made(memory):
    store = memory._engine.store
    kept = memory.add("Likes tea", user_id="ana")
    revision = Revision("text", b"", None, False, KEEP)
    batches = [
        store.prepare([Delete("nobody", Scope())]),
        store.prepare([Delete(kept.id, Scope()), Update("nobody", Scope(), revision)]),
        store.prepare([Expect(kept.id, Scope(), "Likes tea")]),
    ]
    commits = memory.stats().store.commits
    for batch in batches:
        batch.enqueue()
    assert batches[0].result(10) == [False]
    with pytest.raises(NotFoundError):
        batches[1].result(10)
    assert batches[2].result(10) == [None]
    assert memory.stats().store.commits == commits + 1
    assert memory.get(kept.id) == kept
    assert len(memory.history(kept.id)) == 1


def test_a_taken_id_and_a_text_that_is_there_are_seen_among_the_changes_too(memory):
    changes = memory._changes()
    changes.add("one", user_id="ana", id="same")
    changes.add("two", user_id="ana", id="same")
    with pytest.raises(DuplicateIdError):
        changes.commit()
    assert memory.count(user_id="ana") == 0
    changes = memory._changes()
    for _ in range(2):
        changes.add("one", user_id="ana", dedupe=True)
    first, second = changes.commit()
    assert first == second
    assert memory.count(user_id="ana") == 1


def test_bad_input_and_a_failing_model_write_nothing(open_memory):
    class Refuses(HashEmbedder):
        def embed(self, texts):
            if "bad" in texts:
                raise ValueError("no")
            return super().embed(texts)

    memory = open_memory(":memory:", embedder=Refuses())
    changes = memory._changes()
    with pytest.raises(InvalidInputError, match="blank"):
        changes.add(" ", user_id="ana")
    with pytest.raises(InvalidInputError, match="owner"):
        changes.add("text")
    with pytest.raises(NotFoundError):
        changes.update("nobody", "text")
    assert len(changes) == 0
    changes.add("good", user_id="ana")
    changes.add("bad", user_id="ana")
    with pytest.raises(EmbeddingError):
        changes.commit()
    assert memory.count(user_id="ana") == 0


def test_a_scoped_view_changes_nothing_outside(memory):
    other = memory.add("Plays the cello", user_id="ben")
    changes = memory.scope(user_id="ana")._changes()
    changes.add("Likes tea")
    changes.delete(other.id)
    with pytest.raises(NotFoundError):
        changes.update(other.id, "x")
    with pytest.raises(InvalidInputError, match="outside this scope"):
        changes.add("x", user_id="ben")
    assert changes.commit()[1] is False
    assert texts(memory) == {"Likes tea"}
    assert memory.get(other.id) == other


def test_an_expired_memory_is_restored_changed_and_deleted_in_one_go(memory, clock):
    record = memory.add("Parks on level 3", user_id="ana", ttl=60)
    clock.wait(120)
    changes = memory._changes()
    changes.restore(record.id)
    changes.update(record.id, "Parks on level 4", expires_at=None)
    _, changed = changes.commit()
    assert memory.get(record.id) == changed
    assert changed.expires_at is None
    changes = memory._changes()
    changes.restore(record.id)
    changes.delete(record.id)
    changes.commit()
    assert memory.get(record.id, show_expired=True) is None
    assert memory.check() == []


def day(number):
    return datetime(2024, 5, number, 12, tzinfo=UTC)


def test_what_another_store_remembered_comes_with_its_versions_and_their_dates(memory):
    expiry = datetime(2124, 1, 1, tzinfo=UTC)
    changes = memory._changes()
    changes.bring(
        [PastVersion(f"Lives in {city}", day(number)) for number, city in enumerate(("Rome", "Oslo", "Porto"), 1)],
        user_id="ana", id="home", role="user", metadata={"topic": "home"}, created_at=day(1), expires_at=expiry,
    )  # fmt: skip
    changes.bring([PastVersion("Likes tea", day(4))], user_id="ana", id="tea", created_at=day(1))
    before = datetime.now(UTC)
    home, tea = changes.commit()
    assert (home, tea) == (memory.get("home"), memory.get("tea"))
    assert (home.created_at, home.updated_at, home.expires_at) == (day(1), day(3), expiry)
    assert (tea.created_at, tea.updated_at) == (day(1), day(4))
    events = memory.history("home")
    assert [event.what for event in events] == ["add", "update", "update"]
    assert [event.after.content for event in events] == ["Lives in Rome", "Lives in Oslo", "Lives in Porto"]
    assert [event.after.updated_at for event in events] == [day(1), day(2), day(3)]
    assert [event.before and event.before.updated_at for event in events] == [None, day(1), day(2)]
    assert all(before - timedelta(seconds=5) <= event.at for event in events)
    assert memory.search("Porto", user_id="ana", mode="vector")[0].record == home
    assert memory.get("home", as_of=day(28)) is None
    memory.update("home", "Lives in Lisbon")
    assert memory.history("home")[-1].before.updated_at == day(3)
    assert memory.check() == []


def test_a_version_that_is_not_dated_as_its_event_says_is_still_noticed(open_memory):
    memory = open_memory()
    changes = memory._changes()
    changes.bring([PastVersion("a", day(1)), PastVersion("b", day(2))], user_id="ana", id="one", created_at=day(1))
    changes.commit()
    with memory._engine.store._database.writing() as connection:
        connection.execute("UPDATE memory SET updated_at = updated_at + 1")
    assert memory.check() == ["memory 'one' is not as its history left it: it was not updated when that says."]
    assert memory.repair() != []
    assert memory.get("one").updated_at == day(2)


def test_a_reset_erases_everything_of_everybody_when_it_is_meant(memory):
    memory.add("Likes tea", user_id="ana")
    memory.delete(memory.add("Plays the cello", agent_id="bot").id)
    for meant in (False, None, 1, "yes"):
        with pytest.raises(InvalidInputError, match="confirm=True"):
            memory.reset(confirm=meant)
    assert len(memory.search("tea", user_id="ana")) == 1
    assert memory.reset(confirm=True) == 2
    assert memory.search("tea", user_id="ana") == []
    assert memory.count(all_scopes=True) == 0
    assert memory.stats().store.vectors == 0
    memory.add("Likes coffee", user_id="ana")
    assert memory.count(all_scopes=True) == 1
