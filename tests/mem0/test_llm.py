"""A language model behind an endpoint that speaks OpenAI's chat completions, here on loopback."""

import builtins
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agentmem import InvalidInputError, LanguageModelError
from agentmem.mem0 import Memory
from agentmem.mem0.llm import Endpoint
from agentmem.testing import HashEmbedder

pytest.importorskip("openai")


class Server:
    """Answers with what stands in `answers`: a text, or a status and a body."""

    def __init__(self) -> None:
        self.answers: list = []
        self.requests: list[tuple[str, dict, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, body, self.headers.get("Authorization")))
                answer = outer.answers.pop(0)
                status, text = answer if isinstance(answer, tuple) else (200, completion(answer))
                data = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


def completion(text: str | None) -> str:
    message = {"role": "assistant", "content": text}
    return json.dumps({
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    })  # fmt: skip


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join(30)
    server.http.server_close()


MESSAGES = [{"role": "user", "content": "hello"}]


def test_the_messages_go_there_and_the_text_comes_back(server):
    endpoint = Endpoint("m", base_url=server.url, api_key="k", temperature=0.1, max_tokens=7)
    server.answers += ["hi", None, ""]
    assert [endpoint(MESSAGES) for _ in range(3)] == ["hi", "", ""]
    assert server.requests[0] == (
        "/v1/chat/completions", {"model": "m", "messages": MESSAGES, "temperature": 0.1, "max_tokens": 7}, "Bearer k",
    )  # fmt: skip
    endpoint.close()


@pytest.mark.parametrize(
    "answer",
    [(401, '{"error": {"message": "bad key"}}'), (400, "no json"), (404, "")],
    ids=["key", "request", "path"],
)
def test_what_the_endpoint_refuses_is_an_error_of_ours(server, answer):
    endpoint = Endpoint("m", base_url=server.url, api_key="secret-key")
    server.answers += [answer]
    with pytest.raises(LanguageModelError, match=r"'m' failed .*nothing was written") as raised:
        endpoint(MESSAGES)
    assert "secret-key" not in str(raised.value)
    assert raised.value.__cause__ is not None
    endpoint.close()


@pytest.mark.parametrize(
    "body", ["{}", '{"choices": []}', '{"choices": null}', '{"choices": [{"message": null}]}', "[]"]
)
def test_an_answer_of_another_shape_is_an_empty_text(server, body):
    endpoint = Endpoint("m", base_url=server.url, api_key="k")
    server.answers += [(200, body)]
    assert endpoint(MESSAGES) == ""
    endpoint.close()


def test_where_nobody_listens_or_no_key_is_known_that_is_said(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(LanguageModelError, match="OpenAIError"):
        Endpoint("m", base_url=server.url)(MESSAGES)
    endpoint = Endpoint("m", base_url="http://127.0.0.1:9/v1", api_key="k", retries=0)
    with pytest.raises(LanguageModelError, match="APIConnectionError"):
        endpoint(MESSAGES)
    endpoint.close()
    assert server.requests == []


def test_facts_come_through_it_into_the_store_as_the_configuration_says(server):
    server.answers += ['{"facts": ["Likes tea"]}', '{"facts": ["Likes green tea"]}',
                       '{"memory": [{"event": "UPDATE", "id": "0", "text": "Likes green tea"}]}']  # fmt: skip
    config = {
        "vector_store": {"config": {"path": ":memory:"}},
        "llm": {"provider": "openai", "config": {"model": "m", "openai_base_url": server.url, "api_key": "k"}},
    }
    with Memory.from_config(config, embedder=HashEmbedder()) as memory:
        [added] = memory.add("I like tea", user_id="ana")["results"]
        [updated] = memory.add("Green, that is", user_id="ana")["results"]
        assert (updated["event"], updated["id"]) == ("UPDATE", added["id"])
        assert [item["memory"] for item in memory.get_all(user_id="ana")["results"]] == ["Likes green tea"]
    assert len(server.requests) == 3


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **named):
        if name == "openai":
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(LanguageModelError, match=r"agentmem\[llm\]"):
        Endpoint("m")(MESSAGES)


@pytest.mark.parametrize("model", [None, "", 5])
def test_a_model_needs_a_name(model):
    with pytest.raises(InvalidInputError, match="model"):
        Endpoint(model)
