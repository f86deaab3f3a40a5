"""The core of a store: an engine, the publication of its changes, and its data directory.

The engine executes commands, each at one instant. `kvs.store.publication` appends their changes to
the journal and to the outboxes of subscribers, in order.

Locking: no public method holds a lock while a signal handler may run. Compaction, backups and
records of jobs, which other threads wait for, run in a thread of their own when the main thread
asks for them (`kvs.concurrency.waiters.call_uninterrupted`). A finalizer that runs in such a thread
may use the store.
"""

import contextlib
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from kvs.concurrency import forks
from kvs.concurrency.resources import NonCopyable, warn_unclosed
from kvs.concurrency.waiters import call_uninterrupted, fork_uninterrupted
from kvs.engine.interface import (
    DEFAULT_BUDGET_BYTES,
    UNKNOWN_ORIGIN,
    ExecuteResult,
    JobCursor,
    TableView,
)
from kvs.engine.selection import create_engine
from kvs.errors import (
    DataDirectoryError,
    JournalWriteError,
    SnapshotError,
    StoreClosedError,
)
from kvs.language.output_format import NO_EXPIRIES, Expiries
from kvs.posix.files import check_path
from kvs.settings import DataSettings, ProgressCallback, ignore_progress
from kvs.snapshot.writer import SnapshotInfo, SnapshotWriter
from kvs.store.commit import CommitPoint
from kvs.store.compaction import CompactionTurn
from kvs.store.expiry import Expiry
from kvs.store.publication import Publication
from kvs.store.subscriptions import Outbox, Subscriptions
from kvs.text import os_error_text, printable

if TYPE_CHECKING:  # a store in memory does not load these
    from kvs.journal.job_records import JobRegistry
    from kvs.store.persistence import Persistence, RecoveryInfo

T = TypeVar("T")

MAX_BACKLOG_BYTES = 8 << 20
"""Maximum bytes appended to the journal and not written, beyond which jobs are throttled."""

_CLOSED = -1
"""The value of `_generation` of a closed store."""

Path = str | bytes | os.PathLike[str]
"""The path of a file or directory."""


