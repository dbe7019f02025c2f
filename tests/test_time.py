"""Expiry and its sweep, and reading by time."""

import io
import json
from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmem import InvalidInputError, Memory, NotFoundError
from agentmem.mem0 import Memory as Mem0
from agentmem.storage.sqlite.expiry import SWEEP_LIMIT
from agentmem.testing import HashEmbedder
from agentmem.timestamps import now
from tests.children import run_python

SECOND = timedelta(seconds=1)


def contents_of(matches):
    return sorted(match.record.content for match in matches)


def events_of(memory, id):
    return [event.what for event in memory.history(id)]


def seen(memory, id, **asked):
    """Whether each way of reading sees the memory; they must agree."""
    ways = {
        memory.get(id, **asked) is not None,
        id in [record.id for record in memory.get_all(user_id="ana", **asked)],
        id in [match.record.id for match in memory.search("tea", user_id="ana", limit=1000, **asked)],
        memory.count(user_id="ana", filters={"id": id}, **asked) == 1,
    }
    if not asked:
        ways.add(memory.delete_all(user_id="ana", filters={"id": id}, dry_run=True) == 1)
    assert len(ways) == 1
    return ways.pop()


# -- expiry -------------------------------------------------------------------------------------------------------


def test_a_memory_lives_for_its_ttl_and_not_a_microsecond_longer(memory, clock):
    record = memory.add("tea", user_id="ana", ttl=60)
    assert record.expires_at == clock.now + 60 * SECOND
    clock.wait(59.999999)
    assert seen(memory, record.id)
    clock.wait(0.000001)
    assert not seen(memory, record.id)
    assert memory.delete(record.id) is False
    with pytest.raises(NotFoundError):
        memory.update(record.id, ttl=60)


def test_an_index_that_is_loaded_forgets_what_expires_without_being_told(memory, clock):
    memory.add("lasting tea", user_id="ana")
    record = memory.add("tea", user_id="ana", ttl=60)
    assert seen(memory, record.id)
    clock.wait(60)
    assert contents_of(memory.search("tea", user_id="ana")) == ["lasting tea"]


def test_every_way_of_adding_takes_a_ttl(memory, clock):
    records = memory.add_batch(
        ["for a minute", {"content": "for an hour", "ttl": 3600.5}, {"content": "for ever", "expires_at": None},
         {"content": "for ever too", "ttl": None}, {"content": "for a day", "expires_at": clock.now + 86400 * SECOND}],
        user_id="ana", ttl=60,
    )  # fmt: skip
    records += memory.add_messages(
        [{"role": "user", "content": "for a minute"}, {"role": "user", "content": "for two", "ttl": 120}],
        user_id="ana", ttl=60,
    )  # fmt: skip
    seconds = [record.expires_at and (record.expires_at - clock.now) / SECOND for record in records]
    assert seconds == [60, 3600.5, None, None, 86400, 60, 120]
    memory.add_batch([{"content": "tea", "ttl": 5}], user_id="ana", expires_at=clock.now + SECOND)
    clock.wait(4)
    assert memory.count(user_id="ana", filters={"expires_at": {"lt": clock.now + 2 * SECOND}}) == 1


def test_an_update_can_give_a_ttl_and_it_counts_from_the_update(memory, clock):
    record = memory.add("tea", user_id="ana", ttl=60)
    clock.wait(50)
    assert memory.update(record.id, ttl=60).expires_at == clock.now + 60 * SECOND
    clock.wait(59)
    assert seen(memory, record.id)
    clock.wait(1)
    assert not seen(memory, record.id)


