"""``kvs run``: run the jobs of a directory against one store, and exit."""

import argparse
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from kvs.cli.open_store import open_store
from kvs.cli.run_display import RunDisplay, create_display, print_table
from kvs.cli.stdio import StdoutClosed, StdoutError, UsageError, print_error
from kvs.errors import JobsDirectoryError, JournalWriteError, KvsError
from kvs.jobs.report import MAX_REPORTED_ERRORS, Report, State
from kvs.jobs.run import JobRun
from kvs.posix.files import AtomicFile, check_can_replace, open_directory, write_all
from kvs.settings import Settings
from kvs.store.core import StoreCore
from kvs.text import os_error_text, pluralize, printable


class SignalHandler:
    """SIGINT and SIGTERM during a run: the first stops it gracefully, the second exits at once.

    Threads: for the main thread, in which alone Python runs signal handlers.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The first signal."""
        self._run: JobRun | None = None
        self._display: RunDisplay | None = None

    @property
    def status(self) -> int:
        """128 plus the number of the signal, as a shell reports it; 0 without a signal."""
        return 0 if self.signal is None else 128 + self.signal

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals; restore the previous handlers at the end."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.getsignal(number) for number in numbers}
        for number, handler in before.items():
            # nohup(1), and a shell for background programs, ignore signals for their children.
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def watch(self, run: JobRun, display: RunDisplay) -> None:
        """Stop `run`, shown on `display`, at the first signal, or now if it has already arrived."""
        self._run, self._display = run, display
        if self.signal is not None:
            run.stop()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
            if self._run is not None:
                self._run.stop()
            return
        if self._run is not None:
            self._run.kill_children()
        if self._display is not None:
            self._display.restore_terminal()
        os._exit(self.status)


def run(options: argparse.Namespace) -> int:
    """Run ``kvs run``; return the exit status."""
    if options.report is not None:
        _check_report_path(options.report, options.directory)
    handler = SignalHandler()
    with handler.installed():
        with open_store(options, lambda line: print_error(f"kvs run: {line}")) as store:
            report = _run_jobs(store, options, handler)
            failed = not _close(store)
        _print_omitted_errors(report)
        if handler.signal is not None:
            finished = {State.DONE, State.DONE_BEFORE}
            unfinished = sum(job.state not in finished for job in report.jobs)
            print_error(
                f"kvs run: stopped by {handler.signal.name}; "
                f"{unfinished} of {pluralize(len(report.jobs), 'job')} unfinished"
            )
        written = _write_results(report, options)
    return handler.status or int(report.failed or failed or not written)


def _close(store: StoreCore) -> bool:
    """Close the store; report a failed journal write, and return False then."""
    try:
        store.close()
    except JournalWriteError as error:
        print_error(f"kvs run: {error}")
        return False
    return True


def _run_jobs(store: StoreCore, options: argparse.Namespace, handler: SignalHandler) -> Report:
    settings = Settings(options.threads, options.backups, options.resume)
    display = create_display(quiet=options.quiet)
    try:
        with display, JobRun(store, options.directory, settings, display.show_error) as jobs:
            handler.watch(jobs, display)
            display.show_until_done(jobs)
    except JobsDirectoryError as error:
        raise UsageError(str(error)) from error
    if not jobs.report.jobs and not options.quiet:
        print_error(f"{printable(options.directory)}: no jobs (no file ends in .job)")
    return jobs.report


def _write_results(report: Report, options: argparse.Namespace) -> bool:
    """Write the report and the table; return whether both were written."""
    written = True
    if options.report is not None:
        try:
            _write_report(report, options.report)
        except KvsError as error:
            print_error(f"kvs run: {error}")
            written = False
    if not options.quiet:
        try:
            print_table(report)
        except StdoutClosed:
            written = False
        except StdoutError as error:
            print_error(f"kvs run: {error}")
            written = False
    return written


def _print_omitted_errors(report: Report) -> None:
    for job in report.jobs:
        if job.errors_omitted:
            print_error(
                f"{job.file}: {pluralize(job.errors_omitted, 'more invalid line')}; "
                f"only the first {MAX_REPORTED_ERRORS} are reported, 'kvs lint' lists all"
            )


def _check_report_path(path: str, jobs: str) -> None:
    """Check, before any job runs, that the report can be written.

    Raises:
        UsageError: the report cannot be written there.

    """
    parent = os.path.dirname(path) or "."
    try:
        check_can_replace(os.fsencode(path))
    except OSError as error:
        raise UsageError(f"--report {printable(path)}: {os_error_text(error)}") from error
    in_jobs = os.path.realpath(parent) == os.path.realpath(jobs)
    if in_jobs and path.endswith((".job", ".out", ".bck")):
        raise UsageError(f"--report {printable(path)}: the name is reserved for files of jobs")
    if not os.path.isdir(parent):
        raise UsageError(
            f"--report {printable(path)}: the directory {printable(parent)} does not exist"
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(
            f"--report {printable(path)}: the directory {printable(parent)} is not writable"
        )


def _write_report(report: Report, path: str) -> None:
    import json

    text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n"
    parent, name = os.path.split(os.fsencode(path))
    try:
        directory = open_directory(parent or b".")
        try:
            with AtomicFile(directory, name) as file:
                write_all(file.file, text.encode())
                os.fsync(file.file)
                file.commit()
        finally:
            os.close(directory)
    except OSError as error:
        raise KvsError(
            f"cannot write the report {printable(path)}: {os_error_text(error)}"
        ) from error
