"""The drop-in for Mem0: both calling styles, what it checks, and where it is stricter than what it stands in for."""

import hashlib
import logging
from datetime import UTC, date, datetime, timedelta, timezone
from typing import get_type_hints

import pytest

from agentmem import ClosedError, InvalidInputError, NotFoundError
from agentmem.mem0 import Memory
from agentmem.mem0 import types as shapes
from agentmem.mem0.memory import MEANING
from agentmem.search.ranking import VECTOR_WEIGHT
from agentmem.testing import HashEmbedder


@pytest.fixture
def store(memory):
    return memory


@pytest.fixture
def mem0(store):
    return Memory(store=store)


def add(mem0, text, **arguments):
    [added] = mem0.add(text, **({"user_id": "ana", "infer": False} | arguments))["results"]
    return added["id"]


def texts(results):
    return {item["memory"] for item in results["results"]}


# -- adding -----------------------------------------------------------------------------------------------------------


def test_messages_are_kept_one_by_one_without_those_of_the_system(mem0, store):
    added = mem0.add(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "I like tea", "name": "Ana"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Noted."}, {"type": "image_url"}]},
        ],
        user_id="ana", run_id="chat-1", infer=False, metadata={"topic": "drinks"},
    )  # fmt: skip
    first, second = store.get_all(user_id="ana", order="oldest").records
    assert added == {
        "results": [
            {"id": first.id, "memory": "I like tea", "event": "ADD", "actor_id": "Ana", "role": "user"},
            {"id": second.id, "memory": "Noted.", "event": "ADD", "actor_id": None, "role": "assistant"},
        ]
    }
    assert mem0.get(first.id) == {
        "id": first.id, "memory": "I like tea", "hash": hashlib.md5(b"I like tea").hexdigest(),
        "metadata": {"topic": "drinks"}, "score": None, "created_at": first.created_at.isoformat(),
        "updated_at": first.created_at.isoformat(), "user_id": "ana", "run_id": "chat-1", "actor_id": "Ana",
        "role": "user",
    }  # fmt: skip


@pytest.mark.parametrize(
    "bad",
    [
        5, "text", {}, {"role": "user"}, {"content": "x"}, {"role": "user", "content": None},
        {"role": "", "content": "x"}, {"role": "user", "content": " "}, {"role": "user", "content": 5},
        {"role": 5, "content": "x"},
        {"role": "user", "content": "x", "name": 5}, {"role": "user", "content": []},
    ],
)  # fmt: skip
def test_a_message_that_is_none_is_an_error_that_says_where_and_stores_nothing_unless_it_may_be_skipped(
    mem0, store, bad, caplog
):
    messages = [{"role": "user", "content": "I like tea"}, bad]
    with pytest.raises(ValueError, match=r"Message 1: "):
        mem0.add(messages, user_id="ana", infer=False)
    assert store.count(user_id="ana") == 0
    with caplog.at_level(logging.WARNING, "agentmem.mem0"):
        added = mem0.add(messages, user_id="ana", infer=False, skip_invalid=True)
    assert texts(added) == {"I like tea"}
    assert "Message 1 is skipped" in caplog.text


@pytest.mark.parametrize(
    ("timestamp", "moment"),
    [
        (1_714_824_000, datetime(2024, 5, 4, 12, tzinfo=UTC)),
        (1_714_824_000.5, datetime(2024, 5, 4, 12, 0, 0, 500_000, tzinfo=UTC)),
        ("2024-05-04T14:00:00+02:00", datetime(2024, 5, 4, 12, tzinfo=UTC)),
        ("2024-05-04T12:00:00Z", datetime(2024, 5, 4, 12, tzinfo=UTC)),
        ("2024-05-04T12:00:00", datetime(2024, 5, 4, 12, tzinfo=UTC)),
        ("2024-05-04", datetime(2024, 5, 4, tzinfo=UTC)),
        (date(2024, 5, 4), datetime(2024, 5, 4, tzinfo=UTC)),
        (datetime(2024, 5, 4, 12, tzinfo=UTC), datetime(2024, 5, 4, 12, tzinfo=UTC)),
    ],
)
def test_a_timestamp_dates_the_memory(mem0, timestamp, moment):
    known = add(mem0, "I like tea", timestamp=timestamp)
    assert mem0.get(known)["created_at"] == moment.isoformat()
    backdated = add(mem0, "I like tea", metadata={"created_at": timestamp, "topic": "drinks"})
    assert mem0.get(backdated)["created_at"] == moment.isoformat()
    assert mem0.get(backdated)["metadata"] == {"topic": "drinks"}


