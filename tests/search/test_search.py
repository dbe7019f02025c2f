"""Search by words and by meaning: what is found, in which order, and why."""

# ruff: noqa: RUF001 - letters of many scripts are the point.

import time
import tracemalloc
import unicodedata
import zlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmem import EmbeddingError, InvalidInputError, Memory
from agentmem.analyzer import query_terms, stored_terms
from agentmem.filters import parse_filters
from agentmem.records import Scope
from agentmem.testing import HashEmbedder, contents, owners
from tests.forgery import forge

PARTS = ("keyword", "vector", "neighbours", "prior", "window", "recency", "importance")
MODES = ("hybrid", "vector", "keyword")
DAY = datetime(2023, 5, 8, 13, 56, tzinfo=UTC)


def contents_of(matches):
    return [match.record.content for match in matches]


def words(memory, query, **arguments):
    return contents_of(memory.search(query, user_id="ana", mode="keyword", **arguments))


class Blind:
    """Every text has the same vector: only words tell them apart."""

    identity = "blind:1"
    dimension = 2

    def embed(self, texts):
        return np.array([[1, 0]] * len(texts), np.float32)


# -- words ----------------------------------------------------------------------------------------------------------

SCOTLAND = "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
ENGLAND = "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"

FOUND = [
    ("She adopted two kittens", "adopting a kitten"),
    ("Café Müller in Zürich", "cafe muller zurich"),
    ("Die Straße ist lang", "strasse"),
    ("Łódź and Kraków", "lodz krakow"),
    ("Das Straßenfest beginnt um acht", "STRASSENFEST"),
    ("the error was ERR-1042", "err-1042"),
    ("the error was ERR-1042", "1042"),
    ("released as v2.3.1", "V2.3.1"),
    ("write to ana@example.com", "ana@example.com"),
    ("write to ana@example.com", "example"),
    ("see report_final.pdf", "report_final.pdf"),
    ("see report_final.pdf", "report"),
    ("he writes C++ and C#", "c++"),
    ("he writes C++ and C#", "C#"),
    ("Caroline's new job", "Caroline"),
    ("Caroline\u2019s new job", "caroline"),
    ("我住在北京", "北京"),
    ("我住在北京", "京"),
    ("我在東京工作、喜欢喝茶", "喝茶"),
    ("東京へ行きました", "東京"),
    ("カフェでコーヒーを飲んだ", "コーヒー"),
    ("カフェでコーヒーを飲んだ", "ｺｰﾋｰ"),
    ("서울에서 살아요", "서울"),
    ("서울에서 살아요", "서울은"),
    ("ฉันชอบดื่มชาร้อน", "ดื่มชา"),
    ("मुझे हिन्दी पसंद है", "हिन्दी"),
    ("Я живу в Москве, ещё", "москве еще"),
    ("meeting with 田中さん about ERR-7", "田中"),
    ("meeting with 田中さん about ERR-7", "err-7"),
    ("to be or not to be", "to be or not to be"),
    ("the year was 1987", "1987"),
    ("L'école ferme à midi", "école"),
    ("L\u2019école ferme à midi", "ecole"),
    ("L\u02bcécole ferme à midi", "l'école"),
    ("un bicchier d'acqua", "acqua"),
    ("parla dell\u2019amicizia", "amicizia"),
    ("İzmir'de yaşıyor", "İzmir"),
    ("\u0130ZM\u0130R\u2019DE YAŞIYOR", "izmir"),
    ("IZMIR'DE", "\u0131zmir"),
    ("met Conor O'Brien", "Brien"),
    ("Conor O\u2019Brien's house", "brien"),
    ("Conor O\u2019Brien's house", "O'Brien"),
    ("Jeanne D\u02bcArcy", "arcy"),
    ("l'avant-garde", "avant"),
    ("John's car", "John"),
    ("they don\u2019t know", "don't"),
    ("גר בתל\u05beאביב", "אביב"),
    ("גר בתל\u05beאביב", "תל-אביב ובתל-אביב"),
    ("שירת בצה\u05f4ל שלוש שנים", 'בצה"ל'),
    ("שירת בצה\u05f4ל שלוש שנים", "בצהל"),
    ("ראיתי ג\u05f3ירפה", "ג'ירפה"),
    ("ראיתי ג'ירפה", "גירפה"),
    ("שָׁלוֹם עולם", "שלום"),
    ("الغرفة ٣١٤", "314"),
    ("اتاق ۳۱۴", "٣١٤"),
    ("room 314", "۳۱۴"),
    ("कमरा ३१४", "314"),
    ("ห้อง๓๑๔", "314"),
    ("٣٫١٤", "3.14"),
    ("مرحبـــا", "مرحبا"),
    ("Loves 🍕 on Fridays", "🍕"),
    ("Loves🍕🍝on Fridays", "🍝"),
    ("👍🏽 from Ana", "👍"),
    ("👍 from Ana", "👍🏿"),
    ("a picture of 👨‍👩‍👧", "👨‍👩‍👧"),
    ("a picture of 👨‍👩‍👧", "👧"),
    ("she is 👩🏾‍🚀 now", "👩‍🚀"),
    ("moved to 🇩🇪🇫🇷", "🇫🇷"),
    (f"{SCOTLAND} forever", SCOTLAND),
    ("❤\ufe0f you", "❤"),
    ("❤ you", "❤\ufe0f"),
    ("press 1\ufe0f\u20e3 now", "1\u20e3"),
    ("press 1\ufe0f\u20e3 now", "1"),
    ("press #\ufe0f\u20e3 now", "#\u20e3"),
    ("ＥＲＲ－１０４２", "err-1042"),
    ("ca\u00adfé cr\u200bème \ufeffbrûlée", "café crème brûlée"),
    ("well\u2011known", "well-known"),
    (unicodedata.normalize("NFD", "서울에서 살아요"), "서울"),
    (unicodedata.normalize("NFD", "カフェでガム"), "ガム"),
    ("葛\U000e0100城市", "葛城"),
    ("ދިވެހި", "ދިވެހި"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("content", "query"), FOUND, ids=[query for _, query in FOUND])
def test_words_are_found_in_every_script(open_memory, content, query):
    memory = open_memory(":memory:")
    memory.add("something else altogether, 別のこと, 完全无关, 다른 이야기, เรื่องอื่น", user_id="ana", created_at=DAY)
    memory.add(content, user_id="ana", created_at=DAY)
    assert words(memory, query, limit=1) == [content]
    assert contents_of(memory.search(query, user_id="ana", limit=1)) == [content]


@pytest.mark.parametrize(
    ("content", "query"),
    [
        ("the error was ERR-1042", "2042"), ("one", "none"), ("北京", "東西"), ("ca", "cat"), ("tea", "coffee"),
        ("they don't know", "Don"), ("l'école", "l"), ("גר בתל\u05beאביב", "בתלאביב"), ("🍕", "🍔"), ("🇩🇪🇫🇷", "🇪🇫"),
        (ENGLAND, SCOTLAND),
    ],
)  # fmt: skip
def test_other_words_are_no_match(open_memory, content, query):
    memory = open_memory(":memory:")
    memory.add(content, user_id="ana")
    assert words(memory, query) == []


@pytest.mark.parametrize("query", ["8 May 2023", "may", "2023", "Monday", "what was on Monday?"])
def test_the_day_of_a_memory_is_among_its_words(memory, query):
    memory.add("tea", user_id="ana", created_at=DAY)
    memory.add("coffee", user_id="ana", created_at=datetime(2022, 11, 20, tzinfo=UTC))
    assert words(memory, query) == ["tea"]


def test_stop_words_are_dropped_from_a_query_that_has_others():
    assert list(query_terms("What did she do with the cello?").values()) == ["cello"]
    assert list(query_terms("to be or not").values()) == ["to", "be", "or", "not"]
    assert query_terms("?!") == {}


def test_terms_stay_as_they_were_stored():
    # Stores hold these; another analysis needs another terms.ANALYSIS, which makes them anew.
    expected = [zlib.crc32(word) for word in (b"two", b"cat", b"8", b"may", b"2023", b"monday")]
    assert np.frombuffer(stored_terms("Two cats", DAY), "<u4").tolist() == expected


@given(contents())
def test_every_text_has_terms_and_finds_itself(content):
    stored = set(np.frombuffer(stored_terms(content, DAY), "<u4").tolist())
    assert set(query_terms(content)) <= stored


SCRIPTS = (
    "abcdefgh", "ABC'-._@/:+&#0123",
    "éüßıİŁøñ'’ʼ\u0301\u0327\u00ad\u200b", "абвгдеё", "αβγδάώ", "אבגדהו׳״־\u05b8",
    "ابتثجح٣١٤ـ\u064b", "हिन्दीकमरा३१४", "ไทยห้อง๓๑๔",
    "我住在北京東京。", "カフェでガム\u3099", "서울에서\u1112\u1161\u11ab",
    "🍕👍🏽👨‍👩‍👧🇩🇪❤\ufe0f1\u20e3", "ＥＲＲ－１０４２ﷺ㍿½",
)  # fmt: skip


def _words_of(alphabet):
    return st.text(alphabet, min_size=1, max_size=20)


@given(st.lists(st.one_of(*map(_words_of, SCRIPTS), _words_of("".join(SCRIPTS))), max_size=20), st.integers(1, 60))
def test_a_text_of_any_length_in_any_scripts_has_the_words_that_its_parts_have(parts, times):
    parts *= times
    day = np.frombuffer(stored_terms("", DAY), "<u4").tolist()
    expected = Counter(day)
    for part in parts:
        terms = Counter(np.frombuffer(stored_terms(part, DAY), "<u4").tolist())
        assert Counter(query_terms(part).keys()) <= terms
        expected += terms - Counter(day)
    assert Counter(np.frombuffer(stored_terms(" ".join(parts), DAY), "<u4").tolist()) == expected


HOSTILE = {
    "marks of several classes": "\u0301\u0327\u0316",
    "vowel signs": "\u0951\u094d\u0952",
    "voiced marks": "\u20d0\u3099",
    "letters of Hangul": "\u1100\u1161\u11a8",
    "vowels of Hangul": "\u1161",
    "what becomes a sentence": "\ufdfa",
    "a word": "a",
    "a compound": "ab-",
    "apostrophes": "ab'",
    "joints": "é-.",
    "Hebrew quotes": 'א"',
    "Chinese": "".join(map(chr, range(0x4E00, 0x9000))),
    "flags": "\U0001f1e9",
    "spaces": "é \n",
}


@pytest.mark.slow
@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_no_text_takes_more_time_than_its_length(unit):
    with Memory(":memory:", embedder=Blind()) as memory:
        memory.add("tea", user_id="ana")
        text = "a" + unit * (200_000 // len(unit))
        began = time.thread_time()
        memory.add(text, user_id="ben")
        assert memory.search(text, user_id="ben", mode="keyword")
        assert time.thread_time() - began < 10  # Mostly 0.2; marks took the square of their number, 20 and more.
        assert memory.check() == []


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["a", "ab-", "ab'", "éa-"])
def test_long_words_are_not_kept(unit):
    tracemalloc.start()
    try:
        for number in range(30):
            query_terms(f"{number}{unit * 10_000}")
        assert tracemalloc.get_traced_memory()[0] < 300_000
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@settings(max_examples=25)
@given(st.lists(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=4), st.data())
def test_no_repetition_of_any_characters_takes_more_time_than_its_length(characters, data):
    text = "a" + "".join(
        characters + data.draw(st.lists(st.sampled_from("\u0301\u0316\u094d\u3099\u1161'\"-"), max_size=4))
    )
    text *= 50_000 // len(text)
    began = time.thread_time()
    stored_terms(text, DAY)
    query_terms(text)
    assert time.thread_time() - began < 5


def test_of_a_query_of_endless_words_the_first_are_looked_for(memory):
    memory.add("tea", user_id="ana")
    memory.add("coffee", user_id="ana")
    others = " ".join(f"n{number}" for number in range(5000))
    assert words(memory, f"tea {others} coffee") == ["tea"]


@given(st.text("abZ09 .,:;!?'\"()-_@/+&#~%\t\n\x1c", max_size=24))
def test_plain_ascii_gives_the_same_terms_as_within_a_text_of_all_scripts(content):
    ascii_terms = np.frombuffer(stored_terms(content, DAY), "<u4").tolist()
    unicode_terms = np.frombuffer(stored_terms(f"{content} \u00df", DAY), "<u4").tolist()
    unicode_terms.remove(zlib.crc32(b"ss"))
    assert sorted(ascii_terms) == sorted(unicode_terms)


def test_rare_words_count_more_and_long_texts_less(open_memory):
    memory = open_memory(":memory:", embedder=Blind())
    memory.add_batch([f"tea number {number}" for number in range(20)], user_id="ana")
    memory.add_batch(
        ["cello", "a cello among very many other words that say little of it", "cello cello"], user_id="ana"
    )
    assert words(memory, "tea cello", limit=3) == [
        "cello cello", "cello", "a cello among very many other words that say little of it"
    ]  # fmt: skip


# -- modes ----------------------------------------------------------------------------------------------------------


def test_what_only_words_find_ranks_beside_what_only_meaning_finds(open_memory):
    memory = open_memory(":memory:", embedder=Blind())
    memory.add_batch([f"filler {number}" for number in range(50)], user_id="ana")
    memory.add("ticket QX-77 is open", user_id="ana")
    memory.add_batch([f"more filler {number}" for number in range(50)], user_id="ana")
    assert contents_of(memory.search("qx-77", user_id="ana", limit=1)) == ["ticket QX-77 is open"]
    assert len(memory.search("qx-77", user_id="ana", limit=100)) == 100
    assert words(memory, "qx-77") == ["ticket QX-77 is open"]


def test_an_unknown_mode_is_refused(memory):
    for mode in ("both", "", None, 3, "Hybrid"):
        with pytest.raises(InvalidInputError, match="mode is"):
            memory.search("tea", user_id="ana", mode=mode)


class Broken:
    identity = "broken:1"
    dimension = 8

    def embed(self, texts):
        raise AssertionError("the model was asked")


def test_keyword_search_needs_no_model_and_sees_deferred_memories_at_once(store_path):
    with Memory(store_path, embedder=Broken()) as memory:
        memory.add("tea with lemon", user_id="ana", defer=True)
        assert words(memory, "lemon") == ["tea with lemon"]
        assert memory.search("lemon", user_id="ben", mode="keyword") == []
        with pytest.raises(EmbeddingError):
            memory.search("lemon", user_id="ana")


def test_a_hybrid_search_finds_deferred_memories_by_words_and_by_meaning(open_memory):
    memory = open_memory()
    memory.add("tea with lemon", user_id="ana")
    memory.search("lemon", user_id="ana")
    memory.add("a lemon cake", user_id="ana", defer=True)
    matches = memory.search("lemon cake", user_id="ana", explain=True)
    assert contents_of(matches) == ["a lemon cake", "tea with lemon"]
    assert matches[0].explanation["cosine"] > 0.5


def test_changes_are_reflected_at_once(memory):
    record = memory.add("plays the cello", user_id="ana")
    assert words(memory, "cello") == ["plays the cello"]
    memory.update(record.id, "plays the viola")
    assert words(memory, "cello") == []
    assert words(memory, "viola") == ["plays the viola"]
    memory.update(record.id, metadata={"seen": True})
    assert words(memory, "viola") == ["plays the viola"]
    memory.delete(record.id)
    assert words(memory, "viola") == []
    memory.restore(record.id)
    assert words(memory, "viola") == ["plays the viola"]
    memory.update(record.id, expires_at=datetime.now(UTC) + timedelta(milliseconds=1))
    while memory.count(user_id="ana"):
        pass
    assert words(memory, "viola") == []


def test_an_index_that_has_lost_many_memories_finds_the_others(memory):
    records = memory.add_batch([f"word{number} tea" for number in range(300)], user_id="ana", run_id="r")
    words(memory, "tea")
    for record in records[:200]:
        memory.delete(record.id)
    memory.add_batch([f"word{number} tea" for number in range(300, 310)], user_id="ana", run_id="r")
    for number in (200, 299, 300, 309):
        assert words(memory, f"word{number}") == [f"word{number} tea"]
        assert memory.search(f"word{number}", user_id="ana")[0].record.content == f"word{number} tea"
    assert words(memory, "word7") == []


# -- neighbours -----------------------------------------------------------------------------------------------------


def neighbour_shares(memory, query, **arguments):
    matches = memory.search(query, explain=True, limit=100, **arguments)
    return {match.record.content: match.explanation["neighbours"] for match in matches}


def test_neighbours_in_a_run_raise_each_other_and_nobody_else(open_memory):
    memory = open_memory(":memory:", embedder=Blind())
    memory.add("far before", user_id="ana", run_id="1")
    memory.add("in another run", user_id="ana", run_id="2")
    memory.add("two before", user_id="ana", run_id="1")
    memory.add("just before", user_id="ana", run_id="1")
    memory.add("in no run", user_id="ana")
    memory.add("where is the cello?", user_id="ana", run_id="1")
    memory.add("just after", user_id="ana", run_id="1")
    ranked = contents_of(memory.search("cello", user_id="ana"))
    assert ranked[0] == "where is the cello?"
    assert sorted(ranked[1:3]) == ["just after", "just before"]
    assert ranked[3] == "two before"
    shares = neighbour_shares(memory, "cello", user_id="ana")
    assert shares["just before"] > shares["two before"] > shares["far before"]
    assert shares["in another run"] == shares["in no run"] == 0


def test_what_may_not_be_seen_is_nobodys_neighbour(open_memory):
    memory = open_memory(":memory:", embedder=Blind())
    rows = [("the cello", {"kind": "secret"}), ("a turn", {"kind": "open"}), ("a later turn", {"kind": "open"})]
    records = [
        memory.add(content, user_id="ana", run_id="1", metadata=metadata, agent_id="x" if content == "a turn" else None)
        for content, metadata in rows
    ]
    with_all = neighbour_shares(memory, "cello", user_id="ana")
    without = neighbour_shares(memory, "cello", user_id="ana", filters={"kind": "open"})
    assert with_all["a turn"] > without["a turn"]
    assert set(without) == {"a turn", "a later turn"}
    assert neighbour_shares(memory, "cello", user_id="ana", agent_id="x") == {"a turn": 0}
    memory.delete(records[0].id)
    assert neighbour_shares(memory, "cello", user_id="ana") == without


def test_the_same_run_name_of_two_users_is_two_runs(open_memory):
    memory = open_memory(":memory:", embedder=Blind())
    for number in range(3):
        memory.add(f"the cello {number}", user_id="ana", run_id="1", agent_id="bot")
        memory.add(f"a turn {number}", user_id="ben", run_id="1", agent_id="bot")
    for scope in ({"agent_id": "bot"}, {"all_scopes": True}):
        shares = neighbour_shares(memory, "cello", **scope)
        assert shares["the cello 1"] > 0
        keyword_share = {shares[f"a turn {number}"] for number in range(3)}
        assert max(keyword_share) < 0.4 * 0.6  # What vectors alone give; all texts here have the same.


# -- scores ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(
    texts=st.lists(contents(60), min_size=1, max_size=12),
    query=contents(60),
    mode=st.sampled_from(MODES),
    recency=st.sampled_from([None, 3600, timedelta(days=30)]),
    importance=st.sampled_from([None, "weight"]),
)
@settings(max_examples=40)
def test_the_parts_of_a_score_add_up_to_it(texts, query, mode, recency, importance):
    with Memory(":memory:", embedder=HashEmbedder()) as memory:
        for number, text in enumerate(texts):
            memory.add(text, user_id="ana", run_id=f"{number % 2}", metadata={"weight": number / 10}, created_at=DAY)
        matches = memory.search(
            query, user_id="ana", mode=mode, recency=recency, importance=importance, explain=True, limit=20
        )
        for match in matches:
            told = match.explanation
            assert sum(told[part] for part in PARTS) == pytest.approx(match.score, abs=1e-6)
            assert 0 <= match.score <= 1
            assert all(told[part] >= 0 for part in PARTS[:5])
            assert all(told[part] <= 0 for part in PARTS[5:])
            assert told["mode"] == mode
            assert told["candidates"] >= len(matches)
            assert (told["keyword"] > 0) == (bool(told["terms"]) and mode != "vector")
        scores = [match.score for match in matches]
        assert scores == sorted(scores, reverse=True)


