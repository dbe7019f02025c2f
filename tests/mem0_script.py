"""Scripts for mem0ai, in whose environment agentmem is not installed. What they say is JSON.

    python mem0_script.py shapes MODEL_FOLDER DIMENSION FOLDER

calls every method, and tells the shape of each result; `shapes_of` does so with anything of the same interface. A shape
keeps the texts, which are the same for both, and says of ids, times, digests and scores only that they are there.

    python mem0_script.py store MODEL_FOLDER DIMENSION FOLDER

makes a store in the folder, and tells what it holds and answers. Without a model (an empty text), its vectors mean
nothing.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

UNKNOWN = "00000000-0000-4000-8000-000000000000"

FACTS = json.dumps({"memory": [{"id": "0", "text": "Emma plays the cello"}]})
"""What the language model answers."""

EVERYTHING = "Green tea, peanuts, flying to Lisbon on a window seat, the dog Rex, vouchers of the past or future"
"""A question to which all is near: mem0ai finds nothing with a cosine below 0, whatever the threshold."""

_KINDS = {
    "an id": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "a digest": re.compile(r"[0-9a-f]{32}"),
    "a time": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00"),
}


def shape_of(value: Any) -> Any:
    if isinstance(value, dict):
        # Once it was set, mem0ai shows an expiration date that was taken away as null, and never before.
        shown = {key: part for key, part in sorted(value.items()) if (key, part) != ("expiration_date", None)}
        return {key: shape_of(part) for key, part in shown.items()}
    if isinstance(value, list | tuple):
        return [shape_of(part) for part in value]
    if isinstance(value, float):
        return "a score"
    if isinstance(value, str):
        return next((kind for kind, pattern in _KINDS.items() if pattern.fullmatch(value)), value)
    return value


def by_text(found: dict[str, Any]) -> dict[str, Any]:
    """In an order that does not depend on scores and ids."""
    return {**found, "results": sorted(found["results"], key=lambda item: item["memory"])}


def shapes_of(memory: Any) -> dict[str, Any]:
    """What each call answers; `{"refused": True}` where it raises."""
    shapes: dict[str, Any] = {}

    def ask(name: str, call: Any) -> Any:
        try:
            answer = call()
        except TypeError:
            shapes[name] = {"refused": "as unknown"}
        except Exception:
            shapes[name] = {"refused": True}
        else:
            shapes[name] = shape_of(answer)
            return answer
        return None

    def listed(name: str, **arguments: Any) -> Any:
        return ask(name, lambda: by_text(memory.get_all(**arguments)))

    def searched(name: str, query: str, **arguments: Any) -> Any:
        return ask(name, lambda: by_text(memory.search(query, **arguments)))

    tea = ask("add a text", lambda: memory.add("I like green tea", user_id="ana", infer=False))
    ask(
        "add a message",
        lambda: memory.add(
            {"role": "user", "content": "I am allergic to peanuts", "name": "Ana Lima"},
            user_id="ana", agent_id="chef", run_id="dinner", infer=False, metadata={"topic": "food", "stars": 4},
        ),
    )  # fmt: skip
    ask(
        "add messages",
        lambda: memory.add(
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "I am flying to Lisbon in May"},
                {"role": "assistant", "content": "A window seat, as always?"},
            ],
            user_id="ana", infer=False, metadata={"topic": "travel", "stars": 5, "tags": ["air", "spring"]},
        ),
    )  # fmt: skip
    ask(
        "add with owners in the metadata",
        lambda: memory.add(
            "The dog is called Rex", user_id="ana", infer=False,
            metadata={"user_id": "ben", "agent_id": "x", "actor_id": "y", "topic": "pets"},
        ),
    )  # fmt: skip
    for name, day in (("future", "2124-01-31"), ("past", "2020-01-31")):
        ask(
            f"add with an expiration date in the {name}",
            lambda name=name, day=day: memory.add(
                f"A voucher of the {name}", user_id="ana", infer=False, expiration_date=day
            ),
        )
    ask("add for another user", lambda: memory.add("I like coffee", user_id="ben", infer=False))
    ask("add for a number", lambda: memory.add("I like water", user_id=7, infer=False))
    ask("add nothing", lambda: memory.add([], user_id="ana", infer=False))
    ask("add without an owner", lambda: memory.add("Nobody's", infer=False))
    ask("add what is no message", lambda: memory.add(5, user_id="ana", infer=False))
    ask("add a bad expiration date", lambda: memory.add("x", user_id="ana", infer=False, expiration_date="soon"))
    ask("add with an unknown memory type", lambda: memory.add("x", user_id="ana", infer=False, memory_type="odd"))
    ask("add with an unknown keyword", lambda: memory.add("x", user_id="ana", infer=False, colour="red"))
    ask("add facts", lambda: memory.add("I play the cello", user_id="emma", metadata={"topic": "music"}))
    listed("the facts", filters={"user_id": "emma"})
    ask("add a procedure", lambda: memory.add("Do it", agent_id="bot", memory_type="procedural_memory"))
    listed("the procedure", filters={"agent_id": "bot"})

    listed("get all", filters={"user_id": "ana"})
    listed("get all with expired ones", filters={"user_id": "ana"}, show_expired=True)
    listed("get all of several owners", filters={"user_id": "ana", "run_id": "dinner"})
    listed("get all with metadata", filters={"user_id": "ana", "topic": "travel"})
    listed("get all of a number", filters={"user_id": 7})
    listed("get all of nobody", filters={"user_id": "nobody"})
    ask("get all, only two", lambda: len(memory.get_all(filters={"user_id": "ana"}, top_k=2)["results"]))
    listed("get all without an owner")
    listed("get all without an owner in the filters", filters={"topic": "travel"})
    for wrong in (-1, True, "5"):
        listed(f"get all with top_k {wrong!r}", filters={"user_id": "ana"}, top_k=wrong)

    everything = {"threshold": 0.0, "top_k": 50}
    searched("search", EVERYTHING, filters={"user_id": "ana"}, **everything)
    searched("search and explain", "green tea", filters={"user_id": "ben"}, explain=True, **everything)
    searched("search with expired ones", EVERYTHING, filters={"user_id": "ana"}, show_expired=True, **everything)
    ask("the best", lambda: memory.search("green tea", filters={"user_id": "ana"}, top_k=1))
    ask("none at all", lambda: memory.search("green tea", filters={"user_id": "ana"}, top_k=0))
    searched("nothing is so near", "volcanoes", filters={"user_id": "ana"}, threshold=1.0)
    searched("rerank", "green tea", filters={"user_id": "ben"}, rerank=True, **everything)
    for name, filters in {
        "equal": {"topic": "food"},
        "eq": {"topic": {"eq": "food"}},
        "in": {"topic": {"in": ["food", "pets"]}},
        "a list": {"topic": ["food", "pets"]},
        "gte": {"stars": {"gte": 5}},
        "between": {"stars": {"gt": 3, "lt": 5}},
        "contains": {"topic": {"contains": "travel"}},
        "AND": {"AND": [{"topic": "travel"}, {"stars": {"gte": 5}}]},
        "OR": {"OR": [{"topic": "food"}, {"topic": "pets"}]},
        "NOT": {"NOT": [{"topic": "travel"}, {"topic": "pets"}]},
        "an actor": {"actor_id": "Ana Lima"},
        "a role": {"role": "assistant"},
        "a time": {"created_at": {"gte": "2020-01-01T00:00:00Z"}},
    }.items():
        searched(f"search with {name}", EVERYTHING, filters={"user_id": "ana", **filters}, **everything)
    searched("search with an unknown operator", "tea", filters={"user_id": "ana", "topic": {"near": "x"}, "a": "*"})
    searched("search with an empty OR", "tea", filters={"user_id": "ana", "OR": []})
    for wrong in ("", "  ", None, 5):
        searched(f"search for {wrong!r}", wrong, filters={"user_id": "ana"})
    for wrong in (-0.1, 1.1, "much"):
        searched(f"search with threshold {wrong!r}", "tea", filters={"user_id": "ana"}, threshold=wrong)
    for wrong in (-1, True, "5"):
        searched(f"search with top_k {wrong!r}", "tea", filters={"user_id": "ana"}, top_k=wrong)
    searched("search without an owner", "tea")
    searched("search with a blank owner", "tea", filters={"user_id": " "})

    known = tea["results"][0]["id"]
    ask("get", lambda: memory.get(known))
    ask("get what is not there", lambda: memory.get(UNKNOWN))
    ask("update the text", lambda: memory.update(known, "I like black tea"))
    ask("update by position", lambda: memory.update(known, "I like black tea", {"topic": "drinks", "cups": 2}))
    ask("update the metadata", lambda: memory.update(known, metadata={"cups": 3, "user_id": "ben", "run_id": "r"}))
    ask("update with the old name", lambda: memory.update(memory_id=known, data="I like white tea"))
    ask("update the expiration date", lambda: memory.update(known, expiration_date="2020-06-30"))
    ask("get what has expired", lambda: memory.get(known))
    ask("update what has expired", lambda: memory.update(known, metadata={"cups": 4}))
    listed("it is still hidden", filters={"user_id": "ana"})
    ask("update to no expiration date", lambda: memory.update(known, expiration_date=None))
    ask("get what was updated", lambda: memory.get(known))
    ask("update nothing", lambda: memory.update(known))
    ask("update what is not there", lambda: memory.update(UNKNOWN, "x"))
    ask("delete", lambda: memory.delete(known))
    ask("get what was deleted", lambda: memory.get(known))
    ask("delete what was deleted", lambda: memory.delete(known))
    ask("delete what is not there", lambda: memory.delete(UNKNOWN))
    ask("history", lambda: memory.history(known))
    ask("history of what is not there", lambda: memory.history(UNKNOWN))
    ask("delete all without an owner", memory.delete_all)
    ask("delete all with an unknown keyword", lambda: memory.delete_all(filters={"user_id": "ana"}))
    ask("delete all", lambda: memory.delete_all(user_id="ana"))
    listed("get all after that", filters={"user_id": "ana"}, show_expired=True)
    listed("get all of another user after that", filters={"user_id": "ben"})
    ask("reset", memory.reset)
    listed("get all after the reset", filters={"user_id": "ben"})
    ask("close", memory.close)
    return shapes


MEMORIES = (
    ("I always ask for a window seat on flights", {"user_id": "ana"}, {"topic": "travel", "stars": 5}),
    ("I am allergic to peanuts", {"user_id": "ana", "agent_id": "chef"}, {"topic": "food"}),
    ("My sister Clara lives in Rome", {"user_id": "ana"}, None),
    ("My dog is called Rex", {"user_id": "ana", "run_id": "chat-1"}, {"tags": ["pets", "dogs"], "deep": {"age": 4}}),
    ("I play the cello in an orchestra", {"user_id": "ben"}, None),
    ("The staging server is restarted every Monday", {"agent_id": "ops"}, {"source": "wiki"}),
    ("My parking permit is on the dashboard", {"user_id": "ana"}, None),
    ("I used to live in Oslo", {"user_id": "ana"}, None),
)
QUESTIONS = (
    ("where does she like to sit on a plane?", "ana"), ("what must she not eat?", "ana"),
    ("in which city does her sister live?", "ana"), ("what is the name of her pet?", "ana"),
    ("which instrument does he play?", "ben"),
)  # fmt: skip


def store_of(memory: Any) -> dict[str, Any]:
    """Fills a store that is to be migrated; what it then holds, and what it answers."""
    ids = []
    for number, (text, owners, metadata) in enumerate(MEMORIES):
        message = {"role": "assistant" if number == 5 else "user", "content": text}
        if number == 1:
            message["name"] = "Ana Lima"
        day = "2020-06-30" if number == 6 else "2124-06-30" if number == 3 else None
        [added] = memory.add(message, **owners, metadata=metadata, infer=False, expiration_date=day)["results"]
        ids.append(added["id"])
    memory.update(ids[2], "My sister Clara lives in Madrid")
    memory.update(ids[2], "My sister Clara lives in Porto", metadata={"topic": "family"})
    memory.update(ids[0], metadata={"stars": 4})
    memory.delete(ids[7])
    answers = {}
    for question, user in QUESTIONS:
        answers[question] = memory.search(question, filters={"user_id": user}, top_k=1)["results"][0]["memory"]
    return {
        "items": {each: memory.get(each) for each in ids[:7]},
        "histories": {each: memory.history(each) for each in ids},
        "answers": answers,
    }


class LanguageModel:
    """Answers always the same, as mem0ai asks for it."""

    def generate_response(self, messages: Any, **options: Any) -> str:
        return FACTS


class NoModel:
    """In the place of an embedding model: vectors that mean nothing."""

    def __init__(self, **options: Any) -> None:
        pass

    def embed(self, text: str) -> Any:
        from numpy import array

        yield array([1.0, len(text), 1.0, 0.0])


def mem0(model: str, dimension: int, folder: Path) -> Any:
    """mem0ai with its local Qdrant, a given model, and the language model above."""
    from functools import partial

    import mem0
    import mem0.embeddings.fastembed as embeddings
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    TextEmbedding.add_custom_model(
        model="given", pooling=PoolingType.DISABLED, normalization=False, sources=ModelSource(hf="not/used"),
        dim=dimension, model_file="model.onnx",
    )  # fmt: skip
    embeddings.TextEmbedding = partial(TextEmbedding, specific_model_path=model) if model else NoModel
    memory = mem0.Memory.from_config({
        "embedder": {"provider": "fastembed", "config": {"model": "given", "embedding_dims": dimension}},
        "vector_store": {
            "provider": "qdrant",
            "config": {
                "collection_name": "mem0", "path": str(folder), "embedding_model_dims": dimension, "on_disk": True,
            },
        },
        "history_db_path": str(folder / "history.db"),
    })  # fmt: skip
    memory.llm = LanguageModel()
    return memory


def main() -> None:
    from importlib.metadata import version

    task, model, dimension, folder = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr  # What the libraries print must not get into the answer.
    memory = mem0(model, int(dimension), Path(folder))
    told = {"shapes": shapes_of, "store": store_of}[task](memory)
    if task == "store":
        memory.vector_store.client.close()
        memory.close()
    json.dump({"mem0ai": version("mem0ai"), **({"shapes": told} if task == "shapes" else told)}, answers, indent=1)
    answers.write("\n")
    answers.flush()
    os._exit(0)  # Some of these libraries hang in their threads on the way out; everything has been said.


if __name__ == "__main__":
    main()
