"""What cannot be used is refused: with the right error, its value, a next step, and nothing written."""

import enum
import math
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmem import (
    ClosedError,
    Config,
    DuplicateIdError,
    InvalidInputError,
    Memory,
    ModelError,
    StoreDamagedError,
    StoreError,
    StoreOpenError,
    TooLongError,
)
from agentmem.embedding.catalog import find_model
from agentmem.testing import HashEmbedder, contents, filters, metadata, owners
from agentmem.validation import MAX_LIMIT, MAX_METADATA_DEPTH, MAX_NAME_LENGTH
from tests.forgery import forge

NAIVE = datetime(2026, 1, 1)
HUGE = 10**5000  # More digits than Python prints.
HUGE_CASE = pytest.param(HUGE, id="huge")


class Level(enum.IntEnum):
    HIGH = 3


class Tone(enum.StrEnum):
    WARM = "warm"


class Unprintable:
    def __repr__(self) -> str:
        raise OSError("no picture")


class Nowhere(tzinfo):
    def utcoffset(self, _moment):
        return None


def is_sentence(message: str) -> None:
    """One line that ends like a sentence, has a next step after the value, and does not repeat a page of input."""
    assert message.endswith(".")
    assert "\n" not in message
    assert len(message) < 700
    assert any(mark in message for mark in (";", "(", ","))


def refused(memory: Memory, call: Callable[[], Any], *named: str, error: type[Exception] = InvalidInputError) -> None:
    """The call raises exactly this error, its message names what it should, and the store is as it was."""
    before = memory.stats()
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    is_sentence(str(caught.value))
    for name in named:
        assert name in str(caught.value)
    after = memory.stats()
    for name in ("memories", "deleted", "vectors"):
        assert getattr(after.store, name) == getattr(before.store, name)
    if error is not DuplicateIdError:  # That an id is taken is only known for certain inside the transaction.
        assert after.embedding.texts == before.embedding.texts
    assert memory.check() == []


def everywhere(memory: Memory, text: Any) -> list[Callable[[], Any]]:
    """The ways by which a text comes in as content."""
    stored = memory.add("stored", user_id="ana").id
    return [
        lambda: memory.add(text, user_id="ana"),
        lambda: memory.add_batch(["good", text], user_id="ana"),
        lambda: memory.add_batch([{"content": text}], user_id="ana"),
        lambda: memory.scope(user_id="ana").add(text),
        lambda: memory.update(stored, text),
    ]


# -- texts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " ", "\n\t\r ", "\u3000\u2003", "\x85"])
def test_a_blank_text_is_refused(memory, text):
    for call in everywhere(memory, text):
        refused(memory, call, "content is ", "blank")
    refused(memory, lambda: memory.search(text, user_id="ana"), "query is ", "not blank")


@pytest.mark.parametrize(
    "text", [None, 7, b"bytes", ["text"], 1.5, True, np.array(["a", "b"]), Unprintable(), HUGE_CASE]
)
def test_what_is_no_text_is_refused(memory, text):
    refused(memory, lambda: memory.add(text, user_id="ana"), "content is ", type(text).__name__)
    refused(memory, lambda: memory.add_batch(["good", text], user_id="ana"), "Item 1: ")
    refused(memory, lambda: memory.add_batch([{"content": text}], user_id="ana"), "Item 0: ")
    refused(memory, lambda: memory.search(text, user_id="ana"), "query is ")
    refused(memory, lambda: memory.search_batch(["good", text], user_id="ana"), "query is ")


def test_a_text_of_ten_megabytes_is_refused_with_the_limit(memory):
    for text in ("x" * 10_000_000, "é" * 500_001):
        for call in everywhere(memory, text):
            refused(memory, call, "Config.max_content_bytes = 1,000,000", "split it", error=TooLongError)
        search = partial(memory.search, text, user_id="ana")
        refused(memory, search, "Config.max_content_bytes", error=TooLongError)


def test_the_longest_text_allowed_is_stored_and_the_limit_can_be_moved(open_memory):
    memory = open_memory(config=Config(max_content_bytes=2_000_000))
    text = "é" * 1_000_000
    assert memory.get(memory.add(text, user_id="ana").id).content == text
    refused(memory, lambda: memory.add(text + "x", user_id="ana"), "2,000,001 bytes", error=TooLongError)


