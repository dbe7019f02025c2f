"""`mcp`."""

import os
import shutil
import sys

import click

from agentmem.cli import options
from agentmem.cli.exit_codes import DONE
from agentmem.cli.opening import open_memory
from agentmem.cli.output import complain, print_json, print_lines

CLIENTS = ("claude-code", "claude-desktop", "cursor", "vscode", "codex")

read_only = click.option("--read-only", is_flag=True, help="Only reading is allowed.")


@click.command()
@options.owner
@read_only
@click.option("--connectors", is_flag=True, help="Offer `search` and `fetch`, which ChatGPT asks for.")
@click.option("--print-config", type=click.Choice(CLIENTS), help="Print what to paste into this client, and end.")
@options.db
@options.model
@options.output
def mcp(
    read_only: bool, connectors: bool, print_config: str | None, db: str, model: str, as_json: bool,
    **owner: str | None,
) -> int:  # fmt: skip
    """Serve an owner's memories over MCP to a client that starts it.

    Such as Claude Code. Nothing but the protocol is on standard output, and no tool reaches outside the owner that is
    named here. Makes the store if there is none. Needs the extra agentmem[server]. With --json the configuration is
    one object: client, place, text.

    \b
    Examples:
      agentmem mcp --user ana --print-config claude-code
      agentmem mcp --user ana --db ~/agent.db
      agentmem mcp --user ana --print-config codex --json | jq -r .text
    """
    options.require_owner(owner)
    _require_extra()
    if print_config is not None:
        from agentmem.server import clients

        client = clients.CLIENTS[print_config]
        text = client.write(_command(owner, db, model, read_only=read_only, connectors=connectors))
        if as_json:
            print_json({"client": client.name, "place": client.place, "text": text})
        else:
            complain(f"For {client.name}: {client.place}.")
            print_lines(text)
        return DONE
    from agentmem.server.wires import standard_wires

    with standard_wires() as wires:
        from agentmem.records import Scope
        from agentmem.server.access import Access
        from agentmem.server.mcp import serve_wires

        with open_memory(db, model, create=True) as memory:
            serve_wires(Access(memory, Scope(**owner), not read_only), *wires, connectors=connectors)
    return DONE


def _require_extra() -> None:
    try:
        import agentmem.server  # noqa: F401
    except ModuleNotFoundError as error:
        raise click.UsageError(str(error)) from None


def _command(owner: dict[str, str | None], db: str, model: str, *, read_only: bool, connectors: bool) -> list[str]:
    """What starts this command again from any folder."""
    script = shutil.which("agentmem")
    command = [os.path.abspath(script)] if script else [sys.executable, "-m", "agentmem.cli"]  # noqa: PTH100
    command.append("mcp")
    for name, value in owner.items():
        command += [] if value is None else [f"--{name.removesuffix('_id')}", value]
    command += ["--db", os.path.abspath(os.path.expanduser(db))]  # noqa: PTH100, PTH111 - links stay as they are
    command += ["--model", model] if model else []
    command += ["--read-only"] if read_only else []
    return command + (["--connectors"] if connectors else [])
