"""The doors for other programs: an MCP server, an HTTP API and a page, over one Memory.

Everything here uses the public calls of `Memory` and `ScopedMemory` only. It needs the extra `agentmem[server]`.
"""

from importlib.util import find_spec

for _name in ("mcp", "pydantic", "fastapi", "uvicorn", "prometheus_client", "httpx", "jinja2"):
    if find_spec(_name) is None:
        raise ModuleNotFoundError(f"agentmem.server needs {_name}; pip install 'agentmem[server]'.", name=_name)