@pytest.mark.parametrize("text", ["\ud800", "half \udfff of a pair", "nul\0inside", "\0"])
def test_lone_surrogates_and_nul_are_refused_with_their_position(memory, text):
    position = next(at for at, character in enumerate(text) if character == "\0" or "\ud800" <= character <= "\udfff")
    for call in everywhere(memory, text):
        refused(memory, call, f"at position {position}")
    refused(memory, lambda: memory.search(text, user_id="ana"), f"at position {position}")
    for name in ("user_id", "agent_id", "run_id", "role", "id"):
        arguments = {"user_id": "ana", name: text}
        refused(memory, lambda arguments=arguments: memory.add("good", **arguments), name)
    for bad in ({"key": text}, {text: "value"}, {"deep": [{"er": text}]}):
        refused(memory, lambda bad=bad: memory.add("good", user_id="ana", metadata=bad), "position")
    refused(memory, lambda: memory.count(user_id="ana", filters={"key": text}), "position")


@given(text=st.text(st.characters()))
def test_any_text_is_stored_exactly_or_refused(text):
    with Memory(":memory:", embedder=HashEmbedder()) as memory:
        try:
            record = memory.add(text, user_id="ana")
        except InvalidInputError as error:
            is_sentence(str(error))
            assert not text.strip() or "\0" in text or any("\ud800" <= character <= "\udfff" for character in text)
            assert memory.count(user_id="ana") == 0
        else:
            assert memory.get(record.id).content == record.content == text
            assert memory.search(text, user_id="ana")[0].record == record
        assert memory.check() == []


@given(content=contents(), owner=owners(), extra=metadata())
def test_whatever_the_strategies_draw_comes_back_exactly(content, owner, extra):
    with Memory(":memory:", embedder=HashEmbedder()) as memory:
        record = memory.add(content, metadata=extra, **owner)
        assert record.metadata == extra
        assert memory.get(record.id) == record
        assert repr(memory.get(record.id).to_dict()) == repr(
            record.to_dict()
        )  # 1, 1.0 and True are equal, and must not change places.
        assert {name: getattr(record, name) for name in owner} == owner
        assert memory.get_all(**owner).records == [record]
        assert memory.check() == []


@given(wanted=filters())
def test_whatever_filter_the_strategies_draw_is_understood_everywhere(wanted):
    with Memory(":memory:", embedder=HashEmbedder()) as memory:
        memory.add("tea", user_id="ana", metadata={"topic": "tea", "stars": 3, "nested": {"topic": "*"}})
        count = memory.count(user_id="ana", filters=wanted)
        assert count == len(memory.search("tea", user_id="ana", filters=wanted))
        assert count == len(memory.get_all(user_id="ana", filters=wanted))
        assert count == memory.delete_all(user_id="ana", filters=wanted, dry_run=True)
        assert count == 1 - memory.count(user_id="ana", filters={"NOT": wanted})


# -- metadata -----------------------------------------------------------------------------------------------------


def cyclic() -> dict[str, Any]:
    loop: dict[str, Any] = {"list": []}
    loop["list"].append(loop)
    return loop


def nested(depth: int) -> dict[str, Any]:
    value: Any = "bottom"
    for _ in range(depth):
        value = {"k": value}
    return value


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"n": math.nan}, "metadata['n'] is nan"),
        ({"n": math.inf}, "metadata['n'] is inf"),
        ({"n": [1, -math.inf]}, "metadata['n'][1] is -inf"),
        ({"n": b"bytes"}, "metadata['n'] is b'bytes', a bytes"),
        ({"n": {1, 2}}, "a set"),
        ({"n": object()}, "a object"),
        ({"n": datetime(2026, 1, 1, tzinfo=UTC)}, "a datetime"),
        ({"n": np.float32(1)}, "a float32"),
        ({"n": 2**63}, "outside 64 bits"),
        ({"n": -(2**63) - 1}, "outside 64 bits"),
        ({"n": HUGE}, "outside 64 bits"),
        ({"n": Unprintable()}, "a Unprintable"),
        ({1: "x"}, "has the key 1; keys must be text"),
        ({"n": {None: "x"}}, "metadata['n'] has the key None"),
        ({("a", "b"): "x"}, "keys must be text"),
        (cyclic(), "holds itself"),
        (nested(MAX_METADATA_DEPTH + 1), f"deeper than {MAX_METADATA_DEPTH} levels"),
        (nested(5000), f"deeper than {MAX_METADATA_DEPTH} levels"),
        ({"big": "x" * 100_001}, "Config.max_metadata_bytes = 100,000"),
        ([("a", 1)], "pass a mapping"),
        ("text", "pass a mapping"),
        (7, "pass a mapping"),
    ],
)
def test_metadata_that_is_not_json_is_refused_by_its_key(memory, bad, named):
    stored = memory.add("stored", user_id="ana", metadata={"a": 1})
    error = TooLongError if "Config." in named else InvalidInputError
    refused(memory, lambda: memory.add("text", user_id="ana", metadata=bad), named, error=error)
    refused(memory, lambda: memory.add_batch(["text"], user_id="ana", metadata=bad), named, error=error)
    item = {"content": "text", "metadata": bad}
    refused(memory, lambda: memory.add_batch([item], user_id="ana"), named, error=error)
    refused(memory, lambda: memory.update(stored.id, metadata=bad), named, error=error)
    assert memory.get(stored.id) == stored


