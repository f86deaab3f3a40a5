"""Commands built from words, and words parsed from output: each is read back by the other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.engine.interface import DEFAULT_BUDGET_BYTES
from kvs.engine.python import PythonEngine
from kvs.errors import InvalidWordError
from kvs.language.builder import (
    build_keys_command,
    build_write,
    encode_script,
    parse_delete_output,
    parse_read_output,
    validate_keys,
)
from tests.strategies import values, words

pairs = st.dictionaries(words, values, min_size=1, max_size=6)


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


@given(pairs, st.lists(words, min_size=1, max_size=6, unique=True))
def test_output_of_a_delete_has_the_missing_keys(
    written: dict[bytes, bytes], keys: list[bytes]
) -> None:
    output = output_of(build_write(written), build_keys_command(b"DELETE", keys))
    assert sorted(parse_delete_output(output)) == sorted(set(keys) - written.keys())


def test_mapping_and_pairs_build_the_same_write() -> None:
    mapping: dict[str | bytes, str | bytes] = {"a": "1", b"b": b"2"}
    assert build_write(mapping) == b"WRITE [(a,1)(b,2)]\n"
    assert build_write([("a", b"1"), ("b", "2"), ("a", "3")]) == b"WRITE [(a,1)(b,2)(a,3)]\n"


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
