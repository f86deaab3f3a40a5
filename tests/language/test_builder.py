"""Commands built from words, and words parsed from output: each is read back by the other."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.engine.interface import DEFAULT_BUDGET_BYTES
from kvs.engine.python import PythonEngine
from kvs.errors import InvalidValueError, InvalidWordError
from kvs.language.builder import (
    MAX_FOR_SECONDS,
    build_add,
    build_change,
    build_keys_command,
    build_show,
    build_write,
    encode_changes,
    encode_script,
    is_refused,
    parse_add_output,
    parse_delete_output,
    parse_read_output,
    parse_show_output,
    to_milliseconds,
    validate_keys,
)

keys = st.one_of(
    st.sampled_from([b"a", b"KVSERROR", b'"', b"x y", b"(", b")("]),
    st.binary(min_size=1, max_size=9),
)
values = st.one_of(st.sampled_from([b"", b"KVSERROR", b"KVSMISSING", b"1"]), st.binary(max_size=9))
pairs = st.dictionaries(keys, values, min_size=1, max_size=6)


def output_of(*commands: bytes) -> bytes:
    """Return the output of the commands in a new engine; no line may be invalid."""
    result = PythonEngine().execute(b"".join(commands), 0, DEFAULT_BUDGET_BYTES)
    assert result.diagnostics == []
    return result.output


@given(pairs)
def test_output_of_a_read_has_the_pairs_of_the_write(written: dict[bytes, bytes]) -> None:
    keys = [*written, b"m" * 40]  # the last one is missing
    output = output_of(build_write(written), build_keys_command(b"READ", keys))
    assert parse_read_output(output) == written
    assert not is_refused(output)


def test_stored_answer_is_told_from_a_missing_key() -> None:
    output = output_of(b'WRITE [(a,"KVSERROR")]\nREAD [a,b]\n')
    assert output == b'[(a,"KVSERROR")(b,KVSERROR)]\n'
    assert parse_read_output(output) == {b"a": b"KVSERROR"}


@given(pairs, keys)
def test_write_takes_effect_only_under_its_condition(
    stored: dict[bytes, bytes], key: bytes
) -> None:
    store = build_write(stored)
    holds = {**stored, key: stored.get(key)}
    differs = {**stored, key: b"other" if stored.get(key) != b"other" else None}
    written = {key: b"new"}
    read = build_keys_command(b"READ", [key])
    output = output_of(store, build_write(written, holds), read)
    assert parse_read_output(output) == written
    output = output_of(store, build_write(written, differs))
    assert is_refused(output)
    assert parse_read_output(output) == stored


def test_condition_without_pairs_is_only_tried() -> None:
    line = build_write({}, {b"a b": None, b"c": b"1"})
    assert line == b'IF [("a b",KVSERROR)(c,1)] READ ["a b"]\n'
    assert is_refused(output_of(line))


@given(pairs, st.dictionaries(keys, st.none() | values, min_size=1, max_size=6))
def test_change_writes_and_removes(
    stored: dict[bytes, bytes], changes: dict[bytes, bytes | None]
) -> None:
    line = build_change(changes.items(), dict(stored))
    names = [*stored, *changes]
    output = output_of(build_write(stored), line, build_keys_command(b"READ", names))
    expected = {**stored, **changes}
    found = parse_read_output(output.splitlines(keepends=True)[-1])
    assert found == {key: value for key, value in expected.items() if value is not None}
    assert build_change([], dict(stored)) == b""


def test_time_of_a_write_is_the_number_of_for() -> None:
    assert build_write({"a": ""}, for_ms=5) == b'WRITE [(a,"")] FOR 5\n'
    assert build_add([(b"a", -1)], for_ms=5) == b"ADD [(a,-1)] FOR 5\n"


@pytest.mark.parametrize(
    ("seconds", "milliseconds"),
    [(None, None), (1, 1000), (0.0015, 2), (1e-9, 1), (MAX_FOR_SECONDS, 10**14)],
)
def test_seconds_become_milliseconds(seconds: float | None, milliseconds: int | None) -> None:
    assert to_milliseconds(seconds) == milliseconds


@pytest.mark.parametrize("seconds", [0, -1, MAX_FOR_SECONDS * 1.01, float("nan"), float("inf")])
def test_time_that_is_no_time_is_rejected(seconds: float) -> None:
    with pytest.raises(ValueError, match="more than 0 seconds"):
        to_milliseconds(seconds)


numbers = st.lists(st.tuples(keys, st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=4)


@given(numbers)
def test_sums_or_the_first_that_does_not_fit_are_found(
    added: list[tuple[bytes, int]],
) -> None:
    output = output_of(build_add(added))
    sums: dict[bytes, int] = {}
    fits = True
    for key, number in added:
        sums[key] = sums.get(key, 0) + number
        fits = fits and -(2**63) <= sums[key] < 2**63
    if fits:
        assert parse_add_output(added, output) == sums
    else:
        with pytest.raises(InvalidValueError, match="is not a whole number of 64 bits"):
            parse_add_output(added, output)


def test_value_that_is_no_number_is_named() -> None:
    output = output_of(b"WRITE [(a,x)]\n", build_add([(b"b", 1), (b"a", 1)]))
    assert output == b"NOT [(a,x)(b,KVSERROR)]\n"
    with pytest.raises(InvalidValueError, match="is not a whole number of 64 bits"):
        parse_add_output([(b"b", 1), (b"a", 1)], output)


def test_number_of_an_addition_must_be_an_int_of_64_bits() -> None:
    assert build_add([]) == b""
    with pytest.raises(ValueError, match="at most 64 bits"):
        build_add([(b"a", 2**63)])
    for number in (1.0, "1", True):
        with pytest.raises(TypeError, match="is an int"):
            build_add([(b"a", number)])  # type: ignore[list-item]


@given(pairs, st.binary(max_size=2), st.none() | st.binary(max_size=2), st.none() | st.integers(0))
def test_output_of_a_listing_has_the_pairs_in_order(
    written: dict[bytes, bytes], prefix: bytes, after: bytes | None, limit: int | None
) -> None:
    output = output_of(build_write(written), build_show(prefix, after, limit))
    listed = [
        pair
        for pair in sorted(written.items())
        if pair[0].startswith(prefix) and (after is None or pair[0] > after)
    ]
    assert parse_show_output(output) == listed[:limit]


def test_limit_of_a_listing_is_not_negative() -> None:
    with pytest.raises(ValueError, match="limit must be 0 or more, not -1"):
        build_show(b"", None, -1)


@given(pairs, st.lists(st.binary(max_size=2), min_size=1, max_size=3))
def test_prefixes_are_counted_and_cleared(
    written: dict[bytes, bytes], prefixes: list[bytes]
) -> None:
    commands = [build_keys_command(name, prefixes) for name in (b"COUNT", b"CLEAR")]
    count = sum(key.startswith(tuple(prefixes)) for key in written)
    assert output_of(build_write(written), *commands) == b"%d\n" % count * 2


@given(pairs, st.lists(keys, min_size=1, max_size=6, unique=True))
def test_output_of_a_delete_has_the_missing_keys(
    written: dict[bytes, bytes], keys: list[bytes]
) -> None:
    output = output_of(build_write(written), build_keys_command(b"DELETE", keys))
    assert sorted(parse_delete_output(output)) == sorted(set(keys) - written.keys())


def test_mapping_and_pairs_build_the_same_write() -> None:
    mapping: dict[str | bytes, str | bytes] = {"a": "1", b"b": b"2"}
    assert build_write(mapping) == b"WRITE [(a,1)(b,2)]\n"
    assert build_write([("a", b"1"), ("b", "2"), ("a", "3")]) == b"WRITE [(a,1)(b,2)(a,3)]\n"


@pytest.mark.parametrize(
    "pair", [("", "1"), ("k" * 1025, "1"), ("a", b"v" * ((1 << 24) + 1)), ("\ud800", "1")]
)
def test_words_of_a_wrong_size_are_refused(pair: tuple[str, str | bytes]) -> None:
    with pytest.raises(InvalidWordError):
        build_write([("good", "1"), pair])


def test_words_of_a_wrong_type_are_refused() -> None:
    with pytest.raises(TypeError, match="a value is str or bytes, not int"):
        build_write([("good", "1"), ("a", 5)])  # type: ignore[list-item]


def test_no_pairs_build_no_command() -> None:
    assert build_write({}) == build_write([]) == b""


def test_single_word_is_neither_keys_nor_pairs() -> None:
    with pytest.raises(TypeError, match="put it into a list"):
        validate_keys("key")
    with pytest.raises(TypeError, match="not one word"):
        build_write(b"ab")  # type: ignore[arg-type]


@pytest.mark.parametrize("item", ["ab", b"ab", ("a",), ("a", "b", "c"), 7])
def test_item_that_is_no_pair_is_rejected(item: object) -> None:
    with pytest.raises(InvalidWordError, match="a pair is a key and a value, not "):
        build_write([item])  # type: ignore[list-item]


def test_script_is_encoded_as_utf8_without_change_of_bytes() -> None:
    assert encode_script("READ [é]\n") == b"READ [\xc3\xa9]\n"
    assert encode_script(b"\xff".decode(errors="surrogateescape")) == b"\xff"
    assert encode_script(b"\xff") == b"\xff"
    with pytest.raises(TypeError, match="commands are str or bytes, not list"):
        encode_script(["READ [a]"])  # type: ignore[arg-type]


def test_output_of_no_read_has_no_pairs() -> None:
    assert parse_read_output(b"") == {}
    assert parse_delete_output(b"") == []


def test_key_that_is_given_twice_is_refused() -> None:
    assert encode_changes({"a": "1", b"b": None}, "x is") == {b"a": b"1", b"b": None}
    with pytest.raises(InvalidWordError, match="'b': the key is given twice"):
        encode_changes({"b": "1", b"b": None}, "x is")
    with pytest.raises(TypeError, match="x is a mapping of keys and values, not list"):
        encode_changes([], "x is")  # type: ignore[arg-type]


def test_number_of_another_type_is_refused() -> None:
    wrong: Any = "3"
    with pytest.raises(TypeError, match="for_ is a number of seconds, not str"):
        to_milliseconds(wrong)
    with pytest.raises(TypeError, match="limit is an int or None, not str"):
        build_show(b"", None, wrong)