def test_metadata_at_its_limits_is_stored(memory):
    shared = [1]
    for extra in (
        nested(MAX_METADATA_DEPTH - 1),
        {"n": [2**63 - 1, -(2**63), 5e-324, 1.7976931348623157e308, -0.0, 0.1 + 0.2]},
        {"": "empty key", "a.b": 1, "$": 2, "[0]": 3, '"': 4, "\u2028": "\u2029", "\x01": "\x7f"},
        {"x": "é" * 49_990},
        {"one": shared, "two": shared},
        {"empty": {}, "none": None, "list": [[], [[]]]},
    ):
        record = memory.add("text", user_id="ana", metadata=extra)
        assert repr(memory.get(record.id).metadata) == repr(extra) == repr(record.metadata)


def test_enumerations_in_metadata_are_stored_as_their_values(memory):
    record = memory.add("text", user_id="ana", metadata={"level": Level.HIGH, "tone": Tone.WARM, Tone.WARM: True})
    assert record.metadata == memory.get(record.id).metadata == {"level": 3, "tone": "warm", "warm": True}
    assert [type(value) for value in record.metadata.values()] == [int, str, bool]
    assert memory.count(user_id="ana", filters={"level": Level.HIGH, "tone": Tone.WARM}) == 1


def test_small_metadata_that_unfolds_into_an_enormous_one_is_refused_soon(memory):
    bomb: Any = "boom"
    for _ in range(MAX_METADATA_DEPTH - 2):
        bomb = [bomb] * 10
    add = partial(memory.add, "text", user_id="ana", metadata={"bomb": bomb})
    refused(memory, add, "Config.max_metadata_bytes", error=TooLongError)


# -- owners, roles and ids ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["user_id", "agent_id", "run_id", "role", "id"])
@pytest.mark.parametrize(
    "value", ["", " ", " ana", "ana\n", "\u3000ana", "x" * (MAX_NAME_LENGTH + 1), 7, b"ana", ["ana"], True]
)
def test_a_name_that_is_none_is_refused(memory, name, value):
    refused(memory, lambda: memory.add("text", **({"user_id": "ana"} | {name: value})), name)
    if name.endswith("_id"):
        for call in (
            lambda: memory.search("text", **{name: value}),
            lambda: memory.get_all(**{name: value}),
            lambda: memory.count(**{name: value}),
            lambda: memory.delete_all(**{name: value}),
            lambda: memory.scope(**{name: value}),
        ):
            refused(memory, call, name)


@pytest.mark.parametrize("value", ["", " x", None, 7, b"id", "x" * (MAX_NAME_LENGTH + 1)])
def test_an_id_that_is_none_is_refused_by_every_call_that_takes_one(memory, value):
    for call in (memory.get, memory.delete, memory.restore, memory.history, lambda each: memory.update(each, "new")):
        refused(memory, lambda call=call: call(value), "id ")


HOSTILE = [
    "ana", "ANA", "Ana", "an", "ana2", "\u0430na", "\uff41na", "ana\u200b", "\u202eana", "a\u0301na", "\xe1na", "ana'",
    'ana"', "ana`", "ana' OR '1'='1", "ana'; DROP TABLE memory; --", "%", "_", "a%", "an_", "*", "?", "a*", "[a]na",
    "\\", "ana\\", "$.ana", "NULL", "null", "None", "0", "1", "true", "ana\x01", "a\nb", "x" * MAX_NAME_LENGTH,
    "日本", "👩‍🚀", "../ana", "ana=ben", "user_id='ana'", "{}", "[]", ":memory:",
]  # fmt: skip


