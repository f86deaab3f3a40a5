"""The snapshots that a run has in flight: their limit, and who waits for their children."""

import contextlib
from collections.abc import Callable
from threading import Condition, Thread

from kvs.errors import JournalFailed, SnapshotFailed
from kvs.snapshot.writer import Draft, Written

Done = Callable[[Written | SnapshotFailed], None]
"""Called once for each snapshot, when it is on disk or has failed, from any thread."""


class Snapshots:
    """At most `limit` snapshots at a time. Thread-safe; `_changed` guards everything."""

    def __init__(self, limit: int, defect: Callable[[BaseException], None]) -> None:
        """Make one; `defect` is given what should never happen, from the thread that met it."""
        self._limit = limit
        self._defect = defect
        self._changed = Condition()
        self._places_taken = 0
        self._in_flight: set[Draft] = set()
        self._stopped = False

    @property
    def in_flight(self) -> int:
        """How many are being written."""
        return len(self._in_flight)

    def take_place(self) -> bool:
        """Wait for a place among those being written; return False if the run was stopped first."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._places_taken < self._limit)
            if self._stopped:
                return False
            self._places_taken += 1
            return True

    def give_place_back(self) -> None:
        """End what `take_place` began."""
        with self._changed:
            self._places_taken -= 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Let nobody in any more; those being written are finished."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def begin(self, draft: Draft) -> None:
        """Know of `draft` before it is forked, so that `abandon` leaves nothing of it."""
        with self._changed:
            self._in_flight.add(draft)

    def finish(self, draft: Draft, until_safe: Callable[[], None], done: Done) -> None:
        """Wait for the forked `draft` on a thread of its own, tell `done`, give the place back.

        Its file is put in place after `until_safe`, which waits for what it shows.
        """
        arguments = (draft, until_safe, done)
        try:
            Thread(target=self._finish, args=arguments, name="kvs-snapshot").start()
        except RuntimeError:  # no more threads to be had: the caller waits itself
            self._finish(*arguments)

    def end(self, draft: Draft) -> None:
        """Forget `draft`, and give its place back."""
        with self._changed:
            self._in_flight.discard(draft)
        self.give_place_back()

    def _finish(self, draft: Draft, until_safe: Callable[[], None], done: Done) -> None:
        try:
            try:
                result: Written | SnapshotFailed = draft.finish(until_safe)
            except SnapshotFailed as failure:
                result = failure
            except JournalFailed as failure:
                result = SnapshotFailed(draft.shown, str(failure))
            with contextlib.suppress(JournalFailed):  # it is told to who waits for it
                done(result)
        except BaseException as defect:  # noqa: BLE001  (raised again where the run is left)
            self._defect(defect)
        finally:
            self.end(draft)

    def join(self) -> None:
        """Wait until none is in flight."""
        with self._changed:
            self._changed.wait_for(lambda: not self._places_taken)

    def abandon(self) -> None:
        """End the children at once and remove their files: the process is about to leave."""
        for draft in list(self._in_flight):
            draft.abandon()
