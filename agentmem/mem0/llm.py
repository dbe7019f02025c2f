"""A language model behind an endpoint that speaks OpenAI's chat completions (extra `[llm]`)."""

import os
import re
import threading
from typing import Any

from agentmem.errors import InvalidInputError, LanguageModelError
from agentmem.quoting import credentials_of, shape, shorten, split_credentials, without_credentials

TIMEOUT = 60.0
"""Seconds to wait for an answer."""

NO_KEY = "none"
"""Stands for a key where the endpoint asks for none."""

LONGEST_CHAIN = 20
"""Most causes of an error that are followed."""

_KEY = re.compile(r"[!-~]+")


class Endpoint:
    """A language model behind an endpoint. Any thread may call it. The first call imports the library and connects.

    Args:
        model: The model's name.
        base_url: The endpoint's address; by default what the package `openai` reads from the environment.
        api_key: The key, likewise.
        timeout: Seconds to wait for an answer.
        retries: How often a request that failed for a passing reason is tried again.
        **parameters: Sent with every request, such as `temperature`, `max_tokens` and `top_p`.

    Raises:
        InvalidInputError: An argument cannot be used.
    """

    def __init__(
        self, model: str, *, base_url: str | None = None, api_key: str | None = None, timeout: float = TIMEOUT,
        retries: int = 2, **parameters: Any,
    ) -> None:  # fmt: skip
        """Imports nothing and connects to nothing; see the class."""
        if not isinstance(model, str) or not model:
            raise InvalidInputError(f"model is {shorten(model)}; pass the name of a language model.")
        if api_key is not None and (not isinstance(api_key, str) or not _KEY.fullmatch(api_key)):
            raise InvalidInputError("api_key is no text without spaces and line ends, as keys are; pass it so.")
        if not isinstance(base_url, str | None):
            raise InvalidInputError(f"base_url is {shape(base_url)}; pass the address of an endpoint.")
        self.model = model
        self._connection: dict[str, Any] = {
            "base_url": base_url,
            "api_key": api_key,
            "timeout": timeout,
            "max_retries": retries,
        }
        self._parameters = parameters
        self._lock = threading.Lock()  # Guards: creating the one client.
        self._client: Any = None

    def __call__(self, messages: list[dict[str, str]]) -> str:
        """Returns the text of the answer, perhaps empty.

        Args:
            messages: Chat messages with `role` and `content`.

        Returns:
            The text.

        Raises:
            LanguageModelError: The package is missing, or the endpoint failed.
        """
        openai = _package()
        failure: Exception
        try:
            answer = self._connected(openai).chat.completions.create(
                model=self.model, messages=messages, **self._parameters
            )
        except Exception as error:
            if not isinstance(error, openai.OpenAIError) and not _is_of_http(error):
                raise
            failure = error
        else:
            return _content_of(answer)
        # Raised outside the handler, so that its context does not name the key or a password.
        told = "" if self._tells_secret(failure) else f": {shorten(str(failure))}"
        raise LanguageModelError(
            f"The language model {self.model!r} failed ({type(failure).__name__}{told}); nothing was written, try "
            "again."
        ) from (failure if told else None)

    def close(self) -> None:
        """Closes the connections; the next call opens others."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self, openai: Any) -> Any:
        with self._lock:
            if self._client is None:
                # Sent as a header, because the libraries below write addresses into their logs.
                address, who = split_credentials(self._address())
                self._client = openai.OpenAI(
                    **self._connection | {"base_url": address or None},
                    default_headers={"Authorization": who} if who else None,
                )
            return self._client

    def _address(self) -> str:
        return str(self._connection["base_url"] or os.environ.get("OPENAI_BASE_URL") or "")

    def _tells_secret(self, error: BaseException | None) -> bool:
        """Whether an error, or one of its causes, names the key or the address's credentials."""
        user, _, password = credentials_of(self._address()).partition(":")
        secrets = (self._connection["api_key"], os.environ.get("OPENAI_API_KEY"), user, password)
        named = [secret.strip() for secret in secrets if secret and secret.strip() and secret != NO_KEY]
        for _ in range(LONGEST_CHAIN):
            if error is None:
                return False
            if any(secret in text for secret in named for text in (str(error), repr(error))):
                return True
            error = error.__cause__ or error.__context__
        return True

    def __repr__(self) -> str:
        base_url = self._connection["base_url"]
        return f"Endpoint({self.model!r}, base_url={base_url and without_credentials(base_url)!r})"


def _content_of(answer: Any) -> str:
    try:
        content = answer.choices[0].message.content
    except (AttributeError, IndexError, TypeError):  # The endpoint class of the package.
        return ""
    return content if isinstance(content, str) else ""


def _is_of_http(error: Exception) -> bool:
    """An address or header that cannot be sent: the library below raises these errors as they are."""
    return isinstance(error, UnicodeError) or type(error).__module__.startswith(("http", "h11"))


def _package() -> Any:
    try:
        import openai
    except ImportError as error:
        raise LanguageModelError(
            "The package 'openai' is not installed; run pip install 'agentmem[llm]', or pass a callable of your own."
        ) from error
    return openai