@pytest.mark.parametrize("field", ["user_id", "agent_id", "run_id"])
def test_owners_that_look_alike_are_kept_apart_exactly(memory, field):
    for name in HOSTILE:
        memory.add(f"tea of {HOSTILE.index(name)}", **{field: name}, metadata={"owner": name})
    for name in HOSTILE:
        expected = [f"tea of {HOSTILE.index(name)}"]
        assert [match.record.content for match in memory.search("tea", **{field: name})] == expected
        assert [record.content for record in memory.get_all(**{field: name})] == expected
        assert memory.count(**{field: name}) == memory.delete_all(**{field: name}, dry_run=True) == 1
        assert memory.count(all_scopes=True, filters={field: {"eq": name}}) == 1
        assert memory.count(all_scopes=True, filters={"owner": {"eq": name}}) == 1
    assert memory.delete_all(**{field: "%"}) == 1
    assert memory.count(all_scopes=True) == len(HOSTILE) - 1


def test_hostile_ids_name_one_memory_each(memory):
    for name in HOSTILE:
        memory.add(f"tea of {name}", user_id="ana", id=name)
    for name in HOSTILE:
        assert memory.get(name).content == f"tea of {name}"
        refused(
            memory, lambda name=name: memory.add("other", user_id="ana", id=name), "is taken", error=DuplicateIdError
        )
    assert memory.delete("%") is True
    assert memory.count(user_id="ana") == len(HOSTILE) - 1


@given(one=owners(), other=owners())
def test_two_owners_share_a_memory_only_when_every_name_agrees(one, other):
    with Memory(":memory:", embedder=HashEmbedder()) as memory:
        memory.add("tea", **one)
        seen = all(one.get(field) == name for field, name in other.items())
        assert memory.count(**other) == seen
        assert len(memory.search("tea", **other)) == seen


# -- numbers, times, words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, -1, 10**9, MAX_LIMIT + 1, HUGE_CASE, True, 1.5, "10", None, math.nan])
def test_a_limit_that_is_no_small_whole_number_is_refused(memory, limit):
    for call in (
        lambda: memory.search("tea", user_id="ana", limit=limit),
        lambda: memory.search_batch(["tea"], user_id="ana", limit=limit),
        lambda: memory.get_all(user_id="ana", limit=limit),
    ):
        refused(memory, call, "limit is ", "1,000,000")


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan, math.inf, "0.5", True])
def test_a_threshold_that_is_no_score_is_refused(memory, threshold):
    refused(memory, lambda: memory.search("tea", user_id="ana", threshold=threshold), "threshold is ", "from 0 to 1")


@pytest.mark.parametrize("timeout", [-1, math.nan, math.inf, 10**7, HUGE_CASE, "1", True, [1]])
def test_a_timeout_that_is_no_span_is_refused(memory, timeout):
    stored = memory.add("stored", user_id="ana").id
    for call in (
        lambda: memory.add("tea", user_id="ana", timeout=timeout),
        lambda: memory.add_batch(["tea"], user_id="ana", timeout=timeout),
        lambda: memory.search("tea", user_id="ana", timeout=timeout),
        lambda: memory.update(stored, "tea", timeout=timeout),
    ):
        refused(memory, call, "timeout is ")


@pytest.mark.parametrize("moment", [NAIVE, datetime(2026, 1, 1, tzinfo=Nowhere()), "2026-01-01", 1e9, 1, NAIVE.date(),
                                    datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
                                    datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))])  # fmt: skip
def test_a_moment_without_a_zone_or_outside_the_calendar_is_refused(memory, moment):
    stored = memory.add("stored", user_id="ana").id
    for call in (
        lambda: memory.add("tea", user_id="ana", created_at=moment),
        lambda: memory.add_batch(["tea"], user_id="ana", created_at=moment),
        lambda: memory.add_messages([{"role": "user", "content": "tea", "created_at": moment}], user_id="ana"),
    ):
        refused(memory, call, "created_at is ")
    for call in (
        lambda: memory.get(stored, as_of=moment),
        lambda: memory.get_all(user_id="ana", as_of=moment),
        lambda: memory.count(user_id="ana", as_of=moment),
        lambda: memory.search("tea", user_id="ana", as_of=moment),
    ):
        refused(memory, call, "as_of is ")
    for pair, end in (((moment, None), 0), ((None, moment), 1)):
        refused(memory, lambda pair=pair: memory.count(user_id="ana", between=pair), f"between[{end}] is ")
    refused(memory, lambda: memory.add("tea", user_id="ana", expires_at=moment), "expires_at is ")
    refused(memory, lambda: memory.update(stored, expires_at=moment), "expires_at is ")