class StoreCore(NonCopyable):
    """The store that jobs, sessions and the library share.

    With a data directory, a result of `execute` may be released only when the changes that it
    depends on are committed: the caller waits for `commit_point`. Every other method waits itself.
    After a failure of the journal, methods that execute commands raise `JournalWriteError`.

    Threads: any number, and every method takes effect at one instant.
    """

    def __init__(
        self,
        data: Path | None = None,
        settings: DataSettings | None = None,
        *,
        progress: ProgressCallback = ignore_progress,
    ) -> None:
        """Create an empty store in memory, or open the data directory `data`.

        The directory is created if it does not exist. `progress` is called during recovery with the
        bytes read and the bytes to read.

        Raises:
            DataDirectoryError: the directory cannot be created, opened, locked or read.
            DirectoryLockedError: another process has the directory open.
            CorruptionError: a file in the directory fails a check; no file was changed.

        """
        if data is not None:
            try:
                check_path(os.fsencode(data))
            except OSError as error:
                raise DataDirectoryError(printable(data), os_error_text(error)) from error
        self._made_in = forks.generation()
        """The generation of the process that created this object, see `kvs.concurrency.forks`."""
        self._generation = self._made_in
        """The generation of the process that may use this object; `_CLOSED` after `close`."""
        self._engine = create_engine()
        self._compaction = CompactionTurn()
        self._close_after_compaction = False
        """Whether the compaction closes the store when it ends."""
        self._data: Persistence | None = None
        self._finalizer: weakref.finalize[..., StoreCore] | None = None
        if data is None:
            self._mark = os.urandom(8).hex().encode()
            self._publication = Publication(self._engine, None)
            self._expiry = self._make_expiry()
            return
        from kvs.store import persistence

        compact = partial(_compact_in_background, weakref.ref(self))
        directory = persistence.Persistence(data, self._engine, settings or DataSettings(), compact)
        try:
            directory.open(progress)
            self._data = directory
            self._publication = Publication(self._engine, directory)
            self._expiry = self._make_expiry()
            self._expiry.remove_due()
            self._expiry.check()
            arguments = (self._publication, directory, self._generation)
            self._finalizer = weakref.finalize(self, _close_unclosed, *arguments)
        except BaseException:
            with contextlib.suppress(JournalWriteError):  # the cause of what is raised
                directory.close()
            raise

    def _make_expiry(self) -> Expiry:
        return Expiry(self._engine, partial(_publish_removal, self._publication, self._data), self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write every change, and unlock and close the data directory. Idempotent.

        Afterwards every method raises `StoreClosedError`, except those that report on commands
        executed before, or end subscriptions. A call within another call of the same thread, by a
        signal handler or a finalizer, closes the store as well; if a compaction waits for that
        thread, the compaction closes the store when it ends. In a forked child it frees the memory
        of the parent's store, and changes nothing else.

        Raises:
            JournalWriteError: some changes could not be written.

        """
        if self._made_in != forks.generation():  # the parent may be within `close`
            self._drop()
            return
        self._generation = _CLOSED
        self._expiry.stop()
        if self._data is None:
            return
        if self._must_not_wait(self._data):
            self._close_after_compaction = True
            if self._compaction.is_running:
                return
        self._compaction.wait_until_ended()
        self._close_data(self._data)

    def _close_data(self, data: "Persistence") -> None:
        self._publication.publish()
        data.close()
        if self._finalizer is not None:
            self._finalizer.detach()

    def _must_not_wait(self, data: "Persistence") -> bool:
        """Return whether a compaction may wait for the calling thread, so that it must not wait."""
        return data.journal.is_writer_thread or self._compaction.involves_this_thread

    def _drop(self) -> None:
        """Free the memory of the parent's store, in a forked child."""
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = None
        self.__dict__.update(
            dict.fromkeys(("_engine", "_publication", "_data", "_expiry"), _Dropped())
        )

    def check_open(self) -> None:
        """Raise if this process must not use the store.

        Raises:
            StoreClosedError: the store was closed.
            InheritedByForkError: this process is a forked child.

        """
        if self._generation != forks.generation():
            self._check_process()
            raise StoreClosedError

    def _check_process(self) -> None:
        """Raise in a forked child; do not raise if the store was closed.

        Raises:
            InheritedByForkError: this process is a forked child.

        """
        if self._is_inherited:
            raise forks.inherited_error()

    @property
    def _is_inherited(self) -> bool:
        """Whether this process is a forked child of the one that opened the store."""
        return self._generation not in {_CLOSED, forks.generation()}

    # Commands.

    def execute(
        self,
        script: bytes,
        start: int = 0,
        budget: int = DEFAULT_BUDGET_BYTES,
        cursor: JobCursor | None = None,
        *,
        origin: int = UNKNOWN_ORIGIN,
        limits: bool = True,
    ) -> ExecuteResult:
        """Execute the commands of `script` from byte `start` on, which must be a start of a line.

        Returns at the end of the script, at a WAIT or BACKUP, which the caller carries out, or
        after the command that takes input or output past `budget` bytes. The caller continues from
        the `offset` of the result. An invalid line has no effect and is in its `diagnostics`; no
        content of a script raises. `cursor` is for jobs; `origin` is a number of `add_origin`.
        Without `limits`, a line and its output may have any length.

        Raises:
            ValueError: `start` is outside of the script, `budget` is negative, or `cursor` names a
                job that the data directory does not know.
            JournalWriteError: the journal failed.
            StoreClosedError: the store was closed.
            InheritedByForkError: this process is a forked child.

        """
        self.check_open()
        if not 0 <= start <= len(script) or budget < 0:
            raise ValueError(f"start {start} or budget {budget} is out of range")
        if self._data is not None:
            self._data.journal.check()
            if cursor is not None and cursor.job not in self._data.jobs:
                raise ValueError(f"job {cursor.job} of the cursor is not known")
        try:
            return self._engine.execute(script, start, budget, cursor, origin=origin, limits=limits)
        finally:
            self._publication.publish()
            self._expiry.check()

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of `keys` at one instant, None for a key that does not exist.

        Raises:
            JournalWriteError, StoreClosedError, InheritedByForkError: as `commit_point`.

        """
        return self.after_commit(self.peek(keys))

    def peek(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return what `get` returns, committed or not: for a condition, not for release.

        Raises:
            JournalWriteError, StoreClosedError, InheritedByForkError: as `commit_point`.

        """
        self.check_open()
        return self._engine.get(keys)

    def items(
        self, prefixes: Sequence[bytes] = (), after: bytes | None = None, limit: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Return pairs at one instant, in ascending order of the keys.

        They are those whose keys begin with one of `prefixes`, if there are any, and are greater
        than `after`: at most `limit`.

        Raises:
            JournalWriteError, StoreClosedError, InheritedByForkError: as `commit_point`.

        """
        self.check_open()
        return self.after_commit(self._engine.items(prefixes, after, limit))

    def keys(
        self, prefixes: Sequence[bytes] = (), after: bytes | None = None, limit: int | None = None
    ) -> list[bytes]:
        """Return the keys of `items` with these arguments, without a look at the values.

        Raises:
            JournalWriteError, StoreClosedError, InheritedByForkError: as `commit_point`.

        """
        self.check_open()
        return self.after_commit(self._engine.keys(prefixes, after, limit))

    def __len__(self) -> int:
        """Return the number of pairs."""
        self.check_open()
        return self.after_commit(len(self._engine))

    def load(self, pairs: dict[bytes, bytes], expiries: Expiries = NO_EXPIRIES) -> int:
        """Replace everything by the pairs of a backup, as one change; return its revision.

        The arguments are what `kvs.snapshot.reader.load` returned; the caller does not use them
        afterwards.

        Raises:
            StoreNotEmptyError: the store has a data directory, and was changed before.
            JournalWriteError, StoreClosedError, InheritedByForkError: as `commit_point`.
            ThreadStartError: no thread could be started.

        """
        self.check_open()
        if self._data is None:
            revision = self._engine.replace(pairs, expiries)
            self._publication.publish()
        else:
            load = partial(self._publication.load, pairs, expiries, self._data)
            revision = call_uninterrupted(partial(self._compaction.blocking, load))
        self._expiry.check()
        return self.after_commit(revision)

    @property
    def revision(self) -> int:
        """The number of changes so far: each command that changes something adds 1."""
        self.check_open()
        return self.after_commit(self._engine.revision)

    @property
    def pairs(self) -> int:
        """The number of pairs by now, committed or not: for an estimate, not for release."""
        self.check_open()
        return len(self._engine)

    # Origins.

    def add_origin(self, kind: bytes, name: bytes) -> int:
        """Return the number of an origin of changes, for `execute`.

        The journal names it, as ``session`` and a path for example. Without a number, it names the
        job of a job call, or else this process.
        """
        self.check_open()
        return UNKNOWN_ORIGIN if self._data is None else self._data.origins.add(kind, name)

    def remove_origin(self, origin: int) -> None:
        """End the use of an origin; a call that is being executed still has it."""
        self._check_process()
        if self._data is not None and origin != UNKNOWN_ORIGIN:
            self._data.origins.remove(origin)

    # Backups.

    def fork_snapshot(self, writer: SnapshotWriter, *, framed: bool = False) -> None:
        """Fork the child of `writer`, which writes the pairs of this instant and their expiries.

        A `framed` file has lines before and behind the pairs, see `kvs.snapshot.reader`.
        The engine is locked during the fork alone.

        Raises:
            SnapshotError: the child could not be forked.
            ThreadStartError: no thread could be started.

        """
        if framed:  # before the fork: a child imports nothing
            from kvs.snapshot import frame

        def fork(view: TableView) -> None:
            def blocks() -> Iterator[bytes]:
                listing = view.listing(expiries=True)
                return frame.framed(view.revision, len(view), listing) if framed else listing

            writer.fork(view.revision, len(view), blocks)

        self.check_open()
        fork_uninterrupted(
            partial(self._compaction.blocking, partial(self._engine.with_locked_view, fork))
        )

    # Subscriptions.

    def add_subscriptions(self, subscriptions: Subscriptions[Any]) -> None:
        """Publish every later change to `subscriptions`."""
        self.check_open()
        self._publication.add_subscriptions(subscriptions)

    def remove_subscriptions(self, subscriptions: Subscriptions[Any]) -> None:
        """End all subscriptions in `subscriptions`, and publish no more changes to it. Idempotent.

        No other thread may subscribe in it meanwhile.
        """
        self._check_process()
        self._publication.remove_subscriptions(subscriptions)

    def subscribe(self, subscriptions: Subscriptions[Any], outbox: Outbox[Any], key: bytes) -> bool:
        """Put every later change of `key` into `outbox`; return whether the key exists now.

        The key need not exist. A second call for the same key changes nothing. For a store with a
        data directory, `outbox` must have been created with `held`.

        Raises:
            StoreClosedError: the store was closed.
            InheritedByForkError: this process is a forked child.

        """
        self.check_open()
        return self._publication.subscribe(subscriptions, outbox, key)

    def unsubscribe(
        self, subscriptions: Subscriptions[Any], outbox: Outbox[Any], key: bytes
    ) -> bool:
        """End a subscription; return whether it existed."""
        self._check_process()
        return self._publication.unsubscribe(subscriptions, outbox, key)

    def unsubscribe_all(self, subscriptions: Subscriptions[Any], outbox: Outbox[Any]) -> None:
        """End all subscriptions of `outbox`."""
        self._check_process()
        self._publication.unsubscribe_all(subscriptions, outbox)

    # The data directory.

    @property
    def recovered(self) -> "RecoveryInfo | None":
        """What recovery found in the data directory; None for a store in memory."""
        self._check_process()
        return None if self._data is None else self._data.recovered

    @property
    def mark(self) -> bytes:
        """The mark of the store: revisions of one mark are one history. Hex digits.

        It is drawn anew whenever a revision that was acknowledged may have been taken back: for a
        store in memory at every start; for a data directory when it is made, restored or repaired,
        and when it is opened after it was not closed, unless ``fsync`` was ``always``.
        """
        self._check_process()
        return self._mark if self._data is None else self._data.mark.mark

    @property
    def failure(self) -> JournalWriteError | None:
        """The error of the journal, if it has failed: no more commands are executed."""
        self._check_process()
        return None if self._data is None else self._data.journal.failure

    def on_failure(self, callback: Callable[[JournalWriteError], None]) -> Callable[[], None]:
        """Call `callback` once when the journal fails; return a function that cancels this.

        A thread of the store calls it; if the journal has failed already, the calling thread does.
        """
        self._check_process()
        return _do_nothing if self._data is None else self._data.journal.on_failure(callback)

    def commit_point(self) -> CommitPoint:
        """Return the commit point of every change that is applied by now.

        Raises:
            JournalWriteError: the journal failed, so that nothing more is committed.
            StoreClosedError: the store was closed.
            InheritedByForkError: this process is a forked child.

        """
        self.check_open()
        journal = None if self._data is None else self._data.journal
        return CommitPoint(
            journal, self._publication.appended_count(), self._compaction, self._made_in
        )

    def after_commit(self, result: T) -> T:
        """Block until every change applied by now is committed; return `result`.

        Raises:
            JournalWriteError, StoreClosedError, InheritedByForkError: as `commit_point`.

        """
        self.commit_point().wait()
        return result

    @property
    def is_persistent(self) -> bool:
        """Whether the store has a data directory."""
        self._check_process()
        return self._data is not None

    @property
    def syncs_to_disk(self) -> bool:
        """Whether this process syncs the journal: not with ``fsync`` set to ``never``."""
        self._check_process()
        return self._data is not None and self._data.syncs_to_disk

    def throttle(self) -> None:
        """Block while more than `MAX_BACKLOG_BYTES` are appended to the journal and not written.

        Raises:
            JournalWriteError: the journal failed.

        """
        self.check_open()
        if self._data is not None and self._data.journal.pending_bytes > MAX_BACKLOG_BYTES:
            self.commit_point().wait()

    def record_job(self, change: "Callable[[JobRegistry], bytes]") -> None:
        """Call `change` with the records of jobs, and append the lines that it returns.

        For a store with a data directory.

        Raises:
            JournalWriteError: the journal failed.
            ThreadStartError: no thread could be started.
            ValueError: the store is in memory.

        """
        self.check_open()
        if self._data is None:
            raise ValueError("a store in memory has no records of jobs")
        call_uninterrupted(
            partial(
                self._compaction.blocking, partial(self._publication.record_job, change, self._data)
            )
        )

    # Compaction.

    def compact(self) -> SnapshotInfo | None:
        """Write all pairs as a snapshot, and remove the journal before it.

        A forked child writes the snapshot while other threads use the store. Returns None
        for a store in memory. A finalizer that runs in a thread for which a compaction waits gets
        None too: the journal is then compacted in the background, if no compaction is running.

        Raises:
            SnapshotError: the snapshot could not be written; the journal is unchanged.
            DataDirectoryError: the snapshot was written, but old files could not be removed.
            JournalWriteError: the journal failed.
            ThreadStartError: no thread could be started; the journal is unchanged.
            StoreClosedError: the store was closed.

        """
        self.check_open()
        data = self._data
        if data is None:
            return None
        if self._must_not_wait(data):
            if not self._compaction.is_running:
                data.request_compaction()
            return None
        return fork_uninterrupted(partial(self._compact, data, wait=True))

    def _compact(self, data: "Persistence", *, wait: bool) -> SnapshotInfo | None:
        """Compact, one thread at a time; without `wait`, return None if another thread compacts.

        Must run in a thread that no signal handler interrupts.
        """
        if not self._compaction.begin(wait=wait):
            return None
        try:
            self.check_open()
            with data.compacting():
                try:
                    return self._write_snapshot(data)
                except SnapshotError as error:
                    if not data.free_space_after(error):
                        raise
                return self._write_snapshot(data)
        finally:
            self._compaction.end()
            if self._close_after_compaction:
                self._close_data(data)

    def _write_snapshot(self, data: "Persistence") -> SnapshotInfo:
        writer = data.prepare_compaction()
        try:
            return data.finish_compaction(writer, self._publication.begin_compaction(writer, data))
        except BaseException:
            writer.cancel()
            raise


def _compact_in_background(store: "weakref.ref[StoreCore]", data: "Persistence") -> None:
    def compact() -> None:
        opened = store()
        if opened is None:
            return
        try:
            with contextlib.suppress(
                JournalWriteError, StoreClosedError
            ):  # raised to other callers
                opened._compact(data, wait=False)
        except (SnapshotError, DataDirectoryError) as error:
            _warn(str(error))
        finally:
            data.journal.resume()

    try:
        Thread(target=compact, name="kvs-compaction", daemon=True).start()
    except RuntimeError as error:  # no thread can be started
        data.journal.resume()
        _warn(f"{data.display_path}: no compaction: {error}")


def _close_unclosed(publication: Publication, data: "Persistence", generation: int) -> None:
    """Close a store that is not referred to any more, or is open at the end of the process."""
    if generation == forks.generation():
        publication.publish()
        data.close()
        warn_unclosed(f"store with the data directory {data.display_path}")


def _publish_removal(publication: Publication, data: "Persistence | None") -> None:
    """Publish what was removed at its time, and bound what is on its way to the journal.

    Raises:
        JournalWriteError: the journal failed.
        StoreClosedError: the store was closed.

    """
    publication.publish()
    if data is not None:
        data.journal.check()
        if data.journal.pending_bytes > MAX_BACKLOG_BYTES:
            data.journal.wait(data.journal.appended_count)


class _Dropped:
    """Replaces what `close` frees in a forked child, for a call that `close` interrupted."""

    def __getattr__(self, name: str) -> NoReturn:
        raise forks.inherited_error()


def _do_nothing() -> None:
    """Do nothing."""


def _warn(reason: str) -> None:
    """Log why the journal was not made short."""
    import logging

    text = "%s; compaction is retried when the journal has grown"
    logging.getLogger("kvs.store").warning(text, reason)
