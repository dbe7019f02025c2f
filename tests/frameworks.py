"""Frameworks that the adapters are for. They are large, so that `.ci/run` has an environment of their own for them."""

import importlib
import os
import re
import warnings
from types import ModuleType

import pytest

REQUIRED = "AGENTMEM_FRAMEWORKS"
"""Set where they must be there: then a missing one fails the tests instead of skipping them."""

ADAPTERS = {
    "anthropic": "anthropic.lib.tools",
    "google_adk": "google.adk.memory.base_memory_service",
    "langchain": "langchain_core.vectorstores",
    "langgraph": "langgraph.store.base",
    "llama_index": "llama_index.core.memory",
    "openai_agents": "agents",
    "pydantic_ai": "pydantic_ai",
    "strands": "strands.memory",
}
"""The modules of agentmem.integrations, and what must be there for them."""


def framework(name: str) -> ModuleType:
    """Imports a module of a framework; skips the test, or the module of tests, where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Whatever other packages deprecate among themselves.
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            if os.environ.get(REQUIRED):
                raise
    pytest.skip(f"{name} is not installed; install 'agentmem[integrations-test]'", allow_module_level=True)


def adapter_of(code: str) -> str | None:
    """The adapter that a recipe is about."""
    found = re.search(r"agentmem\.integrations\.(\w+)", code)
    return found[1] if found and found[1] in ADAPTERS else None
