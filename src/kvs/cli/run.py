"""``kvs run``: a directory of jobs against a new store, to its end."""

import argparse
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from kvs.cli.open_store import open_store
from kvs.cli.run_display import Screen, choose_screen, put_table
from kvs.cli.stdio import OutputLost, ReaderGone, UsageError, say
from kvs.errors import DirectoryUnusable, JournalFailed, KvsError, cause, counted, shown
from kvs.jobs.report import ERRORS_TOLD, Report, State
from kvs.jobs.run import Run
from kvs.library import Store
from kvs.posix.files import Replacement, check_replaceable, open_directory, write_all
from kvs.settings import Settings


class Interruption:
    """SIGINT and SIGTERM while a run is on: the first stops it, a second leaves at once.

    For the main thread, which alone gets signals.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._run: Run | None = None
        self._screen: Screen | None = None

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

    def watch(self, run: Run, screen: Screen) -> None:
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
            self._run.abandon()
        if self._screen is not None:
            self._screen.leave()
        os._exit(self.status)


def run(options: argparse.Namespace) -> int:
    """Carry out ``kvs run``; return the exit status."""
    if options.report is not None:
        _check_report_path(options.report, options.directory)
    interruption = Interruption()
    with interruption.caught():
        with open_store(options, lambda line: say(f"kvs run: {line}")) as store:
            report = _run_jobs(store, options, interruption)
            failed = not _close(store)
        _say_what_was_not_told(report)
        if interruption.signal is not None:
            ended = {State.DONE, State.DONE_BEFORE}
            unfinished = sum(job.state not in ended for job in report.jobs)
            say(
                f"kvs run: stopped by {interruption.signal.name}; "
                f"{unfinished} of {counted(len(report.jobs), 'job')} did not come to the end"
            )
        told = _tell(report, options)
    return interruption.status or int(report.failed or failed or not told)


def _close(store: Store) -> bool:
    """Close the store; tell, and return False, if not all of it is kept."""
    try:
        store.close()
    except JournalFailed as failure:
        say(f"kvs run: {failure}")
        return False
    return True


def _run_jobs(store: Store, options: argparse.Namespace, interruption: Interruption) -> Report:
    settings = Settings(options.threads, options.backups, options.resume)
    screen = choose_screen(quiet=options.quiet)
    try:
        with screen, Run(store, options.directory, settings, screen.tell) as jobs:
            interruption.watch(jobs, screen)
            screen.follow(jobs)
    except DirectoryUnusable as error:
        raise UsageError(str(error)) from error
    return jobs.report


def _tell(report: Report, options: argparse.Namespace) -> bool:
    """Write the report and the table; return whether that could be done."""
    good = True
    if options.report is not None:
        try:
            _write_report(report, options.report)
        except KvsError as error:
            say(f"kvs run: {error}")
            good = False
    if not options.quiet:
        try:
            put_table(report)
        except ReaderGone:
            good = False
        except OutputLost as error:
            say(f"kvs run: {error}")
            good = False
    return good


def _say_what_was_not_told(report: Report) -> None:
    for job in report.jobs:
        if job.errors_not_told:
            say(
                f"{job.file}: {counted(job.errors_not_told, 'more invalid line')}; "
                f"the first {ERRORS_TOLD} were told, 'kvs lint' tells all"
            )


def _check_report_path(path: str, jobs: str) -> None:
    """Refuse, before any work is done, a place where no report can be written."""
    parent = os.path.dirname(path) or "."
    try:
        check_replaceable(os.fsencode(path))
    except OSError as error:
        raise UsageError(f"--report {shown(path)}: {cause(error)}") from error
    in_jobs = os.path.realpath(parent) == os.path.realpath(jobs)
    if in_jobs and path.endswith((".job", ".out", ".bck")):
        raise UsageError(f"--report {shown(path)}: the name belongs to a job")
    if not os.path.isdir(parent):
        raise UsageError(f"--report {shown(path)}: there is no directory {shown(parent)}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"--report {shown(path)}: the directory {shown(parent)} is not writable")


def _write_report(report: Report, path: str) -> None:
    import json

    text = json.dumps(report.as_data(), indent=2, ensure_ascii=False) + "\n"
    parent, name = os.path.split(os.fsencode(path))
    try:
        directory = open_directory(parent or b".")
        try:
            file = Replacement(directory, name)
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
        raise KvsError(f"cannot write the report {shown(path)}: {cause(error)}") from error
