"""Every engine: change batches are complete, in order, and moved once."""

import threading
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.engine.interface import ChangeBatch, Engine, JobCursor, StopReason, TableView
from kvs.engine.selection import COMPILED, PYTHON
from kvs.language import output_format
from tests.engine.engines import NewEngine, engine_called, run, take_batches
from tests.helpers import SECONDS
from tests.strategies import scripts


@pytest.fixture(scope="module", params=[PYTHON, COMPILED])
def create_engine(request: pytest.FixtureRequest) -> NewEngine:
    """Return the class of each engine in turn."""
    return engine_called(request.param)


def recording(create_engine: NewEngine) -> Engine:
    engine = create_engine()
    engine.start_recording(0)
    return engine


@given(st.lists(scripts(), max_size=4), st.sampled_from([0, 1, 30, 65536]))
@pytest.mark.slow
def test_replayed_lines_give_same_table(
    create_engine: NewEngine, scripts_in_order: list[bytes], budget: int
) -> None:
    engine = recording(create_engine)
    for script in scripts_in_order:
        run(engine, script, budget)
    batches = take_batches(engine)
    assert take_batches(engine) == []
    assert not engine.has_batches
    replica = create_engine()
    for batch in batches:
        assert batch.lines.count(b"\n") == batch.change_count
        run(replica, batch.lines)
        assert replica.revision == batch.revision
    assert replica.items() == engine.items()


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_checkpoint_ends_before_command_that_ran_out_of_memory(
    monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """A job resumed from the checkpoint executes no command a second time."""
    real, left = output_format.format_pairs, at

    def pairs_line(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
        nonlocal left
        if left == 0:
            raise MemoryError
        left -= 1
        return real(pairs)

    monkeypatch.setattr(output_format, "format_pairs", pairs_line)
    writes = [b"WRITE [(a,%d)]\n" % number for number in range(3)]
    engine = recording(engine_called(PYTHON))
    script = b"READ [a]\n".join([*writes, b""])
    ends = [*(script.index(write) + len(write) for write in writes), len(script)]
    try:
        engine.execute(script, 0, 65536, JobCursor(7, 1000))
    except MemoryError:
        assert at < len(writes)
    [batch] = take_batches(engine)
    assert batch.lines == b"".join(writes[: at + 1])
    assert (batch.change_count, batch.offset) == (
        len(batch.lines) // len(writes[0]),
        1000 + ends[at],
    )
    assert batch.output == b"".join(b"[(a,%d)]\n" % number for number in range(at))


@given(scripts(), st.sampled_from([0, 1, 30, 65536]))
def test_marked_batches_report_progress_and_output(
    create_engine: NewEngine, script: bytes, budget: int
) -> None:
    """A job resumed from any checkpoint, with the output so far, has the same output in the end."""
    engine = recording(create_engine)
    output, offset = b"", 0
    published = b""
    while offset < len(script):
        result = engine.execute(script, offset, budget, JobCursor(7, 1000))
        output += result.output
        for batch in take_batches(engine):
            assert batch.job == 7
            assert offset <= batch.offset - 1000 <= result.offset
            published += batch.output
            assert output.startswith(published)
            revision = batch.revision
        assert revision == result.revision == engine.revision
        if result.uncheckpointed_output is not None:
            published += result.uncheckpointed_output
        else:
            assert batch.offset == 1000 + result.offset
        assert published == output
        offset = result.offset


def test_checkpoint_excludes_final_wait_show_and_backup(create_engine: NewEngine) -> None:
    engine = recording(create_engine)
    script = b"WRITE [(a,1)]\nREAD [a]\nSHOW\nWAIT 5\nDELETE [b]\nBACKUP\n"
    expected = [
        (StopReason.BUDGET, b"[(a,1)]\n(a, 1)\n", b"(a, 1)\n", 23, b"[(a,1)]\n"),
        (StopReason.WAIT, b"Waiting...\n", b"Waiting...\n", 28, b""),
        (StopReason.BACKUP, b"[(b,KVSMISSING)]\n", b"", 46, b"[(b,KVSMISSING)]\n"),
    ]
    offset = 0
    for reason, output, uncheckpointed, batch_offset, batch_output in expected:
        result = engine.execute(script, offset, 65536, JobCursor(1, 0))
        assert (result.reason, result.output, result.uncheckpointed_output) == (
            reason,
            output,
            uncheckpointed,
        )
        [batch] = take_batches(engine)
        assert (batch.offset, batch.output) == (batch_offset, batch_output)
        offset = result.offset
    assert offset == len(script)


def test_no_batches_without_watches_and_recording(create_engine: NewEngine) -> None:
    engine = create_engine()
    run(engine, b"WRITE [(a,1)(b,2)]\nDELETE [a]\nREAD [a]\n", job=1)
    assert not engine.has_batches
    assert take_batches(engine) == []


def test_changes_are_reported_until_last_unwatch(create_engine: NewEngine) -> None:
    engine = create_engine()
    assert not engine.watch(b"a", 7)
    run(engine, b"WRITE [(b,1)(a,2)(a,3)]\n")
    assert engine.watch(b"a", 8)
    run(engine, b"DELETE [b,a,a]\nDELETE [a]\nWRITE [(a,4)]\n")
    engine.unwatch(b"a")
    engine.replace({b"a": b"5", b"c": b"6"})
    engine.unwatch(b"a")
    run(engine, b"DELETE [a]\n")
    assert [(batch.marker, list(batch.changes)) for batch in take_batches(engine)] == [
        (7, []),
        (0, [(b"a", b"3")]),
        (8, []),
        (0, [(b"a", None), (b"a", b"4")]),
        (0, [(b"a", b"5")]),
    ]
    assert not engine.has_batches


def test_view_lists_all_pairs_and_all_batches_are_ready(
    create_engine: NewEngine,
) -> None:
    engine = recording(create_engine)
    run(engine, b"WRITE [(b,2)(a,1)]\nWRITE [(c,3)]\n")
    seen: list[tuple[int, int, bytes]] = []
    batches: list[ChangeBatch] = []

    def look(view: TableView) -> None:
        replica = create_engine()
        run(replica, b"".join(view.writes()))
        assert replica.items() == engine_pairs
        batches.extend(take_batches(engine))
        seen.append((view.revision, len(view), b"".join(view.listing())))

    engine_pairs = engine.items()
    engine.with_locked_view(look)
    assert [batch.revision for batch in batches] == [2]
    assert seen == [(2, 3, b"(a, 1)\n(b, 2)\n(c, 3)\n")]


def test_no_other_thread_appends_batch_during_view(create_engine: NewEngine) -> None:
    engine = recording(create_engine)
    script = b"READ [a]\nREAD [b]\n"
    thread = threading.Thread(target=lambda: engine.execute(script, 0, 65536, JobCursor(7, 0)))

    def look(_view: TableView) -> None:
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert not engine.has_batches

    engine.with_locked_view(look)
    thread.join(SECONDS)
    [batch] = take_batches(engine)
    assert (batch.job, batch.offset) == (7, len(script))


def test_batches_of_many_threads_are_in_order_of_revisions(
    create_engine: NewEngine, often_switching: None
) -> None:
    engine = recording(create_engine)
    moved: list[ChangeBatch] = []
    moving = threading.Lock()

    def work(number: int) -> None:
        for index in range(200):
            engine.execute(b"WRITE [(k,%d-%d)]\nDELETE [x]\n" % (number, index), 0, 65536)
            with moving:
                moved.extend(take_batches(engine))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [batch.revision for batch in moved] == list(range(1, 801))
    replica = create_engine()
    for batch in moved:
        run(replica, batch.lines)
    assert replica.items() == engine.items()
