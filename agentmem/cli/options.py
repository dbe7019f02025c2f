"""Options that commands share: the same name, the same meaning, everywhere."""

import json
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from agentmem.cli.wording import in_options, words_of
from agentmem.errors import InvalidInputError

OWNERS = ("user_id", "agent_id", "run_id")

DEBUG = "agentmem.debug"
"""Key in the contexts of the group and the command for a `--debug` that was given."""

WORDS = "agentmem.words"
"""Key in the contexts for the meaning of the command's options."""

AGES = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
AGE_DIGITS = 6

Function = TypeVar("Function", bound=Callable[..., Any] | click.Command)


def moment(context: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    """Returns an option's ISO 8601 as an aware datetime."""
    from agentmem.cli.input import moment_of

    try:
        return None if value is None else moment_of("The time", value)
    except InvalidInputError as error:
        raise click.BadParameter(str(error)) from None


def named(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Returns an option's owner or role, and refuses a bad one before it would fail every line of a file."""
    if value is not None:
        from agentmem.validation import check_name

        check_name(parameter.opts[0], value)
    return value


def _lasting(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None:
        from agentmem.timestamps import now
        from agentmem.validation import check_expiry

        check_expiry(None, value, now())
    return value


def _waited(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None:
        from agentmem.config import Config
        from agentmem.validation import check_timeout

        check_timeout(value, Config())
    return value


def metadata_object(context: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, Any] | None:
    """Returns an option's JSON object, small enough for metadata."""
    decoded = json_object(context, parameter, value)
    if decoded is not None:
        from agentmem.config import Config
        from agentmem.validation import check_metadata

        check_metadata(decoded, Config())
    return decoded


def told(error: Exception | str, context: click.Context | None = None, *, of_file: bool = False) -> str:
    """Returns an error's message, or a finding of `check`, in the words of the present command. `of_file`: it is about
    a line's fields."""
    return in_options(str(error), (context or click.get_current_context()).meta.get(WORDS, {}), of_file=of_file)


def past(context: click.Context, parameter: click.Parameter, value: str | None) -> datetime | timedelta | None:
    """Returns an option's age, such as "30d", or moment."""
    number, unit = (value or "")[:-1], (value or "")[-1:]
    if unit in AGES and number.isdecimal() and len(number) < AGE_DIGITS:
        return timedelta(**{AGES[unit]: int(number)})
    return moment(context, parameter, value)


def json_object(context: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, Any] | None:
    """Returns an option's JSON object."""
    try:
        decoded = None if value is None else json.loads(value)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"it is not JSON ({error}).") from None
    if value is not None and not isinstance(decoded, dict):
        raise click.BadParameter('it is not a JSON object, such as \'{"topic": "travel"}\'.')
    return decoded


def _interval(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[datetime | None, datetime | None] | None:
    if value is None:
        return None
    start, dots, end = value.partition("..")
    if not dots:
        raise click.BadParameter(f"{value!r} has no '..'; write START..END, of which either may be left out.")
    return moment(context, parameter, start or None), moment(context, parameter, end or None)


def _shown(context: click.Context, parameter: click.Parameter, value: bool | None) -> bool:
    """Whether to show a bar: as requested, else on a terminal, but not among JSON for the same terminal."""
    if value is not None:
        return value
    return sys.stderr.isatty() and not (context.params.get("as_json") and sys.stdout.isatty())


def _debug(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.meta[WORDS] = words_of(context)  # Every command has this option as its first.
    if value:
        context.meta[DEBUG] = True


def model_names(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Returns the names of models that begin as typed, for a shell's completion; otherwise asks it to list files."""
    from agentmem import models

    names = [CompletionItem(each.name, help=each.about) for each in models.available() if each.name.startswith(typed)]
    return names or [CompletionItem(typed, type="file")]


def together(*options: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Returns several options as one decorator, in this order."""

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def debug(command: Function) -> Function:
    """`--debug`, of the group and of every command."""
    option = click.option(
        "--debug", is_flag=True, is_eager=True, expose_value=False, callback=_debug,
        help="Show the traceback of an error.",
    )  # fmt: skip
    return option(command)


output = together(
    click.option("--json", "as_json", is_flag=True, is_eager=True, help="Print JSON, for machines."), debug
)
db = click.option(
    "--db",
    type=click.Path(),
    envvar="AGENTMEM_DB",
    show_envvar=True,
    default="agentmem.db",
    show_default=True,
    help="The store.",
)
path = click.argument("path", required=False, type=click.Path())
model = click.option(
    "--model",
    shell_complete=model_names,
    envvar="AGENTMEM_MODEL",
    show_envvar=True,
    default="",
    help="A model's name or folder. [default: the store's own, else minilm-mixed]",
)
owner = together(
    click.option("--user", "user_id", callback=named, metavar="NAME", help="The user that owns the memories."),
    click.option("--agent", "agent_id", callback=named, metavar="NAME", help="The agent that owns them."),
    click.option("--run", "run_id", callback=named, metavar="NAME", help="The run or conversation that owns them."),
)
all_scopes = click.option("--all-scopes", is_flag=True, help="Of every owner.")
filters = click.option(
    "--filter",
    "filters",
    callback=json_object,
    metavar="JSON",
    help='Such as \'{"topic": "travel", "stars": {"gte": 3}}\'.',
)
between = click.option(
    "--between",
    callback=_interval,
    metavar="START..END",
    help="Made from START on and before END, such as 2026-03-01T00:00:00Z..2026-04-01T00:00:00Z, or only one of them.",
)
show_expired = click.option("--show-expired", is_flag=True, help="Expired ones too.")
as_of = click.option("--as-of", callback=moment, metavar="WHEN", help="Read the memories as they were at that moment.")
reference_date = click.option(
    "--reference-date", callback=moment, metavar="WHEN", help="From when 'last week' looks back. [default: now]"
)
expiry = together(
    click.option("--expires-at", callback=moment, metavar="WHEN", help="The moment when it expires."),
    click.option("--ttl", type=float, callback=_lasting, metavar="SECONDS", help="Seconds until it expires."),
)
timeout = click.option(
    "--timeout",
    type=float,
    callback=_waited,
    metavar="SECONDS",
    help="Most seconds to wait for the model. [default: 60]",
)
full = click.option("--full", is_flag=True, help="Do not cut texts to the width of the terminal.")
dry_run = click.option("--dry-run", is_flag=True, help="Print how many it would be, and change nothing.")
yes = click.option("--yes", is_flag=True, help="Do not ask.")
progress = click.option(
    "--progress/--no-progress",
    "bar",
    default=None,
    callback=_shown,
    help="Show a progress bar. [default: on a terminal]",
)
dedupe = click.option("--dedupe", is_flag=True, help="Do not store a text twice for one owner; the older memory stays.")
defer = click.option(
    "--defer", is_flag=True, help="Do not wait for the model; a search embeds what is still to be embedded."
)
skip_bad = click.option(
    "--skip-bad", is_flag=True, help="Report bad lines and go on, instead of stopping at the first one."
)
durability = click.option(
    "--durability",
    type=click.Choice(["full", "process"]),
    help="What it survives: a power cut, or a crash of the process. [default: full]",
)


def require_owner(asked: dict[str, Any]) -> None:
    """Checks that a command names an owner or, where it has the option, `--all-scopes`, and not both.

    Raises:
        click.UsageError: Neither is given, or both.
    """
    named = any(asked[name] is not None for name in OWNERS)
    if "all_scopes" not in asked and not named:
        raise click.UsageError("Name an owner with --user, --agent or --run.")
    if "all_scopes" in asked and named == asked["all_scopes"]:
        raise click.UsageError("Name an owner with --user, --agent or --run; or else pass --all-scopes.")
