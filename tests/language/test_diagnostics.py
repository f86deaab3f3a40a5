"""Diagnostics of scripts: one for each invalid line, its number, and what of it may be dropped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.errors import InvalidWordError
from kvs.language.diagnostics import (
    FINAL_BYTES,
    Diagnostic,
    check,
    diagnose_line,
    line_at,
    number_lines,
    output_too_long,
    validate_word,
    verdict_is_final,
)
from kvs.language.grammar import INVALID, LINE, MAX_LINE_BYTES, MAX_VALUE_BYTES, kind_of
from kvs.language.scanner import MAX_COUNTED_BYTES
from tests.language import soup
from tests.language.test_grammar import INVALID_LINES
from tests.strategies import scripts


@given(st.binary(max_size=60))
def test_any_bytes_have_only_printable_diagnostics(raw: bytes) -> None:
    for diagnostic in check(raw).diagnostics:
        assert diagnostic.reason.isprintable()
        assert 1 <= diagnostic.column <= len(line_at(raw, diagnostic.offset)) + 1


@given(scripts())
def test_check_joins_diagnostics_of_lines(script: bytes) -> None:
    starts = [match.start() for match in LINE.finditer(script)]
    assert check(script).diagnostics == [
        diagnostic for start in starts if (diagnostic := diagnose_line(script, start))
    ]


@given(st.lists(soup.lines).map(b"\n".join))
def test_check_counts_commands_and_diagnoses_the_other_lines(script: bytes) -> None:
    kinds = [kind_of(match) for match in LINE.finditer(script)]
    checked = check(script)
    assert len(checked.diagnostics) == kinds.count(INVALID)
    assert checked.commands == len(kinds) - kinds.count(INVALID) - kinds.count(None)


@given(scripts(), scripts(), st.integers(1, 9))
def test_line_numbers_count_from_the_start(before: bytes, after: bytes, first_line: int) -> None:
    before += b"\n"
    found = [each for each in check(before + after).diagnostics if each.offset >= len(before)]
    expected = [
        first_line + number
        for number, line in enumerate(after.split(b"\n"))
        if diagnose_line(line + b"\n", 0)
    ]
    numbered = list(number_lines(found, before + after, len(before), first_line))
    assert [line for line, _ in numbered] == expected
    assert [diagnostic for _, diagnostic in numbered] == found


@pytest.mark.parametrize(("line", "column"), [(b"READ [a]", 1), (b" \tIF [(a,1)] READ [a]", 3)])
def test_too_long_output_is_reported_at_the_first_command(line: bytes, column: int) -> None:
    reason = "the output of a line is at most 268435456 bytes, this one has more"
    assert output_too_long(b"SHOW\n" + line + b"\n", 5) == Diagnostic(5, column, reason)


def test_verdict_is_final_for_comment_but_not_for_valid_start() -> None:
    assert verdict_is_final(b" # " + b"x" * 100_000)
    assert not verdict_is_final(b"WRITE [" + b"(a,1)" * 100_000)
    assert not verdict_is_final(b"SHOW" + b" " * 100_000)
    assert not verdict_is_final(b" " * 100_000)


@pytest.mark.parametrize(
    ("head", "filler", "is_final"),
    [
        (b"", b"y", True),
        (b"\0", b'"', True),
        (b"READ [a ", b"x", True),
        (b"READ [", b"x", True),  # the length of a key is "over" the counted bytes
        (b"WRITE [(a,", b"x", False),
        (b"READ [a,", b'"', True),
        (b'READ ["', b"x", False),
        (b'READ ["a\\q', b"x", True),
        (b'READ ["' + b" " * 1025 + b'"', b"x", True),
        (b'READ ["' + b" " * 1025, b"x", False),
        (b'READ ["' + b" " * 100_000, b"x", True),
        (b"ADD [(a,", b"x", True),
        (b'ADD [(a,"', b"x", False),
        (b"READ [a] ", b"x", True),
        (b"WAIT ", b"1", True),
    ],
)
def test_verdict_is_final_once_nothing_can_change_it(
    head: bytes, filler: bytes, is_final: bool
) -> None:
    assert verdict_is_final(head + filler * 30_000) == is_final


@pytest.mark.slow
@pytest.mark.parametrize("quote", [b"", b'"'])
def test_verdict_of_a_long_value_waits_for_its_length(quote: bytes) -> None:
    head = b"WRITE [(a," + quote
    too_long = head + b"v" * (MAX_VALUE_BYTES + MAX_COUNTED_BYTES)
    assert not verdict_is_final(too_long)
    assert verdict_is_final(too_long + b"v" * 3) == (not quote)
    assert verdict_is_final(too_long + b"v" * 3 + quote + b"," * 20_000)


@pytest.mark.slow
@pytest.mark.parametrize("head", [b'READ ["a"', b"SHOW", b"READ [a" + b",a" * 100])
def test_verdict_of_line_beyond_the_limit_is_final(head: bytes) -> None:
    line = head + b" " * (MAX_LINE_BYTES - len(head))
    assert not verdict_is_final(line)
    assert verdict_is_final(line.ljust(FINAL_BYTES))


def test_verdict_of_blanks_is_never_final() -> None:
    assert not verdict_is_final(b" " * FINAL_BYTES)
    assert verdict_is_final(b" " * FINAL_BYTES + b"#")
    assert verdict_is_final(b" " * FINAL_BYTES + b"SHOW")


@given(start=st.sampled_from(INVALID_LINES) | soup.lines, rest=st.binary(max_size=60))
def test_final_verdict_does_not_depend_on_rest_of_line(start: bytes, rest: bytes) -> None:
    beginning = start + b"x" * (MAX_COUNTED_BYTES + 200)
    rest = rest.replace(b"\n", b"")
    if verdict_is_final(beginning):
        assert diagnose_line(beginning, 0) == diagnose_line(beginning + rest, 0)


# Words.


@given(st.binary())
def test_every_word_within_the_sizes_is_accepted(raw: bytes) -> None:
    assert validate_word(raw, "value") == validate_word(raw, "prefix") == raw
    text = raw.decode(errors="surrogateescape")
    assert validate_word(text, "value") == raw
    if raw:
        assert validate_word(raw, "key") == raw


def test_size_of_a_word_is_refused_as_in_a_line() -> None:
    for word, reason in [
        ("", "a key has at least 1 byte, this one is empty"),
        ("x" * 1100, "'" + "x" * 24 + "...': a key is at most 1024 bytes, this one has 1100"),
        ("ö" * 513, "'" + "ö" * 12 + "...': a key is at most 1024 bytes, this one has 1026"),
    ]:
        with pytest.raises(InvalidWordError) as caught:
            validate_word(word, "key")
        assert str(caught.value) == reason
    with pytest.raises(InvalidWordError, match="a prefix is at most 1024 bytes, this one has 1025"):
        validate_word(b" " * 1025, "prefix")
    with pytest.raises(
        InvalidWordError, match="a value is at most 16777216 bytes, this one has 16777217"
    ):
        validate_word(b" " * (MAX_VALUE_BYTES + 1), "value")


def test_word_must_be_bytes_or_text() -> None:
    with pytest.raises(InvalidWordError, match="UTF-8"):
        validate_word("\ud800", "key")
    with pytest.raises(TypeError, match="a key is str or bytes, not int"):
        validate_word(7, "key")  # type: ignore[arg-type]

    class Sub(bytes):
        pass

    assert type(validate_word(Sub(b"x"), "key")) is bytes