@pytest.mark.parametrize("after", ["", "newest", "newest:1", "newest:a:b", "newest:1:2:3", 7, b"newest:1:2",
                                   f"newest:{2**63}:1", f"newest:1:{-(2**64)}", f"newest:{'9' * 5000}:1"])  # fmt: skip
def test_a_place_in_a_listing_that_no_page_gave_is_refused(memory, after):
    refused(memory, lambda: memory.get_all(user_id="ana", after=after), "after is ")


def test_a_page_cannot_be_continued_in_the_other_order(memory):
    memory.add_batch(["a", "b"], user_id="ana")
    after = memory.get_all(user_id="ana", limit=1).next
    refused(memory, lambda: memory.get_all(user_id="ana", after=after, order="oldest"), after, "order")


def test_words_outside_their_lists_are_refused(memory):
    refused(memory, lambda: memory.get_all(user_id="ana", order="random"), "'random'", "'newest'")
    refused(memory, lambda: memory.search("tea", user_id="ana", mode="magic"), "'magic'")
    refused(memory, lambda: memory.add_batch(["tea"], user_id="ana", on_error="ignore"), "'ignore'", "'return'")


@pytest.mark.parametrize("batch", ["text", b"text", {"content": "text"}, 7, None])
def test_a_batch_that_is_no_list_is_refused(memory, batch):
    refused(memory, lambda: memory.add_batch(batch, user_id="ana"), "contents is ")
    refused(memory, lambda: memory.add_messages(batch, user_id="ana"), "messages is ")
    refused(memory, lambda: memory.search_batch(batch, user_id="ana"), "queries is ")


@pytest.mark.parametrize(
    "wanted", [7, "topic", [("a", 1)], {"a": {"near": 1}}, {"OR": []}, {"a": math.nan}, {"a": HUGE}, {1: 2}]
)
def test_a_filter_outside_the_language_is_refused_by_every_call(memory, wanted):
    for call in (
        lambda: memory.search("tea", user_id="ana", filters=wanted),
        lambda: memory.get_all(user_id="ana", filters=wanted),
        lambda: memory.count(user_id="ana", filters=wanted),
        lambda: memory.delete_all(user_id="ana", filters=wanted),
    ):
        refused(memory, call, "filter")


def test_unknown_keywords_are_a_type_error_on_every_call(memory):
    stored = memory.add("stored", user_id="ana").id
    for call in (
        lambda: memory.add("tea", user_id="ana", user="ana"),
        lambda: memory.add_batch(["tea"], user_id="ana", infer=True),
        lambda: memory.add_messages([], user_id="ana", prompt="x"),
        lambda: memory.search("tea", user_id="ana", top_k=3),
        lambda: memory.search("tea", user_id="ana", filter={}),
        lambda: memory.get_all(user_id="ana", filter={}),
        lambda: memory.count(user="ana"),
        lambda: memory.delete_all(user_id="ana", filter={"a": 1}),
        lambda: memory.update(stored, "tea", user="ben"),
        lambda: memory.scope(user="ana"),
        lambda: memory.add("tea", "ana"),
        lambda: memory.search("tea", "ana"),
        lambda: Memory(":memory:", embeder=HashEmbedder()),
        lambda: Config(worker=1),
    ):
        with pytest.raises(TypeError):
            call()
    assert memory.get(stored).content == "stored"
    assert memory.count(user_id="ana") == 1


@pytest.mark.parametrize("ttl", [0, -1, "60", True, math.nan, 1e300, math.inf, HUGE_CASE, timedelta(seconds=1)])
def test_a_ttl_that_is_no_number_of_seconds_is_refused(memory, ttl):
    stored = memory.add("stored", user_id="ana").id
    for call in (
        lambda: memory.add("tea", user_id="ana", ttl=ttl),
        lambda: memory.add_batch([{"content": "tea", "ttl": ttl}], user_id="ana"),
        lambda: memory.add_messages([{"role": "user", "content": "tea"}], user_id="ana", ttl=ttl),
        lambda: memory.update(stored, ttl=ttl),
    ):
        refused(memory, call, "ttl is ")


