"""`infer=True`: what a language model says is applied in one transaction, whatever it says."""

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentmem import LanguageModelError
from agentmem.mem0 import Memory
from agentmem.mem0.extraction import values_in
from tests.command_line import SECONDS


class Scripted:
    """A language model that answers in turn, and remembers what it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def __call__(self, messages):
        self.asked.append(messages)
        answer = self.answers[len(self.asked) - 1]
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, str | None | bytes | int) else json.dumps(answer)


@pytest.fixture
def known(memory):
    """Ana's memories by their texts."""
    records = memory.add_batch(["Likes tea", "Lives in Rome", "Has a dog"], user_id="ana", metadata={"topic": "ana"})
    memory.add("Likes tea", user_id="ben")
    return {record.content: record.id for record in records}


def texts(memory, owner="ana"):
    return sorted(record.content for record in memory.get_all(user_id=owner))


def learn(memory, *answers, **arguments):
    llm = Scripted(*answers)
    added = Memory(store=memory, llm=llm).add("said", **({"user_id": "ana"} | arguments))
    return added["results"], llm


def shown(llm):
    """The memories that the second question shows, by their texts."""
    question = json.loads(llm.asked[1][1]["content"])
    return {item["text"]: item["id"] for item in question["memories"]}


def decisions(memory, known, *events, facts=("Likes tea and Rome and dogs",)):
    """Learns with decisions that name the memories by their texts."""
    numbers = {}

    def llm(messages):
        if "memories" not in messages[1]["content"]:
            return json.dumps({"facts": list(facts)})
        numbers.update({item["text"]: item["id"] for item in json.loads(messages[1]["content"])["memories"]})
        named = [{**event, "id": numbers.get(str(event.get("id")), event.get("id"))} for event in events]
        return json.dumps({"memory": named})

    return Memory(store=memory, llm=llm).add("said", user_id="ana", metadata={"source": "chat"})["results"]


def test_without_a_language_model_the_error_names_what_to_do(memory):
    with pytest.raises(ValueError, match="infer=False"):
        Memory(store=memory).add("I like tea", user_id="ana")
    with pytest.raises(ValueError, match="infer=False"):
        Memory(store=memory).add("Do it", agent_id="bot", memory_type="procedural_memory")
    assert memory.count(all_scopes=True) == 0


def test_facts_of_someone_of_whom_nothing_is_known_are_added_with_one_question(memory):
    added, llm = learn(
        memory, {"facts": ["Likes tea", "Lives in Rome", "Likes tea"]}, metadata={"topic": "ana", "role": "user"},
        timestamp="2024-05-04", run_id="chat-1", prompt="Only what concerns drinks.",
    )  # fmt: skip
    assert [(each["memory"], each["event"], set(each)) for each in added] == [
        ("Likes tea", "ADD", {"id", "memory", "event"}), ("Lives in Rome", "ADD", {"id", "memory", "event"}),
    ]  # fmt: skip
    [record] = [record for record in memory.get_all(user_id="ana") if record.id == added[0]["id"]]
    assert (record.run_id, record.role, record.metadata) == ("chat-1", "user", {"topic": "ana"})
    assert f"{record.created_at:%Y-%m-%d}" == "2024-05-04"
    [[system, user]] = llm.asked
    assert (system["role"], user) == ("system", {"role": "user", "content": "user: said"})
    assert "Only what concerns drinks." in system["content"]
    assert "Saturday, 2024-05-04" in system["content"]


def test_the_conversation_is_shown_without_what_the_system_says(memory):
    llm = Scripted({"facts": []})
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "name": "Ana", "content": "I like tea {really}"},
        {"role": "assistant", "content": "Noted."},
    ]
    assert Memory(store=memory, llm=llm).add(messages, user_id="ana") == {"results": []}
    assert llm.asked[0][1]["content"] == "user (Ana): I like tea {really}\nassistant: Noted."
    assert Memory(store=memory, llm=llm).add([messages[0]], user_id="ana") == {"results": []}
    assert len(llm.asked) == 1


def test_all_that_was_decided_is_done_in_one_commit(memory, known):
    commits = memory.stats().store.commits
    results = decisions(
        memory, known,
        {"event": "UPDATE", "id": "Likes tea", "text": "Likes green tea"}, {"event": "DELETE", "id": "Lives in Rome"},
        {"event": "NONE", "id": "Has a dog"}, {"event": "ADD", "text": "Has a cat"},
    )  # fmt: skip
    assert memory.stats().store.commits == commits + 1
    assert results == [
        {"id": known["Likes tea"], "memory": "Likes green tea", "event": "UPDATE", "previous_memory": "Likes tea"},
        {"id": known["Lives in Rome"], "memory": "Lives in Rome", "event": "DELETE"},
        {"id": results[2]["id"], "memory": "Has a cat", "event": "ADD"},
    ]
    assert texts(memory) == ["Has a cat", "Has a dog", "Likes green tea"]
    assert memory.get(known["Likes tea"]).metadata == {"topic": "ana", "source": "chat"}
    assert memory.get(results[2]["id"]).metadata == {"source": "chat"}
    assert texts(memory, "ben") == ["Likes tea"]
    assert [event.what for event in memory.history(known["Lives in Rome"])] == ["add", "delete"]


