"""The life of a session at the server, as data. Pure.

Laws, for every session:

- It answers nothing before its client reads responses, and then first of all the connect.
- It serves requests from then on, whether or not notifications are open yet.
- It may end at any moment, from any stage, and never comes back.
- Leaving, it serves nothing more: it waits for its client to go, a moment at most.
"""

from enum import Enum, auto


class Stage(Enum):
    """How far a session has come."""

    OPENING = auto()
    """Nobody reads its responses yet."""
    GREETED = auto()
    """It serves requests; nobody reads its notifications yet."""
    SERVING = auto()
    """Everything is open."""
    LEAVING = auto()
    """It was told that its client disconnects."""
    ENDED = auto()
    """All its pipes are closed."""


class Event(Enum):
    """What moves a session on."""

    RESPONSES_OPEN = auto()
    NOTIFICATIONS_OPEN = auto()
    DISCONNECT = auto()
    END = auto()


TRANSITIONS = {
    (Stage.OPENING, Event.RESPONSES_OPEN): Stage.GREETED,
    (Stage.GREETED, Event.NOTIFICATIONS_OPEN): Stage.SERVING,
    (Stage.GREETED, Event.DISCONNECT): Stage.LEAVING,
    (Stage.SERVING, Event.DISCONNECT): Stage.LEAVING,
    (Stage.OPENING, Event.END): Stage.ENDED,
    (Stage.GREETED, Event.END): Stage.ENDED,
    (Stage.SERVING, Event.END): Stage.ENDED,
    (Stage.LEAVING, Event.END): Stage.ENDED,
}

SERVES = {Stage.GREETED, Stage.SERVING}
"""Where requests are served."""
