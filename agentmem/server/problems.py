"""Problems: every error as `application/problem+json` (RFC 9457), with the name of our error."""

import json
from http import HTTPStatus
from typing import Any

from agentmem.errors import (
    AgentMemError,
    ClosedError,
    DeadlineError,
    DuplicateIdError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    StoreBusyError,
    StoreFullError,
    StoreReadOnlyError,
    TooLongError,
)
from agentmem.server.access import ForbiddenError

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 1

STATUSES: dict[type[AgentMemError], int] = {
    TooLongError: 413,
    DuplicateIdError: 409,
    InvalidInputError: 400,
    NotFoundError: 404,
    ForbiddenError: 403,
    StoreReadOnlyError: 403,
    DeadlineError: 504,
    OverloadedError: 503,
    StoreBusyError: 503,
    ClosedError: 503,
    StoreFullError: 507,
}
"""What an error is answered with; the first that fits counts, and 500 where none does."""


def status_of(error: AgentMemError) -> int:
    """Returns the status of HTTP for an error."""
    return next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 500)


def headers_of(status: int) -> dict[str, str]:
    """Returns what a client needs to know beside the status."""
    if status in (429, 503):
        return {"Retry-After": str(RETRY_SECONDS)}
    return {"WWW-Authenticate": 'Bearer realm="agentmem"'} if status == 401 else {}


def problem(status: int, detail: str, *, error: str, request_id: str) -> dict[str, Any]:
    """Returns the members of a problem."""
    title = HTTPStatus(status).phrase
    return {"title": title, "status": status, "detail": detail, "error": error, "request_id": request_id}


def body_of(told: dict[str, Any]) -> bytes:
    """Returns a problem as bytes of JSON."""
    return json.dumps(told, ensure_ascii=False).encode("utf-8", "backslashreplace")
