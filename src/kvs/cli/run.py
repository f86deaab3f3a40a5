"""``kvs run``: a directory of jobs against a new store, to its end."""

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
    """SIGINT and SIGTERM while a run is on: the first stops it, a second leaves at once.

    For the main thread, which alone gets signals.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._run: JobRun | None = None
        self._screen: RunDisplay | None = None

    @property
    def status(self) -> int:
        """The exit status as a shell tells it of a process that a signal ended; 0 without one."""
        return 0 if self.signal is None else 128 + self.signal

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Handle the signals meanwhile, then give them back to who had them."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.getsignal(number) for number in numbers}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # as nohup and scripts set it for what they start
                signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def watch(self, run: JobRun, screen: RunDisplay) -> None:
        """Stop `run`, shown on `screen`, at a signal; at once, if one has come already."""
        self._run, self._screen = run, screen
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
        if self._screen is not None:
            self._screen.restore_terminal()
        os._exit(self.status)


def run(options: argparse.Namespace) -> int:
    """Carry out ``kvs run``; return the exit status."""
    if options.report is not None:
        _check_report_path(options.report, options.directory)
    interruption = SignalHandler()
    with interruption.caught():
        with open_store(options, lambda line: print_error(f"kvs run: {line}")) as store:
            report = _run_jobs(store, options, interruption)
            failed = not _close(store)
        _print_omitted_errors(report)
        if interruption.signal is not None:
            ended = {State.DONE, State.DONE_BEFORE}
            unfinished = sum(job.state not in ended for job in report.jobs)
            print_error(
                f"kvs run: stopped by {interruption.signal.name}; "
                f"{unfinished} of {pluralize(len(report.jobs), 'job')} did not come to the end"
            )
        told = _write_results(report, options)
    return interruption.status or int(report.failed or failed or not told)


def _close(store: StoreCore) -> bool:
    """Close the store; tell, and return False, if not all of it is kept."""
    try:
        store.close()
    except JournalWriteError as failure:
        print_error(f"kvs run: {failure}")
        return False
    return True


def _run_jobs(store: StoreCore, options: argparse.Namespace, interruption: SignalHandler) -> Report:
    settings = Settings(options.threads, options.backups, options.resume)
    screen = create_display(quiet=options.quiet)
    try:
        with screen, JobRun(store, options.directory, settings, screen.show_error) as jobs:
            interruption.watch(jobs, screen)
            screen.show_until_done(jobs)
    except JobsDirectoryError as error:
        raise UsageError(str(error)) from error
    return jobs.report


def _write_results(report: Report, options: argparse.Namespace) -> bool:
    """Write the report and the table; return whether that could be done."""
    good = True
    if options.report is not None:
        try:
            _write_report(report, options.report)
        except KvsError as error:
            print_error(f"kvs run: {error}")
            good = False
    if not options.quiet:
        try:
            print_table(report)
        except StdoutClosed:
            good = False
        except StdoutError as error:
            print_error(f"kvs run: {error}")
            good = False
    return good


def _print_omitted_errors(report: Report) -> None:
    for job in report.jobs:
        if job.errors_omitted:
            print_error(
                f"{job.file}: {pluralize(job.errors_omitted, 'more invalid line')}; "
                f"the first {MAX_REPORTED_ERRORS} were told, 'kvs lint' tells all"
            )


def _check_report_path(path: str, jobs: str) -> None:
    """Refuse, before any work is done, a place where no report can be written."""
    parent = os.path.dirname(path) or "."
    try:
        check_can_replace(os.fsencode(path))
    except OSError as error:
        raise UsageError(f"--report {printable(path)}: {os_error_text(error)}") from error
    in_jobs = os.path.realpath(parent) == os.path.realpath(jobs)
    if in_jobs and path.endswith((".job", ".out", ".bck")):
        raise UsageError(f"--report {printable(path)}: the name belongs to a job")
    if not os.path.isdir(parent):
        raise UsageError(f"--report {printable(path)}: there is no directory {printable(parent)}")
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
            file = AtomicFile(directory, name)
            try:
                write_all(file.file, text.encode())
                os.fsync(file.file)
            except OSError:
                file.discard()
                raise
            file.commit()
        finally:
            os.close(directory)
    except OSError as error:
        raise KvsError(
            f"cannot write the report {printable(path)}: {os_error_text(error)}"
        ) from error
