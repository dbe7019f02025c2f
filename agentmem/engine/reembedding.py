"""Moves a store to another model, page by page, while other calls use it.

The state stands in the database after each page, so that an interrupted move resumes there. One mover works at a time.
Another one to the same model waits for it, and takes over when it has ended.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext, suppress
from time import monotonic

from agentmem.embedding.custom import GivenEmbedder
from agentmem.embedding.model_card import ModelCard
from agentmem.engine.document_batch import DocumentBatch
from agentmem.engine.engine import Engine
from agentmem.engine.runtime import ModelRuntime
from agentmem.errors import AgentMemError, ClosedError, DeadlineError
from agentmem.platform.processes import claimant
from agentmem.progress import moving_bar
from agentmem.storage.types import Move, Overtaken, Position, Standing, TextPage

CLAIM_SECONDS = 30.0
"""How long a stalled mover, beyond the time that a page may take, keeps others from taking over. A mover whose process
has ended keeps none."""

POLL_SECONDS = 0.2
"""How often a waiting call checks another process's move."""

TAIL = 128
"""Memories that may be changed and not yet embedded anew when the models change places. It doubles with every pass, so
that a store which is written faster than the new model embeds moves all the same."""

COMPLETE_PASSES = 5
"""Passes in which the move waits for texts that were replaced a moment ago to be embedded too."""


def reembed(engine: Engine, source: ModelCard | GivenEmbedder | None, *, shown: bool, timeout: float | None) -> int:
    """See `Memory.reembed`."""
    with moving_bar("texts") if shown else nullcontext() as tell:
        if source is None:
            return _Mover(engine, None, timeout, tell).run()
        with engine.runtimes.ahead(source) as runtime:
            return _Mover(engine, runtime, timeout, tell).run()


class _Mover:
    """One call's work, on its own thread."""

    def __init__(
        self,
        engine: Engine,
        runtime: ModelRuntime | None,
        timeout: float | None,
        tell: Callable[[int, int], object] | None,
    ) -> None:
        self._engine = engine
        self._runtime = runtime
        self._target = None if runtime is None else runtime.model
        self._moves = engine.store.reembedding(claimant())
        self._patience = engine.config.timeout
        self._seconds = self._patience + CLAIM_SECONDS
        self._timeout = timeout
        self._deadline = math.inf if timeout is None else monotonic() + timeout
        self._tell = tell
        self._embedded = 0

    def run(self) -> int:
        """Returns how many texts were embedded here."""
        try:
            while True:
                standing = self._moves.take(self._target, self._seconds)
                if standing is None:
                    self._wait()
                    continue
                try:
                    self._work(standing)
                    return self._embedded
                except Overtaken:
                    continue
        finally:
            self._let_go()

    def _wait(self) -> None:
        """Another one is at it."""
        self._show()
        if self._engine.runtimes.closing.wait(max(0.0, min(POLL_SECONDS, self._left()))):
            raise ClosedError("The memory was closed while this call waited for another one that moves the store.")

    def _let_go(self) -> None:
        with suppress(AgentMemError):  # The store is closed, busy or broken; the lease runs out.
            self._moves.release()

    def _work(self, standing: Standing) -> None:
        self._clear()
        arrived = standing.model is not None and standing.model.is_same(self._target)
        if standing.move is not None and (arrived or not standing.move.model.is_same(self._target)):
            while self._moves.give_up(self._seconds):
                self._left()
        if self._runtime is None or self._target is None or arrived:
            return
        move = self._moves.begin(self._seconds, self._target)
        if move is not None:
            self._walk(self._runtime, move)
        self._engine.runtimes.follow(self._engine.runtimes.current)
        self._engine.backlog.wake(0)
        self._clear()

    def _clear(self) -> None:
        while self._moves.clear(self._seconds):
            self._left()

    def _walk(self, runtime: ModelRuntime, move: Move) -> None:
        """Runs pass after pass over the changes, until the models can change places."""
        position, passes = move.position, 0
        while True:
            position = self._pass(runtime, move, position)
            complete = passes < COMPLETE_PASSES
            if self._moves.switch(self._seconds, position, tail=TAIL << passes, complete=complete):
                return
            passes += 1

    def _pass(self, runtime: ModelRuntime, move: Move, position: Position) -> Position:
        """Embeds the texts behind a position when it begins. Each page is sent off before the one before it is kept, so
        that the model never waits."""
        ahead: tuple[TextPage, DocumentBatch] | None = None
        try:
            is_last, until = False, self._moves.newest()
            while not is_last:
                page = self._moves.page(move, position, until)
                position, is_last = page.position, page.is_last
                if not page.texts:
                    self._left()
                    continue
                current, ahead = ahead, (page, self._sent(runtime, page))
                if current is not None:
                    move = self._kept(*current)
            if ahead is not None:
                current, ahead = ahead, None
                self._kept(*current)
        finally:
            if ahead is not None:
                ahead[1].cancel()
        return position

    def _sent(self, runtime: ModelRuntime, page: TextPage) -> DocumentBatch:
        homes, texts = [home for home, _ in page.texts], [text for _, text in page.texts]
        return DocumentBatch(runtime.embedder, texts, homes, urgent=False, timeout=min(self._patience, self._left()))

    def _kept(self, page: TextPage, sent: DocumentBatch) -> Move:
        try:
            answers = sent.answers(min(self._patience, self._left()))
        except BaseException:
            sent.cancel()
            raise
        move = self._moves.keep(self._seconds, page.position, page.texts, answers)
        self._embedded += len(page.texts)
        self._show()
        return move

    def _left(self) -> float:
        """The seconds that are left; raises DeadlineError when none are."""
        left = self._deadline - monotonic()
        if left <= 0:
            raise DeadlineError(
                f"The store is not moved after {self._timeout:g} seconds; what is done is kept, call reembed again to "
                "go on."
            )
        return left

    def _show(self) -> None:
        if self._tell is not None and (now := self._moves.progress()) is not None:
            self._tell(now.done, now.total)