def test_expired_memories_are_shown_when_asked_for_swept_or_not(memory, clock):
    memory.add("lasting tea", user_id="ana")
    expired = memory.add("yesterday's tea", user_id="ana", ttl=60)
    deleted = memory.add("spilt tea", user_id="ana", ttl=60)
    memory.delete(deleted.id)
    clock.wait(61)
    for _ in range(2):
        assert not seen(memory, expired.id)
        assert seen(memory, expired.id, show_expired=True)
        assert memory.get(expired.id, show_expired=True) == expired
        assert not seen(memory, deleted.id, show_expired=True)
        found = memory.search("tea", user_id="ana", show_expired=True, explain=True)
        assert contents_of(found) == ["lasting tea", "yesterday's tea"]
        assert memory.search("tea", user_id="ben", show_expired=True) == []
        memory.add("a write that sweeps", user_id="eve")
    assert events_of(memory, expired.id) == ["add", "expire"]


def test_shown_or_not_the_matches_of_what_is_alive_are_the_same(memory):
    memory.add_batch([f"tea number {number}" for number in range(50)], user_id="ana")
    alive = memory.search("tea number 7", user_id="ana", limit=5, threshold=0.3)
    shown = memory.search("tea number 7", user_id="ana", limit=5, threshold=0.3, show_expired=True)
    assert [match.record for match in shown] == [match.record for match in alive]
    assert [match.score for match in shown] == pytest.approx([match.score for match in alive], abs=2e-3)


# -- the sweep ----------------------------------------------------------------------------------------------------


def test_the_next_write_of_anybody_turns_expired_memories_into_deleted_ones_with_an_event(memory, clock):
    record = memory.add("tea", user_id="ana", ttl=60, metadata={"n": 1})
    clock.wait(60)
    assert events_of(memory, record.id) == ["add"]
    memory.add("something else", user_id="ben")
    assert events_of(memory, record.id) == ["add", "expire"]
    event = memory.history(record.id)[-1]
    assert (event.before.content, event.before.metadata, event.after, event.at) == ("tea", {"n": 1}, None, clock.now)
    assert (memory.stats().store.memories, memory.stats().store.deleted) == (1, 1)
    memory.add("once more", user_id="ben")
    assert events_of(memory, record.id) == ["add", "expire"]


def test_a_commit_sweeps_a_bounded_number_and_the_next_ones_the_rest(memory, clock):
    memory.add_batch([f"tea {number}" for number in range(SWEEP_LIMIT * 2 + 10)], user_id="ana", ttl=60)
    clock.wait(60)
    swept = []
    for _ in range(4):
        memory.add("something else", user_id="ben")
        swept.append(memory.stats().store.deleted)
        assert memory.count(user_id="ana") == 0
    assert swept == [SWEEP_LIMIT, SWEEP_LIMIT * 2, SWEEP_LIMIT * 2 + 10, SWEEP_LIMIT * 2 + 10]


def test_the_sweep_goes_on_after_the_clock_was_put_back(memory, clock):
    record = memory.add("tea", user_id="ana", ttl=60)
    clock.wait(-3600)
    memory.add("something else", user_id="ben")
    assert seen(memory, record.id)
    clock.wait(3660)
    memory.add("something else", user_id="ben")
    assert events_of(memory, record.id) == ["add", "expire"]


def test_what_was_deleted_does_not_expire_any_more(memory, clock):
    record = memory.add("tea", user_id="ana", ttl=60)
    memory.delete(record.id)
    clock.wait(60)
    memory.add("something else", user_id="ben")
    assert events_of(memory, record.id) == ["add", "delete"]


@pytest.mark.parametrize("swept", [False, True])
@pytest.mark.parametrize("deleted", [False, True])
def test_an_expired_memory_is_restored_without_its_expiry(memory, clock, swept, deleted):
    record = memory.add("tea", user_id="ana", ttl=60)
    if deleted:
        memory.delete(record.id)
    clock.wait(60)
    if swept:
        memory.add("something else", user_id="ben")
    restored = memory.restore(record.id)
    assert (restored.content, restored.expires_at) == ("tea", None)
    assert memory.get(record.id) == restored
    assert events_of(memory, record.id) == ["add", "delete" if deleted else "expire", "restore"]
    assert memory.history(record.id)[0].after.expires_at == record.expires_at
    assert memory.history(record.id)[-1].after.expires_at is None
    assert seen(memory, record.id)


