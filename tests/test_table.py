"""The table: pairs in, pairs out, in the order of their keys' bytes."""

from hypothesis import given
from hypothesis import strategies as st

from kvs.table import Table, ordered


@given(st.dictionaries(st.binary(min_size=1, max_size=5), st.binary(max_size=3)))
def test_pairs_come_out_in_byte_order_of_the_keys(pairs: dict[bytes, bytes]) -> None:
    table = Table(pairs)
    assert ordered(table) == sorted(pairs.items())
    assert dict(ordered(table)) == pairs


def test_a_copy_is_of_its_instant() -> None:
    table = Table({b"a": b"1"})
    before = table.copy()
    table[b"b"] = b"2"
    assert ordered(before) == [(b"a", b"1")]
