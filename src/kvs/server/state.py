"""The state of one session, as data, and what the session must do next. Pure.

A session's state has three parts:

- `SessionState`: the stage of the session's life.
- `RequestState`: what the requests that were read are waiting for.
- `InputState`: whether the client may send further requests.

The session reports each `SessionEvent` to `StateMachine.handle` and does `StateMachine.next_step`.
The tables below hold every legal transition and every step; nothing else decides them.

Invariants:

- The server must write no reply before the client has the responses pipe open; the first
  reply is that to the connect. So a connecting session processes no request.
- Requests must be processed in order, one at a time: the next one only after the reply to the one
  before it has been written to the end.
- Input must not be read while a request is being processed, so that a client cannot make the server
  buffer any amount of requests. While connecting, input is read: its end must be noticed. What was
  read when the pipe was opened may be received later, even while the reply to the connect blocks.
- Requests are processed whether or not the client has opened the notifications pipe yet.
- A draining session has no pipes: it must write nothing, and it ends with its last request.
- A disconnecting session must process no further request. What arrives is padding.
- A session may be closed in any state, and a closed session never changes again.
"""

from dataclasses import dataclass, field
from enum import Enum, auto


class SessionState(Enum):
    """The stage of a session's life."""

    CONNECTING = auto()
    """The client has not opened the responses pipe; the connect is not answered."""
    OPEN = auto()
    """The connect is answered; requests are processed."""
    DRAINING = auto()
    """All pipes are closed; the requests that had arrived are still processed."""
    DISCONNECTING = auto()
    """The client asked to disconnect; subscriptions end, then the reply is written."""
    LINGERING = auto()
    """The responses pipe is closed; the client has a moment to close its end of requests."""
    CLOSED = auto()
    """All pipes are closed, and nothing is processed any more."""


class RequestState(Enum):
    """What the requests that were read are waiting for."""

    IDLE = auto()
    """No whole request is left."""
    READY = auto()
    """A whole request may be left. While requests are processed, a call to do so is running or
    scheduled."""
    EXECUTING = auto()
    """A script is waiting for its turn, in a WAIT, or being executed."""
    AWAITING_COMMIT = auto()
    """A reply is waiting until what it depends on is committed."""
    REPLYING = auto()
    """A reply is waiting until the client reads."""


class InputState(Enum):
    """Whether the client may send further requests."""

    OPEN = auto()
    ENDED = auto()
    """The client has closed the requests pipe, or the server reads it no more."""


class SessionEvent(Enum):
    """What happens to a session."""

    RESPONSES_OPENED = auto()
    """The client has opened the responses pipe."""
    INPUT_RECEIVED = auto()
    """Bytes of requests were read."""
    INPUT_ENDED = auto()
    """The requests pipe has lost its last writer and is read to its end."""
    NO_REQUEST_LEFT = auto()
    """What was read holds no further whole request."""
    EXECUTION_SUSPENDED = auto()
    """A script could not be executed to its end at once."""
    EXECUTION_FINISHED = auto()
    """That script is finished."""
    COMMIT_AWAITED = auto()
    """A reply depends on a revision that is not committed yet."""
    COMMITTED = auto()
    """That revision is committed."""
    REPLY_BLOCKED = auto()
    """The responses pipe did not take the whole reply."""
    REPLY_WRITTEN = auto()
    """The pipe has taken the whole reply, after it blocked, or to a disconnect."""
    DISCONNECT = auto()
    """The next request is a disconnect."""
    DRAIN = auto()
    """The client is gone or is dropped, and may have left whole requests."""
    CLOSE = auto()
    """The session ends, for whatever reason."""


class Step(Enum):
    """What a session must do next."""

    READ = auto()
    """Read the requests pipe when there is something to read."""
    PROCESS = auto()
    """Process the next request that was read, or report `NO_REQUEST_LEFT`."""
    WAIT = auto()
    """Read nothing and wait for the next event."""
    CLOSE = auto()
    """Close: nothing is left to do."""


_S, _R, _I, _E = SessionState, RequestState, InputState, SessionEvent

