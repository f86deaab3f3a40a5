"""What a run shows: errors as they come, progress on a terminal, a table at the end.

A terminal gets rich's progress display and table; anything else gets plain lines without one
control character. rich is imported only for a terminal, so that scripts do not wait for it.
"""

import contextlib
import io
import os
import select
import sys
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TextIO, cast

from kvs.cli.stdio import print_error, print_result
from kvs.errors import KvsError
from kvs.jobs.report import JobReport, Report, State
from kvs.jobs.run import JobRun
from kvs.text import pluralize, printable

REFRESH_SECONDS = 0.1

HEADINGS = ("job", "commands", "invalid", "snapshots", "seconds", "state")


class RunDisplay:
    """Where there is no terminal, or is to be quiet: errors are lines on stderr, nothing moves.

    Its life as a context manager is that of the run it shows.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def restore_terminal(self) -> None:
        """Give the terminal back; for a process about to leave at once."""

    def show_error(self, error: KvsError) -> None:
        """Show an error, from any thread."""
        print_error(str(error))

    def show_until_done(self, run: JobRun) -> None:
        """Wait for the end of `run`, showing how far it is."""
        # In pieces: handlers run in this thread alone, and a signal that the kernel gave to another
        # thread would not wake it (signal(7)).
        while not run.wait(REFRESH_SECONDS):
            pass


class LiveRunDisplay(RunDisplay):
    """A terminal on stderr: a line of progress, with the errors above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        self._console = Console(
            file=cast("TextIO", Terminal()),
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=True,
        )
        self._line = Spinner("dots", style="cyan")
        self._live = Live(
            self._line,
            console=self._console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def restore_terminal(self) -> None:
        """Show the cursor again, and leave the line of progress behind.

        Straight to the terminal, if it takes anything: whoever holds rich's lock may be waiting
        for a terminal that does not.
        """
        if select.select([], [sys.stderr.fileno()], [], 0)[1]:
            os.write(sys.stderr.fileno(), b"\x1b[?25h\n")

    def show_error(self, error: KvsError) -> None:
        """Show an error above the line of progress."""
        self._console.print(str(error))

    def show_until_done(self, run: JobRun) -> None:
        """Wait for the end of `run`; the line of progress tells how far it is."""
        last_second = deque([(time.perf_counter(), 0)], maxlen=round(1 / REFRESH_SECONDS))
        while not run.wait(REFRESH_SECONDS):
            now = run.progress()
            last_second.append((time.perf_counter(), now.commands))
            (began, before), (ended, after) = last_second[0], last_second[-1]
            rate = (after - before) / (ended - began)
            self._line.update(
                text=f"{now.done} of {pluralize(now.jobs, 'job')} done, {now.running} running, "
                f"{rate:,.0f} commands/s, {pluralize(now.backups, 'snapshot')} in flight"
            )


class Terminal(io.TextIOBase):
    """The terminal at stderr, for rich: a write that fails is ignored, and the work continues."""

    def __init__(self) -> None:
        self._stderr = sys.stderr  # rich puts a stream of its own there, which leads back here

    def write(self, text: str) -> int:
        """Write `text`, if the terminal accepts it."""
        with contextlib.suppress(OSError):
            return self._stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush stderr, if the terminal accepts it."""
        with contextlib.suppress(OSError):
            self._stderr.flush()

    def isatty(self) -> bool:
        """Return True, also once the terminal has gone."""
        return True

    def fileno(self) -> int:
        """Return the descriptor of stderr."""
        return self._stderr.fileno()


def create_display(*, quiet: bool) -> RunDisplay:
    """Return the screen that fits stderr."""
    return LiveRunDisplay() if not quiet and _is_terminal(sys.stderr) else RunDisplay()


def print_table(report: Report) -> None:
    """Write a table with a row per job to stdout; on a terminal, one to look at."""
    rows = [_row(job) for job in report.jobs]
    if _is_terminal(sys.stdout):
        _print_rich_table(rows, [job.failed for job in report.jobs])
    else:
        print_result(_plain_table([HEADINGS, *rows]))


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _row(job: JobReport) -> tuple[str, ...]:
    written, lost = job.backups_written, job.backups_failed
    return (
        printable(job.name),
        str(job.commands),
        str(job.invalid),
        f"{written} ({lost} failed)" if lost else str(written),
        f"{job.seconds:.3f}",
        "done, errors" if job.failed and job.state is State.DONE else job.state.value,
    )


def _plain_table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in {0, len(widths) - 1} else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _print_rich_table(rows: Sequence[tuple[str, ...]], failed: Sequence[bool]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, header_style="bold")
    for heading in HEADINGS:
        edge = heading in {HEADINGS[0], HEADINGS[-1]}
        table.add_column(heading, justify="left" if edge else "right", overflow="fold")
    for row, bad in zip(rows, failed, strict=True):
        table.add_row(*row, style="red" if bad else None)
    console = Console(highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    print_result(captured.get().rstrip("\n"))