@pytest.mark.parametrize("timestamp", [True, "soon", 1e300, float("nan"), [], datetime(2024, 5, 4)])
def test_what_is_no_timestamp_is_refused(mem0, store, timestamp):
    with pytest.raises(ValueError, match="timestamp"):
        add(mem0, "I like tea", timestamp=timestamp)
    assert store.count(user_id="ana") == 0


def test_owners_are_text_or_numbers_and_one_is_needed(mem0, store):
    add(mem0, "I like tea", user_id=" ana ")
    add(mem0, "I like water", user_id=7)
    assert texts(mem0.get_all(user_id="ana")) == {"I like tea"}
    assert texts(mem0.get_all(filters={"user_id": 7})) == {"I like water"}
    for wrong in ("", "  ", True, 1.5, ["ana"], "*"):
        with pytest.raises(ValueError, match="user_id"):
            add(mem0, "x", user_id=wrong)
        with pytest.raises(ValueError, match="user_id"):
            mem0.get_all(filters={"user_id": wrong} if wrong != ["ana"] else {"user_id": {"eq": wrong}})
    with pytest.raises(ValueError, match="No owner"):
        mem0.add("x", infer=False)


def test_owners_and_what_mem0_derives_are_dropped_from_metadata(mem0, store, caplog):
    with caplog.at_level(logging.WARNING, "agentmem.mem0"):
        known = add(
            mem0, "I like tea",
            metadata={
                "user_id": "ben", "actor_id": "x", "data": "y", "hash": "z", "id": "i", "role": "r", "topic": "drinks",
            },
        )  # fmt: skip
    assert "actor_id, user_id" in caplog.text
    item = mem0.get(known)
    assert (item["user_id"], item["role"], item["metadata"]) == ("ana", "user", {"topic": "drinks"})
    assert "actor_id" not in item
    mem0.update(known, metadata={"run_id": "r", "created_at": "2020-01-01", "role": "x", "cups": 2})
    changed = mem0.get(known)
    assert changed["metadata"] == {"topic": "drinks", "cups": 2}
    assert {**changed, "metadata": None, "updated_at": None} == {**item, "metadata": None, "updated_at": None}
    assert store.count(user_id="ben") == 0


def test_unknown_keywords_are_never_ignored(mem0):
    known = add(mem0, "I like tea")
    for call in (
        lambda: mem0.add("x", user_id="ana", infer=False, colour="red"),
        lambda: mem0.search("x", user_id="ana", colour="red"),
        lambda: mem0.get_all(user_id="ana", page=2),
        lambda: mem0.delete_all(filters={"user_id": "ana"}),
        lambda: mem0.update(known, "x", user_id="ana"),
        lambda: mem0.get(known, user_id="ana"),
    ):
        with pytest.raises(TypeError):
            call()
    assert texts(mem0.get_all(user_id="ana")) == {"I like tea"}


# -- reading ----------------------------------------------------------------------------------------------------------


def test_both_calling_styles_mean_the_same(mem0):
    for number in range(30):
        add(mem0, f"Cup {number} of tea", run_id="even" if number % 2 == 0 else "odd")
    add(mem0, "A cup of coffee", user_id="ben")
    styles = [
        {"user_id": "ana", "run_id": "odd", "limit": 4}, {"filters": {"user_id": "ana", "run_id": "odd"}, "top_k": 4},
        {"user_id": "ana", "filters": {"run_id": {"eq": "odd"}}, "limit": 4, "top_k": 4},
        {"filters": {"AND": [{"user_id": "ana"}, {"AND": [{"run_id": "odd"}]}]}, "limit": 4},
        {"user_id": "ana", "filters": {"user_id": "ana", "run_id": "odd"}, "top_k": 4},
    ]  # fmt: skip
    for call in (mem0.get_all, lambda **asked: mem0.search("tea", **asked)):
        answers = [call(**style) for style in styles]
        assert len(answers[0]["results"]) == 4
        assert all(answer == answers[0] for answer in answers)
        assert {item["run_id"] for item in answers[0]["results"]} == {"odd"}
        assert len(call(user_id="ana")["results"]) == 20
        assert call(user_id="ana", top_k=0) == {"results": []}


