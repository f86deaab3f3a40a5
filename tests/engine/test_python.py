"""The table of the Python engine."""

from hypothesis import given
from hypothesis import strategies as st

from kvs.engine.python import Table, ordered


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
