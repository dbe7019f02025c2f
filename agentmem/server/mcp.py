"""The MCP server: the tools over standard input and output, or over HTTP. The only importer of mcp."""

import json
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import cache
from typing import IO, Any

import anyio
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import ValidationError

import agentmem
from agentmem.errors import AgentMemError
from agentmem.quoting import shorten
from agentmem.server.access import Access
from agentmem.server.tools import NOTICE, Tool, tools

LOGGER = logging.getLogger(__name__)

THREADS = 64
"""Calls that run at the same time. They share model runs and commits, so there may be more of them than cores."""

INSTRUCTIONS = (
    "A memory of one owner that lasts beyond this conversation. Call recall before you answer what may depend on what "
    f"was said earlier, and remember what should last. {NOTICE}"
)


def make_server(access_of: Callable[[Any], Access], *, connectors: bool = False) -> Server[Any]:
    """Returns a server of the tools.

    `access_of` is called with the HTTP request of each call (None over standard input), and names the owner whose
    memories that call reaches. No argument of a tool does.

    Calls run in threads, so that concurrent calls share model runs and commits.
    """
    offered = {tool.name: tool for tool in tools(connectors=connectors)}

    async def list_tools(context: Any, _: Any) -> types.ListToolsResult:
        writes = access_of(context.request).writes
        return types.ListToolsResult(tools=[_described(tool) for tool in offered.values() if writes or tool.reads_only])

    async def call_tool(context: Any, asked: types.CallToolRequestParams) -> types.CallToolResult:
        access = access_of(context.request)
        tool = offered.get(asked.name)
        if tool is None:
            return _refused(f"There is no tool {shorten(asked.name)}; the tools are {', '.join(offered)}.")
        return await anyio.to_thread.run_sync(_answered, tool, access, asked.arguments or {}, limiter=_limiter())

    return Server(
        "agentmem",
        title="agentmem",
        version=agentmem.__version__,
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def serve_wires(access: Access, wire_in: IO[str], wire_out: IO[str], *, connectors: bool = False) -> None:
    """Serves one client over two text files, such as `standard_wires` gives, until the client closes its end."""
    server = make_server(lambda _: access, connectors=connectors)

    async def serve() -> None:
        async with stdio_server(anyio.wrap_file(wire_in), anyio.wrap_file(wire_out)) as (reads, writes):
            await server.run(reads, writes, server.create_initialization_options())

    anyio.run(serve)


def http_routes(server: Server[Any]) -> tuple[list[Any], Callable[[], AbstractAsyncContextManager[None]]]:
    """Returns the route `/mcp` of a server over streamable HTTP, and what must run while it is served. Host and Origin
    are the business of the application that takes the route."""
    trusting = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = server.streamable_http_app(streamable_http_path="/mcp", transport_security=trusting)
    return list(app.routes), server.session_manager.run


@cache
def _limiter() -> anyio.CapacityLimiter:
    return anyio.CapacityLimiter(THREADS)


def _answered(tool: Tool, access: Access, arguments: dict[str, Any]) -> types.CallToolResult:
    try:
        if not tool.reads_only:
            access.require_writes()
        answer = tool.call(access, tool.arguments.model_validate(arguments))
    except ValidationError as error:
        return _refused(" ".join(_sentence(tool, each) for each in error.errors(include_url=False)))
    except AgentMemError as error:
        return _refused(str(error))
    except Exception:
        LOGGER.exception("The tool %s failed", tool.name)
        return _refused(f"{tool.name} failed; this is a defect of agentmem, and its log says where.")
    value = answer.model_dump(mode="json")
    text = types.TextContent(type="text", text=json.dumps(value, ensure_ascii=False))
    return types.CallToolResult(content=[text], structured_content=value)


def _refused(message: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=message)], is_error=True)


def _sentence(tool: Tool, error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"]) or tool.name
    if error["type"] == "extra_forbidden":
        return f"{tool.name} takes no argument {name!r}; it takes {', '.join(tool.arguments.model_fields)}."
    if error["type"] == "missing":
        return f"{tool.name} needs the argument {name!r}."
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, AgentMemError):
        return str(cause).replace("The time", name, 1)
    return f"{name} is {shorten(error['input'])}; {error['msg'][:1].lower()}{error['msg'][1:]}."


@cache
def _described(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.about,
        input_schema=tool.arguments.model_json_schema(),
        output_schema=tool.answer.model_json_schema(mode="serialization"),
        annotations=types.ToolAnnotations(
            title=tool.title,
            read_only_hint=tool.reads_only,
            destructive_hint=tool.kind == "removes",
            idempotent_hint=tool.kind in ("reads", "adds"),
            open_world_hint=False,
        ),
    )
