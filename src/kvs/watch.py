"""Who watches which key, and the bounded outboxes that changes wait in.

Laws:

- Changes enter outboxes one batch at a time, in the one order of changes, while the store's lock of
  handing on is held, and leave them outside it. `Outbox` has a lock of its own, taken inside that.
- An item made of a change is made once and shared by all outboxes that hold it.
- An outbox that outgrows its bound, or is the longest when all together outgrow theirs, is given
  up: it is emptied, takes nothing more, and whoever empties it is told. Nobody else notices.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import Condition, Lock
from types import TracebackType
from typing import Generic, Self, TypeVar

from kvs.errors import KvsError, WatchLost

Item = TypeVar("Item")
"""What a change becomes in an outbox: a frame, say."""

CHANGE_BYTES = 82
"""What a change counts for against a bound, whatever its item: a frame's length."""

OUTBOX_BYTES = 8 << 20
TOTAL_BYTES = 256 << 20


class Outbox(Generic[Item]):
    """The changes that one watcher has not taken yet. Thread-safe."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """Make an empty one; `wake` is called, outside that lock, when there is more."""
        self.wake = wake
        self.keys: set[bytes] = set()
        """What it watches; guarded by the store's lock of handing on."""
        self.given_up = False
        """Whether it outgrew a bound, and its watcher is lost."""
        self.added = 0
        """How many changes were ever put into it."""
        self._lock = Lock()
        self._items: deque[Item] = deque()  # guarded by _lock, as all below
        self._taken = 0
        self._released: float = math.inf
        """How many of all that were put in may be taken out."""

    def __len__(self) -> int:
        """Return how many changes wait in it, those that are held back included."""
        return len(self._items)

    @property
    def ready(self) -> int:
        """How many changes may be taken."""
        with self._lock:
            return self._ready()

    def take(self, most: int) -> list[Item]:
        """Take out the oldest changes that may be taken, `most` at the most, in order."""
        with self._lock:
            count = min(most, self._ready())
            self._taken += count
            return [self._items.popleft() for _ in range(count)]

    def add(self, item: Item) -> None:
        """Put a change behind those that wait."""
        with self._lock:
            if not self.given_up:
                self._items.append(item)
                self.added += 1

    def hold_back(self) -> None:
        """Let no change be taken from now on but those that `release` lets go."""
        with self._lock:
            self._released = min(self._released, self.added)

    def release(self, added: int) -> None:
        """Let what had been added by then be taken."""
        with self._lock:
            self._released = max(self._released, added)

    def _ready(self) -> int:
        return int(min(len(self._items), self._released - self._taken))

    def give_up(self) -> None:
        """Empty it for good."""
        with self._lock:
            self.given_up = True
            self._items.clear()


class Watchers(Generic[Item]):
    """The outboxes of one kind of watcher, by key.

    Guarded by the store's lock of handing on, which is held wherever a method of it is called.
    """

    def __init__(
        self,
        item: Callable[[bytes, bytes | None], Item],
        *,
        outbox_bytes: int = OUTBOX_BYTES,
        total_bytes: int = TOTAL_BYTES,
    ) -> None:
        """Make one; `item` makes an item of a key and its new value, None if removed."""
        self._item = item
        self._outbox_items = outbox_bytes // CHANGE_BYTES
        self._total_items = total_bytes // CHANGE_BYTES
        self._by_key: dict[bytes, list[Outbox[Item]]] = {}
        self._outboxes: set[Outbox[Item]] = set()
        self._published = 0
        """Items put into outboxes since all of them were last counted."""

    def subscribe(self, outbox: Outbox[Item], key: bytes) -> None:
        """Let `outbox`, which does not yet have them, have the changes of `key` from now on."""
        outbox.keys.add(key)
        self._by_key.setdefault(key, []).append(outbox)
        self._outboxes.add(outbox)

    def unsubscribe(self, outbox: Outbox[Item], key: bytes) -> None:
        """End what `subscribe` began."""
        outbox.keys.remove(key)
        watching = self._by_key[key]
        watching.remove(outbox)
        if not watching:
            del self._by_key[key]
        if not outbox.keys:
            self._outboxes.discard(outbox)

    def publish(self, changes: Iterable[tuple[bytes, bytes | None]]) -> set[Outbox[Item]]:
        """Put changes, keys with their new values, where they are watched; return whom to wake."""
        woken: set[Outbox[Item]] = set()
        for key, value in changes:
            if watching := self._by_key.get(key):
                item = self._item(key, value)
                for outbox in watching:
                    outbox.add(item)
                woken.update(watching)
                self._published += len(watching)
        for outbox in woken:
            if len(outbox) > self._outbox_items:
                outbox.give_up()
        if self._published > self._total_items // 16:
            self._published = 0
            woken |= self._within_total()
        return woken

    def _within_total(self) -> set[Outbox[Item]]:
        """Give up the longest outboxes until all together are within their bound; return those."""
        lost: set[Outbox[Item]] = set()
        total = sum(map(len, self._outboxes))
        for outbox in sorted(self._outboxes, key=len, reverse=True):
            if total <= self._total_items:
                break
            total -= len(outbox)
            outbox.give_up()
            lost.add(outbox)
        return lost


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a watched key."""

    key: bytes
    value: bytes | None
    """The new value; None if the key was removed."""


class Watch:
    """The changes of some keys, in order, for a program that has the store in itself.

    An iterator of `Change` that waits for the next one; a context manager that ends it. One thread
    at a time reads it, any thread may close it.
    """

    def __init__(self, leave: Callable[[Outbox[Change]], None]) -> None:
        self.outbox: Outbox[Change] = Outbox(self._wake)
        self._leave = leave
        self._more = Condition()
        self._closed = False
        self._failure: KvsError | None = None

    def next(self, timeout: float | None = None) -> Change | None:
        """Wait for the next change, at most `timeout` seconds; None if none came, or it is closed.

        Raises:
            WatchLost: more changes waited than its bound allows; those that waited are gone.
            JournalFailed: the store's journal failed, and no more changes are told.

        """
        with self._more:
            self._more.wait_for(self._is_over, timeout)
        for change in self.outbox.take(1):
            return change
        if self.outbox.given_up:
            raise WatchLost
        if self._failure is not None:
            raise self._failure
        return None

    def _is_over(self) -> bool:
        """Tell whether there is nothing to wait for."""
        ended = self._closed or self.outbox.given_up or self._failure is not None
        return ended or self.outbox.ready > 0

    def fail(self, failure: KvsError) -> None:
        """Let whoever waits for the next change, and comes to do so, be told of `failure`."""
        with self._more:
            self._failure = failure
            self._more.notify_all()

    def close(self) -> None:
        """End it: nothing more is noted, and who waits is woken. A second call does nothing."""
        self._leave(self.outbox)
        with self._more:
            self._closed = True
            self._more.notify_all()

    def _wake(self) -> None:
        with self._more:
            self._more.notify_all()

    def __iter__(self) -> Iterator[Change]:
        """Yield changes until it is closed."""
        while (change := self.next()) is not None:
            yield change

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
