"""What was known at an instant."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmem import Memory
from agentmem.testing import HashEmbedder, contents, filters, metadata
from tests.conftest import Clock

SECOND = timedelta(seconds=1)
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def texts(records):
    return [record.content for record in records]


def known(memory, moment, **asked):
    """The texts known then, oldest first; every way of reading must agree."""
    listed = texts(memory.get_all(user_id="ana", as_of=moment, order="oldest", **asked))
    found = [match.record.content for match in memory.search("tea", user_id="ana", as_of=moment, limit=1000, **asked)]
    assert sorted(found) == sorted(listed)
    assert memory.count(user_id="ana", as_of=moment, **asked) == len(listed)
    return listed


def test_the_past_shows_each_memory_as_it_was_then(memory, clock):
    before = clock.now
    clock.wait(1)
    record = memory.add("drinks tea", user_id="ana", metadata={"n": 1})
    added = clock.now
    clock.wait(1)
    updated = memory.update(record.id, "drinks coffee", metadata={"n": 2}, ttl=3600)
    changed = clock.now
    clock.wait(1)
    memory.delete(record.id)
    deleted = clock.now
    clock.wait(1)
    memory.restore(record.id)
    restored = clock.now
    clock.wait(1)
    memory.update(record.id, metadata={"n": 3})
    assert memory.get(record.id, as_of=before) is None
    assert memory.get(record.id, as_of=added - timedelta(microseconds=1)) is None
    assert memory.get(record.id, as_of=added) == record
    assert memory.get(record.id, as_of=changed - timedelta(microseconds=1)) == record
    assert memory.get(record.id, as_of=changed) == updated
    assert memory.get(record.id, as_of=deleted) is None
    assert memory.get(record.id, as_of=restored) == updated
    assert memory.get(record.id, as_of=clock.now) == memory.get(record.id)
    assert memory.get(record.id).metadata == {"n": 3}
    moments = (before, added, changed, deleted, restored, clock.now)
    assert [known(memory, moment) for moment in moments] == [
        [], ["drinks tea"], ["drinks coffee"], [], ["drinks coffee"], ["drinks coffee"]
    ]  # fmt: skip


def test_filters_apply_to_the_metadata_of_then(memory, clock):
    record = memory.add("tea", user_id="ana", metadata={"topic": "drinks", "n": 1})
    then = clock.now
    clock.wait(1)
    memory.update(record.id, "tea, still", metadata={"topic": "food"}, replace_metadata=True)
    assert known(memory, then, filters={"topic": "drinks"}) == ["tea"]
    assert known(memory, then, filters={"n": {"gte": 1}, "updated_at": then}) == ["tea"]
    assert known(memory, then, filters={"topic": "food"}) == []
    assert known(memory, clock.now, filters={"topic": "food"}) == ["tea, still"]
    assert known(memory, clock.now, filters={"topic": "drinks"}) == []
    assert known(memory, then, between=(then, None)) == ["tea"]
    assert known(memory, then, between=(None, then)) == []


def test_what_had_not_expired_then_is_known_then(memory, clock):
    start = clock.now
    memory.add("tea", user_id="ana", ttl=60)
    memory.add("lasting tea", user_id="ana")
    clock.wait(1000)
    for _ in range(2):
        assert known(memory, start + 59 * SECOND) == ["tea", "lasting tea"]
        assert known(memory, start + 60 * SECOND) == ["lasting tea"]
        assert known(memory, start + 60 * SECOND, show_expired=True) == ["tea", "lasting tea"]
        assert known(memory, clock.now, show_expired=True) == ["tea", "lasting tea"]
        memory.add("a write that sweeps", user_id="eve")


def test_what_was_deleted_then_is_not_shown_as_expired(memory, clock):
    record = memory.add("tea", user_id="ana", ttl=60)
    memory.delete(record.id)
    clock.wait(100)
    then = clock.now
    clock.wait(1)
    memory.restore(record.id)
    assert known(memory, then, show_expired=True) == []
    assert known(memory, clock.now) == ["tea"]


def test_a_memory_restored_after_its_expiry_had_expired_before(memory, clock):
    record = memory.add("tea", user_id="ana", ttl=60)
    clock.wait(100)
    then = clock.now
    clock.wait(1)
    restored = memory.restore(record.id)
    assert known(memory, then) == []
    assert memory.get(record.id, as_of=then, show_expired=True) == record
    assert memory.get(record.id, as_of=clock.now) == restored


def test_a_batch_is_known_as_a_whole_from_its_commit_on_and_not_from_its_created_at(memory, clock):
    memory.add_batch(
        [{"content": "tea", "created_at": clock.now + SECOND}, {"content": "old tea", "created_at": LONG_AGO}],
        user_id="ana",
    )  # fmt: skip
    assert known(memory, clock.now - SECOND) == []
    assert known(memory, clock.now) == ["old tea", "tea"]


def test_pages_of_the_past_are_stable_and_complete(memory, clock):
    records = memory.add_batch([f"tea {number}" for number in range(20)], user_id="ana")
    then = clock.now
    clock.wait(1)
    listed, after = [], None
    while True:
        page = memory.get_all(user_id="ana", as_of=then, limit=3, order="oldest", after=after)
        listed += texts(page)
        after = page.next
        if after is None:
            break
        memory.delete(records[-len(listed)].id)
        memory.update(records[len(listed)].id, f"coffee {len(listed)}")
        memory.add("more tea", user_id="ana")
    assert listed == [f"tea {number}" for number in range(20)]


def test_a_search_of_the_past_ranks_what_was_said_then(memory, clock):
    record = memory.add("plays the cello", user_id="ana")
    memory.add("drinks tea", user_id="ana")
    then = clock.now
    clock.wait(1)
    memory.update(record.id, "sold everything")
    [best, _] = memory.search("cello", user_id="ana", as_of=then, explain=True)
    assert best.record == record
    assert memory.search("cello", user_id="ana", as_of=then, limit=1, threshold=best.score - 1e-6) == [
        type(best)(best.record, best.score)
    ]
    answers = memory.search_batch(["cello", "tea"], user_id="ana", as_of=then, limit=1)
    assert [match.record.content for [match] in answers] == ["plays the cello", "drinks tea"]


@pytest.mark.parametrize("mode", ["hybrid", "vector", "keyword"])
def test_a_search_of_the_past_answers_as_it_did_then(memory, clock, mode):
    def answers(**asked):
        return memory.search_batch(
            ["which tea does she like?", "cello in Lisbon"], user_id="ana", mode=mode, recency=3600, importance="n",
            explain=True, **asked,
        )  # fmt: skip

    talk = ["drinks green tea", "and coffee", "plays the cello", "moved to Lisbon", "no more tea", "likes the sea"]
    items = [{"content": text, "run_id": f"r{n % 2}", "metadata": {"n": n / 10}} for n, text in enumerate(talk)]
    records = memory.add_batch(items, user_id="ana")
    steps = [
        lambda: memory.update(records[2].id, "sold the cello", metadata={"n": 1}),
        lambda: memory.delete(records[0].id),
        lambda: memory.update(records[5].id, "tea by the sea", ttl=5000),
        lambda: memory.restore(records[0].id),
        lambda: clock.wait(5000),
        lambda: memory.add("black tea, in Lisbon", user_id="ana", run_id="r1"),
        lambda: memory.update(records[0].id, "drinks nothing at all"),
    ]
    then = []
    for step in steps:
        clock.wait(60)
        step()
        then.append((clock.now, answers()))
    for moment, before in then:
        for matches, expected in zip(answers(as_of=moment), before, strict=True):
            assert [match.record for match in matches] == [match.record for match in expected]
            assert [match.score for match in matches] == pytest.approx([match.score for match in expected], abs=1e-6)
            for match, other in zip(matches, expected, strict=True):
                assert match.explanation["terms"] == other.explanation["terms"]
                assert match.explanation["neighbours"] == pytest.approx(other.explanation["neighbours"], abs=1e-6)


def test_the_past_crosses_no_owner(memory, clock):
    memory.add("tea of ana", user_id="ana", run_id="r")
    record = memory.add("tea of ben", user_id="ben", run_id="r")
    then = clock.now
    clock.wait(1)
    memory.update(record.id, "coffee of ben")
    assert known(memory, then) == ["tea of ana"]
    ana = memory.scope(user_id="ana")
    assert ana.get(record.id, as_of=then) is None
    assert texts(ana.get_all(run_id="r", as_of=then)) == ["tea of ana"]
    assert memory.count(run_id="r", as_of=then) == memory.count(all_scopes=True, as_of=then) == 2
    assert memory.count(run_id="r", user_id="ben", as_of=then) == 1
    [match] = memory.search("ben", user_id="ben", as_of=then)
    assert match.record == record


def test_a_text_replaced_before_it_was_embedded_is_found_in_its_time(open_memory, clock):
    memory = open_memory(":memory:")
    record = memory.add("tea", user_id="ana", defer=True)
    then = clock.now
    clock.wait(1)
    memory.update(record.id, "coffee")
    assert known(memory, then) == ["tea"]
    assert known(memory, clock.now) == ["coffee"]


def test_the_future_is_what_is_known_now_less_what_will_have_expired(memory, clock):
    memory.add("tea", user_id="ana", ttl=60)
    memory.add("lasting tea", user_id="ana")
    assert known(memory, clock.now + 59 * SECOND) == ["tea", "lasting tea"]
    assert known(memory, datetime.max.replace(tzinfo=UTC)) == ["lasting tea"]


def test_an_instant_that_the_clock_passed_twice_means_the_second_time(memory, clock):
    start = clock.now
    memory.add("first", user_id="ana")
    clock.wait(60)
    memory.add("second, under the fast clock", user_id="ana")
    clock.wait(-50)
    memory.add("third, after the clock was put back", user_id="ana")
    names = ["first", "second, under the fast clock", "third, after the clock was put back"]
    assert sorted(known(memory, start)) == names[:1]
    assert sorted(known(memory, start + 9 * SECOND)) == names[:1]
    assert sorted(known(memory, start + 10 * SECOND)) == names
    assert sorted(known(memory, start + 60 * SECOND)) == names


@pytest.mark.slow
@given(
    versions=st.lists(st.tuples(contents(), metadata()), min_size=2, max_size=4),
    asked=filters(),
)
def test_whatever_was_replaced_comes_back_as_it_was_and_filters_agree(versions, asked):
    """A filter on the past must say what it said when that was the present."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch, Memory(":memory:", embedder=HashEmbedder()) as memory:
        patch.setattr("agentmem.timestamps.clock", clock)
        (content, extra), *later = versions
        seen = [(clock.now, memory.add(content, user_id="ana", metadata=extra))]
        counts = [memory.count(user_id="ana", filters=asked)]
        for content, extra in later:
            clock.wait(1)
            record = memory.update(seen[0][1].id, content, metadata=extra, replace_metadata=True)
            seen.append((clock.now, record))
            counts.append(memory.count(user_id="ana", filters=asked))
        for (moment, record), count in zip(seen, counts, strict=True):
            assert memory.get(record.id, as_of=moment) == record
            assert memory.count(user_id="ana", filters=asked, as_of=moment) == count
            [match] = memory.search(record.content, user_id="ana", as_of=moment, mode="vector")
            assert match.record == record
            assert match.score == pytest.approx(1, abs=2e-3)
        assert memory.check() == []