def test_the_model_sees_small_numbers_of_this_owners_memories_only(memory, known):
    _, llm = learn(memory, {"facts": ["tea Rome dog"]}, {"memory": []})
    assert sorted(shown(llm)) == ["Has a dog", "Likes tea", "Lives in Rome"]
    assert sorted(shown(llm).values()) == ["0", "1", "2"]
    assert not any(name in str(llm.asked) for name in known.values())
    assert texts(memory) == ["Has a dog", "Likes tea", "Lives in Rome"]


@pytest.mark.parametrize(
    "answer",
    [
        None, b"x", 7, "", "no facts today", "{", "[", '{"facts": "x"}', '{"facts": {"a": 1}}', '{"other": []}', "null",
        '{"facts": [1, null, [], {}, "", "  ", {"fact": 5}]}', "[[[[" * 5000, '{"facts": ["' + "\ud800" + '"]}',
        json.dumps({"facts": ["nul \0 inside"]}),
    ],
)  # fmt: skip
def test_an_answer_without_facts_changes_nothing(memory, known, answer, caplog):
    with caplog.at_level(logging.WARNING, "agentmem.mem0"):
        added, llm = learn(memory, answer)
    assert added == []
    assert len(llm.asked) == 1
    assert texts(memory) == ["Has a dog", "Likes tea", "Lives in Rome"]


@pytest.mark.parametrize(
    "answer",
    [
        '```json\n{"facts": ["Has a cat"]}\n```', 'Sure!\n```\n{"facts": ["Has a cat"]}\n```\nBye.', '["Has a cat"]',
        '<think>{"facts": ["wrong"]}</think>{"facts": ["Has a cat"]}', 'Here: {"facts": ["Has a cat"]} and so on {',
        '{"facts": [{"fact": "Has a cat"}]}', '{"memory": [{"text": "Has a cat", "attributed_to": "user"}]}',
        '{"facts": [" Has a cat "], "x": 1}', 'a [b] c {"facts": ["Has a cat"]}',
        'As [1] says: {"facts": ["Has a cat"]}',
        '{"thought": "none"} {"facts": ["Has a cat"]}', ["Has a cat"], {"facts": ["Has a cat"]},
    ],
)  # fmt: skip
def test_facts_are_found_whatever_stands_around_them(memory, answer):
    added, _ = learn(memory, answer)
    assert [each["memory"] for each in added] == ["Has a cat"]


@pytest.mark.parametrize("answer", [None, "", "hm", '{"memory": 5}', '{"memory": {"event": "ADD"}}', "{" * 9999])
def test_where_the_decisions_cannot_be_read_the_facts_are_added_once(memory, known, answer, caplog):
    with caplog.at_level(logging.WARNING, "agentmem.mem0"):
        added, _ = learn(memory, {"facts": ["Likes tea", "Has a cat near the dog"]}, answer)
    assert [each["memory"] for each in added] == ["Has a cat near the dog"]  # The other one is there.
    assert "the facts are added" in caplog.text
    assert texts(memory) == ["Has a cat near the dog", "Has a dog", "Likes tea", "Lives in Rome"]


LOST = ["Likes tea and Rome and dogs"]
"""The fact, which no decision that can be understood is about: it is added."""


