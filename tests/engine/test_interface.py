"""What every engine does: the commands' effects come out whole, in order, and once."""

import threading
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.engine.interface import ChangeBatch, Engine, JobCursor, StopReason, TableView
from kvs.engine.selection import COMPILED, PYTHON
from kvs.language import output_format
from tests.engine.engines import NewEngine, engine_called, run_to_the_end, take_effects
from tests.helpers import SECONDS
from tests.strategies import scripts


@pytest.fixture(scope="module", params=[PYTHON, COMPILED])
def create_engine(request: pytest.FixtureRequest) -> NewEngine:
    """Return what makes an engine: all of this holds for each of them."""
    return engine_called(request.param)


def recording(create_engine: NewEngine) -> Engine:
    engine = create_engine()
    engine.start_recording(0)
    return engine


@given(st.lists(scripts(), max_size=4), st.sampled_from([0, 1, 30, 65536]))
@pytest.mark.slow
def test_the_recorded_lines_carried_out_again_give_the_same(
    create_engine: NewEngine, several: list[bytes], budget: int
) -> None:
    engine = recording(create_engine)
    for script in several:
        run_to_the_end(engine, script, budget)
    effects = take_effects(engine)
    assert take_effects(engine) == []
    assert not engine.has_batches
    again = create_engine()
    for each in effects:
        assert each.lines.count(b"\n") == each.change_count
        run_to_the_end(again, each.lines)
        assert again.revision == each.revision
    assert again.items() == engine.items()


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_command_without_enough_memory_is_the_first_that_is_not_told_of(
    monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Whoever goes on from there carries out none of those before it a second time."""
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
    [told] = take_effects(engine)
    assert told.lines == b"".join(writes[: at + 1])
    assert (told.change_count, told.offset) == (len(told.lines) // len(writes[0]), 1000 + ends[at])
    assert told.output == b"".join(b"[(a,%d)]\n" % number for number in range(at))


@given(scripts(), st.sampled_from([0, 1, 30, 65536]))
def test_marked_effects_tell_how_far_a_job_came_and_all_that_it_wrote(
    create_engine: NewEngine, script: bytes, budget: int
) -> None:
    """Whoever goes on from any of them, with what was written by then, gets the same in the end."""
    engine = recording(create_engine)
    output, offset = b"", 0
    told = b""
    while offset < len(script):
        pause = engine.execute(script, offset, budget, JobCursor(7, 1000))
        output += pause.output
        for each in take_effects(engine):
            assert each.job == 7
            assert offset <= each.offset - 1000 <= pause.offset
            told += each.output
            assert output.startswith(told)
            revision = each.revision
        assert revision == pause.revision == engine.revision
        if pause.uncheckpointed_output is not None:
            told += pause.uncheckpointed_output
        else:
            assert each.offset == 1000 + pause.offset
        assert told == output
        offset = pause.offset


def test_a_wait_a_show_and_a_backup_are_not_told_as_carried_out(create_engine: NewEngine) -> None:
    engine = recording(create_engine)
    script = b"WRITE [(a,1)]\nREAD [a]\nSHOW\nWAIT 5\nDELETE [b]\nBACKUP\n"
    expected = [
        (StopReason.BUDGET, b"[(a,1)]\n(a, 1)\n", b"(a, 1)\n", 23, b"[(a,1)]\n"),
        (StopReason.WAIT, b"Waiting...\n", b"Waiting...\n", 28, b""),
        (StopReason.BACKUP, b"[(b,KVSMISSING)]\n", b"", 46, b"[(b,KVSMISSING)]\n"),
    ]
    offset = 0
    for reason, output, untold, told_offset, told_output in expected:
        pause = engine.execute(script, offset, 65536, JobCursor(1, 0))
        assert (pause.reason, pause.output, pause.uncheckpointed_output) == (reason, output, untold)
        [effects] = take_effects(engine)
        assert (effects.offset, effects.output) == (told_offset, told_output)
        offset = pause.offset
    assert offset == len(script)


def test_what_is_neither_watched_nor_recorded_has_no_effects(create_engine: NewEngine) -> None:
    engine = create_engine()
    run_to_the_end(engine, b"WRITE [(a,1)(b,2)]\nDELETE [a]\nREAD [a]\n", job=1)
    assert not engine.has_batches
    assert take_effects(engine) == []


def test_watched_keys_are_told_until_the_last_watch_ends(create_engine: NewEngine) -> None:
    engine = create_engine()
    assert not engine.watch(b"a", 7)
    run_to_the_end(engine, b"WRITE [(b,1)(a,2)(a,3)]\n")
    assert engine.watch(b"a", 8)
    run_to_the_end(engine, b"DELETE [b,a,a]\nDELETE [a]\nWRITE [(a,4)]\n")
    engine.unwatch(b"a")
    engine.replace({b"a": b"5", b"c": b"6"})
    engine.unwatch(b"a")
    run_to_the_end(engine, b"DELETE [a]\n")
    assert [(each.marker, list(each.changes)) for each in take_effects(engine)] == [
        (7, []),
        (0, [(b"a", b"3")]),
        (8, []),
        (0, [(b"a", None), (b"a", b"4")]),
        (0, [(b"a", b"5")]),
    ]
    assert not engine.has_batches


def test_an_instant_lists_everything_and_brings_the_effects_up_to_it(
    create_engine: NewEngine,
) -> None:
    engine = recording(create_engine)
    run_to_the_end(engine, b"WRITE [(b,2)(a,1)]\nWRITE [(c,3)]\n")
    seen: list[tuple[int, int, bytes]] = []
    effects: list[ChangeBatch] = []

    def look(instant: TableView) -> None:
        again = create_engine()
        run_to_the_end(again, b"".join(instant.writes()))
        assert again.items() == engine_pairs
        effects.extend(take_effects(engine))
        seen.append((instant.revision, len(instant), b"".join(instant.listing())))

    engine_pairs = engine.items()
    engine.with_locked_view(look)
    assert [each.revision for each in effects] == [2]
    assert seen == [(2, 3, b"(a, 1)\n(b, 2)\n(c, 3)\n")]


def test_within_an_instant_no_other_thread_adds_effects(create_engine: NewEngine) -> None:
    engine = recording(create_engine)
    script = b"READ [a]\nREAD [b]\n"
    thread = threading.Thread(target=lambda: engine.execute(script, 0, 65536, JobCursor(7, 0)))

    def look(_instant: TableView) -> None:
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert not engine.has_batches

    engine.with_locked_view(look)
    thread.join(SECONDS)
    [effects] = take_effects(engine)
    assert (effects.job, effects.offset) == (7, len(script))


def test_effects_of_many_threads_come_in_the_one_order_of_changes(
    create_engine: NewEngine, often_switching: None
) -> None:
    engine = recording(create_engine)
    taken: list[ChangeBatch] = []
    taking = threading.Lock()

    def work(number: int) -> None:
        for index in range(200):
            engine.execute(b"WRITE [(k,%d-%d)]\nDELETE [x]\n" % (number, index), 0, 65536)
            with taking:
                taken.extend(take_effects(engine))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.revision for each in taken] == list(range(1, 801))
    again = create_engine()
    for each in taken:
        run_to_the_end(again, each.lines)
    assert again.items() == engine.items()
