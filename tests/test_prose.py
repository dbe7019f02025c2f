"""The prose of the sources is plain: no pronouns of persons for threads, no names of our own, no endless sentences."""

import pytest

from tests import prose

FILES = {str(path.relative_to(prose.ROOT)): path for path in prose.sources()}
BOUNDS = prose.bounds()


@pytest.mark.parametrize("name", FILES)
def test_no_refused_word_stands_in_docstrings_comments_and_messages(name):
    found = [
        f"{name}:{passage.line}: {word!r} in: {' '.join(passage.text.split())}"
        for passage in prose.prose_of(FILES[name])
        for word in prose.refused(passage.text)
    ]
    assert not found, "\n".join(["Say the noun, or the field's own word:", *found])


PAGES = {str(path.relative_to(prose.ROOT)): path for path in prose.pages()}


@pytest.mark.parametrize("name", PAGES)
def test_no_refused_word_stands_in_a_page(name):
    assert prose.refused(prose.text_of_page(PAGES[name])) == []


@pytest.mark.parametrize("name", FILES)
def test_no_file_gains_long_sentences(name):
    long = [
        f"{name}:{passage.line}: {sentence}"
        for passage in prose.prose_of(FILES[name])
        for sentence in prose.long_sentences(passage.text)
    ]
    bound = BOUNDS.get(name, 0)
    assert len(long) <= bound, "\n".join([f"At most {bound} sentences may have more than 25 words:", *long])


def test_the_bounds_are_of_files_that_are_there():
    assert BOUNDS.keys() <= FILES.keys(), "python -m tests.prose writes them anew"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("whoever waits gets his answer.", ["whoever", "his"]),
        ("returns how many it were, so many of them", ["so many"]),
        ('The `shelf` of "his" store', []),
        ("loads the lens by itself.", ["lens", "by itself"]),
        ("Returns the number of memories erased.", []),
    ],
)
def test_the_words_are_found_outside_of_code_and_quotes(text, words):
    assert prose.refused(text) == words


def test_sentences_are_counted_across_lines_sections_and_lists():
    long = " ".join(["word"] * 25)
    assert prose.long_sentences(f"Says {long}.") == [f"Says {long}."]
    assert prose.long_sentences(f"Says\n    {long}\n    and more.")
    assert not prose.long_sentences(f"Says {long[5:]}. Then\n\n{long}")
    assert not prose.long_sentences(f"Takes two.\n\nArgs:\n    one: {long[5:]}\n    two: {long[5:]}")
    assert not prose.long_sentences(f"Code `{long} {long}` counts as one word.")


def test_docstrings_comments_and_messages_are_read():
    source = (
        '"""Module."""\nX = 1\n"""Attribute."""\n# One\n# comment.\nraise E(f"The value {x} is wrong here.")  # Why.\n'
    )
    assert [(passage.kind, passage.text) for passage in prose.passages(source)] == [
        ("docstring", "Module."), ("docstring", "Attribute."), ("comment", "One comment."), ("comment", "Why."),
        ("message", "The value `x` is wrong here."),
    ]  # fmt: skip