def test_a_deleted_memory_is_restored_with_an_expiry_that_is_still_to_come(memory, clock):
    record = memory.add("tea", user_id="ana", ttl=60)
    memory.delete(record.id)
    clock.wait(59)
    assert memory.restore(record.id) == record
    clock.wait(1)
    assert not seen(memory, record.id)


@pytest.mark.slow
def test_what_another_process_swept_leaves_the_indexes_of_this_one(open_memory, store_path):
    memory = open_memory()
    memory.add("lasting tea", user_id="ana")
    record = memory.add("tea", user_id="ana", ttl=3600)
    assert len(memory.search("tea", user_id="ana")) == 2
    code = """
        import sys
        from datetime import UTC, datetime, timedelta
        from agentmem import Memory, timestamps
        from agentmem.testing import HashEmbedder
        timestamps.clock = lambda: datetime.now(UTC) + timedelta(hours=2)
        with Memory(sys.argv[1], embedder=HashEmbedder()) as memory:
            memory.add("something else", user_id="ben")
    """
    run_python(code, store_path)
    assert contents_of(memory.search("tea", user_id="ana")) == ["lasting tea"]
    assert events_of(memory, record.id) == ["add", "expire"]


# -- between ------------------------------------------------------------------------------------------------------


def test_between_keeps_what_was_created_from_the_first_moment_on_and_before_the_second(memory):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    days = [start + timedelta(days=number) for number in range(5)]
    memory.add_batch([{"content": f"tea on day {n}", "created_at": day} for n, day in enumerate(days)], user_id="ana")
    india = timezone(timedelta(hours=5, minutes=30))
    for between, expected in (
        ((days[1], days[3]), [1, 2]), ((days[1].astimezone(india), days[3]), [1, 2]), ([days[1], days[3]], [1, 2]),
        ((None, days[2]), [0, 1]), ((days[3], None), [3, 4]), ((None, None), [0, 1, 2, 3, 4]), (None, [0, 1, 2, 3, 4]),
        ((days[1], days[1]), []), ((days[1], days[1] + timedelta(microseconds=1)), [1]),
        ((days[0] + timedelta(microseconds=1), days[1]), []),
    ):  # fmt: skip
        wanted = [f"tea on day {number}" for number in expected]
        assert contents_of(memory.search("tea", user_id="ana", between=between)) == wanted
        assert contents_of(memory.search_batch(["tea"], user_id="ana", between=between)[0]) == wanted
        listed = memory.get_all(user_id="ana", between=between, order="oldest")
        assert [record.content for record in listed] == wanted
        assert memory.count(user_id="ana", between=between) == len(wanted)
        assert memory.delete_all(user_id="ana", between=between, dry_run=True) == len(wanted)
    assert memory.count(user_id="ana", between=(days[1], None), filters={"created_at": {"lt": days[2]}}) == 1
    assert memory.delete_all(user_id="ana", between=(None, days[2])) == 2
    assert memory.count(user_id="ana") == 3


def test_between_decides_before_the_ranking(memory):
    old = datetime(2020, 1, 1, tzinfo=UTC)
    memory.add_batch(["tea"] * 50, user_id="ana")
    memory.add("something else", user_id="ana", created_at=old)
    [match] = memory.search("tea", user_id="ana", between=(None, old + SECOND), limit=3)
    assert match.record.content == "something else"


def test_pages_between_two_moments_go_on_where_they_stopped(memory):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    memory.add_batch([{"content": f"tea {n}", "created_at": start + n * SECOND} for n in range(20)], user_id="ana")
    between, listed, after = (start + 5 * SECOND, start + 15 * SECOND), [], None
    while True:
        page = memory.get_all(user_id="ana", between=between, limit=3, after=after)
        listed += [record.content for record in page]
        after = page.next
        if after is None:
            break
    assert listed == [f"tea {number}" for number in range(14, 4, -1)]


