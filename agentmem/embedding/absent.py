"""A store opened without a model: everything works but what needs one."""

from dataclasses import dataclass

from agentmem.errors import ModelError


@dataclass(frozen=True, slots=True)
class AbsentModel:
    """Stands in for the model that made a store's vectors, of which the store knows this much; by default for none."""

    identity: str = "none"
    dimension: int = 1
    name: str = "none"
    document_prefix: str = ""
    query_prefix: str = ""

    def error(self) -> ModelError:
        """What whoever needs the model is told."""
        return ModelError("This memory was opened without a model (model=None); open it with one to embed texts.")
