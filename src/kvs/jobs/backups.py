"""The snapshots that a run has in flight: their limit, and who waits for their children."""

import contextlib
from collections.abc import Callable
from threading import Condition, Thread

from kvs.errors import JournalWriteError, SnapshotError
from kvs.snapshot.writer import SnapshotInfo, SnapshotWriter

BackupCallback = Callable[[SnapshotInfo | SnapshotError], None]
"""Called once for each snapshot, when it is on disk or has failed, from any thread."""


class BackupSlots:
    """At most `limit` snapshots at a time. Thread-safe; `_changed` guards everything."""

    def __init__(self, limit: int, defect: Callable[[BaseException], None]) -> None:
        """Make one; `defect` is given what should never happen, from the thread that met it."""
        self._limit = limit
        self._defect = defect
        self._changed = Condition()
        self._slots_used = 0
        self._in_flight: set[SnapshotWriter] = set()
        self._stopped = False

    @property
    def in_flight(self) -> int:
        """How many are being written."""
        return len(self._in_flight)

    def acquire_slot(self) -> bool:
        """Wait for a place among those being written; return False if the run was stopped first."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._slots_used < self._limit)
            if self._stopped:
                return False
            self._slots_used += 1
            return True

    def release_slot(self) -> None:
        """End what `acquire_slot` began."""
        with self._changed:
            self._slots_used -= 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Let nobody in any more; those being written are finished."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def begin(self, draft: SnapshotWriter) -> None:
        """Know of `draft` before it is forked, so that `kill_children` leaves nothing of it."""
        with self._changed:
            self._in_flight.add(draft)

    def finish(
        self, draft: SnapshotWriter, until_safe: Callable[[], None], done: BackupCallback
    ) -> None:
        """Wait for the forked `draft` on a thread of its own, tell `done`, give the place back.

        Its file is put in place after `until_safe`, which waits for what it shows.
        """
        arguments = (draft, until_safe, done)
        try:
            Thread(target=self._finish, args=arguments, name="kvs-snapshot").start()
        except RuntimeError:  # no more threads to be had: the caller waits itself
            self._finish(*arguments)

    def end(self, draft: SnapshotWriter) -> None:
        """Forget `draft`, and give its place back."""
        with self._changed:
            self._in_flight.discard(draft)
        self.release_slot()

    def _finish(
        self, draft: SnapshotWriter, until_safe: Callable[[], None], done: BackupCallback
    ) -> None:
        try:
            try:
                result: SnapshotInfo | SnapshotError = draft.finish(until_safe)
            except SnapshotError as failure:
                result = failure
            except JournalWriteError as failure:
                result = SnapshotError(draft.display_path, str(failure))
            with contextlib.suppress(JournalWriteError):  # it is told to who waits for it
                done(result)
        except BaseException as defect:  # noqa: BLE001  (raised again where the run is left)
            self._defect(defect)
        finally:
            self.end(draft)

    def join(self) -> None:
        """Wait until none is in flight."""
        with self._changed:
            self._changed.wait_for(lambda: not self._slots_used)

    def kill_children(self) -> None:
        """End the children at once and remove their files: the process is about to leave."""
        for draft in list(self._in_flight):
            draft.kill_child()