def test_a_ttl_beside_an_expiry_is_refused(memory):
    stored = memory.add("stored", user_id="ana").id
    moment = datetime(2200, 1, 1, tzinfo=UTC)
    for call in (
        lambda: memory.add("tea", user_id="ana", ttl=1, expires_at=moment),
        lambda: memory.add_batch([{"content": "tea", "ttl": 1, "expires_at": moment}], user_id="ana"),
        lambda: memory.update(stored, ttl=1, expires_at=moment),
        lambda: memory.update(stored, ttl=1, expires_at=None),
    ):
        refused(memory, call, "Both ttl=1 and expires_at=", "drop one")


@pytest.mark.parametrize("between", ["2026", 7, (), (None,), (None, None, None), {None: None}, datetime.now(UTC)])
def test_what_is_no_pair_of_moments_is_refused(memory, between):
    for call in (
        lambda: memory.search("tea", user_id="ana", between=between),
        lambda: memory.get_all(user_id="ana", between=between),
        lambda: memory.count(user_id="ana", between=between),
        lambda: memory.delete_all(user_id="ana", between=between),
    ):
        refused(memory, call, "between is ", "pair")


def test_a_time_that_ends_before_it_starts_is_refused(memory):
    pair = (datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
    refused(memory, lambda: memory.search("tea", user_id="ana", between=pair), "2026-01-02", "swap")


def test_unknown_fields_of_an_item_are_refused(memory):
    refused(
        memory, lambda: memory.add_batch(["good", {"content": "tea", "user": "ana"}], user_id="ana"), "Item 1", "'user'"
    )
    refused(memory, lambda: memory.add_batch([{"content": "tea", 7: 1}], user_id="ana"), "Item 0", "7")
    refused(memory, lambda: memory.add_batch([{}], user_id="ana"), "Item 0", "content is None")


def test_an_update_with_nothing_to_change_is_refused(memory):
    stored = memory.add("stored", user_id="ana").id
    refused(memory, lambda: memory.update(stored), stored, "Nothing to change")


# -- opening ------------------------------------------------------------------------------------------------------


def cannot_open(path: Any, *named: str, error: type[Exception] = StoreOpenError, **arguments: Any) -> None:
    with pytest.raises(error) as caught:
        Memory(path, **({"embedder": HashEmbedder()} | arguments))
    assert type(caught.value) is error
    is_sentence(str(caught.value))
    for name in named:
        assert name in str(caught.value)


def test_a_path_that_cannot_be_a_store_is_refused_by_name(tmp_path):
    cannot_open(tmp_path, str(tmp_path), "directory")
    cannot_open(tmp_path / "missing" / "store.db", str(tmp_path / "missing"), "does not exist")
    (tmp_path / "file").write_text("x")
    cannot_open(tmp_path / "file" / "store.db", str(tmp_path / "file"))
    cannot_open(tmp_path / ("x" * 300), "xxx")
    for path in ("", b"store.db", None, 7, "a\0b"):
        cannot_open(path, "path is ", error=InvalidInputError)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_path_that_is_not_utf_8_is_refused_or_works(tmp_path):
    cannot_open("half\ud800", "half", error=InvalidInputError)
    path = os.fsdecode(os.fsencode(tmp_path) + b"/latin\xe9.db")
    try:
        with Memory(path, embedder=HashEmbedder()) as memory:
            memory.add("tea", user_id="ana")
    except InvalidInputError as error:
        is_sentence(str(error))
        assert list(tmp_path.iterdir()) == []


def test_a_path_with_spaces_quotes_and_wildcards_is_a_path_like_any_other(tmp_path):
    for name in ("sp ace.db", "quo'te\".db", "per%cent?mode=ro.db", "日本.db", "file:x.db"):
        with Memory(tmp_path / name, embedder=HashEmbedder()) as memory:
            memory.add("tea", user_id="ana")
        assert (tmp_path / name).is_file()


def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path):
    for name, data in [
        ("random", bytes(range(256)) * 64),
        ("text", b"dear diary\n" * 100),
        ("short", b"x" * 99),
        ("tiny", b"x"),
    ]:
        path = tmp_path / name
        path.write_bytes(data)
        cannot_open(path, str(path), "not a database")
        assert path.read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["random", "short", "text", "tiny"]


