"""A commit point: when results that depend on a moment of the store may be released."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from kvs.concurrency import forks
from kvs.store.compaction import CompactionTurn

if TYPE_CHECKING:
    from kvs.journal.queue import JournalQueue


class CommitPoint:
    """Every change that a store had applied when `commit_point` was called.

    It is committed once the ``fsync`` setting of the data directory is met for all of these
    changes: on disk with ``always``, handed to the operating system with ``interval`` and
    ``never``. For a store in memory it is committed from the start.

    Threads: any, and any signal handler or finalizer. In a forked child every member raises
    `InheritedByForkError`.
    """

    __slots__ = ("_compaction", "_count", "_generation", "_journal")

    def __init__(
        self,
        journal: "JournalQueue | None",
        count: int,
        compaction: CompactionTurn,
        generation: int,
    ) -> None:
        """Stand for the first `count` appends to `journal`; None is a store in memory."""
        self._journal = journal
        self._count = count
        self._compaction = compaction
        self._generation = generation

    @property
    def is_committed(self) -> bool:
        """Whether results that depend on these changes may be released."""
        self._check_process()
        return self._journal is None or self._journal.is_committed(self._count)

    def wait(self) -> None:
        """Block until these changes are committed.

        Returns at once in the thread that writes or compacts the journal, where a finalizer may
        call it: that thread would wait for itself.

        Raises:
            JournalWriteError: the journal failed, so that they never will be.

        """
        self._check_process()
        if self._journal is not None and not self._compaction.is_running_here:
            self._journal.wait(self._count)

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Call `callback` once these changes are committed; never, if the journal fails before.

        The calling thread calls it if they are committed by now, else the thread that writes the
        journal. An exception that it raises there goes to `threading.excepthook`.
        """
        self._check_process()
        if self._journal is None:
            callback()
        else:
            self._journal.on_commit(self._count, callback)

    def _check_process(self) -> None:
        if self._generation != forks.generation():
            raise forks.inherited_error()
