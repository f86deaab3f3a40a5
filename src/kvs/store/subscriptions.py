"""Subscriptions to keys, and the bounded outboxes of their readers.

Invariants:

- Changes enter the outboxes in the one order of changes. One call into C adds a change and all
  that belongs to it (`kvs.concurrency.atomic`); one reader removes it. No lock guards an outbox.
- The item of a change is made once and shared by all outboxes that contain it.
- Slow consumers: an outbox over its limit is cleared and closed, and so is the longest outbox while
  all together are over theirs. Only the reader of that outbox sees an error.
"""

import contextlib
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Self, TypeVar

from kvs.concurrency import forks
from kvs.concurrency.atomic import Step, atomically
from kvs.concurrency.resources import NonCopyable, warn_unclosed
from kvs.concurrency.waiters import Waiters
from kvs.errors import KvsError, SlowConsumerError

Item = TypeVar("Item")
"""The form of a change in an outbox, for example a frame."""

CHANGE_BYTES = 82
"""Bytes that one change counts against a limit, whatever its item: the length of a frame."""

OUTBOX_BYTES = 8 << 20
"""Default maximum bytes of changes in one outbox."""

TOTAL_BYTES = 256 << 20
"""Default maximum bytes of changes in all outboxes of one `Subscriptions`."""


class Outbox(Generic[Item]):
    """The changes that one reader has not taken.

    Threads: any, but `take` and `release` by one thread at a time.
    """

    def __init__(self, wake: Callable[[], None], *, held: bool) -> None:
        """Create an empty outbox; any thread calls `wake` when more changes are available.

        With `held`, which a store with a data directory requires, a change is available only
        after `release`.
        """
        self.wake = wake
        self.keys: dict[bytes, int] = {}
        """The subscribed keys, each with the marker at which its subscription begins."""
        self.overflowed = False
        """Whether the outbox was closed because it was over a limit."""
        self.added = 0
        """Number of changes ever added."""
        self._items: deque[Item] = deque()
        self._released = 0 if held else None
        """Number of added changes that were released; None if every change is available."""

    def __len__(self) -> int:
        """Return the number of changes in the outbox, released or not."""
        return len(self._items)

    @property
    def available(self) -> int:
        """Number of changes that `take` may return."""
        # In this order, a change that is added in between makes the result too low, never too
        # high, and the wake-up of that change follows.
        length = len(self._items)
        taken = self.added - length
        if self.overflowed:
            return 0
        return length if self._released is None else max(0, min(length, self._released - taken))

    def take(self, limit: int) -> list[Item]:
        """Remove and return the oldest available changes, at most `limit`, in order."""
        taken: list[Item] = []
        try:  # noqa: SIM105  (contextlib.suppress takes longer than all else here)
            taken.extend(self._items.popleft() for _ in range(min(limit, self.available)))
        except IndexError:  # the outbox was cleared in between: `taken` has what came before
            pass
        return taken

    def add(self, *items: Item) -> None:
        """Append `items`; for an outbox that no store publishes to."""
        atomically(*self.steps(items))

    def steps(self, items: Sequence[Item]) -> list[Step]:
        """Return the steps that append `items`."""
        return [
            partial(self._items.extend, iter(items)),  # `extend` creates no iterator of its own
            partial(setattr, self, "added", self.added + len(items)),
        ]

    def release(self, added: int) -> None:
        """Make the first `added` of all changes ever added available."""
        self._released = max(self._released or 0, added)

    def overflow(self) -> None:
        """Clear and close the outbox."""
        self.overflowed = True
        self._items.clear()


