"""A watch: an iterator of the changes of some keys, for the library.

A `Reader` is what the store refers to, a `Watch` what the caller does.
"""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Self

from kvs.codecs import K, V
from kvs.concurrency import forks
from kvs.concurrency.resources import NonCopyable, warn_unclosed
from kvs.concurrency.waiters import Waiters
from kvs.errors import KvsError, SlowConsumerError
from kvs.store.subscriptions import Outbox


@dataclass(frozen=True, slots=True)
class Change(Generic[K, V]):
    """One change of a watched key."""

    key: K
    value: V | None
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


class Watch(NonCopyable, Generic[K, V]):
    """The changes of some keys, in order.

    An iterator of `Change` that blocks until the next one, and a context manager that closes it.
    A watch that is not referred to any more closes itself, with a `ResourceWarning`.

    Threads: one at a time reads it; any thread, signal handler or finalizer may close it.
    """

    def __init__(
        self,
        reader: Reader,
        unsubscribe: Callable[[], None],
        decode: Callable[[Change], Change[K, V]],
    ) -> None:
        """Read from `reader`; `unsubscribe`, which is idempotent, ends its subscriptions.

        `decode` is called with each change before it is returned.
        """
        self._reader = reader
        self._unsubscribe = unsubscribe
        self._decode = decode
        self._generation = forks.generation()
        self._finalizer = weakref.finalize(
            self, _close_unclosed, reader, unsubscribe, self._generation
        )
        self._finalizer.atexit = False

    def next(self, timeout: float | None = None) -> Change[K, V] | None:
        """Return the next change; None if none came within `timeout` seconds, or after `close`.

        Raises:
            SlowConsumerError: the outbox was over its limit, and the changes in it are lost.
            InvalidValueError: the codec of the store cannot decode the new value; the next call
                returns the change after it.
            JournalWriteError: the journal of the store failed.
            StoreClosedError: the store was closed, and every earlier change has been returned.
            InheritedByForkError: this process is a forked child.

        """
        reader = self._reader
        if self._generation != forks.generation():
            raise forks.inherited_error()
        reader.wait(timeout)
        for change in reader.outbox.take(1):
            return self._decode(change)
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

    def __iter__(self) -> Iterator[Change[K, V]]:
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
