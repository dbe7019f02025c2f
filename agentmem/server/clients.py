"""How MCP clients are told to start `agentmem mcp`: the text to paste, and where it goes."""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Client:
    """A client: where its configuration stands, and how it is written for a command."""

    name: str
    place: str
    write: Callable[[Sequence[str]], str]


def _json(key: str, **more: str) -> Callable[[Sequence[str]], str]:
    def write(command: Sequence[str]) -> str:
        server = {**more, "command": command[0], "args": list(command[1:])}
        return json.dumps({key: {"agentmem": server}}, indent=2, ensure_ascii=False)

    return write


def _toml(command: Sequence[str]) -> str:
    # A JSON text is a TOML text too, but for DEL, which no path of a sane machine has; JSON escapes it on request.
    quoted = [json.dumps(each).replace("\x7f", "\\u007f") for each in command]
    return f"[mcp_servers.agentmem]\ncommand = {quoted[0]}\nargs = [{', '.join(quoted[1:])}]"


def _shell(command: Sequence[str]) -> str:
    return f"claude mcp add agentmem --scope user -- {shlex.join(command)}"


CLIENTS = {
    client.name: client
    for client in (
        Client("claude-code", "run it in a shell", _shell),
        Client("claude-desktop", "claude_desktop_config.json (Settings, Developer, Edit Config)", _json("mcpServers")),
        Client("cursor", "~/.cursor/mcp.json, or .cursor/mcp.json of a project", _json("mcpServers")),
        Client("vscode", ".vscode/mcp.json of a project, or the user's mcp.json", _json("servers", type="stdio")),
        Client("codex", "~/.codex/config.toml", _toml),
    )
}
