"""The group of all commands: finds them, turns return values into exit codes, and errors into sentences."""

import errno
import sys
import traceback
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

import click

from agentmem.cli.exit_codes import DEFECT, DONE, INTERRUPTED, STORE_REFUSED, UNREAD, code_of
from agentmem.cli.options import DEBUG, told
from agentmem.cli.output import complain, prepare_output, stop_output
from agentmem.errors import AgentMemError
from agentmem.progress import end_bars


class Commands(click.Group):
    """Commands by name, each in a module of this folder, imported when the command is used.

    The function has the command's name, with an underscore after a word of Python's.
    """

    def __init__(self, name: str, homes: dict[str, str], **settings: Any) -> None:
        super().__init__(name, **settings)
        self._homes = homes

    def list_commands(self, ctx: click.Context | None) -> list[str]:
        """Returns their names in alphabetical order."""
        return sorted(self._homes)

    def get_command(self, ctx: click.Context | None, cmd_name: str) -> click.Command | None:
        """Returns the command of a name, or None."""
        if cmd_name not in self._homes:
            return None
        home = vars(import_module(f"agentmem.cli.{self._homes[cmd_name]}"))
        name = cmd_name.replace("-", "_")
        found = home.get(f"{name}_") or home[name]
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggests the command that a mistyped name may have meant."""
        name = args[0]
        if name not in self._homes and not name.startswith("-") and not ctx.resilient_parsing:
            meant = get_close_matches(name, self._homes, n=1)
            ctx.fail(f"There is no command {name!r}{f'; did you mean {meant[0]!r}?' if meant else '.'}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> NoReturn:
        """Runs a command and ends the process with its exit code."""
        prepare_output()
        try:
            code = super().invoke(ctx) or DONE
            sys.stdout.flush()
        except (click.exceptions.Exit, click.ClickException):
            raise
        except (KeyboardInterrupt, click.Abort):
            code = _told(ctx, "Interrupted.", INTERRUPTED)
        except AgentMemError as error:
            code = _told(ctx, f"Error: {told(error, ctx)}", code_of(error))
        except OSError as error:
            if error.errno == errno.EPIPE:
                code = UNREAD
            else:
                code = _told(ctx, f"Error: {error.filename or 'reading or writing'}: {error.strerror}.", STORE_REFUSED)
            stop_output()
        except Exception as error:
            code = _told(
                ctx,
                f"Error: {type(error).__name__}: {error}. This is a defect of agentmem; --debug shows where it is.",
                DEFECT,
            )
        ctx.exit(code)


def _told(context: click.Context, message: str, code: int) -> int:
    """Prints how a command ended. Call it while its exception is handled."""
    end_bars()
    if context.meta.get(DEBUG):
        complain(*traceback.format_exc().splitlines())
    complain(message)
    return code
