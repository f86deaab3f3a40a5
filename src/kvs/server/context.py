"""What all sessions of a server share."""

from collections.abc import Callable
from dataclasses import dataclass

from kvs.server.handshake import Handshake
from kvs.server.loop import EventLoop
from kvs.server.refusals import RefusalLog
from kvs.server.scheduler import ScriptScheduler
from kvs.store.core import StoreCore
from kvs.store.subscriptions import Subscriptions


@dataclass(frozen=True)
class ServerContext:
    """The server's parts that a session uses."""

    loop: EventLoop
    store: StoreCore
    subscriptions: Subscriptions[bytes]
    scheduler: ScriptScheduler
    """Executes scripts, and bounds their replies."""
    on_notifications_open: Callable[[int], None]
    """Called with the descriptor of each notifications pipe that was opened."""
    unblock: Callable[[Handshake], None]
    """Called at the end of a session, which may come before its client has opened all pipes."""
    refusals: RefusalLog
