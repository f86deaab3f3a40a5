"""Subscriptions to keys, and the bounded outboxes in which changes wait for their readers.

Invariants:

- Changes enter outboxes in the one order of changes, each in one call into C together with all that
  belongs to it (`kvs.concurrency.atomic`), and leave an outbox by its one reader. No lock guards
  them.
- An item made of a change is made once and shared by all outboxes that hold it.
- An outbox over its limit, or the longest when all together are over theirs, is cleared and closed.
  Only its reader sees an error.
"""

import contextlib
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Generic, Self, TypeVar

from kvs.concurrency import forks
from kvs.concurrency.atomic import Step, atomically
from kvs.concurrency.noncopyable import NonCopyable
from kvs.concurrency.unclosed import warn_unclosed
from kvs.concurrency.waiting import Waiters
from kvs.errors import KvsError, SlowConsumerError

Item = TypeVar("Item")
"""What a change becomes in an outbox: a frame, say."""

CHANGE_BYTES = 82
"""Bytes that a change counts for against a limit, whatever its item: a frame's length."""

OUTBOX_BYTES = 8 << 20
TOTAL_BYTES = 256 << 20


class Outbox(Generic[Item]):
    """The changes that one reader has not taken yet.

    Any thread may call any method, but one thread at a time `take`.
    """

    def __init__(self, wake: Callable[[], None], *, held: bool) -> None:
        """Create an empty one; `wake` is called, by any thread, when it has more to take.

        With `held`, as a store with a journal needs, only what `release` releases may be taken.
        """
        self.wake = wake
        self.keys: dict[bytes, int] = {}
        """The keys it is subscribed to, each with the marker of its watch."""
        self.overflowed = False
        """Whether it is closed because it was over a limit."""
        self.added = 0
        """Number of changes ever put into it."""
        self._items: deque[Item] = deque()
        self._released = 0 if held else None
        """How many of all that were ever put in may be taken; None for all."""

    def __len__(self) -> int:
        """Return how many changes wait in it, those that are held back included."""
        return len(self._items)

    @property
    def available(self) -> int:
        """How many changes may be taken."""
        # Read in this order: a change that is added meanwhile makes the result too low, not too
        # high, and its own wake-up follows.
        waiting = len(self._items)
        taken = self.added - waiting
        if self.overflowed:
            return 0
        return waiting if self._released is None else max(0, min(waiting, self._released - taken))

    def take(self, most: int) -> list[Item]:
        """Remove the oldest changes that may be taken, at most `most`, and return them in order."""
        taken: list[Item] = []
        try:  # noqa: SIM105  (contextlib.suppress takes longer than all else here)
            taken.extend(self._items.popleft() for _ in range(min(most, self.available)))
        except IndexError:  # it was cleared meanwhile: what came before that is in the list
            pass
        return taken

    def add(self, *items: Item) -> None:
        """Put `items` behind those that wait; for an outbox that no store publishes to."""
        atomically(*self.steps(items))

    def steps(self, items: Sequence[Item]) -> list[Step]:
        """Return the steps that put `items` behind those that wait."""
        return [
            partial(self._items.extend, iter(items)),  # takes the iterator, and makes no other
            partial(setattr, self, "added", self.added + len(items)),
        ]

    def release(self, added: int) -> None:
        """Let the first `added` of all changes ever put in be taken. One thread at a time."""
        self._released = max(self._released or 0, added)

    def overflow(self) -> None:
        """Clear it for good."""
        self.overflowed = True
        self._items.clear()


