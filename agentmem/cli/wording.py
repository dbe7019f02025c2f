"""Translates the library's messages into the words of the command line.

`user_id=` becomes `--user`, and `check()` becomes `agentmem check`. Quoted values come from the caller and stay
unchanged.
"""

import re
from collections.abc import Mapping

import click

QUOTED = r"""(?P<quoted>(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"))"""

CALLED = r"Memory\([^()]*\)\.reembed\('?(?P<model>[^()']*)'?\)|(?P<call>check|repair|purge|vacuum|flush|reembed)\(\)"

PLACED = re.compile(r"Line \d+: |Item \d+: ")
"""Such a message is about the fields of a file, whose names stay."""

SYNONYMS = {"text": "content", "copy": "path"}
"""Arguments of commands that have another name in the library."""

IN_PYTHON = (
    " (reads across owners take all_scopes=True)",
    " (`agentmem repair` on the command line)",
    ", pass it with embedder=",
)
"""Parts of messages that mean nothing to a command without such an option."""


def in_options(message: str, words: Mapping[str, str], *, of_file: bool = False) -> str:
    """Returns a message of the library for a user of options and commands.

    `words` are the keywords that the command's options stand for, and their spelling. `of_file` says that the message
    is about the fields of a line.
    """
    if "all_scopes" in words:
        message = message.replace("take all_scopes=True", "take all_scopes=")
    for each in IN_PYTHON:
        message = message.replace(each, "")
    placed = PLACED.match(message)
    start = placed.end() if placed else 0
    names = "|".join(sorted(map(re.escape, words), key=len, reverse=True)) or "(?!)"
    # Written as in a call, anywhere. Bare, only where it must be the argument: at the beginning, and in set phrases.
    keyword = rf"\b(?P<keyword>{names})=(?P<true>True\b)?(?P<value>(?=[\w'\"\[{{-]))?"
    places = "(?!)" if placed or of_file else "(?:^|(?<=raise )|(?<=in )(?=filters))"
    bare = rf"{places}(?P<bare>{names})(?=[ \[]|\.(?:\s|$))"

    def worded(found: re.Match[str]) -> str:
        if found["quoted"] is not None:
            return found[0]
        if found["model"] is not None or found["call"] is not None:
            return f"`agentmem {found['call'] or 'reembed ' + found['model']}`"
        if found["keyword"] is None:
            return words[found["bare"]]
        return words[found["keyword"]] + ("" if found["value"] is None else " ")

    return message[:start] + re.sub(f"{QUOTED}|{CALLED}|{keyword}|{bare}", worded, message[start:])


def words_of(context: click.Context) -> dict[str, str]:
    """Returns the keywords that the options and arguments of a command stand for, and their spelling."""
    words: dict[str, str] = {}
    for parameter in context.command.params:
        name = str(parameter.name)
        written = parameter.opts[0] if isinstance(parameter, click.Option) else name.upper()
        words[name] = words[SYNONYMS.get(name, name)] = written
    words.setdefault("path", words.get("db", "PATH"))
    return words