@pytest.mark.parametrize(
    ("event", "then"),
    [
        ({"event": "UPDATE", "id": "99", "text": "Has a cat"}, ["Has a cat"]),
        ({"event": "UPDATE", "text": "Has a cat"}, ["Has a cat"]),
        ({"event": "UPDATE", "id": ["0"], "text": "Has a cat"}, ["Has a cat"]),
        ({"event": "update ", "id": "-1", "text": "Has a cat"}, ["Has a cat"]),
        ({"event": "ADD", "id": "0", "text": "Has a cat"}, ["Has a cat"]),
        ({"event": "DELETE", "id": "99"}, LOST),
        ({"event": "DELETE"}, LOST),
        ({"event": "DELETE", "id": None}, LOST),
        ({"event": "UPDATE", "id": "0"}, LOST),
        ({"event": "UPDATE", "id": "0", "text": None}, LOST),
        ({"event": "UPDATE", "id": "0", "text": ["x"]}, LOST),
        ({"event": "UPDATE", "id": "0", "text": "  "}, LOST),
        ({"event": "UPDATE", "id": "0", "text": "nul \0"}, LOST),
        ({"event": "ADD", "text": "Likes tea"}, []),
        ({"event": "ADD"}, LOST),
        ({"event": "PURGE", "id": "0", "text": "x"}, LOST),
        ({"event": 5, "id": "0", "text": "x"}, LOST),
        ({"id": "0", "text": "x"}, LOST),
        ({"event": "NONE", "id": "0"}, []),
    ],
    ids=str,
)
def test_a_decision_that_makes_no_sense_harms_nothing(memory, known, event, then):
    added = decisions(memory, known, event)
    assert [each["memory"] for each in added] == then
    assert texts(memory) == sorted(["Has a dog", "Likes tea", "Lives in Rome", *then])


def test_items_that_are_no_decisions_are_passed_over_and_a_memory_is_touched_once(memory, known):
    added, _ = learn(
        memory, {"facts": ["tea"]},
        {"memory": [5, None, "x", [], {"event": "UPDATE", "id": 0, "text": "first"},
                    {"event": "UPDATE", "id": "0", "text": "second"}, {"event": "DELETE", "id": 0}]},
    )  # fmt: skip
    assert [(each["event"], each["memory"]) for each in added] == [("UPDATE", "first"), ("ADD", "second")]


@pytest.mark.parametrize("place", [0, 1])
def test_a_model_that_raises_is_named_and_nothing_is_written(memory, known, place):
    answers = [{"facts": ["Has a cat near the dog"]}, {"memory": []}]
    answers[place] = ConnectionError("no route")
    with pytest.raises(LanguageModelError, match=r"ConnectionError: 'no route'.*infer=False") as raised:
        learn(memory, *answers)
    assert isinstance(raised.value.__cause__, ConnectionError)
    assert texts(memory) == ["Has a dog", "Likes tea", "Lives in Rome"]
    with pytest.raises(KeyboardInterrupt):
        learn(memory, KeyboardInterrupt())


def asked(messages):
    """The memories that a question shows, by their texts; None for the question about facts."""
    question = messages[1]["content"]
    return None if "memories" not in question else {m["text"]: m["id"] for m in json.loads(question)["memories"]}


def test_what_is_deleted_while_the_model_thinks_is_new_again(memory, known):
    def llm(messages):
        numbers = asked(messages)
        if numbers is None:
            return json.dumps({"facts": ["Likes green tea", "Has a dog"]})
        for text in known:
            memory.delete(known[text])
        update = {"event": "UPDATE", "id": numbers["Likes tea"], "text": "Likes green tea"}
        return json.dumps({"memory": [update, {"event": "NONE", "id": numbers["Has a dog"]}]})

    added = Memory(store=memory, llm=llm).add("said", user_id="ana")["results"]
    assert [(each["event"], each["memory"]) for each in added] == [("ADD", "Likes green tea"), ("ADD", "Has a dog")]
    assert texts(memory) == ["Has a dog", "Likes green tea"]


@pytest.mark.parametrize("event", ["UPDATE", "DELETE", "NONE"])
def test_two_that_learn_at_once_see_what_the_other_has_learnt(memory, event):
    """Both are shown "Lives in Rome" before either has decided; the second one is asked again."""
    memory.add("Lives in Rome", user_id="ana", metadata={"sure": True})
    both = threading.Barrier(2, timeout=SECONDS)
    first_done = threading.Event()
    shown = {"moves": [], "cat": []}

    def llm(name):
        def answer(messages):
            numbers = asked(messages)
            if numbers is None:
                return json.dumps({"facts": ["Lives in Porto" if name == "moves" else "Lives in Rome with a cat"]})
            shown[name].append(sorted(numbers))
            if len(shown[name]) == 1:
                both.wait()
            if name == "moves":
                return json.dumps({"memory": [{"event": "UPDATE", "id": "0", "text": "Lives in Porto"}]})
            assert first_done.wait(SECONDS)
            if len(shown[name]) == 2:
                return json.dumps({"memory": [{"event": "UPDATE", "id": "0", "text": "Lives in Porto with a cat"}]})
            return json.dumps({"memory": [{"event": event, "id": "0", "text": "Lives in Rome with a cat"}]})

        return answer

    def learnt(name):
        try:
            return Memory(store=memory, llm=llm(name)).add("said", user_id="ana")["results"]
        finally:
            first_done.set()

    with ThreadPoolExecutor(2) as pool:
        moves, cat = pool.map(learnt, ["moves", "cat"])
    assert shown == {"moves": [["Lives in Rome"]], "cat": [["Lives in Rome"], ["Lives in Porto"]]}
    assert [each["previous_memory"] for each in moves + cat] == ["Lives in Rome", "Lives in Porto"]
    assert texts(memory) == ["Lives in Porto with a cat"]
    [record] = memory.get_all(user_id="ana")
    said = [event.after.content for event in memory.history(record.id)]
    assert said == ["Lives in Rome", "Lives in Porto", "Lives in Porto with a cat"]


