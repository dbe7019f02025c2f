"""Time windows: the times that a question speaks of. They raise the scores of memories created then and filter nothing.

It uses a table: libraries that read relative dates are slow to import, and read much that no `created_at` answers. The
expressions are those that questions use.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from agentmem.analyzer import folded

WINDOW_WEIGHT = 0.2
"""The most by which a memory in the middle of a window comes nearer to 1 (perf/README.md)."""

MOST_CHARACTERS = 1_000
"""Of a query, which are read for times."""

MICROSECONDS = 86_400_000_000  # Of a day.


class Window(NamedTuple):
    """What an expression of a query means: the middle of a bell curve, and its standard deviation in days."""

    text: str
    middle: datetime
    days: float

    def to_dict(self) -> dict[str, Any]:
        return {"text": self.text, "middle": self.middle.isoformat(), "days": self.days}


def find_windows(query: str, reference: datetime) -> list[Window]:
    """Returns the windows of the times that a query speaks of, seen from the reference date, in no order.

    Takes some microseconds for a query without any. May be called from any thread.
    """
    text = folded(query[:MOST_CHARACTERS])
    if not _hint().search(text):
        return []
    windows: list[Window] = []
    taken: list[tuple[int, int]] = []
    for pattern, meaning in _rules():
        for match in pattern.finditer(text):
            if any(match.start() < end and start < match.end() for start, end in taken):
                continue  # A part of a longer expression.
            try:
                found = meaning(match, reference.astimezone(UTC))
            except (ValueError, OverflowError):  # No such day, or beyond the calendar.
                continue
            if found is not None:
                taken.append(match.span())
                windows.append(Window(match[0].strip(), *found))
    return windows


def in_windows(windows: Sequence[Window], created_at: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Returns the part by which the distance of each memory's score to 1 shrinks, (m,), for times in microseconds."""
    best = np.zeros(len(created_at))
    for window in windows:
        distance = (created_at - window.middle.timestamp() * 1e6) / (window.days * MICROSECONDS)
        np.maximum(best, np.exp(np.square(distance) / -2), out=best)
    return WINDOW_WEIGHT * best


# -- expressions ------------------------------------------------------------------------------------------------------

Meaning = tuple[datetime, float]

DAY_DAYS = 1.2
MONTH_DAYS = 16.0
YEAR_DAYS = 120.0
HOLIDAY_DAYS = 4.0
SEASON_DAYS = 30.0
AGO_DAYS = {"day": 1.5, "week": 3.5, "month": 10.0, "year": 60.0}
"""How far around the moment people mean, by the unit they count in."""

UNIT_DAYS = {"day": 1.0, "week": 7.0, "month": 30.44, "year": 365.25}

_NUMBERS = {
    word: number
    for number, words in {
        1: "a an one einem einer ein un une uno una 一", 2: "two zwei deux dos couple 二 两 兩",
        3: "three few drei trois tres 三", 4: "four vier quatre cuatro 四", 5: "five funf cinq cinco 五",
        6: "six sechs seis 六", 7: "seven sieben sept siete 七", 8: "eight acht huit ocho 八",
        9: "nine neun neuf nueve 九", 10: "ten zehn dix diez 十", 11: "eleven elf onze once 十一",
        12: "twelve zwolf douze doce 十二",
    }.items()
    for word in words.split()
}  # fmt: skip
_MONTHS = {
    word: number
    for number, words in enumerate((
        "january jan januar janner janvier enero", "february feb februar fevrier febrero", "march mar marz mars marzo",
        "april apr avril abril", "may mai mayo", "june jun juni juin junio", "july jul juli juillet julio",
        "august aug aout agosto", "september sep sept septembre septiembre", "october oct oktober octobre octubre",
        "november nov novembre noviembre", "december dec dezember decembre diciembre",
    ), start=1)
    for word in words.split()
}  # fmt: skip
_WEEKDAYS = {
    word: number
    for number, words in enumerate((
        "monday montag lundi lunes", "tuesday dienstag mardi martes", "wednesday mittwoch mercredi miercoles",
        "thursday donnerstag jeudi jueves", "friday freitag vendredi viernes",
        "saturday samstag sonnabend samedi sabado", "sunday sonntag dimanche domingo",
    ))
    for word in words.split()
}  # fmt: skip
_SEASONS = {"spring": 4, "summer": 7, "autumn": 10, "fall": 10, "winter": 1}  # The month in its middle.
_HOLIDAYS = {
    "christmas eve": (12, 24), "christmas": (12, 25), "halloween": (10, 31), "new year's eve": (12, 31),
    "new year's": (1, 1), "new year": (1, 1), "valentine's": (2, 14), "weihnachten": (12, 25), "silvester": (12, 31),
    "noel": (12, 25), "navidad": (12, 25), "independence day": (7, 4), "4th of july": (7, 4),
}  # fmt: skip
_UNITS = {
    "day": "day", "week": "week", "month": "month", "year": "year", "tag": "day", "woche": "week", "monat": "month",
    "jahr": "year", "jour": "day", "semaine": "week", "mois": "month", "an": "year", "annee": "year", "dia": "day",
    "semana": "week", "mes": "month", "ano": "year", "天": "day", "日": "day", "周": "week", "週": "week",
    "星期": "week", "礼拜": "week", "月": "month", "年": "year",
}  # fmt: skip


