"""The lines of a restore."""

from kvs.engine.selection import create_engine
from kvs.journal.format import RESTORE
from kvs.store.restoring import LONG_BYTES, RestoreLines


def test_lines_are_the_same_each_time() -> None:
    lines = RestoreLines({b"a": b"1", b"b": b"2"}, {})
    assert list(lines) == list(lines) == [RESTORE, b"WRITE [(a,1)(b,2)]\n"]


def test_long_value_is_not_copied() -> None:
    value = b"v" * LONG_BYTES
    pairs = {b"a b": value, b"c": value[1:], b"d": b'"' * LONG_BYTES}
    lines = RestoreLines(pairs, {b"a b": 5})
    assert any(piece is value for piece in lines)
    text = b"".join(lines)
    engine = create_engine()
    engine.execute(text, 0, len(text))
    assert engine.items() == sorted(pairs.items())
    assert engine.next_expiry == 5


def test_no_pairs_are_no_lines() -> None:
    assert list(RestoreLines({}, {})) == []