def test_a_scope_has_the_same_words_for_time(clock):
    with Memory(":memory:", embedder=HashEmbedder()) as memory:
        ana = memory.scope(user_id="ana")
        record = ana.add("tea", ttl=60)
        memory.add("tea of ben", user_id="ben", ttl=60)
        clock.wait(60)
        assert ana.get(record.id) is None
        assert ana.get(record.id, show_expired=True) == record
        assert ana.count(show_expired=True, between=(None, clock.now)) == 1
        assert contents_of(ana.search("tea", show_expired=True)) == ["tea"]
        with pytest.raises(InvalidInputError):
            ana.search("tea", show_expired=True, all_scopes=True)


# -- zones --------------------------------------------------------------------------------------------------------


class HandMade(tzinfo):
    """A time zone whose offset is whatever it is given, or raises it."""

    def __init__(self, offset):
        self.offset = offset

    def utcoffset(self, moment):
        if isinstance(self.offset, Exception):
            raise self.offset
        return self.offset

    def dst(self, moment):
        return None


class Stamp(datetime):
    """Like a Timestamp of pandas: a datetime whose arithmetic and `astimezone` give more of its own kind."""

    def astimezone(self, tz=None):
        raise AssertionError("a subclass may do here what it likes")


MOMENTS = st.one_of(
    st.datetimes(
        min_value=datetime(1600, 1, 1), max_value=datetime(9000, 1, 1), timezones=st.timezones(),
        allow_imaginary=False,
    ),
    st.builds(
        lambda naive, offset: naive.replace(tzinfo=timezone(offset)),
        st.datetimes(min_value=datetime(1600, 1, 1), max_value=datetime(9000, 1, 1)),
        st.timedeltas(min_value=timedelta(hours=-23, minutes=-59), max_value=timedelta(hours=23, minutes=59)),
    ),
)  # fmt: skip
"""With the zones of the world, both sides of a clock put back, and offsets of fractions of a second."""


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(moment=MOMENTS, subclass=st.booleans())
def test_a_moment_is_the_same_through_every_door(moment, subclass):
    """A zone is never dropped: what comes in with an offset is kept as that moment, to the microsecond."""
    exact = datetime(1970, 1, 1, tzinfo=UTC) + (moment - datetime(1970, 1, 1, tzinfo=UTC))
    given = moment
    if subclass:
        given = Stamp.combine(moment.date(), moment.time(), moment.tzinfo)
    text = exact.astimezone(timezone(timedelta(hours=5, minutes=45))).isoformat()
    line = json.dumps({"content": "a line", "user_id": "ana", "created_at": text, "expires_at": text})
    chat = json.dumps({"role": "user", "content": "a chat", "created_at": text})
    with Memory(":memory:", embedder=HashEmbedder()) as memory:
        dropin = Mem0(store=memory)
        memory.add("plain", user_id="ana", created_at=given, expires_at=given)
        dropin.add("of Mem0", user_id="ana", infer=False, timestamp=given, expiration_date=given)
        dropin.add("of Mem0, as text", user_id="ana", infer=False, timestamp=text, expiration_date=text)
        memory.import_(io.BytesIO(line.encode()))
        memory.import_(io.BytesIO(chat.encode()), user_id="ana", format="openai")
        everything = list(memory.get_all(user_id="ana", show_expired=True))
        assert len(everything) == 5
        for record in everything:
            assert record.created_at == exact
            assert type(record.created_at) is datetime
            assert record.created_at.tzinfo is UTC
            assert record.expires_at == (None if record.content == "a chat" else exact)
        for asked in (given, text):
            assert memory.count(user_id="ana", filters={"created_at": asked}, show_expired=True) == 5
            for filters in ({"expiration_date": asked}, {"created_at": {"gte": asked, "lte": asked}}):
                found = dropin.get_all(user_id="ana", filters=filters, show_expired=True)["results"]
                assert len(found) == (5 if "created_at" in filters else 4)
        assert memory.count(user_id="ana", between=(given, exact + timedelta(microseconds=1)), show_expired=True) == 5
        if exact < now():
            assert memory.count(user_id="ana", as_of=given) == 0
        assert memory.check() == []


