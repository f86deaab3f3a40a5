"""The library to embed: the store, and what stands above it in the house."""

from collections.abc import Iterable

from kvs.jobs.job import Tell
from kvs.jobs.report import Report
from kvs.jobs.run import Run, tell_nobody
from kvs.language.lines import Word, checked_keys
from kvs.persistence import ShowProgress, show_nobody
from kvs.settings import DataSettings, Settings, cores
from kvs.store import Path
from kvs.store import Store as CoreStore
from kvs.watch import Change, Outbox, Watch, Watchers


class Store(CoreStore):
    """A store for a program of one's own: everything of `kvs.store.Store`, watches, and jobs."""

    def __init__(
        self,
        data: Path | None = None,
        *,
        fsync: str = "always",
        fsync_interval: float = 1.0,
        progress: ShowProgress = show_nobody,
    ) -> None:
        """Make an empty store in memory, or open the one that is kept in the directory `data`.

        The directory is made if it is not there; it belongs to this store until `close`. `fsync`
        says when changes are synced to disk: ``always`` before anything is told that depends on
        them, ``interval`` within `fsync_interval` seconds, ``never`` when the kernel comes to it.
        `progress` is told how far the reading of the directory is: bytes read, bytes to read.

        Raises:
            DataUnusable: the directory cannot be made, opened, locked or read.
            DirectoryInUse: another process is at work there.
            DataDamaged: something in it does not prove itself; nothing was changed.
            ValueError: `fsync` or `fsync_interval` is out of range.

        """
        settings = DataSettings(fsync, fsync_interval)
        super().__init__(data, settings, progress=progress)
        self._watching = Watchers(Change)
        self.attach(self._watching)

    def watch(self, keys: Iterable[Word]) -> Watch:
        """Return an iterator of the changes of `keys` from now on, in order; see `Watch`.

        A key need not be there; its removal and coming back are changes too. A watch whose reader
        does not keep up is given up when 100,000 changes wait: no writer ever waits for it.

        Raises:
            WordRefused: a key is no word of the language.

        """

        def leave(outbox: Outbox[Change]) -> None:
            end_telling()
            self.leave(self._watching, outbox)

        watch = Watch(leave)
        end_telling = self.on_failure(watch.fail)
        for key in checked_keys(keys):
            self.subscribe(self._watching, watch.outbox, key)
        return watch

    def run_jobs(
        self,
        directory: Path,
        *,
        threads: int | None = None,
        backups: int = 2,
        tell: Tell = tell_nobody,
    ) -> Report:
        """Run every job of `directory` against this store, to the end, and return what came of it.

        At most `threads` jobs run at the same time (default: as many as cores), and at most
        `backups` snapshots are written at the same time. What goes wrong in a job does not raise:
        it is in the report, and each error is given to `tell` as it is met, from the thread that
        met it. An exception in the waiting thread, such as KeyboardInterrupt, stops the run, waits
        for its end, and goes on. Any number of threads may call this, each with its own directory.

        Raises:
            DirectoryUnusable: `directory` is none, or cannot be listed or locked.
            DirectoryInUse: another run is at work in it.
            NoThread: not one thread could be started.
            ValueError: `threads` or `backups` is below 1.

        """
        settings = Settings(cores() if threads is None else threads, backups)
        with Run(self, directory, settings, tell) as run:
            run.wait()
        return run.report