class Subscriptions(Generic[Item]):
    """The outboxes of one kind of reader, by key.

    Only `kvs.store.publication` changes it.
    """

    def __init__(
        self,
        item: Callable[[bytes, bytes | None], Item],
        *,
        outbox_bytes: int = OUTBOX_BYTES,
        total_bytes: int = TOTAL_BYTES,
    ) -> None:
        """Create one without subscriptions.

        `item` returns the item of a change: of a key and its new value, None if it was removed.
        """
        self._item = item
        self._outbox_items = outbox_bytes // CHANGE_BYTES
        self._total_items = total_bytes // CHANGE_BYTES
        self._by_key: dict[bytes, tuple[Outbox[Item], ...]] = {}
        self._outboxes: dict[Outbox[Item], int] = {}
        """The outboxes with a subscription, each with their number."""
        self._published = 0
        """Items added to outboxes since the last check of the total limit."""
        self._version = [0]
        """A cell with the number of changes of the subscriptions."""

    def subscribe(self, outbox: Outbox[Item], key: bytes) -> list[Step]:
        """Return the steps that subscribe `outbox` to `key`; none if it is subscribed.

        The first step raises ValueError if the subscriptions have changed in between.
        """
        version = self._version[0]
        subscribed = self._by_key.get(key, ())
        if outbox in subscribed:
            return []
        number = self._outboxes.get(outbox, 0) + 1
        return [
            partial(self._version.index, version),
            partial(self._by_key.__setitem__, key, (*subscribed, outbox)),
            partial(self._outboxes.__setitem__, outbox, number),
            partial(self._version.__setitem__, 0, version + 1),
        ]

    def unsubscribe(self, outbox: Outbox[Item], key: bytes) -> bool:
        """End a subscription; return whether it existed."""
        while True:
            version = self._version[0]
            subscribed = self._by_key.get(key, ())
            if outbox not in subscribed:
                return False
            rest = tuple(each for each in subscribed if each is not outbox)
            number = self._outboxes.get(outbox, 1) - 1
            keys, outboxes = self._by_key, self._outboxes
            with contextlib.suppress(ValueError):  # the subscriptions have changed in between
                atomically(
                    partial(self._version.index, version),
                    partial(keys.__setitem__, key, rest)
                    if rest
                    else partial(keys.__delitem__, key),
                    partial(outboxes.__setitem__, outbox, number)
                    if number
                    else partial(outboxes.__delitem__, outbox),
                    partial(self._version.__setitem__, 0, version + 1),
                )
                return True

    def publish(
        self, changes: Sequence[tuple[bytes, bytes | None]]
    ) -> tuple[list[Step], dict[Outbox[Item], int]]:
        """Return the steps that add `changes`, keys with new values, to the outboxes of the keys.

        The first step raises ValueError if the subscriptions have changed in between. Also returns
        the outboxes to wake afterwards, each with its `added` after the steps. Both are empty if
        no key has a subscription.
        """
        version = self._version[0]
        items = self._items_of(changes)
        if not items:
            return [], {}
        steps: list[Step] = [partial(self._version.index, version)]
        to_wake: dict[Outbox[Item], int] = {}
        published = self._published
        for outbox, added in items.items():
            if not outbox.overflowed:
                steps += outbox.steps(added)
                to_wake[outbox] = outbox.added + len(added)
                published += len(added)
        steps.append(partial(setattr, self, "_published", published))
        return steps, to_wake

    def _items_of(
        self, changes: Sequence[tuple[bytes, bytes | None]]
    ) -> dict[Outbox[Item], list[Item]]:
        """Return the items of the changes, by outbox."""
        if len(changes) == 1:
            [(key, value)] = changes
            outboxes = self._by_key.get(key, ())
            shared = [self._item(key, value)] if outboxes else []
            return dict.fromkeys(outboxes, shared)
        items: dict[Outbox[Item], list[Item]] = {}
        run: list[Item] = []
        """Items of consecutive changes with the same outboxes."""
        run_outboxes: tuple[Outbox[Item], ...] = ()
        for key, value in changes:
            if subscribed := self._by_key.get(key):
                if subscribed != run_outboxes:
                    _add_to_each(items, run_outboxes, run)
                    run_outboxes, run = subscribed, []
                run.append(self._item(key, value))
        _add_to_each(items, run_outboxes, run)
        return items

    def limit(self, outboxes: Iterable[Outbox[Item]]) -> Iterable[Outbox[Item]]:
        """Close each of `outboxes` that is over its limit, and the longest over the total limit.

        Returns the outboxes that were closed because of the total limit.
        """
        for outbox in outboxes:
            if len(outbox) > self._outbox_items:
                outbox.overflow()
        if self._published <= self._total_items // 16:
            return ()
        self._published = 0
        closed: list[Outbox[Item]] = []
        all_outboxes = list(self._outboxes)
        total = sum(map(len, all_outboxes))
        for outbox in sorted(all_outboxes, key=len, reverse=True):
            if total <= self._total_items:
                break
            total -= len(outbox)
            outbox.overflow()
            closed.append(outbox)
        return closed


