"""What a run shows: errors as they occur, progress on a terminal, a table at the end.

A terminal gets rich's progress display and table; any other file gets plain lines without control
characters. rich is imported only for a terminal, so that scripts start faster.
"""

import contextlib
import io
import os
import select
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Self, TextIO, cast

from kvs.cli.stdio import print_error, print_result
from kvs.errors import KvsError
from kvs.jobs.report import JobReport, Report, State
from kvs.jobs.run import JobRun
from kvs.text import pluralize, printable

REFRESH_SECONDS = 0.1
"""Seconds between two updates of the progress."""

HEADINGS = ("job", "commands", "invalid", "backups", "seconds", "state")


class RunDisplay:
    """The display of a quiet run, or without a terminal: errors on stderr, no progress.

    A context manager that surrounds the run.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def restore_terminal(self) -> None:
        """Restore the terminal before the process exits at once."""

    def show_error(self, error: KvsError) -> None:
        """Show an error. For any thread."""
        print_error(str(error))

    def show_until_done(self, run: JobRun) -> None:
        """Block until `run` is done, and show its progress."""
        # Short waits: Python runs signal handlers in this thread alone, and a signal that the
        # kernel delivers to another thread would not wake it (signal(7)).
        while not run.wait(REFRESH_SECONDS):
            pass


class LiveRunDisplay(RunDisplay):
    """The display on a terminal: a line of progress on stderr, with the errors above it."""

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

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def restore_terminal(self) -> None:
        """Show the cursor again, and end the line of progress.

        Writes directly to the terminal, if it is writable: the thread that holds rich's lock may be
        blocked by a stopped terminal.
        """
        if select.select([], [sys.stderr.fileno()], [], 0)[1]:
            os.write(sys.stderr.fileno(), b"\x1b[?25h\n")

    def show_error(self, error: KvsError) -> None:
        """Show an error above the line of progress."""
        self._console.print(str(error))

    def show_until_done(self, run: JobRun) -> None:
        """Block until `run` is done, and update the line of progress."""
        last_second = deque([(time.perf_counter(), 0)], maxlen=round(1 / REFRESH_SECONDS))
        while not run.wait(REFRESH_SECONDS):
            progress = run.progress()
            last_second.append((time.perf_counter(), progress.commands))
            (start, before), (end, after) = last_second[0], last_second[-1]
            rate = (after - before) / (end - start)
            self._line.update(
                text=f"{progress.done} of {pluralize(progress.jobs, 'job')} done, "
                f"{progress.running} running, {rate:,.0f} commands/s, "
                f"{pluralize(progress.backups, 'backup')} in flight"
            )


class Terminal(io.TextIOBase):
    """The terminal at stderr, for rich: failed writes are ignored."""

    def __init__(self) -> None:
        self._stderr = sys.stderr  # rich replaces `sys.stderr` by a stream that writes to this one

    def write(self, text: str) -> int:
        """Write `text`, if the terminal accepts it."""
        with contextlib.suppress(OSError):
            return self._stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush stderr, if the terminal accepts it and stderr is open.

        The end of this object flushes it, and may come after stderr was closed (ValueError).
        """
        with contextlib.suppress(OSError, ValueError):
            self._stderr.flush()

    def isatty(self) -> bool:
        """Return True, also after the terminal has hung up."""
        return True

    def fileno(self) -> int:
        """Return the descriptor of stderr."""
        return self._stderr.fileno()


def create_display(*, quiet: bool) -> RunDisplay:
    """Return the display for stderr."""
    return LiveRunDisplay() if not quiet and _is_terminal(sys.stderr) else RunDisplay()


def print_table(report: Report) -> None:
    """Write a table with a row for each job to stdout, formatted by rich on a terminal."""
    rows = [_row(job) for job in report.jobs]
    if _is_terminal(sys.stdout):
        _print_rich_table(rows, [job.failed for job in report.jobs])
    else:
        print_result(_plain_table([HEADINGS, *rows]))


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _row(job: JobReport) -> tuple[str, ...]:
    written, failed = job.backups_written, job.backups_failed
    return (
        printable(job.name),
        str(job.commands),
        str(job.invalid),
        f"{written} ({failed} failed)" if failed else str(written),
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
        is_text = heading in {HEADINGS[0], HEADINGS[-1]}
        table.add_column(heading, justify="left" if is_text else "right", overflow="fold")
    for row, has_failed in zip(rows, failed, strict=True):
        table.add_row(*row, style="red" if has_failed else None)
    console = Console(highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    print_result(captured.get().rstrip("\n"))
