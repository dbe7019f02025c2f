"""Any sequence of operations leaves an engine in the state in which it leaves the one of dictionaries."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from agentmem import AgentMemError
from agentmem.filters import parse_filters
from agentmem.records import Event, Record, Scope
from agentmem.storage.interface import Store
from agentmem.storage.operations import Delete, Expect, Operation, Restore, SetVector
from tests.storage.contract.making import EVERYBODY, MODEL, insert, later, untold, update, upsert, vector
from tests.storage.memory_engine import MemoryEngine

SCOPES = st.sampled_from([Scope("ana"), Scope("ana", "helper"), Scope("ben", None, "run"), Scope(None, "helper")])
TEXTS = st.sampled_from(["tea", "green tea", "milk", "Straße"])
IDS = st.sampled_from(["a", "b", "c"])
METADATA = st.sampled_from([{}, {"n": 1}, {"n": 2, "tags": ["x"]}, {"n": None}])
FILTERS = st.sampled_from([None, {"n": 1}, {"n": {"gt": 1}}, {"NOT": {"n": "*"}}, {"tags": {"contains": "x"}}])
LONG_AGO, FAR_AWAY = datetime(2020, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)
EXPIRIES = st.sampled_from([None, None, LONG_AGO, FAR_AWAY])


@st.composite
def operations(draw: st.DrawFn) -> Any:
    """An operation as a function, because each engine gets drafts of its own."""
    which = draw(st.integers(0, 6))
    scope, text, name = draw(SCOPES), draw(TEXTS), draw(IDS)
    metadata, expires_at, dedupe = draw(METADATA), draw(EXPIRIES), draw(st.booleans())
    fields = {"id": name, "metadata": metadata, "expires_at": expires_at, "created_at": LONG_AGO, "dedupe": dedupe}
    # When an expired memory stops to be pending depends on the sweep.
    pending, policy = (
        expires_at != LONG_AGO and draw(st.booleans()),
        draw(st.sampled_from(["error", "skip", "replace"])),
    )

    def made() -> Operation:
        if which == 0:
            return insert(text, scope, pending=pending, **fields)
        if which == 1:
            return upsert(text, scope, on_conflict=policy, dated=True, **fields)
        if which == 2:
            record = insert(text, scope, **fields).draft.record()
            step = update(record, text, metadata=metadata, replace_metadata=dedupe, expires_at=expires_at)
            if scope.home != (
                "user_id",
                scope.user_id,
            ):  # The memory may be of another home than the scope that finds it.
                step.vector = None
            return step
        if which == 3:
            return Delete(name, scope)
        if which == 4:
            return Restore(name, scope)
        if which == 5:
            return Expect(name, scope, text)
        return insert(text, scope, **fields | {"id": None})

    return made


def comparable(result: Any) -> Any:
    """What must be equal: everything but the moment, and the ids that are drawn."""
    if isinstance(result, AgentMemError):
        return type(result), result.position
    if isinstance(result, Record):
        return replace(result, updated_at=LONG_AGO, id=result.id if len(result.id) == 1 else "drawn")
    if isinstance(result, Event):
        before, after = (each and replace(each, updated_at=LONG_AGO) for each in (result.before, result.after))
        return result.what, before, after
    return result


def test_any_sequence_of_operations_ends_as_in_the_engine_of_dictionaries(opener):
    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.store = opener()
            self.oracle = MemoryEngine()
            self.oracle.bind_model(MODEL)
            self.moments: list[tuple[datetime, list[Any]]] = []

        def both(self, call: Any) -> None:
            results = []
            for store in (self.store, self.oracle):
                try:
                    results.append([comparable(each) for each in call(store)])
                except AgentMemError as error:
                    results.append([comparable(error)])
            assert results[0] == results[1]

        @rule(batch=st.lists(operations(), min_size=1, max_size=4), atomic=st.booleans())
        def commit(self, batch: list[Any], atomic: bool) -> None:
            self.both(lambda store: store.commit([made() for made in batch], model=MODEL.identity, atomic=atomic))

        @rule(scope=SCOPES, filters=FILTERS)
        def delete_all(self, scope: Scope, filters: Any) -> None:
            self.both(lambda store: [store.delete_all(scope, parse_filters(filters), later())])

        @rule(scope=SCOPES, id=st.none() | IDS)
        def purge(self, scope: Scope, id: str | None) -> None:
            self.moments.clear()  # What is purged is gone from the past too.
            self.both(lambda store: [store.purge(scope, id, tell=untold).count])

        # Which pending memory finds its vector in the store, an engine may decide by the order in a batch.
        @rule(scope=st.just(EVERYBODY) | SCOPES)
        def settle(self, scope: Scope) -> None:
            def call(store: Store) -> list[Any]:
                last = store.last_pending(scope)
                found = [] if last is None else store.pending(scope, after=0, until=last, limit=100)
                answers = [vector(memory.content, Scope(**dict([memory.home]))) for memory in found if memory.home]
                if found:
                    store.commit([SetVector(*pair) for pair in zip(found, answers, strict=True)], model=MODEL.identity)
                return [store.last_pending(scope)]

            self.both(call)

        @rule()
        def remember_the_moment(self) -> None:
            moment = datetime.now(UTC)
            with self.store.snapshot(as_of=moment) as snapshot:
                self.moments.append((moment, self.seen(snapshot, EVERYBODY, None)))

        def seen(self, snapshot: Any, scope: Scope, filters: Any) -> list[Any]:
            page = snapshot.page(scope, parse_filters(filters), newest_first=False, after=None, limit=1000)
            return [comparable(record) for _, record in page]

        @invariant()
        def both_show_the_same(self) -> None:
            for scope in (EVERYBODY, Scope("ana"), Scope(None, "helper"), Scope("ben", None, "run")):
                for filters in (None, {"n": 1}):
                    for show_expired in (False, True):
                        with (
                            self.store.snapshot(show_expired=show_expired) as one,
                            self.oracle.snapshot(show_expired=show_expired) as other,
                        ):
                            assert self.seen(one, scope, filters) == self.seen(other, scope, filters)
                            assert one.count(scope, parse_filters(filters)) == other.count(
                                scope, parse_filters(filters)
                            )
            self.both(lambda store: self.histories(store))

        def histories(self, store: Store) -> list[Any]:
            with store.snapshot() as snapshot:
                return [
                    event
                    for name in "abc"
                    for scope in (Scope("ana"), Scope("ben"), Scope(None, "helper"))
                    for event in history_of(snapshot, name, scope)
                    if event.what != "expire"  # When the sweep comes by is an engine's own affair.
                ]

        @invariant()
        def the_past_stays_as_it_was(self) -> None:
            for moment, expected in self.moments[-2:]:
                with self.store.snapshot(as_of=moment) as snapshot:
                    assert self.seen(snapshot, EVERYBODY, None) == expected

    run_state_machine_as_test(
        Machine, settings=settings(settings.get_profile("short"), max_examples=12, stateful_step_count=12)
    )


def history_of(snapshot: Any, id: str, scope: Scope) -> list[Event]:
    try:
        return snapshot.history(id, scope)
    except AgentMemError:  # Several homes have it.
        return []
