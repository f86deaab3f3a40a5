"""The Python engine: its view of all pairs, replaced pairs, stale entries, output of changes."""

import itertools
from collections.abc import Callable
from functools import partial

import pytest

from kvs.engine import python
from kvs.engine.interface import NO_EXPIRY, JobCursor
from kvs.engine.python import STALE_ENTRIES, PythonEngine
from tests.engine.engines import run, take_batches
from tests.opcodes import Interrupted, at_opcode, raise_interrupted


def test_views_and_counts_agree_with_the_pairs() -> None:
    engine = PythonEngine()
    assert engine.replace({b"b": b"22", b"a": b"1"}) == engine.revision == 1
    run(engine, b"WRITE [(c,3)]\nDELETE [a]\n")
    assert (len(engine), engine.revision) == (2, 3)
    assert engine.items() == [(b"b", b"22"), (b"c", b"3")]
    assert engine.get([b"c", b"a"]) == [b"3", None]
    seen: list[tuple[int, int, bytes, bytes]] = []
    engine.with_locked_view(
        lambda view: seen.append(
            (view.revision, len(view), b"".join(view.listing()), b"".join(view.writes()))
        )
    )
    assert seen == [(3, 2, b"(b, 22)\n(c, 3)\n", b"WRITE [(b,22)(c,3)]\n")]


def test_replaced_pairs_are_changes_of_watched_keys() -> None:
    engine = PythonEngine()
    run(engine, b"WRITE [(a,1)(b,1)]\n")
    assert [engine.watch(key) for key in (b"a", b"b", b"c", b"d")] == [True, True, False, False]
    engine.unwatch(b"b")
    engine.replace({b"b": b"2", b"c": b"3"})
    [batch] = take_batches(engine)
    assert (batch.changes, batch.revision) == ([(b"a", None), (b"c", b"3")], 2)


def test_stale_entries_are_removed_from_time_to_time() -> None:
    engine = PythonEngine()
    longest = 0
    for number in range(5000):
        run(engine, b"WRITE [(k%d,1)] UNTIL %d\n" % (number % 300, 10_000 - number))
        longest = max(longest, len(engine._table.expiry_heap))
    assert 300 < longest <= 2 * 300 + STALE_ENTRIES + 1
    assert engine.next_expiry == 5001
    for number in range(300):
        assert engine.expire(5001 + number, 9) == 1
    assert (len(engine), engine.next_expiry) == (0, NO_EXPIRY)
    assert engine._table.expiry_heap == []


@pytest.mark.parametrize(
    ("line", "output"),
    [
        (b"DELETE [a,b]\n", b"[(b,KVSMISSING)]\n"),
        (b"CLEAR [a]\n", b"1\n"),
        (b"WRITE [(a,2)] READ [a]\n", b"[(a,2)]\n"),
    ],
)
def test_batch_of_change_has_output_of_its_line(
    monkeypatch: pytest.MonkeyPatch, line: bytes, output: bytes
) -> None:
    """A job resumed from a batch that another thread moved at once loses no output."""
    monkeypatch.setattr(python, "merge_batches", list)
    engine = PythonEngine()
    engine.start_recording(0)
    run(engine, b"WRITE [(a,1)]\n")
    take_batches(engine)
    script = b"READ [q]\n" + line + b"READ [r]\n"
    engine.execute(script, 0, 65536, JobCursor(1, 0))
    assert [(batch.offset, batch.output) for batch in take_batches(engine)] == [
        (len(script) - 9, b"[(q,KVSERROR)]\n" + output),
        (len(script), b"[(r,KVSERROR)]\n"),
    ]


at_engine_opcode = partial(at_opcode, places=("/kvs/engine/", "/kvs/concurrency/"), handling=True)

LINE = b"IF [(a,KVSERROR)] WRITE [(a,1)] UNTIL 3 ADD [(b,1)] UNTIL 2 DELETE [c] WRITE [(d,1)]"
BEFORE = b"(c, 1) UNTIL 5\n(e, 1) UNTIL 4\n"
AFTER = b"(a, 1) UNTIL 3\n(b, 1) UNTIL 2\n(d, 1)\n(e, 1) UNTIL 4\n"


def at_each_opcode(
    work: Callable[[PythonEngine], object], act: Callable[[PythonEngine], object], step: int
) -> list[PythonEngine]:
    """Return recording engines; in each, `act` disturbed `work` at another bytecode."""
    engines = []
    for number in itertools.count(step=step):
        engine = PythonEngine()
        engine.start_recording(0)
        run(engine, b"WRITE [(c,1)] UNTIL 5 WRITE [(e,1)] UNTIL 4\n")
        try:
            if not at_engine_opcode(number, partial(act, engine), partial(work, engine)):
                break
        except Interrupted:
            pass
        engines.append(engine)
    assert len(engines) > 100
    return engines


def require_consistent(engine: PythonEngine) -> None:
    """Require that a replay gives the same pairs, and that each pair expires in its turn."""
    replica = PythonEngine()
    batches = take_batches(engine)
    for batch in batches:
        run(replica, batch.lines)
    assert run(replica, b"SHOW UNTIL") == run(engine, b"SHOW UNTIL")
    assert replica.revision == engine.revision == sum(batch.change_count for batch in batches)
    for until in range(1, 10):
        assert engine.expire(until, 9) == replica.expire(until, 9)
        assert engine.next_expiry == replica.next_expiry > until
    assert engine.next_expiry == NO_EXPIRY


@pytest.mark.slow
def test_exception_at_any_bytecode_leaves_line_whole() -> None:
    shown = []
    for engine in at_each_opcode(partial(run, script=LINE), lambda _: raise_interrupted(), 2):
        shown.append(run(engine, b"SHOW UNTIL"))
        require_consistent(engine)
    assert list(dict.fromkeys(shown)) == [BEFORE, AFTER]


@pytest.mark.slow
def test_exception_at_any_bytecode_of_expire_loses_no_pair() -> None:
    def work(engine: PythonEngine) -> None:
        run(engine, LINE)
        engine.expire(3, 9)
        run(engine, b"EXPIRE 4")

    left = set()
    for engine in at_each_opcode(work, lambda _: raise_interrupted(), 3):
        left.add(len(engine))
        require_consistent(engine)
    assert left == {2, 4, 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        b"DELETE [a,c]",
        b"ADD [(b,5)(z,1)] UNTIL 7",
        b"EXPIRE 4",
        b"CLEAR [b,e]",
        b"IF [(a,1)] WRITE [(e,2)]",
    ],
)
def test_line_within_another_is_before_or_after_it(line: bytes) -> None:
    """As a signal handler or a finalizer executes it."""
    expected = []
    for first, second in ((line, LINE), (LINE, line)):
        engine = PythonEngine()
        run(engine, b"WRITE [(c,1)] UNTIL 5 WRITE [(e,1)] UNTIL 4\n%b\n%b" % (first, second))
        expected.append(run(engine, b"SHOW UNTIL"))
    found = []
    for engine in at_each_opcode(partial(run, script=LINE), partial(run, script=line), 5):
        found.append(run(engine, b"SHOW UNTIL"))
        require_consistent(engine)
    assert list(dict.fromkeys(found)) == list(dict.fromkeys(expected))
