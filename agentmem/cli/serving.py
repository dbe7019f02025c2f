"""`mcp`, `serve` and `token`."""

import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NoReturn

import click

from agentmem.cli import options
from agentmem.cli.exit_codes import DONE
from agentmem.cli.opening import existing, open_memory
from agentmem.cli.output import complain, escape, fitted, print_json, print_lines

if TYPE_CHECKING:
    from agentmem.server.tokens import TokenFile

CLIENTS = ("claude-code", "claude-desktop", "cursor", "vscode", "codex")

LOOPBACK = ("127.0.0.1", "::1", "localhost")

read_only = click.option("--read-only", is_flag=True, help="Only reading is allowed.")

connectors = click.option("--connectors", is_flag=True, help="Offer `search` and `fetch`, which ChatGPT asks for.")


@click.command()
@options.owner
@read_only
@connectors
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

        with open_memory(db, model, create=True, refine="background") as memory:
            serve_wires(Access(memory, Scope(**owner), not read_only), *wires, connectors=connectors)
    return DONE


@click.command()
@options.owner
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8765, show_default=True, help="0 takes a free one.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that serve.")
@click.option("--write", is_flag=True, help="Allow changes; otherwise everything is read-only.")
@click.option("--require-token", is_flag=True, help="Ask for a token on loopback, too; elsewhere one always is.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="A name of this server beside those of loopback.")
@click.option("--allow-origin", multiple=True, metavar="URL", help="A site whose pages may call this server (CORS).")
@connectors
@click.option("--demo", is_flag=True, help="Serve the demo's conversation, from a temporary store.")
@options.db
@options.model
@options.output
def serve(
    host: str, port: int, workers: int, write: bool, require_token: bool, allow_host: tuple[str, ...],
    allow_origin: tuple[str, ...], connectors: bool, demo: bool, db: str, model: str, as_json: bool,
    **owner: str | None,
) -> int:  # fmt: skip
    """Serve a store over HTTP: a page, an API, and MCP at /mcp.

    On loopback every user of this machine may read, or with an owner that owner's memories only. Elsewhere each request
    needs a token (see `agentmem token create`). Ends with Ctrl-C or SIGTERM, and answers what is under way first. Needs
    the extra agentmem[server]. With --json the address is one object: url.

    \b
    Examples:
      agentmem serve --demo
      agentmem serve --user ana --write
      agentmem serve --host 0.0.0.0 --allow-host memory.example.org --workers 2 --write
    """
    _require_extra()
    from agentmem.server.app import Settings
    from agentmem.server.app import serve as serve_app
    from agentmem.server.tokens import TokenFile

    named = {name: value for name, value in owner.items() if value is not None}
    needed = require_token or host not in LOOPBACK or any(name not in LOOPBACK for name in allow_host)
    with ExitStack() as stack:
        if demo:
            if workers != 1 or named:
                raise click.UsageError("--demo has an owner and a process of its own; leave --workers and owners out.")
            db, write = _demo_store(stack, model), True
        else:
            open_memory(db, model, create=True).close()  # What is wrong with it is told here, and once.
        if needed and not TokenFile(db).list():
            raise click.UsageError("A token is needed, and there is none; make one with `agentmem token create`.")
        hosts = tuple(name.lower() for name in (*allow_host, *([] if host in ("0.0.0.0", "::") else [host])))
        settings = Settings(
            path=os.path.abspath(db), model=model, owner=named, write=write, tokens=needed, hosts=hosts,  # noqa: PTH100
            origins=allow_origin, connectors=connectors,
        )  # fmt: skip
        listening = stack.enter_context(_bound(host, port))
        url = _url_of(host, listening.getsockname()[1])
        print_json({"url": url}) if as_json else print_lines(f"Serving {escape(db)} at {url}")
        signal.signal(signal.SIGTERM, _end)  # It comes again, once the server has ended for it.
        serve_app(settings, listening, workers=workers)
    return DONE


def _end(*_: object) -> NoReturn:
    raise SystemExit(DONE)


def _demo_store(stack: ExitStack, model: str) -> str:
    from agentmem.cli.demo import USER, conversation

    path = os.path.join(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentmem-demo-")), "demo.db")  # noqa: PTH118
    with open_memory(path, model, create=True, refine="background") as memory:
        memory.add_messages(conversation(), user_id=USER, run_id="conversation")
    return path


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(socket.SOMAXCONN)  # A client that connects before the server has started waits.
    except OSError as error:
        listening.close()
        raise click.UsageError(f"Cannot listen on {host} port {port}: {error.strerror}; pass another --port.") from None
    return listening


def _url_of(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@click.group()
def token() -> None:
    """Make, list and revoke the tokens of `agentmem serve`.

    They stand beside the store, in a file of its name with `.tokens` after it, as digests.
    """


@token.command()
@options.owner
@click.option("--admin", is_flag=True, help="Of an administrator: every owner, and the store itself.")
@read_only
@options.db
@options.output
def create(admin: bool, read_only: bool, db: str, as_json: bool, **owner: str | None) -> int:
    """Make a token for an owner, or an administrator, and print it.

    It is shown this once. With --json one object: token, id.

    \b
    Examples:
      agentmem token create --user ana --read-only
      agentmem token create --admin --json | jq -r .token
    """
    tokens = _tokens_of(db)
    from agentmem.server.tokens import scope_of

    secret, made = tokens.create(scope_of(owner, admin=admin), read_only=read_only)
    print_json({"token": secret, "id": made.id}) if as_json else print_lines(secret)
    return DONE


@token.command("list")
@options.db
@options.output
def list_(db: str, as_json: bool) -> int:
    """Print the tokens that there are, without their secrets.

    Id, day, owner, what it may do. With --json a token on a line.

    \b
    Examples:
      agentmem token list
      agentmem token list --db agent.db --json | jq -r .id
    """
    found = _tokens_of(db).list()
    if as_json:
        print_json(*(
            {
                "id": each.id, "user_id": each.user_id, "agent_id": each.agent_id, "run_id": each.run_id,
                "read_only": each.read_only, "created_at": each.created_at,
            }
            for each in found
        ))  # fmt: skip
    else:
        rows = [[each.id, each.created_at[:10], _named(each.scope), _may(each.read_only)] for each in found]
        print_lines(*fitted(rows))
    return DONE


@token.command()
@click.argument("ids", nargs=-1, required=True)
@options.db
@options.output
def revoke(ids: Sequence[str], db: str, as_json: bool) -> int:
    """Revoke tokens by their ids, also for servers that run.

    With --json a line each: id.

    \b
    Examples:
      agentmem token revoke 1f0c93aa
      agentmem token revoke 1f0c93aa 77d0e2b1 --json
    """
    tokens = _tokens_of(db)
    for each in ids:
        tokens.revoke(each)
        print_json({"id": each}) if as_json else print_lines(f"{escape(each)} revoked.")
    return DONE


def _tokens_of(db: str) -> "TokenFile":
    _require_extra()
    from agentmem.server.tokens import TokenFile

    return TokenFile(existing(db))


def _named(scope: object) -> str:
    return str(scope) if scope else "administrator"


def _may(read_only: bool) -> str:
    return "reads" if read_only else "reads and writes"


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
