"""The table: pairs in, pairs out, in the order of their keys' bytes."""

from hypothesis import given
from hypothesis import strategies as st

from kvs.table import Table, ordered


@given(st.dictionaries(st.binary(min_size=1, max_size=5), st.binary(max_size=3)))
def test_pairs_come_out_in_byte_order_of_the_keys(pairs: dict[bytes, bytes]) -> None:
    table = Table(pairs)
    assert sorted(table.pairs()) == ordered(table.pairs())
    assert [key for key, _ in ordered(table.pairs())] == sorted(pairs)
    assert dict(table.pairs()) == pairs


def test_a_listing_is_of_its_instant() -> None:
    table = Table({b"a": b"1"})
    before = table.pairs()
    table[b"b"] = b"2"
    assert before == [(b"a", b"1")]