def test_the_threshold_means_the_same_for_every_query(memory):
    memory.add_batch(["tea in the morning", "coffee at night"], user_id="ana")
    for mode in MODES:
        for query in ("tea", "tea in the morning", "xylophone", "coffee tea"):
            found = memory.search(query, user_id="ana", mode=mode)
            for bar in (0.05, 0.3, 0.5, 0.7):
                kept = memory.search(query, user_id="ana", mode=mode, threshold=bar)
                assert kept == [match for match in found if match.score >= bar]
    # An unknown word asks for something, so that what lacks it is less of an answer.
    [alone] = memory.search("coffee", user_id="ana", mode="keyword")
    [less] = memory.search("coffee xylophone", user_id="ana", mode="keyword")
    assert less.score < alone.score


def test_ties_go_to_the_newest(open_memory):
    memory = open_memory(":memory:", embedder=Blind())
    ids = [memory.add("tea", user_id="ana", created_at=DAY).id for _ in range(30)]
    for mode in MODES:
        found = [match.record.id for match in memory.search("tea", user_id="ana", mode=mode, limit=30)]
        assert found == ids[::-1]


def test_equal_texts_collapse_on_request(memory):
    for number in range(40):
        memory.add("tea", user_id="ana", created_at=DAY, id=f"t{number}")
    memory.add("tea and cake", user_id="ana", created_at=DAY)
    for mode in MODES:
        assert len(memory.search("tea", user_id="ana", mode=mode)) == 10
        matches = memory.search("tea", user_id="ana", mode=mode, collapse=True)
        assert contents_of(matches) == ["tea", "tea and cake"]
        assert matches[0].record.id == "t39"