def test_an_empty_file_becomes_a_store(store_path):
    store_path.touch()
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        memory.add("tea", user_id="ana")
        assert memory.check() == []


@pytest.mark.parametrize("mark", ["", "PRAGMA application_id = 7"])
def test_the_database_of_another_application_is_refused_and_left_as_it_is(store_path, mark):
    connection = apsw.Connection(str(store_path))
    connection.execute(f"CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1); {mark}")
    connection.close()
    data = store_path.read_bytes()
    cannot_open(store_path, str(store_path), "another application")
    assert store_path.read_bytes() == data


def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(store_path):
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        memory.add("tea", user_id="ana")
    forge(store_path, "PRAGMA user_version = 999")
    data = store_path.read_bytes()
    cannot_open(store_path, "999", "upgrade")
    assert store_path.read_bytes() == data


def filled_store(path: Path) -> bytes:
    with Memory(path, embedder=HashEmbedder()) as memory:
        memory.add_batch([f"text number {number}" for number in range(300)], user_id="ana")
    return path.read_bytes()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_truncated_store_is_refused_or_named_by_check_but_never_crashes(store_path, share):
    data = filled_store(store_path)
    store_path.write_bytes(data[: int(len(data) * share)])
    try:
        memory = Memory(store_path, embedder=HashEmbedder())
    except StoreError as error:
        assert type(error) in (StoreOpenError, StoreDamagedError)  # noqa: PT017 - it may also open.
        is_sentence(str(error))
        return
    with memory:
        assert memory.check() != []


@pytest.mark.parametrize("start", [100, 4096, 20_000, 60_000])
def test_a_scribbled_store_is_refused_or_named_by_check_but_never_crashes(store_path, start):
    data = bytearray(filled_store(store_path))
    data[start : start + 3000] = os.urandom(3000)
    store_path.write_bytes(data)
    try:
        memory = Memory(store_path, embedder=HashEmbedder())
    except StoreError as error:
        is_sentence(str(error))
        return
    with memory:
        assert memory.check() != []
        for call in (
            lambda: memory.search("text number 7", user_id="ana"),
            lambda: memory.get_all(user_id="ana", limit=1000),
            lambda: memory.add("new", user_id="ana"),
        ):
            try:
                call()
            except StoreError as error:
                is_sentence(str(error))


# -- configuration, embedders and models --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("durability", "none"), ("timeout", -1), ("timeout", math.nan), ("timeout", "60"), ("busy_timeout", None),
        ("index_vectors", "int4"), ("index_vectors", 8),
        ("workers", 0), ("workers", True), ("workers", 1.5), ("batch_tokens", 0), ("batch_tokens", "8"),
        ("queue_tokens", 0), ("cache_bytes", -1), ("index_bytes", -1),
        ("max_content_bytes", 0), ("max_metadata_bytes", 1.0), ("providers", ()), ("providers", "CPUExecutionProvider"),
        ("indexed_metadata", "topic"), ("indexed_metadata", ["topic"]), ("indexed_metadata", (3,)),
        ("indexed_metadata", ("a b",)), ("indexed_metadata", ("a.",)), ("indexed_metadata", ("",)),
        ("indexed_metadata", ("$.a",)), ("indexed_metadata", ("a'b",)), ("indexed_metadata", ('"a.b"',)),
        ("indexed_metadata", ("role",)), ("indexed_metadata", ("created_at",)), ("indexed_metadata", ("OR",)),
        ("indexed_metadata", ("a", "metadata.a")), ("indexed_metadata", ("x" * 1000,)),
        ("indexed_metadata", tuple(f"key{number}" for number in range(17))),
    ],
)  # fmt: skip
def test_a_setting_out_of_its_range_is_refused_by_name(name, value):
    with pytest.raises(InvalidInputError, match=f"Config.{name} is ") as caught:
        Config(**{name: value})
    is_sentence(str(caught.value))


