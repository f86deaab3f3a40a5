"""Every engine: change batches are complete, in order, and moved once."""

import threading
import time
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.engine import python, python_line
from kvs.engine.interface import (
    MAX_UNTIL,
    NO_EXPIRY,
    ChangeBatch,
    Engine,
    JobCursor,
    StopReason,
    TableView,
)
from kvs.engine.selection import COMPILED, PYTHON
from kvs.language.grammar import spell_value
from tests.engine.engines import NewEngine, engine_called, run, take_batches
from tests.helpers import SECONDS
from tests.strategies import engine_scripts


@pytest.fixture(scope="module", params=[PYTHON, COMPILED])
def create_engine(request: pytest.FixtureRequest) -> NewEngine:
    """Return the class of each engine in turn."""
    return engine_called(request.param)


def recording(create_engine: NewEngine) -> Engine:
    engine = create_engine()
    engine.start_recording(0)
    return engine


@given(st.lists(engine_scripts, max_size=4), st.sampled_from([0, 1, 30, 65536]))
@pytest.mark.slow
def test_replayed_lines_give_same_pairs_and_expiries(
    create_engine: NewEngine, scripts_in_order: list[bytes], budget: int
) -> None:
    engine = recording(create_engine)
    for number, script in enumerate(scripts_in_order):
        run(engine, script, budget)
        engine.expire(number, 2)
    batches = take_batches(engine)
    assert take_batches(engine) == []
    assert not engine.has_batches
    replica, other = create_engine(), recording(create_engine)
    for batch in batches:
        assert batch.lines.count(b"\n") == batch.change_count
        for target in (replica, other):
            assert replica.check(batch.lines).diagnostics == []
            run(target, batch.lines)
            assert target.revision == batch.revision
    for target in (replica, other):
        assert run(target, b"SHOW UNTIL") == run(engine, b"SHOW UNTIL")
        assert target.next_expiry == engine.next_expiry
    lines = b"".join(batch.lines for batch in batches)
    assert b"".join(batch.lines for batch in take_batches(other)) == lines


