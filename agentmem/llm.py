"""A language model behind an endpoint that speaks OpenAI's chat completions (extra `[llm]`)."""

import threading
from typing import Any

from agentmem.errors import InvalidInputError, LanguageModelError
from agentmem.records import shorten

TIMEOUT = 60.0
"""Seconds that an answer may take."""


class Endpoint:
    """Answers chat messages; may be called from any thread. Nothing is imported or connected before the first call.

    `base_url` and `api_key` default to what the package `openai` reads from the environment. A request that fails for a
    reason that may pass is tried again, `retries` times.
    """

    def __init__(
        self, model: str, *, base_url: str | None = None, api_key: str | None = None, timeout: float = TIMEOUT,
        retries: int = 2, **parameters: Any,
    ) -> None:  # fmt: skip
        """`parameters` go with every request: `temperature`, `max_tokens`, `top_p`."""
        if not isinstance(model, str) or not model:
            raise InvalidInputError(f"model is {shorten(model)}; pass the name of a language model.")
        self.model = model
        self._connection = {"base_url": base_url, "api_key": api_key, "timeout": timeout, "max_retries": retries}
        self._parameters = parameters
        self._lock = threading.Lock()  # Guards: that one client is made.
        self._client: Any = None

    def __call__(self, messages: list[dict[str, str]]) -> str:
        """The text of the answer, perhaps empty.

        Raises:
            LanguageModelError: the package is missing, or the endpoint failed.
        """
        openai = _package()
        try:
            answer = self._connected(openai).chat.completions.create(
                model=self.model, messages=messages, **self._parameters
            )
        except openai.OpenAIError as error:
            raise LanguageModelError(
                f"The language model {self.model!r} failed ({type(error).__name__}: {shorten(str(error))}); nothing "
                "was written, try again."
            ) from error
        try:
            content = answer.choices[0].message.content
        except (AttributeError, IndexError, TypeError):  # An endpoint of its own kind.
            return ""
        return content if isinstance(content, str) else ""

    def close(self) -> None:
        """Closes the connections; the next call opens others."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self, openai: Any) -> Any:
        with self._lock:
            if self._client is None:
                self._client = openai.OpenAI(**self._connection)
            return self._client

    def __repr__(self) -> str:
        return f"Endpoint({self.model!r}, base_url={self._connection['base_url']!r})"


def _package() -> Any:
    try:
        import openai
    except ImportError as error:
        raise LanguageModelError(
            "The package 'openai' is not installed; run pip install 'agentmem[llm]', or pass a callable of your own."
        ) from error
    return openai
