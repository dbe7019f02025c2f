"""Config: every setting, its default and its price.

Each setting has a measurement or a stated need behind it. The defaults are meant to be left alone.
"""

import reprlib
from dataclasses import dataclass, fields
from typing import Literal

from agentmem.errors import InvalidInputError
from agentmem.fields import plain_path

Durability = Literal["full", "process"]

MIB = 1024 * 1024

SHORT = 6
"""Characters that are quoted of a value that may be a secret."""

MAX_INDEXED = 16
"""Most metadata keys with an index: every one of them makes adding slower."""
MAX_KEY_LENGTH = 512


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of one `Memory`; immutable, checked when made.

    Raises:
        InvalidInputError: A value is out of its range.
    """

    durability: Durability = "full"
    """`"full"`: an acknowledged write survives a power cut, for one fsync a commit, which concurrent callers share.
    `"process"`: it survives a crash of the process, without an fsync. `add_batch` takes a level of its own."""

    timeout: float = 60.0
    """Seconds that a call may wait for its embedding, analyse its text, or read, before `DeadlineError` or
    `OverloadedError`. A call's own `timeout=` comes first."""

    busy_timeout: float = 10.0
    """Seconds that a write may wait for another process before `StoreBusyError`."""

    workers: int | None = None
    """Model runs at the same time, one core each. `None`: the usable cores, at most 16; but 1 for a model that only
    looks tokens up, and for an `embedder=` of your own, which must be thread-safe to set more."""

    batch_tokens: int = 320
    """Most padded tokens in one run. More gains nothing on a CPU and makes others wait; an accelerator
    wants more."""

    queue_tokens: int = 1_000_000
    """Tokens that may wait for the model before further callers block (back-pressure)."""

    refine: Literal["background", "before_return", "never"] = "background"
    """When a model with a fast half (the default) makes the rest of a vector. `"background"`: after `add` has returned;
    until then searches compare fast halves. `"before_return"`: `add` waits for it. `"never"`: it is not made,
    for small machines. Other models make whole vectors before `add` returns, unless `defer=True`."""

    pending_limit: int = 50_000
    """Memories that may wait for their vectors before further adds block; from half of it on, adds take turns."""

    cache_bytes: int = 64 * MIB
    """Memory for vectors of recently embedded texts, about 1 KB each; a quarter of it for queries."""

    index_bytes: int = 256 * MIB
    """Memory for the indexes of owners that are being searched: about 1 KB a memory, 13 bytes of one in a segment."""

    index_vectors: Literal["float16", "int8"] = "float16"
    """The type of their vectors. `"int8"` saves two fifths of that memory, for a loss within .001 of R@10."""

    max_content_bytes: int = 1_000_000
    """Longest text, in bytes of UTF-8. The model reads the first `max_tokens` word pieces of it."""

    max_metadata_bytes: int = 100_000
    """Largest metadata of one memory, in bytes of JSON."""

    indexed_metadata: tuple[str, ...] | None = None
    """Metadata keys, such as `("topic", "place.city")`, that get an index: filters for equality, membership and order
    then need not read every memory of the owner. Opening the store creates missing indexes and drops those of other
    keys; `None` changes nothing. Each slows adding."""

    near_words: bool = True
    """Whether a word of a query also finds the English words near it in meaning, with a part of its weight."""

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    """onnxruntime execution providers, in order of preference; others need their build of onnxruntime."""

    def __post_init__(self) -> None:
        if self.durability not in ("full", "process"):
            raise InvalidInputError(f"Config.durability is {_shown(self.durability)}; use 'full' or 'process'.")
        if self.refine not in ("background", "before_return", "never"):
            raise InvalidInputError(
                f"Config.refine is {_shown(self.refine)}; use 'background', 'before_return' or 'never'."
            )
        if self.index_vectors not in ("float16", "int8"):
            raise InvalidInputError(f"Config.index_vectors is {_shown(self.index_vectors)}; use 'float16' or 'int8'.")
        for name in ("timeout", "busy_timeout"):
            if not _is_number(getattr(self, name)) or not 0 <= getattr(self, name) <= 1e6:
                raise InvalidInputError(
                    f"Config.{name} is {_shown(getattr(self, name))}; give seconds from 0 to 1,000,000."
                )
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type not in (int, int | None) or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise InvalidInputError(f"Config.{field.name} is {_shown(value)}; give a whole number.")
            smallest = 0 if field.name in ("cache_bytes", "index_bytes") else 1
            if value < smallest:
                raise InvalidInputError(f"Config.{field.name} is {_shown(value)}; give {smallest} or more.")
        if not isinstance(self.near_words, bool):
            raise InvalidInputError(f"Config.near_words is {_shown(self.near_words)}; use True or False.")
        if self.indexed_metadata is not None:
            _check_indexed(self.indexed_metadata)
        if not self.providers or isinstance(self.providers, str):
            raise InvalidInputError(f"Config.providers is {_shown(self.providers)}; give a tuple of provider names.")


def _check_indexed(keys: object) -> None:
    if not isinstance(keys, tuple) or len(keys) > MAX_INDEXED:
        raise InvalidInputError(
            f"Config.indexed_metadata is {_shown(keys)}; give a tuple of at most {MAX_INDEXED} metadata keys."
        )
    for key in keys:
        if not isinstance(key, str) or len(key) > MAX_KEY_LENGTH or plain_path(key) is None:
            raise InvalidInputError(
                f"Config.indexed_metadata is {_shown(keys)}, where {reprlib.repr(key)} can have no index; "
                "give plain ASCII names with dots between them, such as 'place.city' (or 'metadata.role', which is no "
                "field of the record)."
            )
    if len({plain_path(key) for key in keys}) < len(keys):
        raise InvalidInputError(f"Config.indexed_metadata is {_shown(keys)}; name each key once.")


def _shown(value: object) -> str:
    """Returns a number or a short word, and of any other value its type: a misplaced argument may be a secret."""
    short = value is None or isinstance(value, int | float) or (isinstance(value, str) and len(value) <= SHORT)
    return repr(value) if short else f"a {type(value).__name__}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