SESSION_TRANSITIONS = {
    (_S.CONNECTING, _E.RESPONSES_OPENED): _S.OPEN,
    (_S.OPEN, _E.DISCONNECT): _S.DISCONNECTING,
    (_S.OPEN, _E.DRAIN): _S.DRAINING,
    (_S.OPEN, _E.REPLY_WRITTEN): _S.OPEN,
    (_S.DISCONNECTING, _E.REPLY_WRITTEN): _S.LINGERING,
    (_S.CONNECTING, _E.CLOSE): _S.CLOSED,
    (_S.OPEN, _E.CLOSE): _S.CLOSED,
    (_S.DRAINING, _E.CLOSE): _S.CLOSED,
    (_S.DISCONNECTING, _E.CLOSE): _S.CLOSED,
    (_S.LINGERING, _E.CLOSE): _S.CLOSED,
}

REQUEST_TRANSITIONS = {
    (_R.IDLE, _E.INPUT_RECEIVED): _R.READY,
    (_R.READY, _E.INPUT_RECEIVED): _R.READY,
    (_R.REPLYING, _E.INPUT_RECEIVED): _R.REPLYING,
    (_R.READY, _E.NO_REQUEST_LEFT): _R.IDLE,
    (_R.READY, _E.EXECUTION_SUSPENDED): _R.EXECUTING,
    (_R.EXECUTING, _E.EXECUTION_FINISHED): _R.READY,
    (_R.READY, _E.COMMIT_AWAITED): _R.AWAITING_COMMIT,
    (_R.AWAITING_COMMIT, _E.COMMITTED): _R.READY,
    (_R.IDLE, _E.REPLY_BLOCKED): _R.REPLYING,
    (_R.READY, _E.REPLY_BLOCKED): _R.REPLYING,
    (_R.READY, _E.REPLY_WRITTEN): _R.READY,
    (_R.REPLYING, _E.REPLY_WRITTEN): _R.READY,
    (_R.READY, _E.DISCONNECT): _R.READY,
    (_R.IDLE, _E.DRAIN): _R.READY,
    (_R.READY, _E.DRAIN): _R.READY,
    (_R.EXECUTING, _E.DRAIN): _R.EXECUTING,
    (_R.AWAITING_COMMIT, _E.DRAIN): _R.AWAITING_COMMIT,
    (_R.REPLYING, _E.DRAIN): _R.READY,
    **{(state, _E.CLOSE): _R.IDLE for state in _R},
}

INPUT_TRANSITIONS = {
    (_I.OPEN, _E.INPUT_RECEIVED): _I.OPEN,
    (_I.OPEN, _E.INPUT_ENDED): _I.ENDED,
    **{(state, event): _I.ENDED for state in _I for event in (_E.DRAIN, _E.CLOSE)},
}

NEXT_STEPS = {
    (_S.CONNECTING, _R.IDLE): Step.READ,
    (_S.CONNECTING, _R.READY): Step.READ,
    (_S.OPEN, _R.IDLE): Step.READ,
    (_S.OPEN, _R.READY): Step.PROCESS,
    (_S.OPEN, _R.EXECUTING): Step.WAIT,
    (_S.OPEN, _R.AWAITING_COMMIT): Step.WAIT,
    (_S.OPEN, _R.REPLYING): Step.WAIT,
    (_S.DRAINING, _R.IDLE): Step.CLOSE,
    (_S.DRAINING, _R.READY): Step.PROCESS,
    (_S.DRAINING, _R.EXECUTING): Step.WAIT,
    (_S.DRAINING, _R.AWAITING_COMMIT): Step.WAIT,
    (_S.DISCONNECTING, _R.READY): Step.READ,
    (_S.DISCONNECTING, _R.REPLYING): Step.WAIT,
    (_S.LINGERING, _R.READY): Step.READ,
    (_S.CLOSED, _R.IDLE): Step.WAIT,
}
"""The step of each combination of states. A combination that is missing here cannot occur."""

STEPS_AT_END_OF_INPUT = {
    _S.CONNECTING: Step.CLOSE,
    _S.OPEN: Step.CLOSE,
    _S.DISCONNECTING: Step.WAIT,
    _S.LINGERING: Step.CLOSE,
}
"""The step in place of `Step.READ` once the input has ended."""

LATE_EVENTS = frozenset({_E.COMMITTED, _E.CLOSE})
"""Events that may already be under way when a session is closed; a closed session ignores them."""

