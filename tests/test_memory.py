"""The contract of Memory and ScopedMemory, through the public door."""

import gc
import inspect
import io
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, fields
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentmem
from agentmem import (
    AgentMemError,
    ClosedError,
    Config,
    DuplicateIdError,
    EmbeddingError,
    InvalidInputError,
    Memory,
    ModelMismatchError,
    NotFoundError,
    Record,
    Scope,
    ScopedMemory,
)
from agentmem.ids import new_id
from agentmem.testing import HashEmbedder
from tests.children import finish, run_python, start_python
from tests.conftest import Opener, wait_for_our_threads
from tests.forgery import forge

FUTURE = datetime(2200, 1, 1, tzinfo=UTC)
PAST = datetime(2001, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def contents_of(matches: list[agentmem.Match]) -> list[str]:
    return [match.record.content for match in matches]


class Fussy(HashEmbedder):
    """Fails on texts with the word poison."""

    def embed(self, texts):
        if any("poison" in text for text in texts):
            raise ValueError("will not")
        return super().embed(texts)


# -- add and get --------------------------------------------------------------------------------------------------


def test_what_is_added_is_found_at_once_and_comes_back_as_it_went_in(memory):
    record = memory.add(
        "Prefers window seats", user_id="ana", agent_id="travel", run_id="r1", role="user",
        metadata={"topic": "travel", "stars": 4, "tags": ["a", None, 1.5, {"deep": True}]}, expires_at=FUTURE,
    )  # fmt: skip
    assert record == Record(
        id=record.id, content="Prefers window seats", user_id="ana", agent_id="travel", run_id="r1", role="user",
        metadata={"topic": "travel", "stars": 4, "tags": ["a", None, 1.5, {"deep": True}]},
        created_at=record.created_at, updated_at=record.created_at, expires_at=FUTURE,
    )  # fmt: skip
    assert memory.get(record.id) == record
    [match] = memory.search("window seats", user_id="ana")
    assert match.record == record
    assert 0.5 < match.score <= 1


def test_a_text_finds_itself_first_with_a_score_of_one(memory):
    for number in range(30):
        memory.add(f"memory number {number}", user_id="ana")
    for number in range(30):
        best = memory.search(f"memory number {number}", user_id="ana", mode="vector")[0]
        assert best.record.content == f"memory number {number}"
        assert best.score == pytest.approx(1, abs=2e-3)


def test_ids_are_uuids_of_version_7_in_the_order_of_their_making(memory):
    records = memory.add_batch([f"text {number}" for number in range(50)], user_id="ana")
    assert all(UUID7.fullmatch(record.id) for record in records)
    assert len({new_id(("user_id", "ana")) for _ in range(1000)}) == 1000
    moments = [int(record.id.replace("-", "")[:12], 16) for record in records]
    assert moments == sorted(moments)
    assert abs(moments[0] / 1000 - records[0].created_at.timestamp()) < 1


def test_an_id_of_the_callers_own_is_kept(memory):
    assert memory.add("text", user_id="ana", id="note-1").id == "note-1"
    assert memory.get("note-1").content == "text"
    assert memory.get("note-2") is None


def test_an_id_is_taken_for_ever_even_by_a_deleted_memory_of_another_run(memory):
    memory.add("text", user_id="ana", run_id="r1", id="note-1")
    memory.delete("note-1")
    with pytest.raises(DuplicateIdError, match="'note-1' is taken"):
        memory.add("text", user_id="ana", run_id="r2", id="note-1")
    assert memory.count(all_scopes=True) == 0


def test_times_come_back_in_utc_to_the_microsecond(memory):
    india = timezone(timedelta(hours=5, minutes=30))
    record = memory.add("text", user_id="ana", created_at=PAST.astimezone(india))
    assert record.created_at == PAST
    assert record.created_at.tzinfo is UTC
    stored = memory.get(record.id)
    assert stored == record
    assert stored.created_at.isoformat() == PAST.isoformat()
    assert stored.updated_at > PAST


@pytest.mark.parametrize("moment", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_the_first_and_the_last_moment_of_the_calendar_can_be_stored(memory, moment):
    record = memory.add("text", user_id="ana", created_at=moment)
    assert memory.get(record.id).created_at == moment


def test_results_cannot_be_changed_and_their_metadata_is_a_copy(memory):
    given = {"tags": ["a"]}
    record = memory.add("text", user_id="ana", metadata=given)
    with pytest.raises(FrozenInstanceError):
        record.content = "other"
    given["tags"].append("b")
    memory.get(record.id).metadata["tags"].append("c")
    assert memory.get(record.id).metadata == {"tags": ["a"]} == record.metadata


def test_metadata_may_be_any_mapping_and_tuples_become_lists(memory):
    record = memory.add("text", user_id="ana", metadata=MappingProxyType({"pair": (1, 2)}))
    assert record.metadata == memory.get(record.id).metadata == {"pair": [1, 2]}


def test_control_characters_emoji_and_every_script_are_preserved(memory):
    texts = ["bell \a, escape \x1b, delete \x7f, tab\t and\nlines\r\n", "👩‍👩‍👧‍👦 🇵🇹 e\u0301 é", "北京的秋天",
             "مرحبا بالعالم", "  spaces around  ", "\ufeffmark", "\U0010ffff\ufffe"]  # fmt: skip
    for text in texts:
        record = memory.add(text, user_id="ana", metadata={"same": text, text: 1})
        assert memory.get(record.id).content == text
        assert memory.get(record.id).metadata == {"same": text, text: 1}
        assert memory.search(text, user_id="ana")[0].record.content == text


def test_the_same_text_twice_is_two_memories_with_one_vector(memory):
    first, second = (memory.add("text", user_id="ana") for _ in range(2))
    assert first.id != second.id
    assert memory.count(user_id="ana") == 2
    assert memory.stats().store.vectors == 1
    assert [match.record.id for match in memory.search("text", user_id="ana")] == [second.id, first.id]


# -- search -------------------------------------------------------------------------------------------------------


def test_matches_come_best_first_and_never_more_than_the_limit(memory):
    memory.add_batch([f"tea and {word}" for word in "coffee cello seats nuts Lisbon".split()], user_id="ana")  # noqa: SIM905
    matches = memory.search("tea", user_id="ana", limit=3)
    assert len(matches) == 3
    assert [match.score for match in matches] == sorted((match.score for match in matches), reverse=True)
    assert matches == memory.search("tea", user_id="ana", limit=1_000_000)[:3]


def test_the_threshold_leaves_out_what_scores_less(memory):
    memory.add_batch(["tea in the morning", "plays the cello", "tea"], user_id="ana")
    scores = [match.score for match in memory.search("tea", user_id="ana")]
    assert len(scores) == 3
    assert [match.score for match in memory.search("tea", user_id="ana", threshold=scores[1])] == scores[:2]
    assert memory.search("tea", user_id="ana", threshold=1.0) in ([], memory.search("tea", user_id="ana", limit=1))


def test_filters_decide_before_the_ranking(memory):
    memory.add_batch([{"content": "tea", "metadata": {"n": number}} for number in range(50)], user_id="ana")
    memory.add("quite another thing", user_id="ana", metadata={"n": 1000})
    assert contents_of(memory.search("tea", user_id="ana", limit=1, filters={"n": {"gt": 99}})) == [
        "quite another thing"
    ]
    assert memory.search("tea", user_id="ana", filters={"n": -1}) == []


def test_a_search_explains_itself_when_asked(memory):
    memory.add("tea", user_id="ana")
    [match] = memory.search("tea", user_id="ana", mode="vector", explain=True)
    assert match.explanation["vector"] == match.score
    assert memory.search("tea", user_id="ana")[0].explanation is None


def test_a_search_in_an_empty_store_finds_nothing(memory):
    assert memory.search("anything", user_id="ana") == []
    assert memory.search_batch([], user_id="ana") == []
    assert memory.search("anything", all_scopes=True) == []


def test_many_searches_at_once_answer_in_the_order_of_their_questions(memory):
    texts = [f"memory number {number}" for number in range(300)]
    memory.add_batch(texts, user_id="ana")
    answers = memory.search_batch(reversed(texts), user_id="ana", limit=2)
    assert [contents_of(matches)[0] for matches in answers] == texts[::-1]
    assert all(len(matches) == 2 for matches in answers)
    assert memory.search_batch(iter(texts[:1]), user_id="ana")[0] == memory.search(texts[0], user_id="ana")


def test_a_search_whose_embedding_fails_says_so(open_memory):
    memory = open_memory(embedder=Fussy())
    memory.add("tea", user_id="ana")
    with pytest.raises(EmbeddingError, match="will not"):
        memory.search("poison", user_id="ana")
    assert contents_of(memory.search("tea", user_id="ana")) == ["tea"]


# -- expiry -------------------------------------------------------------------------------------------------------


def test_what_has_expired_is_seen_by_no_read_and_cannot_be_changed(memory):
    memory.add("lasting tea", user_id="ana", expires_at=FUTURE)
    expired = memory.add("yesterday's tea", user_id="ana", expires_at=PAST)
    assert memory.get(expired.id) is None
    assert memory.count(user_id="ana") == 1
    assert contents_of(memory.search("tea", user_id="ana")) == ["lasting tea"]
    assert [record.content for record in memory.get_all(user_id="ana")] == ["lasting tea"]
    assert memory.delete(expired.id) is False
    with pytest.raises(NotFoundError):
        memory.update(expired.id, "new")
    assert memory.delete_all(user_id="ana", dry_run=True) == 1
    assert memory.history(expired.id)[0].what == "add"


def test_a_loaded_index_forgets_what_expires_by_an_update(memory):
    record = memory.add("tea", user_id="ana")
    assert len(memory.search("tea", user_id="ana")) == 1
    memory.update(record.id, expires_at=PAST)
    assert memory.search("tea", user_id="ana") == []


# -- update and history -------------------------------------------------------------------------------------------


def test_an_update_gives_a_new_version_that_the_next_search_finds(memory):
    old = memory.add("drinks tea", user_id="ana", metadata={"a": 1, "b": 1}, created_at=PAST, role="user")
    memory.search("warm", user_id="ana")
    new = memory.update(old.id, "plays the cello", metadata={"b": 2, "c": 3})
    assert new.content == "plays the cello"
    assert new.metadata == {"a": 1, "b": 2, "c": 3}
    assert (new.id, new.created_at, new.role, new.user_id) == (old.id, old.created_at, "user", "ana")
    assert new.updated_at > old.updated_at
    assert memory.get(old.id) == new
    [match] = memory.search("plays the cello", user_id="ana", mode="vector")
    assert match.record == new
    assert match.score == pytest.approx(1, abs=2e-3)


def test_metadata_is_merged_or_replaced_as_asked(memory):
    record = memory.add("text", user_id="ana", metadata={"a": {"x": 1}, "b": 1})
    assert memory.update(record.id, metadata={"a": {"y": 2}}).metadata == {"a": {"y": 2}, "b": 1}
    assert memory.update(record.id, metadata={"c": 1}, replace_metadata=True).metadata == {"c": 1}
    assert memory.update(record.id, metadata={}, replace_metadata=True).metadata == {}
    assert memory.get(record.id).metadata == {}


def test_expiry_is_set_kept_and_taken_away_by_updates(memory):
    record = memory.add("text", user_id="ana")
    assert memory.update(record.id, expires_at=FUTURE).expires_at == FUTURE
    assert memory.update(record.id, "other").expires_at == FUTURE
    assert memory.update(record.id, expires_at=None).expires_at is None


def test_an_update_whose_embedding_fails_changes_nothing(open_memory):
    memory = open_memory(embedder=Fussy())
    record = memory.add("tea", user_id="ana")
    with pytest.raises(EmbeddingError):
        memory.update(record.id, "poison", metadata={"a": 1})
    assert memory.get(record.id) == record
    assert len(memory.history(record.id)) == 1


def test_merged_metadata_may_not_outgrow_the_limit(open_memory):
    memory = open_memory(config=Config(max_metadata_bytes=100))
    record = memory.add("text", user_id="ana", metadata={"a": "x" * 60})
    with pytest.raises(InvalidInputError, match="max_metadata_bytes = 100"):
        memory.update(record.id, metadata={"b": "x" * 60})
    assert memory.get(record.id) == record


def test_the_history_tells_every_event_with_its_before_and_after(memory):
    record = memory.add("one", user_id="ana", metadata={"n": 1})
    memory.update(record.id, "two", metadata={"n": 2})
    memory.delete(record.id)
    memory.restore(record.id)
    memory.update(record.id, expires_at=FUTURE)
    events = memory.history(record.id)
    assert [event.what for event in events] == ["add", "update", "delete", "restore", "update"]
    seen = [
        (event.before and (event.before.content, event.before.metadata, event.before.expires_at),
         event.after and (event.after.content, event.after.metadata, event.after.expires_at))
        for event in events
    ]  # fmt: skip
    one, two = ("one", {"n": 1}, None), ("two", {"n": 2}, None)
    assert seen == [(None, one), (one, two), (two, None), (None, two), (two, ("two", {"n": 2}, FUTURE))]
    assert [event.seq for event in events] == sorted({event.seq for event in events})
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert {event.memory_id for event in events} == {record.id}
    assert memory.history("never was") == []


def test_an_update_of_nothing_visible_says_so(memory):
    record = memory.add("text", user_id="ana")
    memory.delete(record.id)
    for name in (record.id, "never was"):
        with pytest.raises(NotFoundError, match=re.escape(repr(name))):
            memory.update(name, "new")
        with pytest.raises(NotFoundError):
            memory.update(name, metadata={"a": 1})


# -- delete and restore -------------------------------------------------------------------------------------------


def test_a_deleted_memory_is_gone_from_every_read_until_it_is_restored(memory):
    record = memory.add("tea", user_id="ana")
    memory.search("tea", user_id="ana")
    assert memory.delete(record.id) is True
    assert memory.delete(record.id) is False
    assert memory.get(record.id) is None
    assert memory.count(user_id="ana") == 0
    assert memory.search("tea", user_id="ana") == []
    assert len(memory.get_all(user_id="ana")) == 0
    assert memory.restore(record.id) == record
    assert memory.restore(record.id) == record
    assert memory.get(record.id) == record
    assert contents_of(memory.search("tea", user_id="ana")) == ["tea"]
    assert [event.what for event in memory.history(record.id)] == ["add", "delete", "restore"]
    with pytest.raises(NotFoundError, match="'never was'"):
        memory.restore("never was")
    assert memory.delete("never was") is False


def test_delete_all_hides_what_the_listing_shows_and_nothing_else(memory):
    memory.add_batch([{"content": f"text {n}", "metadata": {"n": n}} for n in range(10)], user_id="ana")
    memory.add("text of ben", user_id="ben")
    gone = memory.get_all(user_id="ana", filters={"n": {"gte": 6}}).records
    assert memory.delete_all(user_id="ana", filters={"n": {"gte": 6}}, dry_run=True) == 4
    assert memory.count(user_id="ana") == 10
    assert memory.delete_all(user_id="ana", filters={"n": {"gte": 6}}) == 4
    assert memory.count(user_id="ana") == 6
    assert len(memory.search("text", user_id="ana")) == 6
    assert memory.delete_all(user_id="ana", filters={"n": {"gte": 6}}) == 0
    for record in gone:
        assert [event.what for event in memory.history(record.id)] == ["add", "delete"]
        assert memory.restore(record.id) == record
    assert memory.delete_all(user_id="ana") == 10
    assert memory.count(all_scopes=True) == 1
    assert memory.delete_all(all_scopes=True) == 1


# -- owners -------------------------------------------------------------------------------------------------------


def test_a_read_sees_the_memories_that_match_every_owner_it_names(memory):
    memory.add("tea a1", user_id="ana", agent_id="one")
    memory.add("tea a2", user_id="ana", agent_id="two")
    memory.add("tea b1", user_id="ben", agent_id="one", run_id="r")
    for owners, found in [
        ({"user_id": "ana"}, {"tea a1", "tea a2"}),
        ({"agent_id": "one"}, {"tea a1", "tea b1"}),
        ({"user_id": "ana", "agent_id": "one"}, {"tea a1"}),
        ({"run_id": "r"}, {"tea b1"}),
        ({"user_id": "ana", "run_id": "r"}, set()),
        ({"all_scopes": True}, {"tea a1", "tea a2", "tea b1"}),
    ]:
        assert set(contents_of(memory.search("tea", **owners))) == found
        assert {record.content for record in memory.get_all(**owners)} == found
        assert memory.count(**owners) == memory.delete_all(**owners, dry_run=True) == len(found)
        assert {match.record.content for match in memory.search_batch(["tea"], **owners)[0]} == found


def test_forgetting_the_owner_is_an_error_on_every_call(memory):
    memory.add("tea", user_id="ana")
    for call in (
        lambda: memory.add("tea"),
        lambda: memory.add_batch(["tea"]),
        lambda: memory.add_messages([{"role": "user", "content": "tea"}]),
        lambda: memory.search("tea"),
        lambda: memory.search_batch(["tea"]),
        lambda: memory.get_all(),
        lambda: memory.count(),
        lambda: memory.scopes(),
        lambda: memory.delete_all(),
        lambda: memory.delete_all(dry_run=True),
        lambda: memory.scope(),
    ):
        with pytest.raises(InvalidInputError, match="No owner was given"):
            call()
    with pytest.raises(InvalidInputError, match="drop one of the two"):
        memory.search("tea", user_id="ana", all_scopes=True)
    assert memory.count(all_scopes=True) == 1


def test_the_scopes_are_those_of_the_memories_that_are_there_to_see(memory):
    memory.add("x", user_id="team/a/ana", run_id="1")
    memory.add("y", user_id="team/a/ana", run_id="1")
    memory.add("z", user_id="team/a/ana")
    memory.add("z", user_id="team/b", agent_id="planner")
    gone = memory.add("z", user_id="team/a0")
    memory.delete(gone.id)
    memory.add("z", agent_id="planner")
    ana, ana_run, team, planner = (
        Scope("team/a/ana"), Scope("team/a/ana", None, "1"), Scope("team/b", "planner"), Scope(None, "planner"),
    )  # fmt: skip
    assert memory.scopes(all_scopes=True) == [planner, ana, ana_run, team]
    assert memory.scopes(agent_id="planner") == [planner, team]
    below = {"user_id": {"gte": "team/a/", "lt": "team/a0"}}
    assert memory.scopes(all_scopes=True, filters=below) == [ana, ana_run]
    assert memory.scope(user_id="team/a/ana").scopes() == [ana, ana_run]
    assert memory.scopes(user_id="ben") == []
    with pytest.raises(InvalidInputError, match="No owner"):
        memory.scopes()


def test_a_scope_cannot_reach_outside_itself(memory):
    mine = memory.add("tea", user_id="ana", agent_id="one")
    others = [memory.add("tea", user_id="ben", agent_id="one"), memory.add("tea", agent_id="one")]
    ana = memory.scope(user_id="ana")
    assert [match.record for match in ana.search("tea")] == [mine]
    assert [match.record for match in ana.search("tea", agent_id="one")] == [mine]
    assert ana.get_all().records == [mine]
    assert ana.count(filters={"OR": [{"user_id": "ben"}, {"user_id": "ana"}, {"user_id": {"exists": False}}]}) == 1
    assert ana.get(mine.id) == mine
    for other in others:
        assert ana.get(other.id) is None
        assert ana.delete(other.id) is False
        assert ana.history(other.id) == []
        with pytest.raises(NotFoundError, match="user_id='ana'"):
            ana.update(other.id, "changed")
        with pytest.raises(NotFoundError):
            ana.update(other.id, metadata={"a": 1})
        memory.delete(other.id)
        with pytest.raises(NotFoundError):
            ana.restore(other.id)
        memory.restore(other.id)
        ana.purge(ana.add("tea", id=other.id).id)
        assert memory.get(other.id) == other
    for call in (
        lambda: ana.add("tea", user_id="ben"),
        lambda: ana.add_batch([{"content": "tea", "user_id": "ben"}]),
        lambda: ana.search("tea", user_id="ben"),
        lambda: ana.scope(user_id="ben"),
    ):
        with pytest.raises(InvalidInputError, match="outside this scope"):
            call()
    for call in (ana.get_all, ana.count, ana.delete_all):
        with pytest.raises(InvalidInputError, match="cannot leave the scope"):
            call(all_scopes=True)
    assert ana.delete_all() == 1
    assert {record.id for record in memory.get_all(all_scopes=True)} == {other.id for other in others}


def test_a_scope_adds_for_its_owner_and_narrows_further(memory):
    ana = memory.scope(user_id="ana")
    assert ana.add("tea").user_id == "ana"
    run = ana.scope(run_id="r")
    record = run.add_messages([{"role": "user", "content": "coffee"}], agent_id="one")[0]
    assert (record.user_id, record.agent_id, record.run_id) == ("ana", "one", "r")
    assert run.count() == 1
    assert ana.count() == 2
    assert run.add_batch(["a", "b"], user_id="ana")[1].run_id == "r"


def test_a_scope_keeps_its_memory_open(store_path):
    view = Memory(store_path, embedder=HashEmbedder()).scope(user_id="ana")
    gc.collect()
    assert view.add("tea").user_id == "ana"
    assert view.scope(run_id="r").count() == 0
    del view
    gc.collect()
    wait_for_our_threads()


# -- listings -----------------------------------------------------------------------------------------------------


def test_pages_follow_created_at_in_both_orders_and_hold_everything_once(memory):
    moments = [PAST + timedelta(seconds=number % 7) for number in range(40)]
    records = [memory.add(f"text {n}", user_id="ana", created_at=moment) for n, moment in enumerate(moments)]
    by_age = [record for _, record in sorted(enumerate(records), key=lambda pair: (pair[1].created_at, pair[0]))]
    for order, expected in (("oldest", by_age), ("newest", by_age[::-1])):
        listed, after = [], None
        while True:
            page = memory.get_all(user_id="ana", limit=7, after=after, order=order)
            assert len(page) == len(page.records) <= 7
            listed += page
            after = page.next
            if after is None:
                break
        assert listed == expected
    assert memory.get_all(user_id="ana", limit=40).next is None
    assert memory.get_all(user_id="ana").records == by_age[::-1]


def test_pages_are_stable_while_others_add_and_delete(memory):
    stay = [memory.add(f"stays {n}", user_id="ana", created_at=PAST + timedelta(seconds=2 * n)) for n in range(60)]
    go = [memory.add(f"goes {n}", user_id="ana", created_at=PAST + timedelta(seconds=2 * n + 1)) for n in range(60)]
    stop = threading.Event()

    def disturb() -> None:
        for number, record in enumerate(go):
            memory.delete(record.id)
            memory.add(f"new {number}", user_id="ana", created_at=PAST + timedelta(seconds=2 * number + 1))
            if stop.is_set():
                return

    with ThreadPoolExecutor(1) as pool:
        disturbance = pool.submit(disturb)
        try:
            for order in ("newest", "oldest"):
                listed, after = [], None
                while True:
                    page = memory.get_all(user_id="ana", limit=7, after=after, order=order)
                    listed += [record.id for record in page]
                    after = page.next
                    if after is None:
                        break
                assert len(listed) == len(set(listed))
                assert {record.id for record in stay} <= set(listed)
        finally:
            stop.set()
        disturbance.result()


def test_a_page_deleted_meanwhile_does_not_break_the_next_one(memory):
    memory.add_batch([f"text {number}" for number in range(10)], user_id="ana")
    page = memory.get_all(user_id="ana", limit=4)
    memory.delete_all(user_id="ana", filters={"id": [record.id for record in page]})
    rest = memory.get_all(user_id="ana", limit=100, after=page.next)
    assert [record.content for record in rest] == [f"text {number}" for number in range(5, -1, -1)]
    assert rest.next is None


def test_counts_agree_with_listings_under_a_filter(memory):
    memory.add_batch([{"content": f"t{n}", "metadata": {"even": n % 2 == 0}} for n in range(9)], user_id="ana")
    assert memory.count(user_id="ana", filters={"even": True}) == 5
    assert len(memory.get_all(user_id="ana", filters={"NOT": {"even": True}})) == 4


# -- batches and messages -----------------------------------------------------------------------------------------


def test_a_batch_keeps_its_order_and_items_override_the_keywords(memory):
    records = memory.add_batch(
        ["plain", {"content": "own", "user_id": "ben", "role": "tool", "metadata": {"x": 1}, "id": "b1"},
         {"content": "dated", "created_at": PAST, "expires_at": None}],
        user_id="ana", agent_id="one", role="user", metadata={"d": 1}, expires_at=FUTURE,
    )  # fmt: skip
    assert [record.content for record in records] == ["plain", "own", "dated"]
    assert [(r.user_id, r.agent_id, r.role, r.metadata, r.expires_at) for r in records] == [
        ("ana", "one", "user", {"d": 1}, FUTURE),
        ("ben", "one", "tool", {"x": 1}, FUTURE),
        ("ana", "one", "user", {"d": 1}, None),
    ]
    assert records[1].id == "b1"
    assert records[2].created_at == PAST
    assert [memory.get(record.id) for record in records] == records
    assert memory.add_batch([], user_id="ana") == []


def test_a_batch_of_a_thousand_from_a_generator_is_stored_whole_and_in_order(memory):
    records = memory.add_batch((f"text {number}" for number in range(1000)), user_id="ana")
    assert [record.content for record in records] == [f"text {number}" for number in range(1000)]
    assert len({record.id for record in records}) == 1000
    listed = memory.get_all(user_id="ana", limit=1000, order="oldest").records
    assert [record.content for record in listed] == [f"text {number}" for number in range(1000)]


def test_a_bad_item_in_a_list_raises_with_its_position_before_anything_is_written(memory):
    items = [f"text {number}" for number in range(300)] + [{"content": " "}]
    with pytest.raises(InvalidInputError, match="Item 300: content is ' '"):
        memory.add_batch(items, user_id="ana")
    assert memory.count(user_id="ana") == 0


def test_a_bad_item_in_a_generator_leaves_the_chunks_before_its_own(memory):
    with pytest.raises(InvalidInputError, match="Item 300"):
        memory.add_batch((f"text {n}" if n < 300 else "" for n in range(301)), user_id="ana")
    assert memory.count(user_id="ana") == 256


def test_with_return_every_good_item_is_stored_and_errors_stand_in_their_places(open_memory):
    memory = open_memory(embedder=Fussy())
    memory.add("there", user_id="ana", id="taken")
    items = [
        "good 1", "", {"content": "good 2", "id": "x"}, {"content": "again", "id": "x"},
        {"content": "a", "id": "taken"},
        "poison", {"content": "who", "user": 1}, 7, {"content": "m", "metadata": {"n": float("nan")}}, "good 3",
    ]  # fmt: skip
    results = memory.add_batch(items, user_id="ana", on_error="return")
    kinds = [type(result) for result in results]
    assert kinds == [
        Record, InvalidInputError, Record, DuplicateIdError, DuplicateIdError,
        EmbeddingError, InvalidInputError, InvalidInputError, InvalidInputError, Record,
    ]  # fmt: skip
    assert "Item 1:" in str(results[1])
    assert "'user'" in str(results[6])
    stored = memory.get_all(user_id="ana", order="oldest").records
    assert [record.content for record in stored] == ["there", "good 1", "good 2", "good 3"]
    assert [result for result in results if isinstance(result, Record)] == stored[1:]


def test_with_raise_nothing_of_the_failing_chunk_is_stored(open_memory):
    memory = open_memory(embedder=Fussy())
    with pytest.raises(EmbeddingError):
        memory.add_batch([f"text {number}" for number in range(100)] + ["poison"], user_id="ana")
    assert memory.count(user_id="ana") == 0
    with pytest.raises(DuplicateIdError):
        memory.add_batch([{"content": "a", "id": "x"}, {"content": "b", "id": "x"}], user_id="ana")
    assert memory.count(user_id="ana") == 0


def test_chat_messages_are_remembered_in_order_with_role_and_name(memory):
    records = memory.add_messages(
        [
            {"role": "system", "content": "You are kind."},
            {"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {}},
                                         {"type": "text", "text": "my cat"}], "name": "Ana"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
            {"role": "tool", "content": "12 degrees", "tool_call_id": "1", "id": "m4", "created_at": PAST},
        ],
        user_id="ana", run_id="chat", metadata={"source": "chat"},
    )  # fmt: skip
    assert [(r.role, r.content) for r in records] == [
        ("system", "You are kind."), ("user", "Look:\nmy cat"), ("tool", "12 degrees"),
    ]  # fmt: skip
    assert records[1].metadata == {"source": "chat", "name": "Ana"}
    assert (records[2].id, records[2].created_at) == ("m4", PAST)
    assert memory.count(run_id="chat") == 3
    assert memory.add_messages([], user_id="ana") == []


WITHOUT_TEXT = [
    {"role": "user", "content": ""},
    {"role": "user", "content": " \n"},
    {"role": "user", "content": []},
    {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
    {"role": "user", "content": [{"type": "text", "text": " "}]},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    {"role": "assistant", "content": "", "function_call": {"name": "f"}},
    {"role": "assistant", "tool_calls": [{"id": "1"}]},
    {"role": "assistant", "content": None, "refusal": "I cannot."},
    {"role": "assistant", "content": None, "audio": {"id": "1"}},
]


@pytest.mark.parametrize("message", WITHOUT_TEXT, ids=repr)
def test_a_message_without_text_is_left_out(memory, message):
    said = [{"role": "user", "content": "before"}, message, {"role": "user", "content": "after"}]
    assert [record.content for record in memory.add_messages(said, user_id="ana")] == ["before", "after"]
    assert memory.add_messages([message], user_id="ana") == []


@given(
    before=st.lists(st.sampled_from([None, *WITHOUT_TEXT])),
    wrong=st.sampled_from([
        {"role": "user", "content": 5}, {"role": "user", "content": None}, {"role": "user", "content": "x" * 200},
        {"role": " ", "content": "x"}, {"role": "user", "content": "x", "mood": 1}, {"role": "user"}, "text",
        {"role": "user", "content": "x", "id": "taken"}, {"role": "user", "content": "poison"},
    ]),
    defer=st.booleans(),
)  # fmt: skip
def test_a_message_is_named_by_its_position_among_all_that_were_given(before, wrong, defer):
    with Memory(":memory:", embedder=Fussy(), config=Config(max_content_bytes=100)) as memory:
        memory.add("x", user_id="ana", id="taken")
        messages = [each or {"role": "user", "content": "fine"} for each in before]
        deferred = defer and "poison" not in str(wrong)  # A later failure fails no call.
        with pytest.raises(AgentMemError, match=f"^Message {len(before)}: "):
            memory.add_messages([*messages, wrong], user_id="ana", defer=deferred)
        assert memory.count(user_id="ana") == 1
        assert memory.check() == []


@pytest.mark.parametrize(
    "message", [{"role": "user"}, {"content": "x"}, "text", {"role": "user", "content": "x", "mood": 1}]
)
def test_a_message_that_is_none_is_refused_with_its_position(memory, message):
    with pytest.raises(InvalidInputError, match="Message 1"):
        memory.add_messages([{"role": "user", "content": "fine"}, message], user_id="ana")
    assert memory.count(user_id="ana") == 0


def test_a_view_says_whose_it_is_and_of_which_store(memory):
    view = memory.scope(user_id="ana")
    assert repr(view) == f"ScopedMemory({memory.path!r}, user_id='ana')"
    assert repr(view.scope(run_id="chat")) == f"ScopedMemory({memory.path!r}, user_id='ana', run_id='chat')"
    assert repr(memory).startswith("Memory(")


def test_code_that_is_handed_a_view_cannot_reach_the_whole_store(memory):
    memory.add("of ben", user_id="ben")
    view = memory.scope(user_id="ana")
    assert not isinstance(view, Memory)
    assert not isinstance(memory, ScopedMemory)
    offered = {name for name in dir(view) if not name.startswith("_")}
    assert {name for name in dir(memory) if not name.startswith("_")} - offered == {
        "backup", "check", "close", "path", "reembed", "repair", "reset", "stats", "vacuum",
    }  # fmt: skip
    for name in offered:
        call = getattr(view, name)
        assert call.__self__ is view
        keywords = inspect.signature(call).parameters
        if "all_scopes" in keywords:
            given = ["x"] if name in ("search", "context") else [["x"]] if name == "search_batch" else []
            given = [io.StringIO()] if name == "export" else given
            with pytest.raises(InvalidInputError, match="all_scopes=True cannot leave"):
                call(*given, all_scopes=True)
    assert view.purge() == 0
    assert memory.count(user_id="ben") == 1


# -- statistics, check, closing -----------------------------------------------------------------------------------


def test_the_statistics_count_what_happened(open_memory):
    memory = open_memory()
    memory.add_batch(["a", "b", "b"], user_id="ana")
    memory.delete(memory.add("c", user_id="ana").id)
    memory.search("a", user_id="ana")
    stats = memory.stats()
    assert (stats.store.memories, stats.store.deleted, stats.store.vectors) == (3, 1, 3)
    assert stats.embedding.texts == 3
    assert stats.embedding.coalesced == 1
    assert stats.embedding.cache_hits == 1
    assert stats.embedding.cache_entries == 3
    assert stats.embedding.cache_bytes > 0
    assert (stats.store.commits, stats.store.writes) == (3, 3)
    assert (stats.search.indexes, stats.search.indexes_evicted) == (1, 0)
    assert stats.search.index_bytes > 0
    assert stats.store.bytes > 0
    embedding = stats.embedding
    assert (embedding.waiting_texts, embedding.waiting_tokens, embedding.failed, embedding.dropped) == (0, 0, 0, 0)
    assert stats.process.background_errors == {}
    assert {"commit", "embed", "search", "tokenise", "wait"} <= stats.process.timings.keys()
    assert stats.process.timings["search"].keys() == {"p50", "p90", "p99"}


def test_little_room_for_indexes_and_cache_changes_no_answer(open_memory):
    memory = open_memory(config=Config(index_bytes=0, cache_bytes=0))
    for owner in ("ana", "ben", "eva"):
        memory.add_batch([f"{owner} likes tea {number}" for number in range(20)], user_id=owner)
    for _ in range(2):
        for owner in ("ana", "ben", "eva"):
            matches = memory.search("likes tea 7", user_id=owner)
            assert matches[0].record.content == f"{owner} likes tea 7"
    assert memory.stats().search.indexes == 1
    assert memory.stats().search.indexes_evicted == 5
    assert memory.stats().embedding.cache_entries == 0


def test_a_closed_memory_refuses_every_call_and_closes_twice(store_path):
    memory = Memory(store_path, embedder=HashEmbedder())
    view = memory.scope(user_id="ana")
    tea = view.add("tea").id
    memory.close()
    memory.close()
    for call in (
        lambda: memory.add("tea", user_id="ana"),
        lambda: view.add("new text"),
        lambda: view.add_batch(["tea"]),
        lambda: view.search("tea"),
        lambda: view.search_batch(["tea"]),
        lambda: view.get(tea),
        lambda: view.get_all(),
        lambda: view.count(),
        lambda: view.update(tea, "new"),
        lambda: view.update(tea, metadata={"a": 1}),
        lambda: view.delete(tea),
        lambda: view.restore(tea),
        lambda: view.delete_all(),
        lambda: view.history(tea),
        memory.stats,
        memory.check,
    ):
        with pytest.raises(ClosedError, match="closed"):
            call()
    with Memory(store_path, embedder=HashEmbedder()) as again:
        assert again.get(tea).content == "tea"
        assert again.check() == []


def test_a_closed_store_is_one_file(store_path, tmp_path):
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        memory.add("tea", user_id="ana")
        memory.search("tea", user_id="ana")
    assert [path.name for path in tmp_path.iterdir()] == [store_path.name]


def test_the_path_may_be_text_or_a_path_and_survives_a_change_of_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with Memory("relative.db", embedder=HashEmbedder()) as memory:
        memory.add("tea", user_id="ana")
        monkeypatch.chdir(tmp_path / "elsewhere")
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda _: memory.count(user_id="ana"), range(8))) == [1] * 8
    assert (tmp_path / "relative.db").is_file()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    with Memory(tmp_path / "relative.db", embedder=HashEmbedder()) as memory:
        assert memory.count(user_id="ana") == 1
        assert str(tmp_path) in repr(memory)


def test_check_names_what_is_wrong(store_path):
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        ids = [memory.add(f"text {number}", user_id="ana").id for number in range(4)]
        assert memory.check() == []
    forge(store_path, "UPDATE memory SET content = 'forged' WHERE id = ?", parameters=(ids[0],))
    forge(store_path, "UPDATE memory SET vector_key = 99 WHERE id = ?", parameters=(ids[1],))
    forge(store_path, "UPDATE memory SET deleted_at = 1 WHERE id = ?", parameters=(ids[2],))
    forge(store_path, "UPDATE vector SET data = zeroblob(128) WHERE key = 4")
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        problems = memory.check()
    assert len(problems) == 6
    for sentence in (f"{ids[0]!r} points to the vector of another", f"{ids[0]!r} is not found by its words",
                     f"{ids[0]!r} is not found by its text",
                     f"{ids[1]!r} points to a vector that is not there",
                     f"{ids[2]!r} is not as its history left it", "vector 4 is not of unit length"):  # fmt: skip
        assert any(sentence in problem for problem in problems), sentence


# -- models -------------------------------------------------------------------------------------------------------


def test_a_store_insists_on_the_model_that_made_its_vectors(store_path):
    with Memory(store_path, embedder=HashEmbedder(64)) as memory:
        memory.add("tea", user_id="ana")
    with pytest.raises(ModelMismatchError, match=r"HashEmbedder:1:64.*HashEmbedder:1:32"):
        Memory(store_path, embedder=HashEmbedder(32))
    with pytest.raises(ModelMismatchError, match="all-MiniLM-L6-v2"):
        Memory(store_path)
    with Memory(store_path, embedder=HashEmbedder(64)) as memory:
        assert memory.count(user_id="ana") == 1
        assert memory.check() == []


def test_the_bundled_model_finds_what_is_meant(model_memory):
    model_memory.add_batch(
        ["Prefers window seats on planes", "Is allergic to peanuts", "Her sister plays the cello", "Works from Lisbon"],
        user_id="ana",
    )
    for query, content in [
        ("where does she like to sit when she flies?", "Prefers window seats on planes"),
        ("what can she not eat?", "Is allergic to peanuts"),
        ("family and music", "Her sister plays the cello"),
        ("a city in Portugal", "Works from Lisbon"),
    ]:
        assert contents_of(model_memory.search(query, user_id="ana", limit=1)) == [content]


# -- several memories and processes on one file -------------------------------------------------------------------


def test_two_memories_on_one_file_see_each_other_at_once(open_memory):
    one, two = open_memory(), open_memory()
    record = one.add("tea", user_id="ana")
    assert two.get(record.id) == record
    assert contents_of(two.search("tea", user_id="ana")) == ["tea"]
    changed = two.update(record.id, "coffee", metadata={"a": 1})
    assert one.get(record.id) == changed
    assert contents_of(one.search("coffee", user_id="ana")) == ["coffee"]
    one.delete(record.id)
    assert two.search("coffee", user_id="ana") == []
    two.restore(record.id)
    assert contents_of(one.search("coffee", user_id="ana")) == ["coffee"]
    assert [event.what for event in two.history(record.id)] == ["add", "update", "delete", "restore"]


@pytest.mark.slow
def test_another_process_sees_and_is_seen_while_both_have_the_file_open(open_memory, store_path):
    memory = open_memory()
    memory.add("tea from the parent", user_id="ana")
    memory.search("tea", user_id="ana")
    child = start_python(
        """
        import sys
        from agentmem import Memory
        from agentmem.testing import HashEmbedder
        with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
            print(memory.search("tea", user_id="ana")[0].record.content, flush=True)
            memory.add("coffee from the child", user_id="ana")
            print("added", flush=True)
            sys.stdin.readline()
            print(len(memory.search("tea", user_id="ana")), flush=True)
        """,
        store_path, stdin=-1,
    )  # fmt: skip
    assert child.line() == "tea from the parent\n"
    assert child.line() == "added\n"
    assert contents_of(memory.search("coffee from the child", user_id="ana", limit=1)) == ["coffee from the child"]
    memory.add("more tea", user_id="ana")
    child.stdin.write("go\n")
    child.stdin.flush()
    assert finish(child) == "3\n"


WRITER = """
    import sys
    from concurrent.futures import ThreadPoolExecutor
    from agentmem import Memory
    from agentmem.testing import HashEmbedder
    path, name = sys.argv[1:]
    with Memory(path, embedder=HashEmbedder()) as memory:
        with ThreadPoolExecutor(4) as pool:
            ids = [record.id for record in pool.map(
                lambda n: memory.add(f"{name} says {n}", user_id="ana", agent_id=name), range(40))]
        ids += [record.id for record in memory.add_batch([f"{name} lists {n}" for n in range(40)], user_id="ana")]
        memory.delete(ids[0])
        memory.update(ids[1], metadata={"by": name})
        assert len(memory.search(f"{name} says 1", user_id="ana")) == 10
        assert memory.check() == []
    print(*ids)
"""


@pytest.mark.slow
def test_processes_that_make_and_write_one_store_at_the_same_time_lose_nothing(open_memory, store_path):
    children = [start_python(WRITER, store_path, f"writer{number}") for number in range(4)]
    ids = [each for child in children for each in finish(child).split()]
    assert len(set(ids)) == 320
    memory = open_memory()
    assert memory.count(user_id="ana") == 316
    assert all(memory.history(each) for each in ids)


def test_every_public_name_is_there_and_no_other():
    for name in agentmem.__all__:
        assert getattr(agentmem, name) is not None
    assert dir(agentmem) == agentmem.__all__
    with pytest.raises(AttributeError, match="'Memori'"):
        agentmem.Memori  # noqa: B018


def test_the_hash_embedder_is_the_same_in_every_process(tmp_path):
    code = """
        from agentmem.testing import HashEmbedder
        print(HashEmbedder().embed(["Prefers window seats", "...", "北京"]).tobytes().hex())
    """
    outputs = {run_python(code), run_python(code)}
    assert outputs == {HashEmbedder().embed(["Prefers window seats", "...", "北京"]).tobytes().hex() + "\n"}


def test_the_strategies_name_hypothesis_when_it_is_missing(tmp_path):
    run_python(
        """
        import sys
        sys.modules["hypothesis"] = None
        from agentmem.testing import HashEmbedder, contents
        HashEmbedder().embed(["works without"])
        try:
            contents()
        except ModuleNotFoundError as error:
            assert "hypothesis" in str(error)
        else:
            raise SystemExit("no error")
        """
    )


def test_a_memory_thrown_away_closes_itself(tmp_path: Path, open_memory: Opener):
    Memory(tmp_path / "dropped.db", embedder=HashEmbedder()).add("tea", user_id="ana")
    gc.collect()
    wait_for_our_threads()
    assert [path.name for path in tmp_path.iterdir()] == ["dropped.db"]


def test_a_batch_that_raises_names_the_position_of_a_taken_id_beyond_its_first_chunk(memory):
    memory.add("taken", user_id="ana", id="x")
    items = [{"content": f"text {number}"} for number in range(300)]
    items[280]["id"] = "x"
    with pytest.raises(DuplicateIdError, match=r"^Item 280: id 'x' is taken"):
        memory.add_batch(items, user_id="ana")
    assert memory.count(user_id="ana") == 257
    with pytest.raises(DuplicateIdError, match=r"^id 'x' is taken"):
        memory.add("again", user_id="ana", id="x", defer=True)
    assert memory.stats().store.pending == 0


def test_records_matches_and_pages_are_values_of_json(memory):
    moment = datetime(2026, 5, 4, 3, 2, 1, 5, tzinfo=UTC)
    record = memory.add(
        "Likes tea", user_id="ana", run_id="r", role="user", metadata={"a": {"b": [1, None]}}, created_at=moment,
        expires_at=datetime(2999, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    told = record.to_dict()
    assert list(told) == [field.name for field in fields(Record)]
    assert told["created_at"] == "2026-05-04T03:02:01.000005+00:00"
    assert json.loads(json.dumps(told)) == told
    told["metadata"]["a"]["b"].append(2)
    assert record.metadata == {"a": {"b": [1, None]}}
    [match] = memory.search("tea", user_id="ana", explain=True)
    assert match.content == "Likes tea"
    assert json.loads(json.dumps(match.to_dict())) == match.to_dict()
    assert match.to_dict()["record"] == record.to_dict()
    assert match.to_dict()["explanation"]["terms"] == ["tea"]
    assert memory.search("tea", user_id="ana")[0].to_dict()["explanation"] is None


def test_a_page_is_read_like_a_list(memory):
    memory.add_batch([f"text {number}" for number in range(5)], user_id="ana")
    page = memory.get_all(user_id="ana", order="oldest", limit=4)
    assert len(page) == 4
    assert page[0].content == "text 0"
    assert page[-1] is page.records[-1]
    assert page[1:3] == page.records[1:3]
    assert [record.content for record in page] == [record.content for record in page.records]
    with pytest.raises(IndexError):
        page[4]


def test_what_is_shown_of_records_matches_pages_and_scopes_is_short_and_says_whose(memory):
    record = memory.add("word " * 40, user_id="ana", metadata={"n": 1}, ttl=1e8)
    shown = repr(record)
    assert "'word word" in shown
    assert "..." in shown
    assert "user_id='ana'" in shown
    assert record.id in shown
    assert "run_id" not in shown
    assert len(shown) < 300
    assert repr(memory.search("word", user_id="ana")[0]).startswith("Match(0.")
    assert repr(memory.get_all(user_id="ana")) == f"Page([\n  {shown},\n], next=None)"
    assert repr(memory.get_all(user_id="ben")) == "Page([], next=None)"
    assert repr(memory.scope(user_id="ana")).endswith("user_id='ana')")
