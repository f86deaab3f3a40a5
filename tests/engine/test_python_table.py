"""The table of the Python engine: order and selection of pairs, and which are due."""

from hypothesis import given
from hypothesis import strategies as st

from kvs.engine.python_table import Table, ordered, select, until_of, value_until, word_of

short_words = st.binary(min_size=1, max_size=3)


@given(st.dictionaries(st.binary(min_size=1, max_size=5), st.binary(max_size=3), max_size=20))
def test_ordered_sorts_pairs_by_bytes_of_keys(pairs: dict[bytes, bytes]) -> None:
    table = Table(pairs)
    assert ordered(table) == sorted(pairs.items())
    assert dict(ordered(table)) == pairs


def test_copy_does_not_change_with_table() -> None:
    table = Table({b"a": b"1"})
    before = table.copy()
    table[b"b"] = b"2"
    assert ordered(before) == [(b"a", b"1")]


@given(
    st.lists(st.integers(0, 999).map(lambda number: b"%03d" % number), max_size=20),
    st.lists(st.sampled_from([b"", b"1", b"12", b"123", b"9"]), max_size=5),
    st.one_of(st.none(), st.sampled_from([b"", b"12", b"500", b"5001"])),
    st.one_of(st.none(), st.integers(0, 9)),
)
def test_select_is_a_filter_of_ordered_pairs(
    keys: list[bytes], prefixes: list[bytes], after: bytes | None, limit: int | None
) -> None:
    table = Table(dict.fromkeys([*keys, *(b"%03d" % number for number in range(0, 999, 7))], b"v"))
    expected = [
        (key, value)
        for key, value in sorted(table.items())
        if (after is None or key > after)
        and (not prefixes or any(key.startswith(prefix) for prefix in prefixes))
    ]
    assert select(table, prefixes, after, limit) == expected[:limit]


def test_value_keeps_its_spelling_and_its_time() -> None:
    value = value_until(b'"x y"', 5)
    assert (value, until_of(value), word_of(value)) == (b'"x y"', 5, b"x y")
    without = value_until(value, None)
    assert (type(without), until_of(without)) == (bytes, None)
    assert type(word_of(value_until(b"x", 0))) is bytes
    assert until_of(value_until(b"x", 0)) == 0
    assert (word_of(None), until_of(None)) == (None, None)


@given(
    st.lists(st.tuples(short_words, st.integers(0, 9)), max_size=20),
    st.integers(0, 9),
    st.integers(0, 9),
)
def test_pairs_due_are_the_earliest(written: list[tuple[bytes, int]], now: int, limit: int) -> None:
    """Times that were replaced leave stale entries, which are skipped."""
    table = Table({key: value_until(b"v", until) for key, until in reversed(written)})
    for key, until in written:
        table.expiry_heap += table.new_entries({key: value_until(b"v", until)})
        table.expiry_heap.sort()
        table[key] = value_until(b"v", until)
    due = sorted((until, key) for key, until in dict(written).items() if until <= now)
    assert table.keys_due(now, None) == [key for _, key in due]
    assert table.keys_due(now, limit) == [key for _, key in due[:limit]]


def test_pair_that_has_its_entry_gets_no_other() -> None:
    table = Table({b"a": value_until(b"1", 5), b"b": b"1"})
    written = {b"a": value_until(b"2", 5), b"b": value_until(b"2", 6), b"c": b"3"}
    assert table.new_entries(written) == [(6, b"b")]
