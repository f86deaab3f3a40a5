"""The one order of changes: from the engine to the journal and to the subscribers.

How it works. What the engine's calls have changed comes out of it as effects, in order, into one
queue, together with markers where subscriptions begin. Every call that has changed something
publishes the queue before it returns: the first effects are put into the journal and the outboxes,
and removed from the queue, in one call into C, unless they are not the first any more
(`kvs.concurrency.atomic`). So any number of threads, and calls within calls of the same thread,
publish together; each change is published once, in order; and no thread waits for another, which
may be suspended in the middle of it by a signal handler that waits in turn.

An exception that a handler raises leaves in the queue what is not published: the next call does it.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any

from kvs.concurrency.atomic import Step, atomically
from kvs.engine.interface import ChangeBatch, Engine, TableView
from kvs.errors import JournalWriteError, StoreClosedError
from kvs.store.subscriptions import Outbox, Subscriptions

if TYPE_CHECKING:
    from kvs.journal.job_records import JobRegistry
    from kvs.journal.writer import RotationPoint
    from kvs.snapshot.writer import SnapshotWriter
    from kvs.store.persistence import Persistence

Subscription = tuple[Subscriptions[Any], Outbox[Any], bytes]


class Publication:
    """What is between an engine and those that its changes concern. Any thread, any time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: list[ChangeBatch] = []
        """Effects that the engine has given out and that are not published yet, in order."""
        self._watchers: list[Subscriptions[Any]] = []
        self._markers = itertools.count(1)
        self._beginning: dict[int, Subscription] = {}
        """Subscriptions that begin, by their marker."""
        self._unwoken: dict[Outbox[Any], int] = {}
        """Outboxes with changes whose readers have not been woken yet (the values are not used)."""
        self._noting = RLock()
        """Held, by threads without signal handlers alone, while what is known of jobs is changed,
        and while a compaction begins."""
        self.data: Persistence | None = None
        """The data directory; None for a store in memory."""

    def publish(self) -> None:
        """Publish every change made so far; at once, if there is none."""
        if not self._engine.has_batches and not self._queue and not self._unwoken:
            return
        while True:
            self._engine.move_batches(self._queue)
            first = self._queue[:1]
            if not first:
                break
            self._publish(*first)
        for outbox in list(self._unwoken):
            outbox.wake()
            # A call that put more into it meanwhile wakes its reader itself before it returns.
            self._unwoken.pop(outbox, None)

    def appended_count(self) -> int:
        """Return the number of appends to the journal that all changes made by now take.

        Raises:
            JournalWriteError: the journal failed.
            StoreClosedError: the store was closed.

        """
        if self.data is None:
            return 0
        journal = self.data.log
        self.publish()
        if journal.appended_revision < self._engine.revision:
            # Another call is within the engine. Only then does this take the engine's lock.
            self._publish_all()
        journal.check()
        return journal.appended_count

    def _publish_all(self) -> None:
        """Publish every change made by now, and what marked calls have written by now."""
        self._engine.settle()
        self.publish()

    # Subscriptions.

    def add_subscriptions(self, watchers: Subscriptions[Any]) -> None:
        """Publish every later change to `watchers`."""
        self._watchers.append(watchers)

    def subscribe(self, watchers: Subscriptions[Any], outbox: Outbox[Any], key: bytes) -> bool:
        """Put every later change of `key` into `outbox`; return whether the key exists now."""
        marker = next(self._markers)
        try:
            if outbox.keys.setdefault(key, marker) != marker:
                there = self._engine.get([key])[0] is not None
                self.publish()
                return there
            self._beginning[marker] = (watchers, outbox, key)
            there = self._engine.watch(key, marker)
            self.publish()
        except BaseException:
            if self._beginning.pop(marker, None) is not None:
                outbox.keys.pop(key, None)
            raise
        return there

    def unsubscribe(self, watchers: Subscriptions[Any], outbox: Outbox[Any], key: bytes) -> bool:
        """End this; return whether there was such a subscription."""
        self._publish_all()
        ended = watchers.unsubscribe(outbox, key)
        outbox.keys.pop(key, None)
        if ended:
            # An exception before this leaves the key watched for no subscription: no harm is done.
            self._engine.unwatch(key)
        return ended

    def unsubscribe_all(self, watchers: Subscriptions[Any], outbox: Outbox[Any]) -> None:
        """End all subscriptions of `outbox`."""
        for key in list(outbox.keys):
            self.unsubscribe(watchers, outbox, key)

    # Jobs and compaction, in threads that no signal handler interrupts.

    def record_job(self, change: "Callable[[JobRegistry], bytes]", data: "Persistence") -> None:
        """Change what is known of jobs, and put the lines that `change` returns into the journal.

        Raises:
            JournalWriteError: nothing is written any more.
            StoreClosedError: the store was closed.

        """
        with self._noting:
            self._publish_all()
            data.log.check()
            if lines := change(data.jobs):
                data.log.append(lines, 0)

    def begin_compaction(self, draft: "SnapshotWriter", data: "Persistence") -> "RotationPoint":
        """Fork the child that writes a snapshot, and begin the segment behind it.

        A finalizer that runs in this thread meanwhile may change something. Before the segment
        begins that is part of its revision, which the head of the snapshot names; behind it, the
        snapshot shows the change, and the segment repeats it, to the same end.
        """
        begun: list[RotationPoint] = []

        def begin(instant: TableView) -> None:
            self.publish()
            begun.append(data.begin_compaction(draft, instant))

        with self._noting:
            self._engine.with_locked_view(begin)
        return begun[0]

    # Below.

    def _publish(self, first: ChangeBatch) -> None:
        """Publish the first effects of the queue, unless another call just does so."""
        queue = self._queue
        checks: list[Step] = [partial(queue.index, first, 0, 1)]
        steps: list[Step] = []
        woken: dict[Outbox[Any], int] = {}
        filled: list[tuple[Subscriptions[Any], Iterable[Outbox[Any]]]] = []
        if first.marker:
            steps = self._begin_subscription(first.marker)
        elif changes := first.changes:
            for watchers in self._watchers:
                to_outboxes, some = watchers.publish(changes)
                if some:
                    check, *to_outboxes = to_outboxes
                    checks.append(check)
                    steps += to_outboxes
                    woken |= some
                    filled.append((watchers, some))
        if self.data is None:
            if woken:
                steps.append(partial(self._unwoken.update, woken))
        elif not first.marker:
            then = partial(_release, woken) if woken else None
            with contextlib.suppress(
                JournalWriteError, StoreClosedError
            ):  # raised where results are due
                other_adder, *adding = self.data.steps(first, then)
                checks.append(other_adder)
                steps += adding
        try:
            atomically(*checks, *steps, partial(queue.pop, 0))
        except ValueError:  # it is not the first any more, or was computed from what has changed
            return
        for watchers, outboxes in filled:
            for outbox in watchers.limit(outboxes):
                outbox.wake()

    def _begin_subscription(self, marker: int) -> list[Step]:
        if subscription := self._beginning.get(marker):
            watchers, outbox, key = subscription
            return [*watchers.subscribe(outbox, key), partial(self._beginning.pop, marker, None)]
        return []  # an exception came in between


def _release(outboxes: dict[Outbox[Any], int]) -> None:
    """Let readers take the changes that are committed by now."""
    for outbox, added in outboxes.items():
        outbox.release(added)
        outbox.wake()