@pytest.mark.parametrize(
    "fault", [ValueError("no"), KeyError("zone"), NotImplementedError(), OSError(2, "no file"), timedelta(days=2), 5]
)
def test_a_time_zone_that_does_not_know_its_offset_is_an_error_and_nothing_is_stored(memory, fault):
    moment = datetime(2024, 5, 4, 12, tzinfo=HandMade(fault))
    dropin = Mem0(store=memory)
    for call in (
        lambda: memory.add("tea", user_id="ana", created_at=moment),
        lambda: memory.add("tea", user_id="ana", expires_at=moment),
        lambda: dropin.add("tea", user_id="ana", infer=False, timestamp=moment),
        lambda: dropin.add("tea", user_id="ana", infer=False, expiration_date=moment),
        lambda: dropin.search("tea", user_id="ana", reference_date=moment),
        lambda: memory.count(user_id="ana", filters={"created_at": moment}),
        lambda: memory.count(user_id="ana", as_of=moment),
        lambda: memory.get_all(user_id="ana", between=(moment, None)),
    ):
        with pytest.raises(InvalidInputError, match="time zone without an offset"):
            call()
    assert memory.count(all_scopes=True, show_expired=True) == 0


@pytest.mark.parametrize(
    "moment",
    [
        datetime.min.replace(tzinfo=timezone(timedelta(minutes=1))),
        datetime.max.replace(tzinfo=timezone(-timedelta(minutes=1))),
    ],
)
def test_a_moment_that_is_outside_the_calendar_in_utc_is_an_error_that_says_so(memory, moment):
    dropin = Mem0(store=memory)
    line = json.dumps({"content": "tea", "user_id": "ana", "created_at": moment.isoformat()})
    for call in (
        lambda: memory.add("tea", user_id="ana", created_at=moment),
        lambda: dropin.add("tea", user_id="ana", infer=False, expiration_date=moment),
        lambda: dropin.add("tea", user_id="ana", infer=False, timestamp=moment.isoformat()),
        lambda: memory.import_(io.BytesIO(line.encode())),
    ):
        with pytest.raises(InvalidInputError, match="outside the years 1 to 9999"):
            call()
    assert memory.count(all_scopes=True, show_expired=True) == 0
    assert memory.count(user_id="ana", filters={"created_at": {"gt": moment}}) == 0  # A filter knows what it means.


def test_the_first_and_the_last_moment_of_the_calendar_can_be_kept_and_shown(memory):
    dropin = Mem0(store=memory)
    for moment, day in ((datetime.min, "0001-01-01"), (datetime.max, "9999-12-31")):
        moment = moment.replace(tzinfo=UTC)
        record = memory.add("tea", user_id="ana", created_at=moment, expires_at=moment)
        assert dropin.get(record.id)["expiration_date"] == day
        assert (record.created_at, record.expires_at) == (moment, moment)


def test_digits_are_no_iso_8601(memory):
    """Python reads this count of milliseconds of the year 2024 as a moment of the year 1712."""
    dropin = Mem0(store=memory)
    for count in ("1712010112345", "1712010112", "1712010112345.5"):
        line = json.dumps({"content": "tea", "user_id": "ana", "created_at": count})
        for call in (
            lambda count=count: dropin.add("tea", user_id="ana", infer=False, timestamp=count),
            lambda count=count: dropin.add("tea", user_id="ana", infer=False, expiration_date=count),
            lambda count=count: memory.count(user_id="ana", filters={"created_at": count}),
            lambda line=line: memory.import_(io.BytesIO(line.encode())),
        ):
            with pytest.raises(InvalidInputError):
                call()
    assert memory.count(all_scopes=True, show_expired=True) == 0
