"""Times in questions: what an expression means from a reference date, and what a search makes of it."""

from datetime import UTC, date, datetime, timedelta

import pytest

from agentmem import Memory
from agentmem.errors import InvalidInputError
from agentmem.search.windows import find_windows
from agentmem.testing import HashEmbedder

WEDNESDAY = datetime(2023, 5, 17, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("query", "middle"),
    [
        ("what did I do yesterday?", date(2023, 5, 16)),
        ("and the day before yesterday", date(2023, 5, 15)),
        ("who came two weeks ago?", date(2023, 5, 3)),
        ("who came a couple of days ago?", date(2023, 5, 15)),
        ("the trip a year ago", date(2022, 5, 17)),
        ("where was I last Friday?", date(2023, 5, 12)),
        ("where was I on Wednesday?", date(2023, 5, 10)),
        ("what happened in May?", date(2023, 5, 15)),
        ("what happened in December?", date(2022, 12, 15)),
        ("what happened in June 2021?", date(2021, 6, 15)),
        ("what was said on May 7th, 2023?", date(2023, 5, 7)),
        ("what was said on the 7th of May?", date(2023, 5, 7)),
        ("what was said on the 20th?", date(2023, 4, 20)),
        ("the note of 2023-02-03", date(2023, 2, 3)),
        ("which present did I get at Christmas 2021?", date(2021, 12, 25)),
        ("which present did I get for Christmas?", date(2022, 12, 25)),
        ("where did we go last week?", date(2023, 5, 14)),
        ("which films did I see in the past two months?", date(2023, 4, 17)),
        ("what did we plant this spring?", date(2023, 4, 15)),
        ("what did we plant last summer?", date(2022, 7, 16)),
        ("was habe ich gestern gesagt?", date(2023, 5, 16)),
        ("wer kam vor drei Wochen?", date(2023, 4, 26)),
        ("was war letzte Woche?", date(2023, 5, 14)),
        ("was war im Mai 2022?", date(2022, 5, 15)),
        ("qu'est-ce que j'ai dit hier ?", date(2023, 5, 16)),
        ("qui est venu il y a 3 semaines ?", date(2023, 4, 26)),
        ("qu'avons-nous fait la semaine dernière ?", date(2023, 5, 14)),
        ("où était-ce en mai ?", date(2023, 5, 15)),
        ("¿qué dije ayer?", date(2023, 5, 16)),
        ("¿quién vino hace 3 días?", date(2023, 5, 14)),
        ("¿qué hicimos la semana pasada?", date(2023, 5, 14)),
        ("¿qué pasó en mayo?", date(2023, 5, 15)),
        ("我昨天说了什么？", date(2023, 5, 16)),  # noqa: RUF001
        ("三天前谁来了？", date(2023, 5, 14)),  # noqa: RUF001
        ("上周我们做了什么？", date(2023, 5, 14)),  # noqa: RUF001
        ("2023年5月发生了什么", date(2023, 5, 15)),
        ("昨日は何を言いましたか", date(2023, 5, 16)),
        ("3日前に誰が来ましたか", date(2023, 5, 14)),
        ("先週は何をしましたか", date(2023, 5, 14)),
        ("5月に何がありましたか", date(2023, 5, 15)),
    ],
)
def test_an_expression_means_a_time_before_the_reference_date(query, middle):
    [window] = find_windows(query, WEDNESDAY)
    assert abs(window.middle.date() - middle) <= timedelta(1), window


@pytest.mark.parametrize(
    "query",
    [
        "may I ask where she lives?", "the last cake", "on and on we march", "I saw him at the fall of the wall",
        "was ist hier passiert?", "room 2024 is locked", "2023-13-45", "February 31st",
        "what is the date of 10^300 years?", "the past", "99999999999999999999 years ago", "", "日本語のテキスト",
    ],
)  # fmt: skip
def test_other_words_mean_no_time(query):
    assert find_windows(query, WEDNESDAY) == []


def test_a_reference_date_at_the_beginning_of_the_calendar_is_no_error():
    assert find_windows("999 years ago, and yesterday", datetime(1, 1, 1, tzinfo=UTC)) == []


@pytest.fixture
def visits():
    with Memory(":memory:", embedder=HashEmbedder()) as memory:
        for days in (1, 9, 30, 400):
            at = WEDNESDAY - timedelta(days)
            memory.add("Ana visited the dentist", user_id="ana", created_at=at, id=f"{days} days")
        yield memory
        assert memory.check() == []


def test_what_was_said_at_the_time_of_the_question_comes_first_and_nothing_is_left_out(visits):
    for when, first in (("yesterday", "1 days"), ("a year ago", "400 days")):
        for mode in ("hybrid", "keyword"):
            found = visits.search(f"dentist, {when}", user_id="ana", mode=mode, reference_date=WEDNESDAY)
            assert found[0].record.id == first
            assert len(found) == 4
            assert all(0 < match.score <= 1 for match in found)


def test_the_explanation_has_the_window_and_its_part_of_the_score(visits):
    [best, *_] = visits.scope(user_id="ana").search(
        "the dentist, 9 days ago", reference_date=WEDNESDAY, explain=True
    )  # fmt: skip
    assert best.record.id == "9 days"
    assert best.explanation["windows"] == [
        {"text": "9 days ago", "middle": "2023-05-08T12:00:00+00:00", "days": 1.5},
    ]  # fmt: skip
    assert best.explanation["window"] > 0.1
    parts = ("keyword", "vector", "neighbours", "prior", "window", "recency", "importance")
    assert sum(best.explanation[part] for part in parts) == pytest.approx(best.score, abs=1e-6)


def test_a_question_without_a_time_scores_the_same_at_any_reference_date(visits):
    def found(when):
        matches = visits.search_batch(["the dentist"], user_id="ana", reference_date=when)[0]
        return [(match.record.id, match.score) for match in matches]

    assert found(WEDNESDAY) == found(WEDNESDAY - timedelta(9)) == found(None)


def test_a_past_search_looks_back_from_its_own_moment(visits):
    before = datetime.now(UTC)
    [best, *_] = visits.search("yesterday", user_id="ana", as_of=before, explain=True)
    [window] = best.explanation["windows"]
    assert window["middle"] == (before - timedelta(1)).isoformat()


def test_a_reference_date_without_a_zone_is_refused(visits):
    with pytest.raises(InvalidInputError, match="reference_date"):
        visits.search("yesterday", user_id="ana", reference_date=datetime(2023, 5, 17))
