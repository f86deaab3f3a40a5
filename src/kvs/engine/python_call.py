"""What the Python engine keeps of one call: its progress, its result and its change batches."""

import sys
from itertools import groupby
from operator import attrgetter

from kvs.concurrency.atomic import Step
from kvs.engine.interface import UNKNOWN_ORIGIN, ExecuteResult, JobCursor, KeyChange, StopReason
from kvs.language import grammar, output_format
from kvs.language.diagnostics import Diagnostic, diagnose_line, output_too_long

_STOPS = (grammar.WAIT, grammar.BACKUP)
_STOPS_OF_JOB_CALL = (*_STOPS, grammar.SHOW)


class PythonBatch:
    """A `ChangeBatch` of one line, or of several lines of one call after `merge_batches`."""

    __slots__ = (
        "change_count",
        "changes",
        "job",
        "lines",
        "marker",
        "offset",
        "origin",
        "output",
        "revision",
        "show_epoch",
    )

    def __init__(self, show_epoch: object, revision: int) -> None:
        self.show_epoch = show_epoch
        """Identity of the part of a call, between two SHOWs, that made the changes."""
        self.changes: list[KeyChange] = []
        self.lines = b""
        self.change_count = 0
        self.revision = revision
        self.job: int | None = None
        self.offset = 0
        self.output = b""
        self.marker = 0
        self.origin = UNKNOWN_ORIGIN


def merge_batches(batches: list[PythonBatch]) -> list[PythonBatch]:
    """Return the batches with adjacent ones of one SHOW epoch merged."""
    return [_merge_epoch(list(epoch)) for _, epoch in groupby(batches, attrgetter("show_epoch"))]


def _merge_epoch(batches: list[PythonBatch]) -> PythonBatch:
    last = batches[-1]
    if len(batches) == 1:
        return last
    merged = PythonBatch(last.show_epoch, last.revision)
    merged.changes = [change for batch in batches for change in batch.changes]
    merged.lines = b"".join(batch.lines for batch in batches)
    merged.change_count = sum(batch.change_count for batch in batches)
    merged.job, merged.offset, merged.origin = last.job, last.offset, last.origin
    merged.output = b"".join(batch.output for batch in batches)
    return merged


class PythonCall:
    """One call of `execute`: its arguments, its progress and its result.

    Threads: used by the calling thread alone.
    """

    __slots__ = (
        "checkpoint_offset",
        "cursor",
        "end",
        "fast_path_steps",
        "idle_lines",
        "limits",
        "listing",
        "max_output_bytes",
        "offset",
        "origin",
        "output",
        "output_budget",
        "published_pieces",
        "refused",
        "revision",
        "revisions_read",
        "script",
        "start",
        "stopped_at",
        "stops",
        "wait_ms",
    )

    def __init__(
        self,
        script: bytes,
        start: int,
        budget: int,
        revision: int,
        cursor: JobCursor | None = None,
        *,
        limits: bool = True,
    ) -> None:
        self.script = script
        self.start = self.offset = self.checkpoint_offset = start
        self.end = script.find(b"\n", start + budget) + 1 or len(script)
        """End of the line that takes the call past its budget of input."""
        self.output_budget = budget
        """Bytes of output left; below 0, the call is finished."""
        self.output: list[bytes] = []
        self.limits = limits
        """Whether the lengths of lines are limited."""
        self.max_output_bytes = grammar.MAX_OUTPUT_BYTES if limits else sys.maxsize
        """Maximum bytes that one line writes."""
        self.refused: list[int | Diagnostic] = []
        """Offsets of invalid lines, and the diagnostics of lines whose output is too long."""
        self.idle_lines = 0
        """Number of comments and empty lines."""
        self.stopped_at: int | None = None
        """The WAIT, SHOW or BACKUP that the caller has to execute, as a number of the grammar."""
        self.listing = grammar.Listing([], None, None, expiries=False)
        """The arguments of that SHOW."""
        self.stops = _STOPS if cursor is None else _STOPS_OF_JOB_CALL
        """Commands at which the call is finished."""
        self.wait_ms = 0
        self.revision = revision
        self.revisions_read: list[int] = []
        """A list to which a step appends the revision at the instant of the step."""
        self.fast_path_steps: tuple[Step, ...] = ()
        """First steps of a change that needs no change batch; empty if changes need one."""
        self.cursor = cursor
        self.origin = UNKNOWN_ORIGIN
        self.published_pieces = 0
        """Number of items of `output` that are in the change batches of a job call."""

    def write(self, text: bytes) -> None:
        """Append `text` to the output."""
        self.output.append(text)
        self.output_budget -= len(text)

    def refuse_output(self) -> None:
        """Refuse the line at `offset`, because its output is too long."""
        self.refused.append(output_too_long(self.script, self.offset))

    def is_finished(self) -> bool:
        """Return whether `execute` must return."""
        return self.offset >= self.end or self.output_budget < 0 or self.stopped_at in self.stops

    def result(self) -> ExecuteResult:
        """Return the result, once the call is finished."""
        lines = self.script.count(b"\n", self.start, self.offset)
        if self.offset > self.start and self.script[self.offset - 1] != ord("\n"):
            lines += 1
        if self.stopped_at == grammar.WAIT:
            self.output.append(output_format.WAITING)
        uncheckpointed_output = None
        if self.cursor is not None and self.stopped_at is not None:
            uncheckpointed_output = b"".join(self.output[self.published_pieces :])
        return ExecuteResult(
            reason=self._reason(),
            offset=self.offset,
            output=b"".join(self.output),
            diagnostics=[
                diagnostic for each in self.refused if (diagnostic := self._diagnose(each))
            ],
            commands=lines - self.idle_lines - len(self.refused),
            lines=lines,
            revision=self.revision,
            wait_ms=self.wait_ms,
            uncheckpointed_output=uncheckpointed_output,
        )

    def _diagnose(self, refused: int | Diagnostic) -> Diagnostic | None:
        if isinstance(refused, Diagnostic):
            return refused
        return diagnose_line(self.script, refused, limits=self.limits)

    def _reason(self) -> StopReason:
        if self.stopped_at == grammar.WAIT:
            return StopReason.WAIT
        if self.stopped_at == grammar.BACKUP:
            return StopReason.BACKUP
        return StopReason.END if self.offset == len(self.script) else StopReason.BUDGET