def test_recency_prefers_the_new_and_halves_by_the_half_life(memory):
    now = datetime.now(UTC)
    for days in (0, 10, 20, 4000):
        memory.add("tea", user_id="ana", id=f"{days} days", created_at=now - timedelta(days=days))
    for mode in MODES:
        plain = memory.search("tea", user_id="ana", mode=mode)[0].score
        for half_life in (timedelta(days=10), 10 * 86_400):
            matches = memory.search("tea", user_id="ana", mode=mode, recency=half_life)
            assert [match.record.id for match in matches] == ["0 days", "10 days", "20 days", "4000 days"]
            shares = [match.score / plain for match in matches]
            assert shares == pytest.approx([1, 0.75, 0.625, 0.5], abs=1e-3)


def test_importance_prefers_what_is_important(memory):
    for weight in (1, 0.5, 7, -3, "0.9", None, True):
        metadata = {} if weight is None else {"inner": {"weight": weight}}
        memory.add(f"tea {type(weight).__name__} {weight}", user_id="ana", metadata=metadata)
    matches = memory.search("tea", user_id="ana", mode="vector", importance="inner.weight", explain=True)
    shares = {match.record.content: match.score / match.explanation["vector"] for match in matches}
    assert shares == {
        "tea int 1": 1, "tea float 0.5": 0.75, "tea int 7": 1, "tea int -3": 0.5, "tea str 0.9": 0.5,
        "tea NoneType None": 0.5, "tea bool True": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize("recency", [0, -1, True, "1d", float("nan"), float("inf"), timedelta(0), timedelta(days=-1)])
def test_a_half_life_that_is_none_is_refused(memory, recency):
    with pytest.raises(InvalidInputError, match="recency is"):
        memory.search("tea", user_id="ana", recency=recency)


@pytest.mark.parametrize("importance", ["created_at", "role", "", "a..b", 3, ["weight"]])
def test_an_importance_that_names_no_metadata_is_refused(memory, importance):
    with pytest.raises(InvalidInputError):
        memory.search("tea", user_id="ana", importance=importance)


# -- filters and owners ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_filter_that_keeps_one_in_a_thousand_still_fills_the_limit(open_memory, mode):
    memory = open_memory(":memory:")
    memory.add_batch(
        [{"content": f"tea {number % 7}", "metadata": {"n": number % 1000}} for number in range(5000)], user_id="ana"
    )
    matches = memory.search("tea", user_id="ana", mode=mode, limit=5, filters={"n": 77})
    assert [match.record.metadata["n"] for match in matches] == [77] * 5


def test_the_answer_of_a_filter_is_kept_only_as_long_as_it_is_true(tmp_path):
    blue = {"color": "blue"}
    with Memory(tmp_path / "a.db", embedder=Blind()) as memory, Memory(tmp_path / "a.db", embedder=Blind()) as other:

        def found(**arguments):
            return sorted(contents_of(memory.search("a thing", user_id="ana", filters=blue, **arguments)))

        things = {name: memory.add(name, user_id="ana", metadata=blue) for name in ("sea", "sky", "bag")}
        memory.add("grass", user_id="ana", metadata={"color": "green"})
        assert found() == found() == ["bag", "sea", "sky"]
        other.update(things["bag"].id, metadata={"color": "red"})
        assert found() == found() == ["sea", "sky"]
        other.add("ink", user_id="ana", metadata=blue)
        other.delete(things["sky"].id)
        assert found() == found() == ["ink", "sea"]
        other.restore(things["sky"].id)
        assert found() == ["ink", "sea", "sky"]
        assert found(run_id="none") == []
        for color in map(str, range(20)):
            assert memory.search("a thing", user_id="ana", filters={"color": color}) == []
        assert found() == ["ink", "sea", "sky"]


def test_a_filter_asked_about_an_earlier_moment_says_nothing_of_the_present(tmp_path):
    with Memory(tmp_path / "a.db", embedder=Blind()) as memory:
        thing = memory.add("a thing", user_id="ana", metadata={"color": "blue"})
        memory.search("a thing", user_id="ana")
        condition, scope = parse_filters({"color": "blue"}), Scope(user_id="ana")
        cache = memory._engine.index_cache
        with memory._engine.store.snapshot() as earlier:
            assert earlier.seq
            memory.update(thing.id, metadata={"color": "red"})
            memory.search("a thing", user_id="ana")  # The index is beyond the snapshot now.
            view = cache.view(("user_id", "ana"), earlier)
            [passing] = view.passing(earlier, scope, condition)
            assert passing[view.keys == earlier.keys(scope, condition)].all()
        assert memory.search("a thing", user_id="ana", filters={"color": "blue"}) == []


def test_a_memory_that_expires_passes_no_filter_any_more(open_memory, monkeypatch):
    memory = open_memory(embedder=Blind())
    memory.add("soon gone", user_id="ana", metadata={"n": 1}, expires_at=datetime(2035, 1, 1, tzinfo=UTC))
    memory.add("stays", user_id="ana", metadata={"n": 1})

    def found():
        return sorted(contents_of(memory.search("anything", user_id="ana", mode="vector", filters={"n": 1})))

    moments = {year: datetime(year, 6, 1, tzinfo=UTC) for year in (2034, 2035)}
    for year, expected in ((2034, ["soon gone", "stays"]), (2035, ["stays"]), (2034, ["soon gone", "stays"])):
        monkeypatch.setattr("agentmem.storage.sqlite.store.now", lambda year=year: moments[year])
        assert found() == expected, year


def test_other_owners_never_move_a_score(tmp_path):
    texts = [f"{word} on day {number}" for number in range(30) for word in ("tea", "cello", "Lisbon")]
    with Memory(tmp_path / "one.db", embedder=HashEmbedder()) as alone, Memory(
        tmp_path / "many.db", embedder=HashEmbedder()
    ) as shared:  # fmt: skip
        for number in range(40):
            shared.add_batch([f"tea {number} cello Lisbon"] * 20, user_id=f"other {number}", run_id="r")
        for memory in (alone, shared):
            memory.add_batch([{"content": text, "created_at": DAY} for text in texts], user_id="ana", run_id="r")
        for query in ("tea", "cello in Lisbon", "day 3", "Monday tea"):
            for mode in MODES:
                found = [
                    [(match.record.content, match.score) for match in memory.search(query, user_id="ana", mode=mode)]
                    for memory in (alone, shared)
                ]
                assert found[0] == found[1]


SYNTAX = [
    '"', '"tea', "tea*", "*", "NEAR(tea cello)", "tea AND cello", "OR", "NOT tea", "content:tea", "{content}: tea",
    "^tea", "tea -cello", "(tea", "' OR 1=1; --", "%", "_", "te?", "\\", "user_id:ben secret",
]  # fmt: skip


@pytest.mark.parametrize("query", SYNTAX)
def test_nothing_in_a_query_is_syntax(memory, query):
    memory.add_batch(["tea", "cello", "tea and cello"], user_id="ana")
    memory.add("the secret of ben, tea", user_id="ben")
    for mode in MODES:
        assert "the secret of ben, tea" not in contents_of(memory.search(query, user_id="ana", mode=mode))
    plain = [word for word in ("tea", "cello") if word in query]
    if plain and "te?" not in query:
        assert plain[0] in " ".join(words(memory, query))
    assert words(memory, "te*") == []


hostile = st.one_of(contents(40), st.sampled_from(SYNTAX).filter(lambda text: not text.isspace()))


@pytest.mark.slow
@given(
    stored=st.lists(st.tuples(owners(), hostile), min_size=1, max_size=8),
    asked=owners(),
    query=hostile,
    mode=st.sampled_from(MODES),
)
@settings(max_examples=60)
def test_no_search_crosses_owners_whatever_they_are_called(stored, asked, query, mode):
    with Memory(":memory:", embedder=HashEmbedder()) as memory:
        for owner, content in stored:
            memory.add(content, **owner)
        for match in memory.search(query, mode=mode, explain=True, collapse=False, limit=20, **asked):
            for name, value in asked.items():
                assert getattr(match.record, name) == value
        assert memory.check() == []


# -- health ---------------------------------------------------------------------------------------------------------


def test_check_names_terms_that_are_adrift_and_another_analysis_makes_them_anew(store_path):
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        adrift = memory.add("tea with lemon", user_id="ana").id
        gone = memory.add("plays the cello", user_id="ana").id
    forge(store_path, "UPDATE memory SET terms = x'00000000' WHERE id = ?", parameters=(adrift,))
    forge(store_path, "UPDATE memory SET terms = NULL WHERE id = ?", parameters=(gone,))
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        assert [
            name in problem and "words" in problem for name, problem in zip((adrift, gone), memory.check(), strict=True)
        ] == [True, True]
        assert words(memory, "lemon cello") == []
        assert len(memory.search("lemon cello", user_id="ana")) == 2
    forge(store_path, "UPDATE meta SET value = 'an older one' WHERE name = 'analysis'")
    with Memory(store_path, embedder=HashEmbedder()) as memory:
        assert sorted(words(memory, "lemon cello")) == ["plays the cello", "tea with lemon"]
        assert memory.check() == []
        assert [event.what for event in memory.history(adrift)] == ["add"]


def test_the_explanation_of_the_best_is_above_that_of_the_next(memory):
    memory.add_batch(["tea with lemon", "tea", "coffee"], user_id="ana")
    matches = memory.search("tea with lemon", user_id="ana", explain=True)
    assert matches[0].explanation["terms"] == ["tea", "lemon"]
    assert matches[1].explanation["terms"] == ["tea"]
    assert all(first.score >= second.score for first, second in pairwise(matches))


def in_a_run(memory, *texts):
    for number, text in enumerate(texts):
        memory.add(text, user_id="ana", run_id="chat", id=str(number), created_at=DAY)


def test_the_answer_to_a_question_is_found_by_the_words_of_the_question(open_memory):
    with open_memory(embedder=HashEmbedder()) as memory:
        in_a_run(memory, "Bob: Which museum did you see?", "Eve: The one beside the river", "Bob: It rains here")
        answer, asked, other = memory.search("which museum", user_id="ana", mode="hybrid", limit=3, explain=True)
        told = {match.record.id: match for match in (answer, asked, other)}
        # All of the question's words count for its answer; hardly anything of the answer for the question.
        assert told["1"].score > told["2"].score
        assert told["1"].explanation["neighbours"] > 0.3
        [best] = memory.search("river", user_id="ana", limit=1)
        assert best.record.id == "1"
        assert memory.check() == []


def test_a_long_text_that_ends_with_a_question_lends_as_any_other():
    long = (
        "I went to the museum with all of my friends and we saw many old paintings of ships and of the sea there today."
    )
    lent = []
    for text in (f"{long} And you?", f"{long} And me."):
        with Memory(":memory:", embedder=HashEmbedder()) as memory:
            in_a_run(memory, text, "Nothing of that kind")
            matches = memory.search("museum", user_id="ana", mode="hybrid", explain=True)
            lent.append(next(match for match in matches if match.record.id == "1").explanation["neighbours"])
    assert lent[0] == pytest.approx(lent[1], abs=0.02)


def test_what_says_more_comes_first_in_a_run_and_only_there():
    with Memory(":memory:", embedder=HashEmbedder()) as memory:
        in_a_run(memory, "Thanks", "zebras in the garden and on the road behind the house")
        memory.add("Thanks", user_id="eve", id="alone")
        for match in memory.search("nothing of it", user_id="ana", explain=True):
            assert match.explanation["prior"] > 0
        [alone] = memory.search("nothing of it", user_id="eve", explain=True)
        assert alone.explanation["prior"] == 0