def test_other_metadata_are_no_reason_to_ask_again(memory, known):
    questions = []

    def llm(messages):
        questions.append(messages)
        if (numbers := asked(messages)) is None:
            return json.dumps({"facts": ["Likes green tea"]})
        memory.update(known["Likes tea"], metadata={"read": True})
        return json.dumps({"memory": [{"event": "UPDATE", "id": numbers["Likes tea"], "text": "Likes green tea"}]})

    Memory(store=memory, llm=llm).add("said", user_id="ana", metadata={"source": "chat"})
    assert len(questions) == 2
    record = memory.get(known["Likes tea"])
    assert (record.content, record.metadata) == ("Likes green tea", {"topic": "ana", "read": True, "source": "chat"})


def test_where_what_is_known_never_stands_still_the_facts_are_added(memory, known, caplog):
    questions = []

    def llm(messages):
        questions.append(messages)
        if (numbers := asked(messages)) is None:
            return json.dumps({"facts": ["Likes green tea"]})
        memory.update(known["Likes tea"], f"Likes tea, {len(questions)} cups")
        tea = next(number for text, number in numbers.items() if "tea" in text)
        return json.dumps({"memory": [{"event": "DELETE", "id": tea}]})

    with caplog.at_level(logging.WARNING, "agentmem.mem0"):
        [added] = Memory(store=memory, llm=llm).add("said", user_id="ana")["results"]
    assert (added["event"], added["memory"]) == ("ADD", "Likes green tea")
    assert len(questions) == 4
    assert "the facts are added" in caplog.text
    assert texts(memory) == ["Has a dog", "Likes green tea", "Likes tea, 4 cups", "Lives in Rome"]


def test_many_threads_learn_the_same_fact_once(memory):
    mem0 = Memory(store=memory, llm=lambda messages: '{"facts": ["Likes tea"], "memory": [{"event": "NONE"}]}')
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: mem0.add("tea!", user_id="ana")["results"], range(40)))
    assert sum(map(len, results)) == 1
    assert texts(memory) == ["Likes tea"]


def test_a_procedure_is_kept_as_one_summary(memory):
    llm = Scripted("```\nOpened the page, read the price: 12.\n```", "", LanguageModelError("its own"))
    mem0 = Memory(store=memory, llm=llm)
    messages = [{"role": "user", "content": "What does it cost?"}, {"role": "assistant", "content": "12"}]
    [added] = mem0.add(messages, agent_id="bot", memory_type="procedural_memory", metadata={"x": 1})["results"]
    assert set(added) == {"id", "memory", "event"}
    record = memory.get(added["id"])
    assert record.content == "Opened the page, read the price: 12.\n".strip()
    assert record.metadata == {"x": 1, "memory_type": "procedural_memory"}
    for _ in range(2):
        with pytest.raises(LanguageModelError):
            mem0.add(messages, agent_id="bot", memory_type="procedural_memory", prompt="Sum up.")
    assert llm.asked[1][0]["content"] == "Sum up."
    assert memory.count(all_scopes=True) == 1
    with pytest.raises(ValueError, match="memory_type"):
        mem0.add("x", user_id="ana", memory_type="episodic_memory")
    with pytest.raises(ValueError, match="prompt"):
        mem0.add("x", user_id="ana", prompt=5)


def test_the_configured_instructions_are_used_unless_the_call_has_its_own(memory):
    llm = Scripted({"facts": []}, {"facts": []})
    mem0 = Memory({"custom_instructions": "In French."}, store=memory, llm=llm)
    mem0.add("said", user_id="ana")
    mem0.add("said", agent_id="bot", prompt="In German.")
    assert "In French." in llm.asked[0][0]["content"]
    assert "about the people in it" in llm.asked[0][0]["content"]
    assert "In German." in llm.asked[1][0]["content"]
    assert "In French." not in llm.asked[1][0]["content"]
    assert "about the assistant" in llm.asked[1][0]["content"]


def test_json_is_found_in_a_text_or_not_at_all():
    assert list(values_in('x {"a": [1]} y [2] {')) == [{"a": [1]}, [2]]
    assert list(values_in("{" * 1_000_000)) == []
    assert list(values_in("no")) == []