class Subscriptions(Generic[Item]):
    """The outboxes of one kind of reader, by key. Changed by `kvs.store.publication` alone."""

    def __init__(
        self,
        item: Callable[[bytes, bytes | None], Item],
        *,
        outbox_bytes: int = OUTBOX_BYTES,
        total_bytes: int = TOTAL_BYTES,
    ) -> None:
        """Create one; `item` makes an item of a key and its new value, None if removed."""
        self._item = item
        self._outbox_items = outbox_bytes // CHANGE_BYTES
        self._total_items = total_bytes // CHANGE_BYTES
        self._by_key: dict[bytes, tuple[Outbox[Item], ...]] = {}
        self._outboxes: dict[Outbox[Item], int] = {}
        """Those with a subscription, and how many they have."""
        self._published = 0
        """Items put into outboxes since all of them were last counted."""
        self._version = [0]
        """Counts the changes of the subscriptions."""

    def subscribe(self, outbox: Outbox[Item], key: bytes) -> list[Step]:
        """Return the steps by which `outbox` is subscribed to `key`, none if it is.

        The first refuses if the subscriptions have changed meanwhile.
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
        """End this; return whether there was such a subscription."""
        while True:
            version = self._version[0]
            subscribed = self._by_key.get(key, ())
            if outbox not in subscribed:
                return False
            rest = tuple(each for each in subscribed if each is not outbox)
            number = self._outboxes.get(outbox, 1) - 1
            keys, outboxes = self._by_key, self._outboxes
            with contextlib.suppress(ValueError):  # the subscriptions have changed meanwhile
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
        """Return the steps that put changes, keys with new values, into the outboxes of these keys.

        The first refuses if the subscriptions have changed meanwhile. Also returns the outboxes to
        wake afterwards, each with its `added` by then. Both are empty if no outbox is concerned.
        """
        version = self._version[0]
        items = self._items_of(changes)
        if not items:
            return [], {}
        steps: list[Step] = [partial(self._version.index, version)]
        woken: dict[Outbox[Item], int] = {}
        published = self._published
        for outbox, added in items.items():
            if not outbox.overflowed:
                steps += outbox.steps(added)
                woken[outbox] = outbox.added + len(added)
                published += len(added)
        steps.append(partial(setattr, self, "_published", published))
        return steps, woken

    def _items_of(
        self, changes: Sequence[tuple[bytes, bytes | None]]
    ) -> dict[Outbox[Item], list[Item]]:
        """Return what the changes become, by the outboxes they go to."""
        if len(changes) == 1:
            [(key, value)] = changes
            concerned = self._by_key.get(key, ())
            shared = [self._item(key, value)] if concerned else []
            return dict.fromkeys(concerned, shared)
        items: dict[Outbox[Item], list[Item]] = {}
        run: list[Item] = []
        """Of changes one after the other that all go to the same outboxes."""
        to: tuple[Outbox[Item], ...] = ()
        for key, value in changes:
            if subscribed := self._by_key.get(key):
                if subscribed != to:
                    _add_to_each(items, to, run)
                    to, run = subscribed, []
                run.append(self._item(key, value))
        _add_to_each(items, to, run)
        return items

    def limit(self, outboxes: Iterable[Outbox[Item]]) -> Iterable[Outbox[Item]]:
        """Close those of `outboxes` over their limit, and the longest of all over the total one.

        Returns the others that were closed.
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
    """The state of a `Watch` that its store refers to: the store never refers to the watch."""

    def __init__(self, *, held: bool) -> None:
        self.outbox: Outbox[Change] = Outbox(self.wake, held=held)
        self.failure: KvsError | None = None
        """Why no more changes come."""
        self.closed = False
        self._waiters = Waiters()

    def wake(self) -> None:
        """Let the reading thread look again."""
        self._waiters.notify_all()

    def end(self, failure: KvsError | None) -> None:
        """End it, because of a failure or because it was closed. Any thread."""
        if failure is None:
            self.closed = True
        elif self.failure is None:
            self.failure = failure
        self.wake()

    def wait(self, timeout: float | None) -> None:
        """Block until there is a change to take, or none will come, or the time is up."""
        self._waiters.wait_for(lambda: self.outbox.available or self.is_over, timeout)

    @property
    def is_over(self) -> bool:
        """Whether no more changes come."""
        return self.closed or self.outbox.overflowed or self.failure is not None


class Watch(NonCopyable):
    """The changes of some keys, in order, for a program that embeds the store.

    An iterator of `Change` that blocks until the next one; a context manager that closes it. One
    thread at a time reads it, any thread, signal handler or finalizer may close it. One that is no
    longer referred to closes itself, with a `ResourceWarning`.
    """

    def __init__(self, reader: Reader, leave: Callable[[], None]) -> None:
        """Read what `reader` gets; `leave` ends its subscriptions, and may be called repeatedly."""
        self._reader = reader
        self._leave = leave
        self._generation = forks.generation()
        self._finalizer = weakref.finalize(self, _close_unclosed, reader, leave, self._generation)
        self._finalizer.atexit = False

    @property
    def outbox(self) -> Outbox[Change]:
        """The changes that it has not returned yet."""
        return self._reader.outbox

    def next(self, timeout: float | None = None) -> Change | None:
        """Wait for the next change, at most `timeout` seconds; None if none came, or it is closed.

        Raises:
            SlowConsumerError: the outbox was over its limit, and the changes in it are lost.
            JournalWriteError: the store's journal failed.
            StoreClosedError: the store was closed, and every change before has been returned.
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
        """End it: no more changes come, and a blocked reader returns. Idempotent."""
        if self._generation == forks.generation():
            self._leave()
            self._reader.end(None)
        self._finalizer.detach()

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


def _close_unclosed(reader: Reader, leave: Callable[[], None], generation: int) -> None:
    if generation == forks.generation():
        leave()
        if not reader.is_over:
            warn_unclosed("watch")
