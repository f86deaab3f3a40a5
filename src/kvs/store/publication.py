"""The one order of changes: from the engine to the journal and to the subscribers.

How it works:

1. The engine gives out change batches in order; `publish` moves them into one queue, together with
   markers at which subscriptions begin.
2. Every call that has changed something publishes the queue before it returns. One call into C
   (`kvs.concurrency.atomic`) appends the first batch to the journal and to the outboxes, and
   removes it from the queue, unless another call has removed it in between.

So any number of threads, and nested calls of the same thread, publish together; each change is
published once and in order; and no thread waits for another one, which a signal handler that waits
in turn may have suspended.

If a signal handler raises within `publish`, unpublished batches stay in the queue for the next
call.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any

from kvs.concurrency.atomic import Step, atomically
from kvs.engine.interface import ChangeBatch, Engine, TableView
from kvs.errors import JournalWriteError, StoreClosedError, StoreNotEmptyError
from kvs.language.output_format import Expiries
from kvs.store.subscriptions import Outbox, Subscriptions

if TYPE_CHECKING:
    from kvs.journal.job_records import JobRegistry
    from kvs.journal.queue import RotationPoint
    from kvs.snapshot.writer import SnapshotWriter
    from kvs.store.persistence import Persistence

Subscription = tuple[Subscriptions[Any], Outbox[Any], bytes]


class Publication:
    """Publishes the changes of an engine to the journal and to subscribers.

    Threads: any, and any signal handler or finalizer, except where a method says otherwise.
    """

    def __init__(self, engine: Engine, data: "Persistence | None") -> None:
        """Publish the changes of `engine`; `data` is None for a store in memory."""
        self._engine = engine
        self._data = data
        self._queue: list[ChangeBatch] = []
        """Batches that were moved out of the engine and are not published, in order."""
        self._subscriptions: list[Subscriptions[Any]] = []
        self._markers = itertools.count(1)
        self._pending_subscriptions: dict[int, Subscription] = {}
        """Subscriptions whose marker is not published, by marker."""
        self._outboxes_to_wake: dict[Outbox[Any], int] = {}
        """Outboxes with new changes whose reader was not woken; the values are unused."""
        self._job_lock = RLock()
        """Guards the records of jobs, and the start of a compaction. Only threads that no signal
        handler interrupts acquire it."""

    def publish(self) -> None:
        """Publish every change batch that the engine gives out by now."""
        if not self._engine.has_batches and not self._queue and not self._outboxes_to_wake:
            return
        while True:
            self._engine.move_batches(self._queue)
            first = self._queue[:1]
            if not first:
                break
            self._publish(*first)
        for outbox in list(self._outboxes_to_wake):
            outbox.wake()
            # A call that added to the outbox in between wakes its reader itself.
            self._outboxes_to_wake.pop(outbox, None)

    def appended_count(self) -> int:
        """Return the number of appends to the journal that all changes made by now take.

        Raises:
            JournalWriteError: the journal failed.
            StoreClosedError: the store was closed.

        """
        if self._data is None:
            return 0
        journal = self._data.journal
        self.publish()
        if journal.appended_revision < self._engine.revision:
            # Another call is within the engine. Only then does this take the engine's lock.
            self._publish_all()
        journal.check()
        return journal.appended_count

    def _publish_all(self) -> None:
        """Publish every change made by now, and what job calls have written by now."""
        self._engine.settle()
        self.publish()

    # Subscriptions.

    def add_subscriptions(self, subscriptions: Subscriptions[Any]) -> None:
        """Publish every later change to `subscriptions`."""
        self._subscriptions.append(subscriptions)

    def remove_subscriptions(self, subscriptions: Subscriptions[Any]) -> None:
        """End all subscriptions in `subscriptions`, and publish no more changes to it. Idempotent.

        No other thread may subscribe in it meanwhile.
        """
        self._publish_all()
        for outbox in subscriptions.outboxes():
            self.unsubscribe_all(subscriptions, outbox)
        with contextlib.suppress(ValueError):  # it was removed before
            self._subscriptions.remove(subscriptions)

    def subscribe(self, subscriptions: Subscriptions[Any], outbox: Outbox[Any], key: bytes) -> bool:
        """Put every later change of `key` into `outbox`; return whether the key exists now."""
        marker = next(self._markers)
        is_watched = False
        try:
            if outbox.keys.setdefault(key, marker) != marker:
                exists = self._engine.get([key])[0] is not None
                self.publish()
                return exists
            self._pending_subscriptions[marker] = (subscriptions, outbox, key)
            exists = self._engine.watch(key, marker)
            is_watched = True
            self.publish()
        except BaseException:
            if self._pending_subscriptions.pop(marker, None) is not None:
                outbox.keys.pop(key, None)
                if is_watched:
                    self._engine.unwatch(key)
            raise
        return exists

    def unsubscribe(
        self, subscriptions: Subscriptions[Any], outbox: Outbox[Any], key: bytes
    ) -> bool:
        """End a subscription; return whether it existed."""
        self._publish_all()
        existed = subscriptions.unsubscribe(outbox, key)
        outbox.keys.pop(key, None)
        if existed:
            # An exception before this call leaves the key watched without a subscription: harmless.
            self._engine.unwatch(key)
        return existed

    def unsubscribe_all(self, subscriptions: Subscriptions[Any], outbox: Outbox[Any]) -> None:
        """End all subscriptions of `outbox`."""
        for key in list(outbox.keys):
            self.unsubscribe(subscriptions, outbox, key)

    # Jobs and compaction: only in threads that no signal handler interrupts.

    def record_job(self, change: "Callable[[JobRegistry], bytes]", data: "Persistence") -> None:
        """Call `change` with the records of jobs, and append the lines that it returns.

        Raises:
            JournalWriteError: the journal failed.
            StoreClosedError: the store was closed.

        """
        with self._job_lock:
            self._publish_all()
            data.journal.check()
            if lines := change(data.jobs):
                data.journal.append(lines, 0)

    def load(self, pairs: dict[bytes, bytes], expiries: Expiries, data: "Persistence") -> int:
        """Replace everything by `pairs`, as one change; return its revision.

        Neither mapping may change until the change is committed.

        Raises:
            StoreNotEmptyError: the store was changed before.
            JournalWriteError: the journal failed.
            StoreClosedError: the store was closed.

        """
        item = data.restore_item(pairs, expiries)
        revisions: list[int] = []

        def load(_: TableView) -> None:
            self.publish()
            data.journal.check()
            if self._engine.revision:
                raise StoreNotEmptyError(data.display_path)
            if pairs:
                revisions.append(self._engine.replace(pairs, expiries))
                data.journal.append_item(item)

        with self._job_lock:
            self._engine.with_locked_view(load)
        self.publish()
        return max(revisions, default=0)

    def begin_compaction(self, writer: "SnapshotWriter", data: "Persistence") -> "RotationPoint":
        """Fork the child that writes a snapshot, and begin the segment after it.

        A finalizer that runs in this thread in between may change the store. If the segment has
        not begun, the header of the snapshot counts that change. Otherwise the snapshot contains
        the change and the segment repeats it, with the same result.
        """
        points: list[RotationPoint] = []

        def begin(view: TableView) -> None:
            self.publish()
            points.append(data.begin_compaction(writer, view))

        with self._job_lock:
            self._engine.with_locked_view(begin)
        return points[0]

    # One batch.

    def _publish(self, first: ChangeBatch) -> None:
        """Publish the first batch of the queue, unless another call does so first."""
        queue = self._queue
        checks: list[Step] = [partial(queue.index, first, 0, 1)]
        steps: list[Step] = []
        to_wake: dict[Outbox[Any], int] = {}
        filled: list[tuple[Subscriptions[Any], Iterable[Outbox[Any]]]] = []
        if first.marker:
            steps = self._begin_subscription(first.marker)
        elif changes := first.changes:
            for subscriptions in tuple(self._subscriptions):
                adding, outboxes = subscriptions.publish(changes)
                if outboxes:
                    check, *adding = adding
                    checks.append(check)
                    steps += adding
                    to_wake |= outboxes
                    filled.append((subscriptions, outboxes))
        if self._data is None:
            if to_wake:
                steps.append(partial(self._outboxes_to_wake.update, to_wake))
        elif not first.marker:
            on_commit = partial(_release, to_wake) if to_wake else None
            # A failed journal is reported where a result is released, not here.
            with contextlib.suppress(JournalWriteError, StoreClosedError):
                check, *appending = self._data.steps(first, on_commit)
                checks.append(check)
                steps += appending
        try:
            atomically(*checks, *steps, partial(queue.pop, 0))
        except ValueError:  # another call changed the queue, the subscriptions or the journal
            return
        for subscriptions, extended in filled:
            for outbox in subscriptions.limit(extended):
                outbox.wake()

    def _begin_subscription(self, marker: int) -> list[Step]:
        if subscription := self._pending_subscriptions.get(marker):
            subscriptions, outbox, key = subscription
            return [
                *subscriptions.subscribe(outbox, key),
                partial(self._pending_subscriptions.pop, marker, None),
            ]
        return []  # an exception ended `subscribe` after the engine had added the marker


def _release(outboxes: dict[Outbox[Any], int]) -> None:
    """Release the committed changes to their readers; `outboxes` gives each a count of changes."""
    for outbox, added in outboxes.items():
        outbox.release(added)
        outbox.wake()