class Odd:
    """An embedder with some attributes replaced."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update({"identity": "odd", "dimension": 4, "embed": lambda texts: np.ones((len(texts), 4))})
        self.__dict__.update(attributes)


@pytest.mark.parametrize(
    ("embedder", "named"),
    [
        (object(), "identity"), (Odd(identity=""), "identity"), (Odd(identity=None), "identity"),
        (Odd(dimension=0), "dimension"),
        (Odd(dimension=1.5), "dimension"), (Odd(dimension=True), "dimension"), (Odd(dimension=10**9), "dimension"),
        (Odd(embed=None), "embed"), (HashEmbedder, "identity"), ("all-MiniLM-L6-v2", "embedder"),
    ],
)  # fmt: skip
def test_an_embedder_that_is_none_is_refused_when_the_memory_is_opened(store_path, embedder, named):
    cannot_open(store_path, named, error=InvalidInputError, embedder=embedder)


def test_arguments_of_the_memory_that_cannot_be_used_are_refused(store_path):
    cannot_open(store_path, "config is ", error=InvalidInputError, config={"timeout": 1})
    cannot_open(store_path, "drop one", error=InvalidInputError, model="other")
    for model in ("", 7):
        cannot_open(store_path, "model is ", error=InvalidInputError, embedder=None, model=model)
    for dimension in (0, -1, True, 1.5, "64", 10**6):
        with pytest.raises(InvalidInputError, match="dimension is "):
            HashEmbedder(dimension)


@pytest.mark.parametrize("name", ["no-such-model", "x" * 300, "a\0b", "~nobody-here/model", "..", "half\ud800"])
def test_an_unknown_model_is_refused_with_the_known_ones(store_path, name):
    cannot_open(store_path, "There is no model", "all-MiniLM-L6-v2", error=ModelError, embedder=None, model=name)
    assert not store_path.exists()


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A copy of the bundled model that may be damaged."""
    folder = tmp_path / "model"
    shutil.copytree(find_model("all-MiniLM-L6-v2").folder, folder)
    return folder


def test_a_copy_of_the_model_makes_the_same_vectors(store_path, model_folder):
    with Memory(store_path, model="all-MiniLM-L6-v2") as memory:
        memory.add("tea", user_id="ana")
    with Memory(store_path, model=str(model_folder)) as memory:
        assert memory.search("tea", user_id="ana", mode="vector")[0].score == pytest.approx(1, abs=2e-3)
        assert memory.check() == []


@pytest.mark.parametrize("file", ["model.onnx", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["flip a byte", "cut", "delete", "folder"])
def test_a_damaged_model_is_named_by_the_first_call_that_needs_it(open_memory, model_folder, file, damage):
    path = model_folder / file
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage == "flip a byte":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-1])
    elif damage == "folder":
        path.mkdir()
    memory = open_memory(model=str(model_folder))
    for call in (
        lambda: memory.add("tea", user_id="ana"),
        lambda: memory.add_batch(["tea"], user_id="ana", on_error="return"),
        lambda: memory.search("tea", user_id="ana"),
    ):
        refused(memory, call, str(path), "reinstall", error=ModelError)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("dimension = 384", "dimension = 'many'"),
        lambda text: text.replace("dimension = 384", "dimension = 0"),
        lambda text: text.replace("max_tokens = 256", "max_tokens = -1"),
        lambda text: text.replace("[files]", "[nofiles]"),
        lambda text: text.replace('"tokenizer.json" =', '"other" ='),
        lambda text: text.replace("[files]", "files = 3\n[more]"),
        lambda text: text + "not toml",
        lambda text: "\ufffe\0",
    ],
)
def test_a_damaged_model_card_is_named_when_the_memory_is_opened(store_path, model_folder, damage):
    card = model_folder / "model.toml"
    text = card.read_text()
    assert damage(text) != text
    card.write_text(damage(text))
    cannot_open(store_path, str(card), "reinstall", error=ModelError, embedder=None, model=str(model_folder))
    assert not store_path.exists()


def test_a_model_card_that_is_not_utf_8_is_named(store_path, model_folder):
    (model_folder / "model.toml").write_bytes(b"name = '\xff'")
    cannot_open(store_path, "model.toml", error=ModelError, embedder=None, model=str(model_folder))


def test_a_card_that_promises_another_dimension_is_found_out_before_anything_is_written(open_memory, model_folder):
    card = model_folder / "model.toml"
    card.write_text(card.read_text().replace("dimension = 384", "dimension = 500"))
    memory = open_memory(model=str(model_folder))
    with pytest.raises(Exception, match="384") as caught:
        memory.add("tea", user_id="ana")
    is_sentence(str(caught.value))
    assert memory.count(user_id="ana") == 0


def test_every_error_of_ours_is_an_agentmem_error_and_fits_the_built_in_ones():
    assert issubclass(InvalidInputError, ValueError)
    assert issubclass(ClosedError, RuntimeError)
    assert issubclass(StoreOpenError, StoreError)