def _unit(word: str) -> str:
    for length in range(len(word), 0, -1):
        if word[:length] in _UNITS:
            return _UNITS[word[:length]]
    raise ValueError(word)


def _number(word: str) -> int:
    word = word.split()[0] if word else "a"
    return int(word) if word.isdigit() else _NUMBERS[word]


def _noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


def _back(reference: datetime, count: int, unit: str) -> datetime:
    """Returns the same day `count` units earlier."""
    if unit in ("day", "week"):
        return reference - timedelta(count * UNIT_DAYS[unit])
    months = reference.year * 12 + reference.month - 1 - count * (12 if unit == "year" else 1)
    return reference.replace(year=months // 12, month=months % 12 + 1, day=min(reference.day, 28))


def _days_ago(count: int) -> Callable[[re.Match[str], datetime], Meaning]:
    return lambda _match, reference: (reference - timedelta(count), DAY_DAYS)


def _ago(match: re.Match[str], reference: datetime) -> Meaning:
    unit = _unit(match["unit"])
    return _back(reference, _number(match["count"]), unit), AGO_DAYS[unit]


def _span(match: re.Match[str], reference: datetime) -> Meaning:
    """Returns the middle, and half the length, of the last few units up to the reference."""
    unit = _unit(match["unit"])
    half = _number(match.groupdict().get("count") or "a") * UNIT_DAYS[unit] / 2
    return reference - timedelta(half), max(3.0, half)


def _unit_before(match: re.Match[str], reference: datetime) -> Meaning:
    """The last week, month or year."""
    return _span(match, reference)


def _unit_so_far(match: re.Match[str], reference: datetime) -> Meaning:
    day, unit = reference.date(), _unit(match["unit"])
    begins = {"week": day - timedelta(day.weekday()), "month": day.replace(day=1)}.get(
        unit, day.replace(month=1, day=1)
    )
    half = (day - begins).days / 2
    return reference - timedelta(half), max(3.0, half)


def _weekday(match: re.Match[str], reference: datetime) -> Meaning:
    back = (reference.weekday() - _WEEKDAYS[match["day"]] - 1) % 7 + 1
    return reference - timedelta(back), DAY_DAYS


def _latest(year: str | None, month: int, day: int, reference: datetime) -> datetime:
    """A day of the year that is named, else the latest such day up to the reference."""
    if year:
        return _noon(date(int(year), month, day))
    found = _noon(date(reference.year, month, day))
    return found if found <= reference + timedelta(1) else _noon(date(reference.year - 1, month, day))


def _month(match: re.Match[str], reference: datetime) -> Meaning:
    month = _MONTHS[match["month"]] if not match["month"].isdigit() else int(match["month"])
    first = _latest(match["year"], month, 1, reference)
    return first + timedelta(14), MONTH_DAYS


def _day(match: re.Match[str], reference: datetime) -> Meaning:
    month = match["month"]
    number = int(month) if month.isdigit() else _MONTHS[month]
    return _latest(match["year"], number, int(match["day"]), reference), DAY_DAYS


def _day_of_month(match: re.Match[str], reference: datetime) -> Meaning:
    day = int(match["day"])
    moment = reference if day <= reference.day else _back(reference, 1, "month")
    return _noon(date(moment.year, moment.month, day)), DAY_DAYS


def _year(match: re.Match[str], _reference: datetime) -> Meaning:
    return _noon(date(int(match["year"]), 7, 1)), YEAR_DAYS


def _season(match: re.Match[str], reference: datetime) -> Meaning:
    middle = _SEASONS[match["season"]]
    if match["year"]:
        return _latest(match["year"], middle, 15, reference), SEASON_DAYS
    begins = _latest(None, (middle - 2) % 12 + 1, 1, reference)
    begins = begins if match["which"] != "last" or reference - begins > timedelta(92) else _back(begins, 1, "year")
    return begins + timedelta(45), SEASON_DAYS


def _holiday(match: re.Match[str], reference: datetime) -> Meaning:
    return _latest(match["year"], *_HOLIDAYS[match["holiday"]], reference), HOLIDAY_DAYS


def _any_of(words: Any) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


@lru_cache(1)
def _hint() -> re.Pattern[str]:
    """Finds nothing in most queries that speak of no time, at once."""
    return re.compile(
        rf"\d|[昨前上去今先]|\b(?:ago|yesterday|today|last|past|previous|this|the|on|hace|hier|avant|ayer|anteayer|"
        rf"gestern|vorgestern|heute|vor|letzte\w*|derni\w+|pasad\w+|il y a|"
        rf"{_any_of(_HOLIDAYS)}|{_any_of(_MONTHS)}|{_any_of(_SEASONS)})\b"
    )


@lru_cache(1)
def _rules() -> Sequence[tuple[re.Pattern[str], Callable[[re.Match[str], datetime], Meaning | None]]]:
    """The expressions, longer ones before their parts."""
    count = rf"(?P<count>\d{{1,3}}|(?:{_any_of(word for word in _NUMBERS if word.isascii())})(?: of| couple of| few)?)"
    several = r"(?P<count>\d{1,3}|two|three|four|five|six|seven|eight|nine|ten|twelve|few|couple of)"
    spoken = "(?P<count>[0-9]{1,3}|[一二两兩三四五六七八九十]{1,2})"
    month = rf"(?P<month>{_any_of(_MONTHS)})"
    year = r"(?:,? (?:of |del? )?(?P<year>(?:19|20)\d\d))?\b"
    weekday = rf"(?P<day>{_any_of(_WEEKDAYS)})"
    french = r"(?=(?s:.*)\b(?:qu|[jldcn])'|(?s:.*)\b(?:le|la|les|est|nous|vous|je|tu|que|ou|qui)\b)"
    english = "(?P<unit>days?|weeks?|months?|years?)"
    rules: list[tuple[str, Callable[[re.Match[str], datetime], Meaning | None]]] = [
        (r"\b(?P<year>(?:19|20)\d\d)-(?P<month>\d\d)-(?P<day>\d\d)\b", _day),
        (r"(?P<year>(?:19|20)\d\d)年(?P<month>\d{1,2})月(?P<day>\d{1,2})日", _day),
        (r"(?P<year>)(?<!\d)(?P<month>\d{1,2})月(?P<day>\d{1,2})日", _day),
        (rf"\b{month}\.? (?:the )?(?P<day>\d{{1,2}})(?:st|nd|rd|th)?{year}", _day),
        (rf"\b(?P<day>\d{{1,2}})(?:st|nd|rd|th|\.|er)?(?: (?:of|de))? {month}{year}", _day),
        (r"\b(?:on|by|since|until) the (?P<day>\d{1,2})(?:st|nd|rd|th)\b", _day_of_month),
        (r"\b(?P<year>(?:19|20)\d\d)-(?P<month>\d\d)\b", _month),
        (rf"\b(?P<holiday>{_any_of(_HOLIDAYS)})(?: day)?{year}", _holiday),
        (rf"\b(?:(?:in|since|during|last|this|of|late|early|mid|im|letzten|en|from) ){month}{year}", _month),
        (rf"\b{month}(?:,? (?:of |del? )?(?P<year>(?:19|20)\d\d))\b", _month),
        (r"(?P<year>(?:19|20)\d\d)年(?P<month>\d{1,2})月", _month),
        (r"(?P<year>)(?<![\d个])(?P<month>1[0-2]|[1-9])月(?:に|份|的)", _month),
        (rf"\b{count} {english} (?:ago|before today)\b", _ago),
        (rf"\bvor {count} (?P<unit>tag|woche|monat|jahr)(?:e?n?)\b", _ago),
        (rf"\bil y a {count} (?P<unit>jour|semaine|mois|an|annee)s?\b", _ago),
        (rf"\bhace {count} (?P<unit>dia|semana|mes|ano)(?:e?s)?\b", _ago),
        (rf"{spoken}(?:个|個|か|ヶ|ケ|カ|箇)?(?P<unit>天|日|周|週|星期|礼拜|月|年)间?間?(?:之)?前", _ago),
        (r"\bday before yesterday\b|\bvorgestern\b|\bavant-hier\b|\banteayer\b|前天|一昨日|おととい", _days_ago(2)),
        (r"\byesterday\b|\blast night\b|\bgestern\b|\bayer\b|昨天|昨日|昨晚|昨夜", _days_ago(1)),
        (rf"{french}^(?s:.*?)\bhier\b", _days_ago(1)),
        (r"(?<!before )\btoday\b|\bthis (?:morning|afternoon)\b|今天|今日|\baujourd'hui\b|\bheute\b", _days_ago(0)),
        (rf"\b(?:last|past|on|this past|this|letzten|am|le|el)\s{weekday}(?: dernier| pasado)?\b", _weekday),
        (
            rf"\b(?:the )?(?:last|past|previous) {several} {english}\b",
            _span,
        ),
        (rf"\b(?:last|past|previous) {english}\b", _unit_before),
        (r"\bletzte[nrs]? (?P<unit>woche|monat|jahr)\b", _unit_before),
        (r"\b(?P<unit>semaine|mois|an|annee) (?:derniere?|passee?)\b", _unit_before),
        (r"\b(?P<unit>semana|mes|ano) pasad[oa]\b", _unit_before),
        (r"(?:上|先)个?個?(?P<unit>周|週|星期|礼拜|月)", _unit_before),
        (r"(?:去|昨)(?P<unit>年)", _unit_before),
        (r"\bthis (?P<unit>week|month|year)\b", _unit_so_far),
        (rf"\b(?P<which>last|this|past|in|during|of)(?: the)? (?P<season>{_any_of(_SEASONS)}){year}", _season),
        (r"\b(?:in|since|during|of) (?P<year>(?:19|20)\d\d)\b", _year),
    ]
    return [(re.compile(pattern), meaning) for pattern, meaning in rules]
