"""The library: `Store`, the public store for programs that embed KVS."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from kvs.concurrency.atomic import exhaust
from kvs.concurrency.resources import NonCopyable
from kvs.concurrency.waiters import call_uninterrupted
from kvs.engine.interface import DEFAULT_BUDGET_BYTES, ExecuteResult
from kvs.errors import (
    JournalWriteError,
    KvsError,
    SnapshotError,
    StoreClosedError,
    ThreadStartError,
)
from kvs.jobs.report import ErrorCallback, Report
from kvs.jobs.run import JobRun, ignore_error
from kvs.language import builder
from kvs.language.builder import Word
from kvs.language.diagnostics import validate_word
from kvs.posix.files import check_can_replace, open_directory
from kvs.settings import DataSettings, ProgressCallback, Settings, ignore_progress, usable_cpu_count
from kvs.snapshot.reader import load
from kvs.snapshot.writer import SnapshotInfo, SnapshotWriter
from kvs.store.commit import CommitPoint
from kvs.store.core import Path, StoreCore
from kvs.store.subscriptions import Subscriptions
from kvs.store.watch import Change, Reader, Watch
from kvs.text import os_error_text, printable

if TYPE_CHECKING:  # a store in memory does not load these
    from kvs.store.persistence import RecoveryInfo


class Store(NonCopyable):
    """Pairs of bytes in memory, and optionally in a data directory.

    Keys and values are given as bytes, or as str and then encoded as UTF-8; they are returned as
    bytes. A word that the command language cannot express raises `InvalidWordError`, a
    `ValueError`, in every method. After `close` every method but `close` and `on_failure` raises
    `StoreClosedError`, in a forked child `InheritedByForkError`, and `JournalWriteError` once the
    journal has failed.

    With a data directory, a method returns only when every change that its result depends on is
    committed: the ``fsync`` setting is met for it. `execute` alone returns earlier: its caller
    waits for `commit_point` before it releases the output.

    Threads: any number, and every method takes effect at one instant. A signal handler or a
    finalizer may call every method, also within another call of the same thread.
    """

    def __init__(
        self,
        data: Path | None = None,
        settings: DataSettings | None = None,
        *,
        progress: ProgressCallback = ignore_progress,
    ) -> None:
        """Create an empty store in memory, or open the data directory `data`.

        The directory is created if it does not exist; it is locked until `close`. `settings`
        defaults to `DataSettings()`. `progress` is called during recovery with the bytes read and
        the bytes to read.

        Raises:
            EngineUnavailableError: `KVS_ENGINE` names an engine that is not available.
            DataDirectoryError: the directory cannot be created, opened, locked or read.
            DirectoryLockedError: another process has the directory open.
            CorruptionError: a file in the directory fails a check; no file was changed.

        """
        self._core = StoreCore(data, settings, progress=progress)
        self._subscriptions = Subscriptions(Change)
        self._readers: dict[Reader, None] = {}
        """The state of every open watch."""
        self._core.add_subscriptions(self._subscriptions)
        if data is not None:
            self._core.on_failure(partial(_end_readers, self._readers))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write every change, close the data directory, and end every watch. Idempotent.

        A call within another call of the same thread, by a signal handler or a finalizer, closes
        the store as well; if a compaction waits for that thread, the compaction closes the store
        when it ends. In a forked child it frees the memory of the store and changes nothing else.

        Raises:
            JournalWriteError: some changes could not be written.

        """
        try:
            self._core.close()
        finally:
            _end_readers(self._readers, StoreClosedError())

    # Commands.

    def execute(
        self, script: Word, start: int = 0, budget: int = DEFAULT_BUDGET_BYTES
    ) -> ExecuteResult:
        """Execute the commands of `script` from byte `start` on.

        Returns at the end of the script, at a WAIT or BACKUP, which the caller carries out if it
        wants to, or after the command that takes input or output past `budget` bytes. To continue,
        call it again with `start` set to the `offset` of the result. `start` must be the start of a
        line. An invalid line has no effect and is in `diagnostics` of the result. A str is encoded
        as UTF-8; offsets count bytes.

        Does not wait for the commit of its changes: call `commit_point` and wait for it before the
        output is released.

        Raises:
            TypeError: `script` is neither bytes nor str.
            UnicodeEncodeError: `script` is a str that cannot be encoded.
            ValueError: `start` is outside of the script, or `budget` is negative.
            JournalWriteError: the journal failed.

        """
        if type(script) is not bytes:
            script = builder.encode_script(script)
        return self._core.execute(script, start, budget)

    def commit_point(self) -> CommitPoint:
        """Return the commit point of every change that is applied by now.

        Raises:
            JournalWriteError: the journal failed, so that nothing more is committed.

        """
        return self._core.commit_point()

    def write(self, pairs: Mapping[Any, Word] | Iterable[tuple[Word, Word]]) -> int:
        """Set every pair of a mapping, or of an iterable of pairs, as one change.

        A key named twice gets the last value. Returns the revision after the change. No pairs are
        no change.

        Raises:
            InvalidWordError: a key or value is not a word of the language, or an item is not a
                pair; nothing was written.

        """
        return self._core.after_commit(self.execute(builder.build_write(pairs)).revision)

    def read(self, keys: Iterable[Word]) -> dict[bytes, bytes]:
        """Return the pairs of those `keys` that exist, at one instant, in the order of `keys`.

        (`Session.read` returns them in ascending order of the keys.)

        Raises:
            InvalidWordError: a key is not a word of the language.

        """
        self._core.check_open()
        names = builder.validate_keys(keys)
        values = self._core.get(names)
        return {k: v for k, v in zip(names, values, strict=True) if v is not None}

    def delete(self, keys: Iterable[Word]) -> list[bytes]:
        """Remove `keys` as one change; return those that did not exist, in ascending order.

        As in the language, a key named twice is missing the second time.

        Raises:
            InvalidWordError: a key is not a word of the language; nothing was removed.

        """
        self._core.check_open()
        names = builder.validate_keys(keys)
        if not names:
            return []
        result = self.execute(builder.build_keys_command(b"DELETE", names))
        return self._core.after_commit(builder.parse_delete_output(result.output))

    # As a mapping.

    def get(self, key: Word, default: bytes | None = None) -> bytes | None:
        """Return the value of `key`, or `default` if the key does not exist.

        Raises:
            InvalidWordError: `key` is not a word of the language.

        """
        self._core.check_open()
        [value] = self._core.get([validate_word(key, "key")])
        return default if value is None else value

    def __getitem__(self, key: Word) -> bytes:
        """Return the value of `key`.

        Raises:
            KeyError: `key` does not exist.
            InvalidWordError: `key` is not a word of the language.

        """
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: Word, value: Word) -> None:
        """Set the value of `key`.

        Raises:
            InvalidWordError: `key` or `value` is not a word of the language.

        """
        self.write([(key, value)])

    def __delitem__(self, key: Word) -> None:
        """Remove `key`.

        Raises:
            KeyError: `key` does not exist.
            InvalidWordError: `key` is not a word of the language.

        """
        if self.delete([key]):
            raise KeyError(key)

    def __contains__(self, key: Word) -> bool:
        """Return whether `key` exists.

        Raises:
            InvalidWordError: `key` is not a word of the language.

        """
        return self.get(key) is not None

    def __iter__(self) -> Iterator[bytes]:
        """Return an iterator of the keys at one instant, in ascending order."""
        return iter(self.keys())

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._core)

    def keys(self) -> list[bytes]:
        """Return all keys at one instant, in ascending order."""
        return [key for key, _ in self.items()]

    def items(self) -> list[tuple[bytes, bytes]]:
        """Return all pairs at one instant, in ascending order of the keys."""
        return self._core.items()

    def update(
        self, pairs: Mapping[Any, Word] | Iterable[tuple[Word, Word]] = (), **more: Word
    ) -> None:
        """Set every pair of `pairs` and of the keyword arguments, as one change, as `write` does.

        Raises:
            InvalidWordError: a key or value is not a word of the language, or an item is not a
                pair; nothing was written.

        """
        items = pairs.items() if isinstance(pairs, Mapping) else pairs
        self.write([*items, *more.items()])

    # Watches.

    def watch(self, keys: Iterable[Word]) -> Watch:
        """Return an iterator of every later change of `keys`, in order; see `Watch`.

        A key need not exist; its removal and its return are changes. A watch with more than about
        100,000 changes that were not read is closed with `SlowConsumerError`: writers never wait
        for a watch.

        Raises:
            InvalidWordError: a key is not a word of the language.

        """
        self._core.check_open()
        reader = Reader(held=self._core.is_persistent)

        def unsubscribe() -> None:
            self._readers.pop(reader, None)
            self._core.unsubscribe_all(self._subscriptions, reader.outbox)

        names = builder.validate_keys(keys)
        watch = Watch(reader, unsubscribe)
        self._readers[reader] = None
        try:
            for name in names:
                self._core.subscribe(self._subscriptions, reader.outbox, name)
            if self._core.failure is not None:
                reader.end(self._core.failure)
            self._core.check_open()
        except BaseException:
            watch.close()
            raise
        return watch

    # Backups and the data directory.

    def backup(self, path: Path) -> SnapshotInfo:
        """Write the pairs of this instant to the file `path`; return when it is on disk.

        A forked child writes the file while other threads use the store. The finished file
        replaces what was at `path`; if the backup fails, `path` is unchanged.

        Raises:
            SnapshotError: the file could not be written, and `path` is unchanged.
            SnapshotNotDurableError: the file is in place, but a loss of power may undo that.

        """
        self._core.check_open()
        parent, name = os.path.split(os.fsencode(path))
        directories: list[int] = []
        writers: list[SnapshotWriter] = []
        close_all = partial(exhaust, map(os.close, directories))

        def begin() -> None:
            directories.append(open_directory(parent or b"."))
            check_can_replace(name, directories[0])
            writers.append(SnapshotWriter(directories[0], name, printable(path)))

        try:
            call_uninterrupted(begin)
            self._core.fork_snapshot(writers[0])
            # No return here: CPython could run a signal handler between it and `close_all`.
            info = writers[0].finish(self._core.commit_point().wait)
        except BaseException as error:
            for writer in writers:
                writer.cancel()
            if isinstance(error, OSError):
                raise SnapshotError(printable(path), os_error_text(error)) from error
            if isinstance(error, ThreadStartError):
                raise SnapshotError(printable(path), str(error)) from error
            raise
        finally:
            close_all()
        return info

    def restore(self, path: Path) -> int:
        """Replace all pairs by those of the backup at `path`, as one change; return its revision.

        Raises:
            BackupReadError: the file cannot be opened or read.
            BackupFormatError: the file is not a backup; the store is unchanged.
            StoreNotEmptyError: the store has a data directory, and was changed before.

        """
        self._core.check_open()
        return self._core.load(load(os.fsencode(path)))

    def compact(self) -> SnapshotInfo | None:
        """Write all pairs as a snapshot, and remove the journal before it.

        A forked child writes the snapshot while other threads use the store. Returns None
        for a store in memory. A finalizer that runs in a thread for which a compaction waits gets
        None too: the journal is then compacted in the background.

        Raises:
            SnapshotError: the snapshot could not be written; the journal is unchanged.
            DataDirectoryError: the snapshot was written, but old files could not be removed.
            JournalWriteError: the journal failed.
            ThreadStartError: no thread could be started; the journal is unchanged.

        """
        return self._core.compact()

    @property
    def revision(self) -> int:
        """The number of changes since the store was created: each changing command adds 1."""
        return self._core.revision

    @property
    def recovered(self) -> "RecoveryInfo | None":
        """What recovery found in the data directory; None for a store in memory."""
        return self._core.recovered

    @property
    def failure(self) -> JournalWriteError | None:
        """The error of the journal, if it has failed: the store executes no more commands."""
        return self._core.failure

    def on_failure(self, callback: Callable[[JournalWriteError], None]) -> Callable[[], None]:
        """Call `callback` once when the journal fails; return a function that cancels this.

        A thread of the store calls it; if the journal has failed already, the calling thread does.
        """
        return self._core.on_failure(callback)

    # Jobs.

    def run_jobs(
        self,
        directory: Path,
        *,
        threads: int | None = None,
        backups: int = 2,
        resume: bool = False,
        on_error: ErrorCallback = ignore_error,
    ) -> Report:
        """Run every job of `directory` against this store; return the report at the end.

        At most `threads` jobs run at the same time (default: the number of usable cores), and at
        most `backups` backups are written at the same time. With `resume`, unfinished jobs that the
        data directory knows continue where they stopped, and finished jobs are skipped. An error
        within a job does not raise: it is in the report, and `on_error` is called with it in the
        thread that met it. An exception in the waiting thread, such as KeyboardInterrupt, stops the
        run, waits for its end, and propagates. Any number of threads may call this, each with a
        directory of its own.

        Raises:
            JobsDirectoryError: `directory` is not a directory, or cannot be listed or locked.
            DirectoryLockedError: another run uses the directory.
            ThreadStartError: no thread could be started.
            ValueError: `threads` or `backups` is below 1.

        """
        self._core.check_open()
        settings = Settings(usable_cpu_count() if threads is None else threads, backups, resume)
        with JobRun(self._core, directory, settings, on_error) as run:
            run.wait()
        return run.report


def _end_readers(readers: dict[Reader, None], error: KvsError) -> None:
    """End every open watch with `error`."""
    for reader in list(readers):
        reader.end(error)
