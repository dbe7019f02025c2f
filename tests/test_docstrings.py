"""`help(...)` reads well: every public name says what it is, every call what it raises."""

import inspect
import pydoc
import re

import pytest

import agentmem
from agentmem import Memory, ScopedMemory, errors

CLASSES = [value for name in agentmem.__all__ if inspect.isclass(value := getattr(agentmem, name))]
CALLS = {
    f"{owner.__name__}.{name}": call
    for owner in (Memory, ScopedMemory)
    for name, call in inspect.getmembers(owner, inspect.isfunction)
    if not name.startswith("_")
}
ERRORS = {name for name, value in vars(errors).items() if inspect.isclass(value)}


@pytest.mark.parametrize("public", CLASSES, ids=lambda each: each.__name__)
def test_every_public_class_and_what_it_offers_is_described(public):
    assert public.__doc__
    assert not public.__doc__.startswith(f"{public.__name__}("), "the one that dataclasses make"
    for name, member in vars(public).items():
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property | classmethod)):
            assert inspect.getdoc(member), f"{public.__name__}.{name}"


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
def test_every_argument_of_a_call_is_explained_there_or_where_it_is_said_to_be(name):
    """An argument is named in the text of its call, or of `add` or `search`, which `Memory` refers to."""
    told = " ".join([inspect.getdoc(CALLS[name]), inspect.getdoc(Memory), inspect.getdoc(ScopedMemory.add),
                     inspect.getdoc(ScopedMemory.search), inspect.getdoc(ScopedMemory.update)])  # fmt: skip
    plain = {"self", "id", "path", "content", "contents", "messages", "query", "queries", "role", "limit", "metadata"}
    for argument in inspect.signature(CALLS[name]).parameters:
        assert argument in plain or re.search(rf"\b{argument}\b", told), argument


def test_the_help_of_a_memory_begins_with_an_example_and_names_every_call():
    told = inspect.getdoc(Memory)
    public = {name.partition(".")[2] for name in CALLS}
    assert public <= set(re.findall(r"`(\w+)`", told))
    assert "with Memory(" in told.partition("To remember:")[0]
    page = pydoc.plain(pydoc.render_doc(Memory))
    assert all(f" {name}(" in page for name in public)
    assert "functools" not in page
