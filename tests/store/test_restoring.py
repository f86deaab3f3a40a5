"""The lines of a restore."""

from kvs.journal.format import RESTORE
from kvs.store.restoring import RestoreLines


def test_lines_are_the_same_each_time() -> None:
    lines = RestoreLines({b"a": b"1", b"b": b"2"}, {})
    assert list(lines) == list(lines) == [RESTORE, b"WRITE [(a,1)(b,2)]\n"]


def test_no_pairs_are_no_lines() -> None:
    assert list(RestoreLines({}, {})) == []