@pytest.mark.parametrize(
    "asked",
    [
        {}, {"filters": {}}, {"filters": {"topic": "x"}}, {"filters": {"OR": [{"user_id": "ana"}]}}, {"user_id": None},
        {"user_id": "ana", "filters": {"user_id": "ben"}},
        {"filters": {"AND": [{"user_id": "ana"}, {"user_id": "ben"}]}},
        {"user_id": "ana", "filters": "x"}, {"filters": {"user_id": {"in": ["ana", "ben"]}}}, {"filters": ["user_id"]},
        {"user_id": "ana", "top_k": 3, "limit": 4}, {"user_id": "ana", "top_k": -1}, {"user_id": "ana", "limit": 2.0},
        {"user_id": "ana", "top_k": True}, {"user_id": "ana", "top_k": 10**9},
        {"user_id": "ana", "filters": {"data": "x"}},
        {"user_id": "ana", "filters": {"x": {"near": 1}}}, {"user_id": "ana", "filters": {"OR": []}},
        {"user_id": "ana", "filters": {"created_at": {"gte": "soon"}}}, {"user_id": "ana", "filters": {"OR": [1]}},
        {"user_id": "ana", "filters": {"expiration_date": "soon"}}, {"user_id": "ana", "filters": {"$or": [{"x": 1}]}},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_asked_is_a_value_error(mem0, asked):
    add(mem0, "I like tea")
    with pytest.raises(ValueError, match=r"."):
        mem0.get_all(**asked)
    with pytest.raises(ValueError, match=r"."):
        mem0.search("tea", **asked)


def test_filters_without_end_are_refused(mem0):
    deep: dict = {"x": 1}
    for _ in range(100_000):
        deep = {"AND": [deep]}
    with pytest.raises(ValueError, match="deep"):
        mem0.get_all(user_id="ana", filters=deep)


@pytest.mark.parametrize("query", ["", " ", None, 5])
def test_a_blank_query_is_a_value_error(mem0, query):
    with pytest.raises(ValueError, match="query"):
        mem0.search(query, user_id="ana")


@pytest.mark.parametrize("threshold", [-0.1, 1.1, "x", True, float("nan")])
def test_a_threshold_out_of_range_is_a_value_error(mem0, threshold):
    with pytest.raises(ValueError, match="threshold"):
        mem0.search("tea", user_id="ana", threshold=threshold)


def test_filters_follow_the_truth_table_of_agentmem(mem0):
    """Where mem0ai is wrong: a second condition in an AND took the place of the first."""
    add(mem0, "five", metadata={"stars": 5, "topic": "a"})
    add(mem0, "three", metadata={"stars": 3, "topic": "a", "expires_at": "soon"})
    add(mem0, "none", metadata={"topic": "b"})

    def found(filters):
        listed = texts(mem0.get_all(user_id="ana", filters=filters))
        assert texts(mem0.search("five three none", user_id="ana", filters=filters, threshold=0.0)) == listed
        return listed

    assert found({"AND": [{"stars": {"gte": 3}}, {"stars": {"lt": 5}}]}) == {"three"}
    assert found({"AND": [{"OR": [{"stars": 5}, {"topic": "b"}]}, {"topic": "a"}]}) == {"five"}
    assert found({"stars": {"ne": 5}}) == {"three", "none"}
    assert found({"NOT": [{"stars": "*"}]}) == {"none"}
    assert found({"stars": "*"}) == {"five", "three"}
    assert found({"expires_at": "soon"}) == {"three"}
    assert found({"role": "user", "topic": {"in": ["b"]}}) == {"none"}


def test_times_and_days_can_be_filtered_in_mem0s_form(mem0):
    add(mem0, "old", timestamp="2024-05-04T12:00:00Z")
    add(mem0, "new", expiration_date="2124-06-30")

    def found(**filters):
        return texts(mem0.get_all(user_id="ana", filters=filters))

    assert found(created_at={"lt": "2025-01-01"}) == {"old"}
    assert found(created_at={"gte": "2024-05-04T12:00:00", "lte": 1_714_824_000}) == {"old"}
    assert found(updated_at={"gt": "2025-01-01T00:00:00"}) == {"old", "new"}
    assert found(expiration_date="2124-06-30") == {"new"}
    assert found(expiration_date={"gte": "2124-06-30"}) == {"new"}
    assert found(expiration_date={"gt": "2124-06-30"}) == set()
    assert found(expiration_date=["2124-06-29", "2124-06-30"]) == {"new"}
    assert found(expiration_date="*") == {"new"}
    assert found(NOT={"expiration_date": {"exists": True}}) == {"old"}


def test_the_threshold_is_the_cosine_as_it_is_with_mem0(open_memory):
    assert MEANING == VECTOR_WEIGHT

    class Planned(HashEmbedder):
        """The cosine with the query is what the text's first word says, in percent."""

        def embed(self, texts):
            import numpy as np

            rows = np.zeros((len(texts), self.dimension), np.float32)
            for row, text in zip(rows, texts, strict=True):
                word = text.split()[0]
                cosine = int(word) / 100 if word.isdigit() else 1.0
                row[0], row[1] = cosine, (1 - cosine**2) ** 0.5
            return rows

    with Memory(store=open_memory(":memory:", embedder=Planned())) as mem0:
        for cosine in range(2, 92, 3):
            add(mem0, f"{cosine} percent")

        def found(**asked):
            return sorted(int(text.split()[0]) for text in texts(mem0.search("question", user_id="ana", **asked)))

        assert found() == list(range(32, 92, 3))  # The best twenty.
        assert found(top_k=50) == list(range(11, 92, 3))
        assert found(top_k=50, threshold=0.5) == list(range(50, 92, 3))
        assert found(top_k=50, threshold=0) == list(range(2, 92, 3))
        assert found(top_k=3, threshold=0.5) == [83, 86, 89]


def test_the_score_is_explained_in_mem0s_terms(mem0):
    add(mem0, "I like green tea")
    [plain] = mem0.search("green tea", user_id="ana")["results"]
    [told] = mem0.search("green tea", user_id="ana", explain=True, rerank=True)["results"]
    details = told.pop("score_details")
    assert told == plain
    assert set(details) == set(get_type_hints(shapes.ScoreDetails))
    assert details["final_score"] == details["raw_score"] == plain["score"]
    assert details["bm25_score"] + MEANING * details["semantic_score"] == pytest.approx(plain["score"])
    assert details["threshold"] == 0.1


def test_a_reference_date_asks_as_if_it_were_then(mem0):
    add(mem0, "old tea", timestamp="2024-05-04T12:00:00Z")
    add(mem0, "tea voucher", timestamp="2024-05-01", expiration_date="2024-05-31")
    add(mem0, "new tea", timestamp="2025-05-04")

    def found(**asked):
        return texts(mem0.search("tea", user_id="ana", threshold=0, **asked))

    assert found() == {"old tea", "new tea"}
    assert found(reference_date="2024-05-31") == {"old tea", "tea voucher"}
    assert found(reference_date="2024-06-01") == {"old tea"}
    assert found(reference_date=date(2024, 5, 3)) == {"tea voucher"}
    assert found(reference_date="2024-05-04T11:00:00Z") == {"tea voucher"}
    assert found(reference_date=1_717_300_000, show_expired=True) == {"old tea", "tea voucher"}
    assert found(reference_date="2024-06-01", filters={"created_at": {"gte": "2024-05-04"}}) == {"old tea"}
    with pytest.raises(ValueError, match="reference_date"):
        found(reference_date="lately")


# -- expiry -----------------------------------------------------------------------------------------------------------


def test_a_memory_is_seen_until_the_end_of_its_expiration_date(store, clock):
    mem0 = Memory(store=store)
    today = clock.now.date()
    known = add(mem0, "I like tea", expiration_date=today)
    assert mem0.get(known)["expiration_date"] == today.isoformat()
    assert texts(mem0.search("tea", user_id="ana")) == {"I like tea"}
    clock.now = datetime.combine(today + timedelta(days=1), datetime.min.time(), UTC) - timedelta(microseconds=1)
    assert texts(mem0.get_all(user_id="ana")) == {"I like tea"}
    clock.wait(0.000_001)
    assert mem0.get_all(user_id="ana") == mem0.search("tea", user_id="ana") == {"results": []}
    assert texts(mem0.get_all(user_id="ana", show_expired=True)) == {"I like tea"}
    assert texts(mem0.search("tea", user_id="ana", show_expired=True)) == {"I like tea"}
    assert mem0.get(known)["memory"] == "I like tea"
    mem0.update(known, "I like coffee")
    assert mem0.get_all(user_id="ana") == {"results": []}
    assert mem0.get(known)["expiration_date"] == today.isoformat()
    mem0.update(known, expiration_date=None)
    assert texts(mem0.get_all(user_id="ana")) == {"I like coffee"}
    mem0.update(known, expiration_date=datetime(2124, 6, 30, 18, tzinfo=UTC))
    assert mem0.get(known)["expiration_date"] == "2124-06-30"
    assert [entry["event"] for entry in mem0.history(known)] == ["ADD", "UPDATE", "UPDATE", "UPDATE"]


def test_an_expiration_date_with_a_zone_is_that_moment(mem0, store):
    tonight = datetime(2124, 11, 30, 20, tzinfo=timezone(timedelta(hours=-8)))
    for given in (tonight, tonight.isoformat()):
        known = add(mem0, "The door code is 1234", expiration_date=given)
        assert store.get(known).expires_at == tonight
        mem0.update(known, expiration_date="2124-06-30")
        mem0.update(known, expiration_date=given)
        assert store.get(known).expires_at == tonight
        assert mem0.get(known)["expiration_date"] == "2124-12-01"  # The last day in UTC.
    known = add(mem0, "Without a zone", expiration_date=datetime(2124, 11, 30, 20))
    assert store.get(known).expires_at == datetime(2124, 12, 1, tzinfo=UTC)


@pytest.mark.parametrize("expires", ["2124-12-01T04:00:00+00:00", "2124-12-01", "2124-12-01T00:00:00.000001Z"])
def test_a_filter_on_a_day_finds_what_expires_at_any_time_of_it(mem0, expires):
    add(mem0, "x", expiration_date=expires)
    add(mem0, "never")

    def found(value):
        return "x" in texts(mem0.get_all(user_id="ana", filters={"expiration_date": value}))

    before, on, after = "2124-11-30", "2124-12-01", "2124-12-02"
    assert found(on)
    assert found([before, on])
    assert found({"eq": on})
    assert found({"gte": on, "lte": on})
    assert found({"in": [on]})
    assert found({"gt": before, "lt": after})
    assert found({"ne": before})
    assert not found(before)
    assert not found(after)
    assert not found({"ne": on})
    assert not found({"nin": [on]})
    assert not found({"gt": on})
    assert not found({"lt": on})
    assert not found([])
    for wrong in ({"like": on}, {"contains": on}, {"gt": [on]}, {"in": on}):
        with pytest.raises(ValueError, match="expir"):
            found(wrong)


def test_the_last_day_of_all_is_an_expiration_date_too(mem0):
    known = add(mem0, "I like tea", metadata={"expiration_date": "9999-12-31"})
    assert mem0.get(known)["expiration_date"] == "9999-12-31"
    for wrong in ("2024-13-01", "soon", 20240101, True):
        with pytest.raises(ValueError, match="expiration_date"):
            add(mem0, "x", expiration_date=wrong)
        with pytest.raises(ValueError, match="expiration_date"):
            mem0.update(known, expiration_date=wrong)


# -- changing ---------------------------------------------------------------------------------------------------------


def test_what_is_not_there_cannot_be_changed(mem0, store):
    gone = add(mem0, "I like tea")
    assert mem0.delete(gone) == {"message": "Memory deleted successfully!"}
    for unknown in (gone, "nobody"):
        for call in (lambda unknown=unknown: mem0.update(unknown, "x"), lambda unknown=unknown: mem0.delete(unknown)):
            with pytest.raises(ValueError, match=unknown) as raised:
                call()
            assert isinstance(raised.value, NotFoundError)
    assert mem0.get(gone) is None
    known = add(mem0, "I like coffee")
    with pytest.raises(ValueError, match="Nothing to change"):
        mem0.update(known)
    with pytest.raises(ValueError, match="blank"):
        mem0.update(known, " ")


def test_a_history_goes_from_the_oldest_to_the_newest_and_survives_the_memory(mem0):
    known = mem0.add(
        {"role": "assistant", "content": "a", "name": "Bot"}, user_id="ana", infer=False, timestamp="2024-05-04"
    )["results"][0]["id"]
    mem0.update(known, "b")
    mem0.update(known, metadata={"x": 1})
    mem0.delete(known)
    history = mem0.history(known)
    assert [(entry["event"], entry["old_memory"], entry["new_memory"], entry["is_deleted"]) for entry in history] == [
        ("ADD", None, "a", False), ("UPDATE", "a", "b", False), ("UPDATE", "b", "b", False),
        ("DELETE", "b", None, True),
    ]  # fmt: skip
    assert {entry["memory_id"] for entry in history} == {known}
    assert len({entry["id"] for entry in history}) == 4
    assert {(entry["actor_id"], entry["role"]) for entry in history} == {("Bot", "assistant")}
    assert {entry["created_at"] for entry in history} == {"2024-05-04T00:00:00+00:00"}
    assert sorted(entry["updated_at"] for entry in history[1:]) == [entry["updated_at"] for entry in history[1:]]
    assert mem0.history(known) == history
    assert mem0.history("nobody") == []
    mem0.store.restore(known)
    assert mem0.history(known)[-1]["event"] == "ADD"


def test_delete_all_takes_every_memory_of_one_owner_expired_ones_too(mem0, store):
    for number in range(300):
        add(mem0, f"tea {number}", expiration_date="2020-01-01" if number % 3 else None)
    add(mem0, "coffee", user_id="ben")
    with pytest.raises(ValueError, match="owner"):
        mem0.delete_all()
    assert len(mem0.get_all(user_id="ana", show_expired=True, limit=1000)["results"]) == 300
    assert mem0.delete_all(user_id="ana") == {"message": "Memories deleted successfully!"}
    assert mem0.get_all(user_id="ana", show_expired=True) == {"results": []}
    assert texts(mem0.get_all(user_id="ben")) == {"coffee"}
    assert mem0.delete_all("ben", None, None) == {"message": "Memories deleted successfully!"}
    assert store.count(all_scopes=True) == 0


def test_a_reset_leaves_nothing(mem0, store):
    known = add(mem0, "tea")
    assert mem0.reset() is None
    assert (mem0.get(known), mem0.history(known), store.count(all_scopes=True)) == (None, [], 0)
    add(mem0, "coffee")
    assert texts(mem0.get_all(user_id="ana")) == {"coffee"}


# -- opening and closing ----------------------------------------------------------------------------------------------


def test_a_store_that_was_given_stays_open_and_one_of_its_own_is_closed(store, tmp_path, monkeypatch):
    with Memory(store=store) as mem0:
        add(mem0, "tea")
    mem0.close()
    assert store.count(user_id="ana") == 1
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with Memory(embedder=HashEmbedder()) as mem0:
        add(mem0, "tea")
        assert "agentmem.db" in repr(mem0)
    mem0.close()
    with pytest.raises(ClosedError):
        mem0.get_all(user_id="ana")
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["agentmem.db"]
    with pytest.raises(InvalidInputError, match="embedder"):
        Memory(store=store, embedder=HashEmbedder())


def test_the_shapes_are_those_that_are_declared(mem0):
    known = add(mem0, "I like tea", expiration_date="2124-06-30", metadata={"attributed_to": "user"})
    mem0.update(known, "I like green tea")
    shown = {
        shapes.StoredMemory: mem0.get(known),
        shapes.ListedMemory: mem0.get_all(user_id="ana")["results"][0],
        shapes.FoundMemory: mem0.search("tea", user_id="ana", explain=True)["results"][0],
        shapes.HistoryEntry: mem0.history(known)[-1],
        shapes.AddedMemory: mem0.add("x", user_id="ana", infer=False)["results"][0],
    }
    for shape, value in shown.items():
        assert shape.__required_keys__ <= set(value) <= set(get_type_hints(shape)), shape
    assert shown[shapes.StoredMemory]["attributed_to"] == "user"
