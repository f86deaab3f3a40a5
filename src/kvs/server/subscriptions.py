"""The subscriptions of one session."""

from collections.abc import Callable

from kvs.protocol import frames
from kvs.server.loop import EventLoop
from kvs.store.core import StoreCore
from kvs.store.subscriptions import Outbox, Subscriptions


class SessionSubscriptions:
    """The keys whose changes go to the outbox of one session. For the loop's thread."""

    def __init__(
        self,
        outbox: Outbox[bytes],
        subscriptions: Subscriptions[bytes],
        store: StoreCore,
        loop: EventLoop,
    ) -> None:
        self._outbox = outbox
        self._subscriptions = subscriptions
        self._store = store
        self._loop = loop

    def add(self, key: bytes) -> bool:
        """Subscribe to `key`; return whether the key exists now.

        Does nothing and returns False if `key` is empty or fits no notification.
        """
        if not key or not frames.fits_field(key):
            return False
        return self._store.subscribe(self._subscriptions, self._outbox, key)

    def remove(self, key: bytes) -> bool:
        """End the subscription to `key`; return whether there was one."""
        return self._store.unsubscribe(self._subscriptions, self._outbox, key)

    def clear(self, then: Callable[[], None]) -> None:
        """End all subscriptions, over several turns of the loop if there are many; call `then`."""
        keys = iter(list(self._outbox.keys))

        def remove_some() -> None:
            for key in keys:
                self.remove(key)
                if self._loop.is_turn_over:
                    return self._loop.call_soon_threadsafe(remove_some)
            return then()

        remove_some()
