"""What the Python engine keeps of one call: limits, results, and merged change batches."""

import pytest

from kvs.engine.interface import JobCursor, StopReason
from kvs.engine.python_call import PythonBatch, PythonCall, merge_batches
from kvs.language import grammar

SCRIPT = b"READ [a]\nREAD [b]\n# last"


def call(start: int = 0, budget: int = 1000, mark: JobCursor | None = None) -> PythonCall:
    return PythonCall(SCRIPT, start, budget, 5, mark)


@pytest.mark.parametrize(
    ("start", "budget", "end"), [(0, 0, 9), (0, 8, 9), (0, 9, 18), (9, 1, 18), (0, 18, 24)]
)
def test_call_ends_with_the_line_that_exceeds_the_budget(start: int, budget: int, end: int) -> None:
    one = call(start, budget)
    one.offset = end - 1
    assert not one.is_finished()
    one.offset = end
    assert one.is_finished()


def test_output_beyond_the_budget_finishes_the_call() -> None:
    one = call(budget=10)
    one.write(b"x" * 10)
    assert not one.is_finished()
    one.write(b"y")
    one.offset = 9
    assert one.is_finished()
    result = one.result()
    assert (result.reason, result.output) == (StopReason.BUDGET, b"x" * 10 + b"y")


@pytest.mark.parametrize(
    ("stopped_at", "unmarked", "marked"),
    [
        (grammar.WAIT, True, True),
        (grammar.BACKUP, True, True),
        (grammar.SHOW, False, True),
        (grammar.READ, False, False),
    ],
)
def test_marked_call_stops_at_a_show_too(stopped_at: int, unmarked: bool, marked: bool) -> None:
    for mark, expected in ((None, unmarked), (JobCursor(1, 0), marked)):
        one = call(mark=mark)
        one.stopped_at = stopped_at
        assert one.is_finished() == expected


def test_result_counts_lines_and_commands() -> None:
    one = call()
    one.offset, one.idle_lines = len(SCRIPT), 1
    result = one.result()
    assert (result.reason, result.lines, result.commands) == (StopReason.END, 3, 2)
    assert (result.revision, result.uncheckpointed_output) == (5, None)


def test_refused_lines_are_diagnosed_in_order_and_not_counted() -> None:
    script = b"READ\n  READ [a]\nSHOW x\n"
    one = PythonCall(script, 0, 100, 5)
    for one.offset in (0, 5, 16):
        one.refuse_output() if one.offset == 5 else one.refused.append(one.offset)
    one.offset = len(script)
    result = one.result()
    assert [(each.offset, each.column) for each in result.diagnostics] == [(0, 5), (5, 3), (16, 6)]
    assert (result.lines, result.commands) == (3, 0)


def test_wait_writes_its_line_and_its_time() -> None:
    one = call()
    one.offset, one.stopped_at, one.wait_ms = 9, grammar.WAIT, 30
    result = one.result()
    assert (result.reason, result.wait_ms) == (StopReason.WAIT, 30)
    assert (result.output, result.lines) == (b"Waiting...\n", 1)


def test_marked_call_returns_output_of_no_batch() -> None:
    one = call(mark=JobCursor(1, 0))
    one.write(b"published")
    one.published_pieces = 1
    one.write(b"not yet")
    one.offset, one.stopped_at = 9, grammar.BACKUP
    result = one.result()
    assert (result.output, result.uncheckpointed_output) == (b"publishednot yet", b"not yet")


def batch(epoch: object, number: int) -> PythonBatch:
    """Return the batch of a line that made the change `number`."""
    one = PythonBatch(epoch, number)
    one.changes = [(b"k%d" % number, b"v")]
    one.lines, one.output = b"line %d\n" % number, b"[%d]" % number
    one.change_count, one.offset, one.job = 1, 10 * number, 3
    return one


def test_batches_between_two_shows_are_merged() -> None:
    first, second = object(), object()
    batches = [batch(first, 1), batch(first, 2), batch(second, 3), batch(first, 4)]
    merged, *others = merge_batches(batches)
    assert others == batches[2:]
    assert merged.changes == [(b"k1", b"v"), (b"k2", b"v")]
    assert (merged.lines, merged.output) == (b"line 1\nline 2\n", b"[1][2]")
    assert (merged.change_count, merged.revision) == (2, 2)
    assert (merged.job, merged.offset) == (3, 20)