@pytest.mark.parametrize("size", [1, 63, 64, 65, 128, 200])
def test_bytes_that_need_an_escape_get_one_at_any_place(
    create_engine: NewEngine, size: int
) -> None:
    engine = create_engine()
    for at in range(size):
        for byte in b'"\\\n\r\0':
            word = bytearray(b" " * size)
            word[at] = byte
            spelling = spell_value(bytes(word))
            output = run(engine, b"WRITE [(k,%b)] READ [k]\nSHOW\n" % spelling)
            assert output == b"[(k,%b)]\n(k, %b)\n" % (spelling, spelling)
            assert engine.get([b"k"]) == [bytes(word)]


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_checkpoint_ends_before_command_that_ran_out_of_memory(
    monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """A job resumed from the checkpoint executes no command a second time."""
    real, left = python_line.format_answer, at

    def format_answer(keys: Sequence[bytes], values: Sequence[bytes]) -> bytes:
        nonlocal left
        if left == 0:
            raise MemoryError
        left -= 1
        return real(keys, values)

    monkeypatch.setattr(python, "format_answer", format_answer)
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


@given(engine_scripts, st.sampled_from([0, 1, 30, 65536]))
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


def test_records_are_canonical_but_for_plain_writes(create_engine: NewEngine) -> None:
    lines = [
        (b'WRITE [ ("a" , 1) ]\r', b'WRITE [ ("a" , 1) ]\r'),
        (b"WRITE[(a,1)]UNTIL 07", b"WRITE [(a,1)] UNTIL 7"),
        (b'DELETE [ "a" , q, a ]', b"DELETE [a]"),
        (b'ADD[(n,"5")]', b"WRITE [(n,5)]"),
        (b"IF [(n,5)] WRITE [(b,x)]", b"WRITE [(b,x)]"),
        (b"DELETE [z,n] WRITE [(y,1)(z,2)]", b"WRITE [(z,2)] DELETE [n] WRITE [(y,1)]"),
        (b"WRITE [(e,1)] DELETE [e]", b""),
        (b"IF [(b,y)] WRITE [(b,1)]", b""),
        (b"DELETE [b,y] DELETE [z]", b"DELETE [b,y,z]"),
        (b"WRITE [(b,1)] UNTIL 5 ADD [(b,1)(a,1)] UNTIL 6 ADD [(b,1)]",
         b"WRITE [(b,3)(a,1)] UNTIL 6"),
        (b"WRITE [(x y,1)]", b""),
        (b'CLEAR [ q, "x\\x20y", "\\x61" ]', b'CLEAR [q,"x y",a]'),
        (b"CLEAR [q]", b""),
        (b"WRITE [(d,1)(c,1)] UNTIL 0", b"WRITE [(d,1)(c,1)] UNTIL 0"),
        (b"EXPIRE 5", b"DELETE [c,d]"),
        (b"EXPIRE 5", b""),
    ]  # fmt: skip
    engine = recording(create_engine)
    for line, record in lines:
        engine.execute(line, 0, 65536)
        found = b"".join(batch.lines for batch in take_batches(engine))
        assert found == (record + b"\n" if record else b""), line
    assert engine.revision == sum(record != b"" for _, record in lines)


def test_changes_of_line_are_net_and_raw(create_engine: NewEngine) -> None:
    engine = create_engine()
    for key in (b"a", b"b", b"c d"):
        engine.watch(key)
    run(engine, b'WRITE [("c d","x\\n")(a,1)] DELETE [b] WRITE [(b,2)] WRITE [(a,"")] UNTIL 9\n')
    run(engine, b"ADD [(b,1)] WRITE [(q,1)] DELETE [b]\nCLEAR [c,b,a]\n")
    changes = [change for batch in take_batches(engine) for change in batch.changes]
    assert changes == [
        *[(b"c d", b"x\n"), (b"a", b""), (b"b", b"2")],
        *[(b"b", None), (b"a", None), (b"c d", None)],
    ]


def test_for_counts_from_now(create_engine: NewEngine) -> None:
    engine = create_engine()
    before = time.time_ns() // 1_000_000
    run(engine, b"WRITE [(a,1)] FOR 1000 ADD [(b,1)] FOR 1000\n")
    after = time.time_ns() // 1_000_000
    until = engine.next_expiry
    assert before + 1000 <= until <= after + 1000
    assert run(engine, b"SHOW UNTIL") == b"(a, 1) UNTIL %d\n(b, 1) UNTIL %d\n" % (until, until)
    run(engine, b"WRITE [(a,1)(b,1)] FOR 999999999999999\n")
    assert engine.next_expiry == MAX_UNTIL


def test_pairs_expire_when_told_and_not_before(create_engine: NewEngine) -> None:
    engine = recording(create_engine)
    assert engine.next_expiry == NO_EXPIRY
    run(engine, b"WRITE [(a,1)(b,1)(c,1)(d,1)] UNTIL 5 WRITE [(e,1)] UNTIL 4 WRITE [(f,1)]\n")
    assert run(engine, b"READ [a]") == b"[(a,1)]\n"
    run(engine, b"WRITE [(a,2)] ADD [(b,1)] WRITE [(c,1)] UNTIL 6\nDELETE [d]\nWRITE [(d,3)]\n")
    take_batches(engine)
    assert (engine.next_expiry, engine.expire(3, 9)) == (4, 0)
    assert not engine.has_batches
    assert (engine.expire(6, 1), engine.next_expiry) == (1, 5)
    assert (engine.expire(5, 9), engine.next_expiry) == (1, 6)
    assert (engine.expire(6, 9), engine.next_expiry) == (1, NO_EXPIRY)
    assert engine.items() == [(b"a", b"2"), (b"d", b"3"), (b"f", b"1")]
    lines = b"".join(batch.lines for batch in take_batches(engine))
    assert lines == b"DELETE [e]\nDELETE [b]\nDELETE [c]\n"


def test_clear_of_every_pair_is_one_change(create_engine: NewEngine) -> None:
    engine = recording(create_engine)
    for key in (b"w", b"q", b"missing"):
        engine.watch(key)
    value = b"v" * 20_000
    run(engine, b"WRITE [(q,%s)(w,1)] UNTIL 5\nWRITE [(a,1)]\n" % value)
    take_batches(engine)
    before = engine.revision
    script = (
        b'WRITE [(b,1)]\nREAD [q]\nCLEAR ["",k]\nCOUNT\nCLEAR [""]\nWRITE [(a,2)]\nREAD [a,q]\n'
    )
    output = run(engine, script)
    assert output == b"[(q,%s)]\n4\n0\n0\n[(a,2)(q,KVSERROR)]\n" % value
    assert (engine.revision - before, len(engine), engine.next_expiry) == (3, 1, NO_EXPIRY)
    batches = take_batches(engine)
    assert b"".join(batch.lines for batch in batches) == (
        b'WRITE [(b,1)]\nCLEAR ["",k]\nWRITE [(a,2)]\n'
    )
    assert [change for batch in batches for change in batch.changes] == [
        (b"q", None),
        (b"w", None),
    ]


def test_clear_of_every_pair_leaves_a_view_valid(create_engine: NewEngine) -> None:
    engine = recording(create_engine)
    run(engine, b"WRITE [(a,1)]\n")
    lengths = []

    def clear(view: TableView) -> None:
        lengths.append(len(view))
        run(engine, b'CLEAR [""]\nWRITE [(b,1)(c,1)]\n')
        lengths.append(len(engine))

    engine.with_locked_view(clear)
    assert lengths == [1, 2]
    assert engine.items() == [(b"b", b"1"), (b"c", b"1")]


def test_limit_of_expire_removes_the_earliest_of_equal_times(create_engine: NewEngine) -> None:
    engine = recording(create_engine)
    groups = {until: {b"%d-%d" % (until, i) for i in range(7)} for until in (3, 1, 2)}
    for until, keys in groups.items():
        pairs = b"".join(b"(%s,v)" % key for key in sorted(keys, reverse=True))
        run(engine, b"WRITE [%s] UNTIL %d\n" % (pairs, until))
    for limit, left in ((5, [2, 7, 7]), (9, [0, 0, 7]), (7, [0, 0, 0])):
        assert engine.expire(3, limit) == limit
        keys_left = {key for key, _ in engine.items()}
        assert [len(keys_left & groups[until]) for until in (1, 2, 3)] == left
    for batch in take_batches(engine)[-3:]:
        removed = batch.lines.removeprefix(b"DELETE [").removesuffix(b"]\n").split(b",")
        assert removed == sorted(removed)


def test_replaced_pairs_may_expire(create_engine: NewEngine) -> None:
    engine = create_engine()
    run(engine, b"WRITE [(a,1)] UNTIL 5\n")
    engine.replace({b"b": b"", b"c": b"KVSERROR", b"x y": b"1"}, {b"c": 7})
    assert engine.next_expiry == 7
    shown = b'(b, "")\n(c, "KVSERROR") UNTIL 7\n("x y", 1)\n'
    assert run(engine, b"SHOW UNTIL") == shown
    assert engine.get([b"c", b"b", b"a"]) == [b"KVSERROR", b"", None]


def test_items_take_the_arguments_of_show(create_engine: NewEngine) -> None:
    engine = create_engine()
    keys = [b"%02d" % number for number in range(50)]
    engine.replace(dict.fromkeys(keys, b"v"))

    def found(
        prefixes: Sequence[bytes] = (), after: bytes | None = None, limit: int | None = None
    ) -> list[bytes]:
        keys_found = [key for key, _ in engine.items(prefixes, after, limit)]
        assert engine.keys(prefixes, after, limit) == keys_found
        return keys_found

    assert found() == found([b""]) == found([b"", b"1"]) == keys
    assert found([b"1", b"12", b"4"]) == keys[10:20] + keys[40:]
    assert found(after=b"09") == found(after=b"0999") == keys[10:]
    assert found(after=b"", limit=3) == found(limit=3) == keys[:3]
    assert found([b"2", b"1"], b"15", 5) == keys[16:21]
    assert found(limit=0) == found([b"9"]) == found(after=b"49") == []


def test_keys_copy_no_value(create_engine: NewEngine) -> None:
    engine = create_engine()
    pairs = {b"%d" % number: b" " * (1 << 20) for number in range(8)}
    engine.replace(pairs)
    tracemalloc.start()
    try:
        assert engine.keys() == sorted(pairs)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 20


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


def test_view_has_expiries(create_engine: NewEngine) -> None:
    engine = create_engine()
    pairs = b"".join(b'(k%d,"\\\\ %d")' % (number, number) for number in range(1000))
    run(engine, b"WRITE [%b] UNTIL 9 WRITE [(k1,1)] WRITE [(k2,2)] UNTIL 8\n" % pairs)
    replica = create_engine()
    seen: list[bytes] = []

    def look(view: TableView) -> None:
        run(replica, b"".join(view.writes()))
        seen.extend([b"".join(view.listing()), b"".join(view.listing(expiries=True))])

    engine.with_locked_view(look)
    assert seen == [run(engine, b"SHOW"), run(engine, b"SHOW UNTIL")]
    assert run(replica, b"SHOW UNTIL") == seen[1]
    assert seen[1].count(b" UNTIL 9\n") == 998


def test_line_of_written_pairs_is_at_most_a_mebibyte(create_engine: NewEngine) -> None:
    engine = create_engine()
    engine.replace({b"k%d" % number: b"v" * 200_000 for number in range(20)} | {b"b": b"x" * 10**7})
    lines: list[bytes] = []
    engine.with_locked_view(lambda view: lines.extend(b"".join(view.writes()).splitlines()))
    sizes = sorted(map(len, lines))
    assert sizes[-2] < 1_300_000 < 10**7 < sizes[-1] < 10**7 + 1_300_000


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
