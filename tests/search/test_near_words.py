"""Near words: what they find, what `explain` says of them, and that other languages do not notice them."""

import random

import numpy as np
import pytest

from agentmem import Config
from agentmem.search.near_words import near_words

OTHER_LANGUAGES = {
    "Der Hund schläft auf dem Sofa": "Wo ist der Hund?",
    "猫在沙发上睡觉": "猫在哪里",
    "犬がソファで寝ている": "犬はどこ",
    "개는 소파에서 잔다": "개는 어디에",
    "หมานอนบนโซฟา": "หมาอยู่ไหน",
}
TEXTS = ["The puppy sleeps on the couch", "The car needs new tires", *OTHER_LANGUAGES]


def searched(open_memory, query: str, mode: str, *, near_words: bool = True):
    memory = open_memory(":memory:", config=Config(near_words=near_words))
    memory.add_batch(TEXTS, user_id="ana")
    return [
        (match.content, match.score, match.explanation["near"])
        for match in memory.search(query, user_id="ana", mode=mode, explain=True)
    ]


@pytest.mark.parametrize("mode", ["keyword", "hybrid"])
@pytest.mark.parametrize(
    ("query", "text", "word", "near"),
    [("where is the dog?", TEXTS[0], "dog", "puppy"), ("which automobile?", TEXTS[1], "automobile", "car")],
)
def test_a_near_word_finds_and_is_named_unless_switched_off(open_memory, mode, query, text, word, near):
    with_near = {content: (score, named) for content, score, named in searched(open_memory, query, mode)}
    without = {
        content: (score, named) for content, score, named in searched(open_memory, query, mode, near_words=False)
    }
    assert with_near[text][1] == {word: near}
    assert with_near[text][0] > without.get(text, (0.0, {}))[0]
    assert all(named == {} for _, named in without.values())


def test_the_word_itself_counts_more_than_a_near_one(open_memory):
    memory = open_memory(":memory:")
    memory.add_batch(["The puppy sleeps on the couch", "The dog sleeps on the couch"], user_id="ana")
    own, near = memory.search("dog", user_id="ana", mode="keyword")
    assert "dog" in own.content
    assert own.score > near.score > 0


@pytest.mark.parametrize("mode", ["keyword", "hybrid"])
@pytest.mark.parametrize(("text", "query"), OTHER_LANGUAGES.items())
def test_other_languages_find_the_same_with_the_same_scores(open_memory, mode, text, query):
    found = searched(open_memory, query, mode)
    assert found == searched(open_memory, query, mode, near_words=False)
    assert found[0][0] == text


def test_looking_all_words_up_together_is_looking_each_up():
    table = near_words()
    numbers = random.Random(1)
    known = table._keys.tolist()
    for _ in range(200):
        terms = [
            numbers.choice(known) if numbers.random() < 0.6 else numbers.randrange(2**32)
            for _ in range(numbers.randrange(20))
        ]
        each = [(near, place, factor) for place, term in enumerate(terms) for near, _, factor in table.links([term])]
        assert table.links(terms) == each
    term = known[7]
    [at] = np.flatnonzero(table._keys == term)
    assert len(table.links([term])) == table._starts[at + 1] - table._starts[at] > 0
