"""What processes do that move a store to another model and are killed at it; they are forked by a `Nursery`."""

import os

from agentmem import Memory
from agentmem.storage.sqlite import reembedding as move
from tests import failpoints
from tests.turned import Turned


def move_store(words: int, path: str, point: str, after: int) -> None:
    """Moves the store to Turned(96) and says how many texts were embedded; dies at the point, if one is named."""
    move.CLEARED_TOGETHER = 100
    memory = Memory(path, model=None)
    if "given up" in point:
        failpoints.arm("reembed: before the models change places", failpoints.fail)
        try:
            memory.reembed(Turned(32, turn=3))
        except OSError:
            failpoints.disarm()
    if point:
        failpoints.arm(point, failpoints.kill, after=after)
    embedded = memory.reembed(Turned(96))
    memory.close()
    os.write(words, str(embedded).encode())
