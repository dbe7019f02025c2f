"""A server within the test's process, and clients of it."""

import pytest

from agentmem.testing import HashEmbedder


@pytest.fixture
def store(open_memory):
    return open_memory(embedder=HashEmbedder())


@pytest.fixture
def serve(store, store_path):
    """Serves the store with settings, and returns a client that comes from loopback."""
    testclient = pytest.importorskip("starlette.testclient", reason="the extra agentmem[server] is not installed")
    from agentmem.server.app import Settings, make_app

    clients = []

    def serve(limits=None, **settings):
        settings = {"path": str(store_path), "write": True} | settings
        app = make_app(store, Settings(**settings), limits)
        client = testclient.TestClient(app, base_url="http://127.0.0.1:8765", raise_server_exceptions=False)
        clients.append(client)
        return client.__enter__()

    yield serve
    for client in clients:
        client.__exit__(None, None, None)