def _add_to_each(
    items: dict[Outbox[Item], list[Item]], outboxes: Iterable[Outbox[Item]], run: list[Item]
) -> None:
    for outbox in outboxes:
        items.setdefault(outbox, []).extend(run)


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a watched key."""

    key: bytes
    value: bytes | None
    """The new value; None if the key was removed."""


class Reader:
    """The state of a `Watch`, for the store.

    The store refers to this object and never to the watch, so that an unreferenced watch is
    collected.
    """

    def __init__(self, *, held: bool) -> None:
        self.outbox: Outbox[Change] = Outbox(self.wake, held=held)
        self.failure: KvsError | None = None
        """The error with which the watch ended."""
        self.closed = False
        self._waiters = Waiters()

    def wake(self) -> None:
        """Wake the reading thread."""
        self._waiters.notify_all()

    def end(self, failure: KvsError | None) -> None:
        """End the watch with an error, or with None because it was closed. Any thread."""
        if failure is None:
            self.closed = True
        elif self.failure is None:
            self.failure = failure
        self.wake()

    def wait(self, timeout: float | None) -> None:
        """Block until a change is available, the watch ended, or `timeout` seconds passed."""
        self._waiters.wait_for(lambda: self.outbox.available or self.is_over, timeout)

    @property
    def is_over(self) -> bool:
        """Whether no more changes will be added."""
        return self.closed or self.outbox.overflowed or self.failure is not None


class Watch(NonCopyable):
    """The changes of some keys, in order.

    An iterator of `Change` that blocks until the next one, and a context manager that closes it.
    A watch that is not referred to any more closes itself, with a `ResourceWarning`.

    Threads: one at a time reads it; any thread, signal handler or finalizer may close it.
    """

    def __init__(self, reader: Reader, unsubscribe: Callable[[], None]) -> None:
        """Read from `reader`; `unsubscribe`, which is idempotent, ends its subscriptions."""
        self._reader = reader
        self._unsubscribe = unsubscribe
        self._generation = forks.generation()
        self._finalizer = weakref.finalize(
            self, _close_unclosed, reader, unsubscribe, self._generation
        )
        self._finalizer.atexit = False

    @property
    def outbox(self) -> Outbox[Change]:
        """The changes that `next` has not returned."""
        return self._reader.outbox

    def next(self, timeout: float | None = None) -> Change | None:
        """Return the next change; None if none came within `timeout` seconds, or after `close`.

        Raises:
            SlowConsumerError: the outbox was over its limit, and the changes in it are lost.
            JournalWriteError: the journal of the store failed.
            StoreClosedError: the store was closed, and every earlier change has been returned.
            InheritedByForkError: this process is a forked child.

        """
        reader = self._reader
        if self._generation != forks.generation():
            raise forks.inherited_error()
        reader.wait(timeout)
        for change in reader.outbox.take(1):
            return change
        if reader.outbox.overflowed:
            raise SlowConsumerError
        if reader.failure is not None and not reader.closed:
            raise reader.failure
        return None

    def close(self) -> None:
        """End the watch; a blocked `next` returns None. Idempotent."""
        if self._generation == forks.generation():
            self._unsubscribe()
            self._reader.end(None)
        self._finalizer.detach()

    def __iter__(self) -> Iterator[Change]:
        """Yield changes until the watch is closed."""
        while (change := self.next()) is not None:
            yield change

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close_unclosed(reader: Reader, unsubscribe: Callable[[], None], generation: int) -> None:
    if generation == forks.generation():
        unsubscribe()
        if not reader.is_over:
            warn_unclosed("watch")
