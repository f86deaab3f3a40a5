"""The Python engine: its table, its view of all pairs, and the replacement of all."""

from hypothesis import given
from hypothesis import strategies as st

from kvs.engine.python import PythonEngine, Table, ordered
from tests.engine.engines import run, take_batches


@given(st.dictionaries(st.binary(min_size=1, max_size=5), st.binary(max_size=3)))
def test_ordered_sorts_pairs_by_bytes_of_keys(pairs: dict[bytes, bytes]) -> None:
    table = Table(pairs)
    assert ordered(table) == sorted(pairs.items())
    assert dict(ordered(table)) == pairs


def test_copy_does_not_change_with_table() -> None:
    table = Table({b"a": b"1"})
    before = table.copy()
    table[b"b"] = b"2"
    assert ordered(before) == [(b"a", b"1")]


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
