"""The form of output, to the byte."""

from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.language import grammar, output_format
from kvs.language.output_format import (
    MAX_BLOCK_BYTES,
    PAIRS_PER_BLOCK,
    PAIRS_PER_WRITE,
    format_changes,
    format_clear,
    format_listing,
    format_writes,
)

keys = st.one_of(
    st.sampled_from([b"a", b"KVSERROR", b'"', b"x y"]), st.binary(min_size=1, max_size=60)
)
values = st.one_of(st.sampled_from([b"", b"KVSERROR", b"KVSMISSING", b"1"]), st.binary(max_size=60))
times = st.none() | st.integers(0, 10**15 - 1)


def kind_of_line(line: bytes) -> int | None:
    """Return the kind of a whole line, which must end with a newline."""
    match = grammar.LINE.fullmatch(line)
    assert match is not None, line
    return grammar.kind_of(match)


def test_stored_word_of_an_answer_is_quoted_as_a_value_only() -> None:
    pairs = [(b"KVSERROR", b"KVSERROR"), (b"KVSMISSING", b"KVSMISSING")]
    assert list(format_writes(pairs)) == [
        b'WRITE [(KVSERROR,"KVSERROR")(KVSMISSING,"KVSMISSING")]\n'
    ]


def test_words_that_cannot_be_plain_are_quoted() -> None:
    pairs = [(b"a b", b""), (b'"', b'x"y')]
    assert list(format_writes(pairs)) == [b'WRITE [("a b","")("\\"",x"y)]\n']
    pairs = [(b"\t", b"\\\r\n\0\x01")]
    assert list(format_writes(pairs)) == [b'WRITE [("\t","\\\\\\r\\n\\0\x01")]\n']


@pytest.mark.parametrize("count", [1, PAIRS_PER_BLOCK, PAIRS_PER_BLOCK + 1, 3 * PAIRS_PER_BLOCK])
def test_listing_has_one_line_per_pair_across_blocks(count: int) -> None:
    pairs = [(b"k%d" % number, b"v") for number in range(count)]
    expected = b"".join(b"(%b, v)\n" % key for key, _ in pairs)
    assert b"".join(format_listing(pairs)) == expected


def test_listing_of_no_pairs_has_no_blocks() -> None:
    assert list(format_listing([])) == list(format_listing([], {b"a": 1})) == []


def test_listing_shows_expiries_only_if_asked() -> None:
    pairs = [(b"a", b"1"), (b"b c", b""), (b"d", b"KVSERROR")]
    without = b'(a, 1)\n("b c", "")\n(d, "KVSERROR")\n'
    assert b"".join(format_listing(pairs)) == b"".join(format_listing(pairs, {})) == without
    listed = b"".join(format_listing(pairs, {b"b c": 0, b"d": 12}))
    assert listed == b'(a, 1)\n("b c", "") UNTIL 0\n(d, "KVSERROR") UNTIL 12\n'


def test_blocks_of_great_values_are_bounded() -> None:
    pairs = [(b"k%d" % number, b"v" * (MAX_BLOCK_BYTES // 3)) for number in range(50)]
    pairs[7] = (b"k7", b"w" * (3 * MAX_BLOCK_BYTES))
    blocks = list(format_listing(pairs))
    assert b"".join(blocks) == b"".join(b"(%b, %b)\n" % pair for pair in pairs)
    lines = list(format_writes(pairs))
    assert b"".join(lines).count(b"(") == 50
    for parts in (blocks, lines):
        assert sorted(map(len, parts))[-2] < MAX_BLOCK_BYTES + 100
        assert max(map(len, parts)) < 3 * MAX_BLOCK_BYTES + 100


@given(st.dictionaries(keys, st.tuples(values, times), max_size=6))
def test_writes_set_pairs_and_expiries(
    pairs: dict[bytes, tuple[bytes, int | None]],
) -> None:
    expiries = {key: time for key, (_, time) in pairs.items() if time is not None}
    written: dict[bytes, tuple[bytes, int | None]] = {}
    for line in format_writes(((key, value) for key, (value, _) in pairs.items()), expiries):
        assert kind_of_line(line) in {grammar.WRITE, grammar.STEPS}
        (step,) = grammar.parse_steps(line[:-1]).steps
        for key, value in zip(step.keys, step.values, strict=True):
            written[key] = value, step.until
    assert written == pairs


def test_writes_with_equal_time_share_a_line() -> None:
    pairs = [(b"a", b"1"), (b"b", b"2"), (b"c", b"3"), (b"d", b"4")]
    lines = list(format_writes(pairs, {b"a": 5, b"c": 5, b"d": 6}))
    assert lines == [
        b"WRITE [(a,1)(c,3)] UNTIL 5\n",
        b"WRITE [(b,2)]\n",
        b"WRITE [(d,4)] UNTIL 6\n",
    ]
    many = [(b"k%d" % number, b"v") for number in range(PAIRS_PER_WRITE + 1)]
    assert [line.count(b"(") for line in format_writes(many)] == [PAIRS_PER_WRITE, 1]


def test_neighbours_of_the_same_kind_and_time_share_a_step() -> None:
    changes = [
        (b"k", b"v", None),
        (b"k2", b"v 2", None),
        (b"k3", b"v", 123),
        (b"k4", None, None),
        (b"k,5", None, None),
        (b"k6", b"KVSERROR", None),
    ]
    assert format_changes(changes) == (
        b'WRITE [(k,v)(k2,"v 2")] WRITE [(k3,v)] UNTIL 123 DELETE [k4,"k,5"] '
        b'WRITE [(k6,"KVSERROR")]\n'
    )


@given(st.lists(st.tuples(keys, values | st.none(), times), min_size=1, max_size=6))
def test_line_of_changes_has_the_changes_in_order(
    changes: list[tuple[bytes, bytes | None, int | None]],
) -> None:
    changes = [(key, value, None if value is None else time) for key, value, time in changes]
    line = format_changes(changes)
    assert kind_of_line(line) in {grammar.WRITE, grammar.DELETE, grammar.STEPS}
    found = [
        (key, value, step.until)
        for step in grammar.parse_steps(line[:-1]).steps
        for key, value in zip_longest(step.keys, step.values)
    ]
    assert found == changes


def test_clear_names_prefixes_in_order() -> None:
    assert format_clear([b"b", b"", b"a b", b"KVSERROR"]) == b'CLEAR [b,"","a b",KVSERROR]\n'


def test_help_lists_every_command_in_80_columns() -> None:
    lines = output_format.HELP.decode("ascii").splitlines()
    assert {line.split()[0] for line in lines} >= {*grammar.COMMANDS, "#"}
    assert max(map(len, lines)) <= 80
