"""`help(...)` reads well: every public name is described, and every call names its arguments, result and errors."""

import ast
import importlib
import inspect
import pydoc
import re
import textwrap
from dataclasses import is_dataclass

import pytest

import agentmem
from agentmem import Memory, ScopedMemory, errors

PUBLIC = {
    "agentmem": agentmem.__all__,
    "agentmem.embedding.catalog": ["find_model"],
    "agentmem.integrations.flask": ["AgentMem"],
    "agentmem.mem0": importlib.import_module("agentmem.mem0").__all__,
    "agentmem.mem0.llm": ["Endpoint"],
    "agentmem.mem0.migrate": ["import_mem0", "Imported"],
    "agentmem.models": importlib.import_module("agentmem.models").__all__,
    "agentmem.quantize": ["quantize", "Quantized"],
    "agentmem.testing": ["HashEmbedder", "contents", "owners", "metadata", "filters"],
}
NAMES = {
    f"{module}.{name}": getattr(importlib.import_module(module), name)
    for module, names in PUBLIC.items()
    for name in names
}
CLASSES = {name: value for name, value in NAMES.items() if inspect.isclass(value)}
ERRORS = {name for name, value in vars(errors).items() if inspect.isclass(value)}


def function_of(member: object) -> object:
    """Returns the function behind a method, a class method or a property, and None for anything else."""
    if isinstance(member, property):
        return member.fget
    member = getattr(member, "__func__", member)
    return member if inspect.isfunction(member) else None


METHODS = {
    f"{owner}.{name}": function
    for owner, public in CLASSES.items()
    for base in public.__mro__
    for name, member in vars(base).items()
    if base.__module__.startswith("agentmem.") and not name.startswith("_") and not isinstance(member, property)
    if (function := function_of(member))
}
FUNCTIONS = {name: value for name, value in NAMES.items() if inspect.isfunction(value)} | METHODS
CALLS = {
    name.rpartition("agentmem.")[2]: value for name, value in FUNCTIONS.items() if value.__module__ == "agentmem.memory"
}


@pytest.mark.parametrize("name", CLASSES)
def test_every_public_class_and_what_it_offers_is_described(name):
    public = CLASSES[name]
    assert public.__doc__
    assert not public.__doc__.startswith(f"{public.__name__}("), "the one that dataclasses make"
    for member_name, member in vars(public).items():
        if not member_name.startswith("_") and function_of(member):
            assert inspect.getdoc(member), f"{name}.{member_name}"


def section(described: str, title: str) -> str:
    """Returns the section of a docstring, or nothing."""
    found = re.search(rf"^{title}:\n((?:(?:    .*)?\n?)+)", described, re.M)
    return found[1] if found else ""


def entries(described: str, title: str) -> set[str]:
    """Returns the names that a section explains; several names may share an explanation."""
    found = re.findall(r"^    ((?:\*{0,2}\w+(?:, )?)+)(?: \([^)]*\))?: ", section(described, title), re.M)
    return {name.lstrip("*") for names in found for name in names.split(", ")}


def raises_itself(function: object) -> bool:
    """Whether an error is raised in the function's own text."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(tree))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_call_has_a_section_for_its_arguments_its_result_and_its_errors(name):
    function = FUNCTIONS[name]
    described = inspect.getdoc(function) or ""
    signature = inspect.signature(function)
    assert entries(described, "Args") == signature.parameters.keys() - {"self", "cls"}
    assert (section(described, "Returns") != "") == (signature.return_annotation not in (None, "None"))
    if raises_itself(function):
        assert section(described, "Raises")
    assert entries(described, "Raises") <= ERRORS | {"ImportError", "RuntimeError", "UnknownMemoryError"}


@pytest.mark.parametrize("name", CLASSES)
def test_what_makes_an_object_is_described_with_its_class(name):
    public = CLASSES[name]
    by_hand = "__init__" in vars(public) and not is_dataclass(public) and public is not ScopedMemory
    if by_hand:
        parameters = inspect.signature(public.__init__).parameters
        assert entries(inspect.getdoc(public), "Args") == parameters.keys() - {"self"}


@pytest.mark.parametrize("name", CALLS)
def test_every_call_says_what_it_raises(name):
    told = inspect.getdoc(CALLS[name])
    raising = re.search(r"^Raises:\n((?:    .*\n?)+)|[Rr]aises? (?:as `\w+`|nothing)", told, re.M)
    assert raising, told
    named = re.findall(r"\b([A-Z]\w+Error)\b", told)
    assert set(named) <= ERRORS, told
    if raising[1]:
        first_words = re.findall(r"^    (\w+)", raising[1], re.M)
        assert set(first_words) & ERRORS, told


@pytest.mark.parametrize("name", CALLS)
def test_the_help_of_a_call_fits_a_terminal_and_begins_with_one_sentence_that_promises_something(name):
    told = inspect.getdoc(CALLS[name])
    assert re.match(r"[A-Z][a-z]+s [^\n]+(\.|:)", told), "begin with a verb"
    page = pydoc.plain(pydoc.render_doc(CALLS[name]))
    assert max(map(len, page.partition("\n    ")[2].splitlines())) <= 120


def test_the_help_of_a_memory_begins_with_an_example_and_names_every_call():
    told = inspect.getdoc(Memory)
    public = {name.rpartition(".")[2] for name in CALLS}
    assert public <= set(re.findall(r"`(\w+)`", told))
    assert "with Memory(" in told.partition("To remember:")[0]
    page = pydoc.plain(pydoc.render_doc(Memory))
    assert all(f" {name}(" in page for name in public)
    assert "functools" not in page
