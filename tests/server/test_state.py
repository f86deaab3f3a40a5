"""The state machine of a session, without I/O: legal events, next steps, invariants."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.server.state import (
    INPUT_TRANSITIONS,
    LATE_EVENTS,
    NEXT_STEPS,
    REQUEST_TRANSITIONS,
    SESSION_TRANSITIONS,
    STEPS_AT_END_OF_INPUT,
    IllegalTransitionError,
    InputState,
    RequestState,
    SessionEvent,
    SessionState,
    StateMachine,
    Step,
)

E = SessionEvent

States = tuple[SessionState, RequestState, InputState]

TABLES: tuple[Mapping[Any, object], ...] = (
    SESSION_TRANSITIONS,
    REQUEST_TRANSITIONS,
    INPUT_TRANSITIONS,
)

EVENTS = st.lists(st.sampled_from(SessionEvent), max_size=40)


def states_of(machine: StateMachine) -> States:
    return machine.session, machine.request, machine.input


def after(*events: SessionEvent) -> StateMachine:
    machine = StateMachine()
    for event in events:
        machine.handle(event)
    return machine


def reachable() -> dict[States, tuple[SessionEvent, ...]]:
    """Return every combination of states that events lead to, with events that do."""
    paths: dict[States, tuple[SessionEvent, ...]] = {states_of(StateMachine()): ()}
    unvisited = list(paths.values())
    while unvisited:
        path = unvisited.pop()
        for event in SessionEvent:
            machine = after(*path)
            if machine.allows(event):
                machine.handle(event)
                if states_of(machine) not in paths:
                    paths[states_of(machine)] = (*path, event)
                    unvisited.append((*path, event))
    return paths


PATHS = reachable()


@pytest.mark.parametrize(
    ("events", "step"),
    [
        ([], Step.READ),
        ([E.INPUT_RECEIVED], Step.READ),
        ([E.INPUT_ENDED], Step.CLOSE),
        ([E.RESPONSES_OPENED], Step.READ),
        ([E.RESPONSES_OPENED, E.REPLY_BLOCKED], Step.WAIT),
        ([E.INPUT_RECEIVED, E.RESPONSES_OPENED], Step.PROCESS),
        ([E.RESPONSES_OPENED, E.INPUT_RECEIVED, E.NO_REQUEST_LEFT], Step.READ),
        ([E.RESPONSES_OPENED, E.INPUT_RECEIVED, E.COMMIT_AWAITED], Step.WAIT),
        ([E.RESPONSES_OPENED, E.INPUT_RECEIVED, E.COMMIT_AWAITED, E.COMMITTED], Step.PROCESS),
        ([E.RESPONSES_OPENED, E.INPUT_RECEIVED, E.EXECUTION_SUSPENDED], Step.WAIT),
        ([E.RESPONSES_OPENED, E.INPUT_ENDED], Step.CLOSE),
        ([E.RESPONSES_OPENED, E.DRAIN], Step.PROCESS),
        ([E.RESPONSES_OPENED, E.DRAIN, E.NO_REQUEST_LEFT], Step.CLOSE),
        ([E.RESPONSES_OPENED, E.INPUT_RECEIVED, E.DISCONNECT], Step.READ),
        ([E.RESPONSES_OPENED, E.INPUT_RECEIVED, E.DISCONNECT, E.INPUT_ENDED], Step.WAIT),
        ([E.RESPONSES_OPENED, E.INPUT_RECEIVED, E.DISCONNECT, E.REPLY_WRITTEN], Step.READ),
        (
            [E.RESPONSES_OPENED, E.INPUT_RECEIVED, E.DISCONNECT, E.REPLY_WRITTEN, E.INPUT_ENDED],
            Step.CLOSE,
        ),
        ([E.CLOSE], Step.WAIT),
    ],
)
def test_next_step_after_events(events: list[SessionEvent], step: Step) -> None:
    machine = StateMachine()
    for event in events:
        machine.handle(event)
    assert machine.next_step is step


@pytest.mark.parametrize("states", PATHS, ids=lambda states: "-".join(s.name for s in states))
def test_every_event_is_in_a_table_or_refused(states: States) -> None:
    session = states[0]
    for event in SessionEvent:
        rows = [
            (state, event) in table
            for state, table in zip(states, TABLES, strict=True)
            if event in {event for _, event in table}
        ]
        machine = after(*PATHS[states])
        if machine.allows(event):
            assert all(rows) or (session is SessionState.CLOSED and event in LATE_EVENTS)
            machine.handle(event)
            assert (machine.session, machine.request) in NEXT_STEPS
        else:
            with pytest.raises(IllegalTransitionError, match=f"{event.name} in .{session.name}"):
                machine.handle(event)
            assert states_of(machine) == states


def test_every_row_of_the_tables_is_used() -> None:
    used: set[object] = set()
    for states, path in PATHS.items():
        used.add(states[:2])
        for event in SessionEvent:
            if after(*path).allows(event):
                used.update((state, event) for state in states)
    rows: set[object] = {*NEXT_STEPS}.union(*TABLES)
    assert rows <= used
    reading = {session for (session, _), step in NEXT_STEPS.items() if step is Step.READ}
    assert reading == {*STEPS_AT_END_OF_INPUT}


@given(EVENTS)
def test_invariants_hold_after_random_events(events: list[SessionEvent]) -> None:
    machine = StateMachine()
    legal: list[SessionEvent] = []
    for event in events:
        before = states_of(machine)
        if not machine.allows(event):
            continue
        machine.handle(event)
        legal.append(event)
        if before[0] is SessionState.CLOSED:
            assert states_of(machine) == before, "a closed session never changes"
        if machine.session is SessionState.CONNECTING:
            assert machine.next_step in {Step.READ, Step.CLOSE}, "no request before the connect"
        if machine.next_step is Step.PROCESS:
            assert machine.session in {SessionState.OPEN, SessionState.DRAINING}
            assert machine.request is RequestState.READY, "one request at a time"
        if machine.next_step is Step.READ:
            assert machine.has_pipes
            assert machine.input is InputState.OPEN
            busy = {RequestState.EXECUTING, RequestState.AWAITING_COMMIT, RequestState.REPLYING}
            assert machine.request not in busy, "no input while a request is processed"
        if not machine.has_pipes:
            assert machine.request is not RequestState.REPLYING
            assert not machine.allows(SessionEvent.REPLY_BLOCKED)
        if machine.is_disconnecting:
            assert SessionEvent.DISCONNECT in legal
            assert machine.next_step is not Step.PROCESS
        assert machine.allows(SessionEvent.CLOSE)
    machine.handle(SessionEvent.CLOSE)
    assert machine.session is SessionState.CLOSED


def test_input_that_has_ended_never_opens_again() -> None:
    for path in PATHS.values():
        machine = after(*path)
        if machine.input is InputState.ENDED:
            for event in SessionEvent:
                if after(*path).allows(event):
                    assert after(*path, event).input is InputState.ENDED
