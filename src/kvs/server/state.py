"""The life of a session at the server, as data. Pure.

Laws, for every session:

- It answers nothing before its client reads responses, and then first of all the connect.
- It serves requests from then on, whether or not notifications are open yet.
- It may end at any moment, from any stage, and never comes back.
- Leaving, it serves nothing more: it waits for its client to go, a moment at most.
"""

from enum import Enum, auto


class SessionState(Enum):
    """How far a session has come."""

    OPENING = auto()
    """Nobody reads its responses yet."""
    CONNECTED = auto()
    """It serves requests; nobody reads its notifications yet."""
    OPEN = auto()
    """Everything is open."""
    CLOSING = auto()
    """It was told that its client disconnects."""
    CLOSED = auto()
    """All its pipes are closed."""


class SessionEvent(Enum):
    """What moves a session on."""

    RESPONSES_OPEN = auto()
    NOTIFICATIONS_OPEN = auto()
    DISCONNECT = auto()
    END = auto()


TRANSITIONS = {
    (SessionState.OPENING, SessionEvent.RESPONSES_OPEN): SessionState.CONNECTED,
    (SessionState.CONNECTED, SessionEvent.NOTIFICATIONS_OPEN): SessionState.OPEN,
    (SessionState.CONNECTED, SessionEvent.DISCONNECT): SessionState.CLOSING,
    (SessionState.OPEN, SessionEvent.DISCONNECT): SessionState.CLOSING,
    (SessionState.OPENING, SessionEvent.END): SessionState.CLOSED,
    (SessionState.CONNECTED, SessionEvent.END): SessionState.CLOSED,
    (SessionState.OPEN, SessionEvent.END): SessionState.CLOSED,
    (SessionState.CLOSING, SessionEvent.END): SessionState.CLOSED,
}

ACCEPTS_REQUESTS = {SessionState.CONNECTED, SessionState.OPEN}
"""Where requests are served."""
