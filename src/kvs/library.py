"""The library to embed: the store, and what stands above it in the house."""

import os
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from kvs.concurrency.atomic import exhaust
from kvs.concurrency.waiting import call_uninterrupted
from kvs.engine.interface import DEFAULT_BUDGET_BYTES, ExecuteResult, JobCursor
from kvs.errors import (
    DataDirectoryError,
    KvsError,
    SnapshotError,
    StoreClosedError,
    StoreNotEmptyError,
)
from kvs.jobs.job import ErrorCallback
from kvs.jobs.report import Report
from kvs.jobs.run import JobRun, ignore_error
from kvs.language import builder
from kvs.language.builder import Word
from kvs.language.diagnostics import validate_word
from kvs.posix.files import check_can_replace, check_path, open_directory
from kvs.progress import ProgressCallback, ignore_progress
from kvs.settings import DataSettings, Settings, usable_cpu_count
from kvs.snapshot.reader import load
from kvs.snapshot.writer import SnapshotInfo, SnapshotWriter
from kvs.store.core import Path
from kvs.store.core import StoreCore as CoreStore
from kvs.store.subscriptions import Change, Reader, Subscriptions, Watch
from kvs.text import os_error_text, printable


class Store(CoreStore):
    """Pairs of bytes in memory, and perhaps on disk, shared by any number of threads.

    Every method is thread-safe and takes effect at one instant. Keys and values are given as
    bytes, or as str and then encoded as UTF-8; they come back as bytes. A word that the command
    language cannot write is refused everywhere with `InvalidWordError`, a `ValueError`.

    With a data directory, every method that tells something waits until what it depends on is as
    safe as was asked for; `execute` alone does not, and its caller waits with `wait_until_safe`
    before he shows the output. When the journal fails, every method raises `JournalWriteError`.
    """

    def __init__(
        self,
        data: Path | None = None,
        settings: DataSettings | None = None,
        *,
        progress: ProgressCallback = ignore_progress,
    ) -> None:
        """Make an empty store in memory, or open the one that is kept in the directory `data`.

        The directory is made if it is not there; it belongs to this store until `close`. `settings`
        say how it is kept. `progress` is told how far the reading of it is: bytes read, bytes to
        read.

        Raises:
            DataDirectoryError: the directory cannot be made, opened, locked or read.
            DirectoryLockedError: another process is at work there.
            CorruptionError: something in it does not prove itself; nothing was changed.

        """
        if data is not None:
            try:
                check_path(os.fsencode(data))
            except OSError as error:
                raise DataDirectoryError(printable(data), os_error_text(error)) from error
        super().__init__(data, settings, progress=progress)
        self._watching = Subscriptions(Change)
        self._readers: dict[Reader, None] = {}
        """The state of every open watch."""
        self.add_subscriptions(self._watching)
        if data is not None:
            self.on_failure(partial(_end_readers, self._readers))

    def close(self) -> None:
        """Close the store, and end every watch of it; see `kvs.store.core.StoreCore.close`.

        Raises:
            JournalWriteError: not every change was written.

        """
        try:
            super().close()
        finally:
            _end_readers(self._readers, StoreClosedError())

    def execute(
        self,
        script: Word,
        start: int = 0,
        budget: int = DEFAULT_BUDGET_BYTES,
        mark: JobCursor | None = None,
    ) -> ExecuteResult:
        """Carry out the commands of `script`, bytes or str; its lines count in bytes of UTF-8.

        All else is as the store below has it (`kvs.store.core.StoreCore.execute`).

        Raises:
            TypeError: `script` is neither bytes nor str.
            UnicodeEncodeError: it is a str that cannot be encoded.
            ValueError: `start` is outside of the script, or `budget` is negative.
            JournalWriteError: the store is kept, and its journal failed.
            StoreClosedError: it is kept, and was closed.

        """
        if type(script) is not bytes:
            script = builder.encode_script(script)
        return super().execute(script, start, budget, mark)

    def write(self, pairs: Mapping[Any, Word] | Iterable[tuple[Word, Word]]) -> int:
        """Set every pair of a mapping, or of an iterable of pairs, as one change.

        A key named twice keeps the last value. Returns the store's revision after the change; no
        pairs are no change.

        Raises:
            InvalidWordError: a key or value is no word of the language, or what is given is no
                pair; nothing was written.

        """
        pause = self.execute(builder.build_write(pairs))
        self.wait_until_safe(self.position())
        return pause.revision

    def read(self, keys: Iterable[Word]) -> dict[bytes, bytes]:
        """Return the pairs of those `keys` that are there, in the order they are named.

        Raises:
            InvalidWordError: a key is no word of the language.

        """
        self._check()
        wanted = builder.validate_keys(keys)
        values = self.safe(self._engine.get(wanted))
        return {k: v for k, v in zip(wanted, values, strict=True) if v is not None}

    def delete(self, keys: Iterable[Word]) -> list[bytes]:
        """Remove `keys` as one change; return those that were missing, in ascending order.

        As in the language, a key named twice is missing the second time.

        Raises:
            InvalidWordError: a key is no word of the language; nothing was removed.

        """
        self._check()
        doomed = builder.validate_keys(keys)
        if not doomed:
            return []
        pause = self.execute(builder.build_keys_command(b"DELETE", doomed))
        self.wait_until_safe(self.position())
        return builder.parse_delete_output(pause.output)

    def items(self) -> list[tuple[bytes, bytes]]:
        """Return all pairs of one instant, in ascending order of the bytes of the keys."""
        self._check()
        return self.safe(self._engine.items())

    def __len__(self) -> int:
        """Return the number of pairs."""
        self._check()
        return self.safe(len(self._engine))

    def __contains__(self, key: Word) -> bool:
        """Tell whether `key` is there.

        Raises:
            InvalidWordError: it is no word of the language.

        """
        self._check()
        [value] = self.safe(self._engine.get([validate_word(key, "key")]))
        return value is not None

    def backup(self, path: Path) -> SnapshotInfo:
        """Write a snapshot of this instant to `path` and wait until it is on disk.

        A forked child writes it; other threads go on meanwhile. What stood at `path` is replaced
        by the finished file, or stays if this fails.

        Raises:
            SnapshotError: it could not be written; nothing changed at `path`, but for
                `SnapshotNotDurableError`: it is in place, and a loss of power may undo that.

        """
        self._check()
        parent, name = os.path.split(os.fsencode(path))
        directories: list[int] = []
        drafts: list[SnapshotWriter] = []
        close_all = partial(exhaust, map(os.close, directories))

        def begin() -> None:
            directories.append(open_directory(parent or b"."))
            check_can_replace(name, directories[0])
            drafts.append(SnapshotWriter(directories[0], name, printable(path)))

        try:
            call_uninterrupted(begin)
            self.fork_snapshot(drafts[0])
            written = drafts[0].finish(self.until_safe())
        except BaseException as error:
            for draft in drafts:
                draft.cancel()
            if isinstance(error, OSError):
                raise SnapshotError(printable(path), os_error_text(error)) from error
            raise
        finally:
            close_all()
        return written

    def restore(self, path: Path) -> int:
        """Replace everything by the backup at `path`, as one change; return its revision.

        Raises:
            BackupReadError: the file cannot be opened or read.
            BackupFormatError: it is not what a snapshot writes. The store was not touched.
            StoreNotEmptyError: it is kept in a data directory, and there were changes before.

        """
        self._check()
        return self.load_pairs(load(os.fsencode(path)))

    def load_pairs(self, pairs: dict[bytes, bytes]) -> int:
        """Replace everything by the `pairs` of a backup, as one change; return its revision.

        They are as `kvs.snapshot.reader.load` returns them, and the caller's no more.

        Raises:
            StoreNotEmptyError: it is kept in a data directory, and there were changes before.

        """
        self._check()
        if self._data is not None:
            if self._engine.revision:
                raise StoreNotEmptyError(self._data.shown)
            return self.write(pairs)
        revision = self._engine.replace(pairs)
        self._publication.publish()
        return revision

    def watch(self, keys: Iterable[Word]) -> Watch:
        """Return an iterator of the changes of `keys` from now on, in order; see `Watch`.

        A key need not be there; its removal and coming back are changes too. A watch whose reader
        does not keep up is given up when 100,000 changes wait: no writer ever waits for it.

        Raises:
            InvalidWordError: a key is no word of the language.

        """
        self._check()
        reader = Reader(held=self.is_persistent)

        def leave() -> None:
            self._readers.pop(reader, None)
            self.unsubscribe_all(self._watching, reader.outbox)

        wanted = builder.validate_keys(keys)
        watch = Watch(reader, leave)
        self._readers[reader] = None
        try:
            for key in wanted:
                self.subscribe(self._watching, reader.outbox, key)
            if self.failure is not None:
                reader.end(self.failure)
            self._check()
        except BaseException:
            watch.close()
            raise
        return watch

    def run_jobs(
        self,
        directory: Path,
        *,
        threads: int | None = None,
        backups: int = 2,
        resume: bool = False,
        on_error: ErrorCallback = ignore_error,
    ) -> Report:
        """Run every job of `directory` against this store, to the end, and return what came of it.

        At most `threads` jobs run at the same time (default: as many as cores), and at most
        `backups` snapshots are written at the same time. With `resume`, jobs that the data
        directory knows go on where they were, and those that were done are left alone. What goes
        wrong in a job does not raise: it is in the report, and each error is given to `on_error` as
        it is met, from the thread that met it. An exception in the waiting thread, such as
        KeyboardInterrupt, stops the run, waits for its end, and goes on. Any number of threads may
        call this, each with its own directory.

        Raises:
            JobsDirectoryError: `directory` is none, or cannot be listed or locked.
            DirectoryLockedError: another run is at work in it.
            ThreadStartError: not one thread could be started.
            ValueError: `threads` or `backups` is below 1.

        """
        self._check()
        settings = Settings(usable_cpu_count() if threads is None else threads, backups, resume)
        with JobRun(self, directory, settings, on_error) as run:
            run.wait()
        return run.report


def _end_readers(readers: dict[Reader, None], failure: KvsError) -> None:
    """End every open watch because of a failure of the store, or its end."""
    for reader in list(readers):
        reader.end(failure)
