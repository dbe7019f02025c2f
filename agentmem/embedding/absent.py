"""A store opened without a model: everything works but what needs one."""

from dataclasses import dataclass
from typing import Any

from agentmem.errors import ModelError


@dataclass(frozen=True, slots=True)
class AbsentModel:
    """Stands in for the model that made a store's vectors, of which the store knows this much."""

    identity: str = "none"
    dimension: int = 1
    name: str = "none"
    document_prefix: str = ""
    query_prefix: str = ""

    @classmethod
    def of(cls, stored: dict[str, Any] | None) -> "AbsentModel":
        """From what the store remembers of its model; None: of none yet."""
        if stored is None:
            return cls()
        return cls(stored["identity"], stored["dimension"], stored["name"], stored.get("document_prefix", ""))

    def error(self) -> ModelError:
        """What whoever needs the model is told."""
        return ModelError("This memory was opened without a model (model=None); open it with one to embed texts.")
