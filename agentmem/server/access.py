"""Access: whose memories a caller reaches, and what it may do there."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentmem.errors import AgentMemError
from agentmem.records import Scope

if TYPE_CHECKING:
    from agentmem.memory import Memory, ScopedMemory


class ForbiddenError(AgentMemError):
    """The caller may not do this; nothing was done. The message says what would allow it."""


@dataclass(frozen=True, slots=True)
class Access:
    """What one caller reaches. An empty `scope` is an administrator's: every owner, and the store itself."""

    store: "Memory"
    scope: Scope
    writes: bool
    name: str = "local"
    """For the log and for limits: the token's own id, never its secret."""

    @property
    def is_admin(self) -> bool:
        """Whether every owner is reached."""
        return not self.scope

    @property
    def memory(self) -> "Memory | ScopedMemory":
        """Returns the calls, bound to the owner where there is one."""
        return self.store if self.is_admin else self.store.scope(**dict(self.scope.owners()))

    @property
    def owned(self) -> "ScopedMemory":
        """Returns the calls of one owner.

        Raises:
            ForbiddenError: the access is an administrator's, so that no owner is named.
        """
        if self.is_admin:
            raise ForbiddenError(
                "No owner is fixed for this connection; start `agentmem serve --user NAME`, or use a token of an owner "
                "(`agentmem token create --user NAME`)."
            )
        return self.store.scope(**dict(self.scope.owners()))

    def require_writes(self) -> None:
        """Raises:
        ForbiddenError: the server or the token is read-only.
        """
        if not self.writes:
            raise ForbiddenError(
                "This access is read-only; start the server with --write, and use a token without --read-only."
            )

    def require_admin(self) -> None:
        """Raises:
        ForbiddenError: the access is bound to an owner.
        """
        if not self.is_admin:
            raise ForbiddenError(f"This is about the whole store, and the access is bound to {self.scope}.")