_TABLES = (SESSION_TRANSITIONS, REQUEST_TRANSITIONS, INPUT_TRANSITIONS)
_SESSION_EVENTS, _REQUEST_EVENTS, _INPUT_EVENTS = (
    frozenset(event for _, event in table) for table in _TABLES
)


class IllegalTransitionError(Exception):
    """An event that cannot happen in the present state: a bug of the session."""


class StateMachine:
    """The state of one session. For one thread.

    Cost: an event is one dictionary lookup, because the combinations of states that can be reached
    are computed from the tables once, when this module is imported.
    """

    def __init__(self) -> None:
        self._now = _CONNECTING
        self.next_step = _CONNECTING.step
        """What the session must do next."""

    def handle(self, event: SessionEvent) -> None:
        """Change to the states after `event`, and set `next_step`.

        Raises:
            IllegalTransitionError: the event cannot happen now. No state has changed.

        """
        successor = self._now.successors.get(event)
        if successor is None:
            raise IllegalTransitionError(f"{event.name} in {self!r}")
        self._now = successor
        self.next_step = successor.step

    def allows(self, event: SessionEvent) -> bool:
        """Return whether `event` may happen now."""
        return event in self._now.successors

    @property
    def session(self) -> SessionState:
        """The stage of the session's life."""
        return self._now.session

    @property
    def request(self) -> RequestState:
        """What the requests that were read are waiting for."""
        return self._now.request

    @property
    def input(self) -> InputState:
        """Whether the client may send further requests."""
        return self._now.input

    @property
    def has_pipes(self) -> bool:
        """Whether the session's pipes are open."""
        return self._now.has_pipes

    @property
    def is_disconnecting(self) -> bool:
        """Whether the client has asked to disconnect, and the session is not closed."""
        return self._now.is_disconnecting

    def __repr__(self) -> str:
        return f"({self.session.name}, {self.request.name}, input {self.input.name})"


@dataclass(frozen=True, slots=True, eq=False)
class _Combination:
    """One state of each part, and where each event that may happen then leads."""

    session: SessionState
    request: RequestState
    input: InputState
    step: Step
    has_pipes: bool
    is_disconnecting: bool
    successors: "dict[SessionEvent, _Combination]" = field(default_factory=dict)


_States = tuple[SessionState, RequestState, InputState]


def _states_after(states: _States, event: SessionEvent) -> _States | None:
    """Return the states after `event`, by the tables; None if it cannot happen in `states`."""
    session: SessionState | None
    request: RequestState | None
    input_: InputState | None
    session, request, input_ = states
    if session is SessionState.CLOSED:
        return states if event in LATE_EVENTS else None
    if event in _SESSION_EVENTS:
        session = SESSION_TRANSITIONS.get((states[0], event))
    if event in _REQUEST_EVENTS:
        request = REQUEST_TRANSITIONS.get((states[1], event))
    if event in _INPUT_EVENTS:
        input_ = INPUT_TRANSITIONS.get((states[2], event))
    if session is None or request is None or input_ is None:
        return None
    return (session, request, input_) if (session, request) in NEXT_STEPS else None


def _combination(states: _States) -> _Combination:
    session, request, input_ = states
    step = NEXT_STEPS[session, request]
    if step is Step.READ and input_ is InputState.ENDED:
        step = STEPS_AT_END_OF_INPUT[session]
    has_pipes = session not in {SessionState.DRAINING, SessionState.CLOSED}
    is_disconnecting = session in {SessionState.DISCONNECTING, SessionState.LINGERING}
    return _Combination(session, request, input_, step, has_pipes, is_disconnecting)


def _reachable(first: _States) -> _Combination:
    """Return the combination `first`, linked to all that can follow it."""
    combinations = {first: _combination(first)}
    unlinked = [first]
    while unlinked:
        states = unlinked.pop()
        for event in SessionEvent:
            after = _states_after(states, event)
            if after is None:
                continue
            if after not in combinations:
                combinations[after] = _combination(after)
                unlinked.append(after)
            combinations[states].successors[event] = combinations[after]
    return combinations[first]


_CONNECTING = _reachable((SessionState.CONNECTING, RequestState.IDLE, InputState.OPEN))
