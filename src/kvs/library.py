"""The library to embed: the store, and what stands above it in the house."""

import os
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from kvs.concurrency.atomic import exhaust
from kvs.concurrency.waiting import apart
from kvs.engine.interface import BUDGET, Mark, Pause
from kvs.errors import (
    DataUnusable,
    KvsError,
    SnapshotFailed,
    StoreClosed,
    StoreNotEmpty,
    cause,
    shown,
)
from kvs.jobs.job import Tell
from kvs.jobs.report import Report
from kvs.jobs.run import Run, tell_nobody
from kvs.language import builder
from kvs.language.builder import Word
from kvs.language.diagnostics import checked_word
from kvs.posix.files import check_path, check_replaceable, open_directory
from kvs.progress import ShowProgress, show_nobody
from kvs.settings import DataSettings, Settings, cores
from kvs.snapshot.reader import load
from kvs.snapshot.writer import Draft, Written
from kvs.store.core import Path
from kvs.store.core import Store as CoreStore
from kvs.store.subscriptions import Change, Reader, Watch, Watchers


class Store(CoreStore):
    """Pairs of bytes in memory, and perhaps on disk, shared by any number of threads.

    Every method is thread-safe and takes effect at one instant. Keys and values are given as
    bytes, or as str and then encoded as UTF-8; they come back as bytes. A word that the command
    language cannot write is refused everywhere with `WordRefused`, a `ValueError`.

    With a data directory, every method that tells something waits until what it depends on is as
    safe as was asked for; `execute` alone does not, and its caller waits with `wait_until_safe`
    before he shows the output. When the journal fails, every method raises `JournalFailed`.
    """

    def __init__(
        self,
        data: Path | None = None,
        settings: DataSettings | None = None,
        *,
        progress: ShowProgress = show_nobody,
    ) -> None:
        """Make an empty store in memory, or open the one that is kept in the directory `data`.

        The directory is made if it is not there; it belongs to this store until `close`. `settings`
        say how it is kept. `progress` is told how far the reading of it is: bytes read, bytes to
        read.

        Raises:
            DataUnusable: the directory cannot be made, opened, locked or read.
            DirectoryInUse: another process is at work there.
            DataDamaged: something in it does not prove itself; nothing was changed.

        """
        if data is not None:
            try:
                check_path(os.fsencode(data))
            except OSError as error:
                raise DataUnusable(shown(data), cause(error)) from error
        super().__init__(data, settings, progress=progress)
        self._watching = Watchers(Change)
        self._readers: dict[Reader, None] = {}
        """The state of every open watch."""
        self.attach(self._watching)
        if data is not None:
            self.on_failure(partial(_end_readers, self._readers))

    def close(self) -> None:
        """Close the store, and end every watch of it; see `kvs.store.core.Store.close`.

        Raises:
            JournalFailed: not every change was written.

        """
        try:
            super().close()
        finally:
            _end_readers(self._readers, StoreClosed())

    def execute(
        self, script: Word, start: int = 0, budget: int = BUDGET, mark: Mark | None = None
    ) -> Pause:
        """Carry out the commands of `script`, bytes or str; its lines count in bytes of UTF-8.

        All else is as the store below has it (`kvs.store.core.Store.execute`).

        Raises:
            TypeError: `script` is neither bytes nor str.
            UnicodeEncodeError: it is a str that cannot be encoded.
            ValueError: `start` is outside of the script, or `budget` is negative.
            JournalFailed: the store is kept, and its journal failed.
            StoreClosed: it is kept, and was closed.

        """
        if type(script) is not bytes:
            script = builder.encoded(script)
        return super().execute(script, start, budget, mark)

    def write(self, pairs: Mapping[Any, Word] | Iterable[tuple[Word, Word]]) -> int:
        """Set every pair of a mapping, or of an iterable of pairs, as one change.

        A key named twice keeps the last value. Returns the store's revision after the change; no
        pairs are no change.

        Raises:
            WordRefused: a key or value is no word of the language, or what is given is no pair;
                nothing was written.

        """
        pause = self.execute(builder.write_line(pairs))
        self.wait_until_safe(self.position())
        return pause.revision

    def read(self, keys: Iterable[Word]) -> dict[bytes, bytes]:
        """Return the pairs of those `keys` that are there, in the order they are named.

        Raises:
            WordRefused: a key is no word of the language.

        """
        self._check()
        wanted = builder.checked_keys(keys)
        values = self.safe(self._engine.get(wanted))
        return {k: v for k, v in zip(wanted, values, strict=True) if v is not None}

    def delete(self, keys: Iterable[Word]) -> list[bytes]:
        """Remove `keys` as one change; return those that were missing, in ascending order.

        As in the language, a key named twice is missing the second time.

        Raises:
            WordRefused: a key is no word of the language; nothing was removed.

        """
        self._check()
        doomed = builder.checked_keys(keys)
        if not doomed:
            return []
        pause = self.execute(builder.keys_line(b"DELETE", doomed))
        self.wait_until_safe(self.position())
        return builder.keys_missed(pause.output)

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
            WordRefused: it is no word of the language.

        """
        self._check()
        [value] = self.safe(self._engine.get([checked_word(key, "key")]))
        return value is not None

    def backup(self, path: Path) -> Written:
        """Write a snapshot of this instant to `path` and wait until it is on disk.

        A forked child writes it; other threads go on meanwhile. What stood at `path` is replaced
        by the finished file, or stays if this fails.

        Raises:
            SnapshotFailed: it could not be written; nothing changed at `path`, but for
                `SnapshotNotSynced`: it is in place, and a loss of power may undo that.

        """
        self._check()
        parent, name = os.path.split(os.fsencode(path))
        directories: list[int] = []
        drafts: list[Draft] = []
        close_all = partial(exhaust, map(os.close, directories))

        def begin() -> None:
            directories.append(open_directory(parent or b"."))
            check_replaceable(name, directories[0])
            drafts.append(Draft(directories[0], name, shown(path)))

        try:
            apart(begin)
            self.fork_snapshot(drafts[0])
            written = drafts[0].finish(self.until_safe())
        except BaseException as error:
            for draft in drafts:
                draft.cancel()
            if isinstance(error, OSError):
                raise SnapshotFailed(shown(path), cause(error)) from error
            raise
        finally:
            close_all()
        return written

    def restore(self, path: Path) -> int:
        """Replace everything by the backup at `path`, as one change; return its revision.

        Raises:
            BackupUnreadable: the file cannot be opened or read.
            BackupMalformed: it is not what a snapshot writes. The store was not touched.
            StoreNotEmpty: it is kept in a data directory, and there were changes before.

        """
        self._check()
        return self.begin_with(load(os.fsencode(path)))

    def begin_with(self, pairs: dict[bytes, bytes]) -> int:
        """Replace everything by the `pairs` of a backup, as one change; return its revision.

        They are as `kvs.snapshot.reader.load` returns them, and the caller's no more.

        Raises:
            StoreNotEmpty: it is kept in a data directory, and there were changes before.

        """
        self._check()
        if self._data is not None:
            if self._engine.revision:
                raise StoreNotEmpty(self._data.shown)
            return self.write(pairs)
        revision = self._engine.replace(pairs)
        self._publication.publish()
        return revision

    def watch(self, keys: Iterable[Word]) -> Watch:
        """Return an iterator of the changes of `keys` from now on, in order; see `Watch`.

        A key need not be there; its removal and coming back are changes too. A watch whose reader
        does not keep up is given up when 100,000 changes wait: no writer ever waits for it.

        Raises:
            WordRefused: a key is no word of the language.

        """
        self._check()
        reader = Reader(held=self.is_kept)

        def leave() -> None:
            self._readers.pop(reader, None)
            self.leave(self._watching, reader.outbox)

        wanted = builder.checked_keys(keys)
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
        tell: Tell = tell_nobody,
    ) -> Report:
        """Run every job of `directory` against this store, to the end, and return what came of it.

        At most `threads` jobs run at the same time (default: as many as cores), and at most
        `backups` snapshots are written at the same time. With `resume`, jobs that the data
        directory knows go on where they were, and those that were done are left alone. What goes
        wrong in a job does not raise: it is in the report, and each error is given to `tell` as it
        is met, from the thread that met it. An exception in the waiting thread, such as
        KeyboardInterrupt, stops the run, waits for its end, and goes on. Any number of threads may
        call this, each with its own directory.

        Raises:
            DirectoryUnusable: `directory` is none, or cannot be listed or locked.
            DirectoryInUse: another run is at work in it.
            NoThread: not one thread could be started.
            ValueError: `threads` or `backups` is below 1.

        """
        self._check()
        settings = Settings(cores() if threads is None else threads, backups, resume)
        with Run(self, directory, settings, tell) as run:
            run.wait()
        return run.report


def _end_readers(readers: dict[Reader, None], failure: KvsError) -> None:
    """End every open watch because of a failure of the store, or its end."""
    for reader in list(readers):
        reader.end(failure)
