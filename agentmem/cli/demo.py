"""A demonstration of the main job: remembers a conversation, asks questions and reports the answers."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from agentmem.cli.input import read_lines
from agentmem.config import Config

if TYPE_CHECKING:
    from agentmem.memory import Memory
    from agentmem.records import Match

USER = "demo"

QUESTIONS = (
    "Which city do I live in?",
    "What should I not cook for Leonor?",
    "How do I keep the cat away from the tomatoes?",
    "Where do I find the wifi password?",
    "Whose dog is afraid of storms?",
)

TURNS_TOGETHER = 16
"""Turns of one `add_messages`, and so of one commit: few enough that a progress bar moves."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A question and the best matches, best first."""

    question: str
    matches: "list[Match]"


@dataclass(frozen=True, slots=True)
class Demonstration:
    """The outcome. `seconds` is the time of remembering all turns once the model is loaded."""

    turns: int
    load_seconds: float
    seconds: float
    memories_per_second: float
    commits: int
    durability: str
    answers: list[Answer]

    def summary(self) -> list[str]:
        """Returns the outcome in two lines."""
        rate = f"{self.memories_per_second:,.0f} memories a second"
        synced = ", each with an fsync" if self.durability == "full" else ""
        return [
            f"{self.turns} turns in {self.seconds:.2f} s: {rate} (the model loaded in {self.load_seconds:.2f} s).",
            f"Texts, vectors and history are on the disk together, in {self.commits} commits{synced}.",
        ]


def conversation() -> list[dict[str, Any]]:
    """Returns the turns of the bundled conversation, as chat messages with their times."""
    with resources.files("agentmem.cli").joinpath("demo.jsonl").open("rb") as stream:
        return [item for _, item in read_lines(stream) if isinstance(item, dict)]


def demonstrate(memory: "Memory", limit: int, remembered: Callable[[int], object]) -> Demonstration:
    """Remembers the conversation in `memory` and asks the questions. `remembered` gets the number of every few
    committed turns. Raises as `add_messages` and `search` do."""
    turns = conversation()
    started = time.perf_counter()
    memory.search("Is anybody there?", user_id=USER)  # The first text loads the model.
    loaded = time.perf_counter()
    for start in range(0, len(turns), TURNS_TOGETHER):
        records = memory.add_messages(turns[start : start + TURNS_TOGETHER], user_id=USER)
        remembered(len(records))
    seconds = time.perf_counter() - loaded
    return Demonstration(
        turns=len(turns),
        load_seconds=loaded - started,
        seconds=seconds,
        memories_per_second=len(turns) / seconds,
        commits=memory.stats().store.commits,
        durability=Config().durability,
        answers=[Answer(question, memory.search(question, user_id=USER, limit=limit)) for question in QUESTIONS],
    )
