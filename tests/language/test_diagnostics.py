"""Diagnostics: one for exactly the lines that the grammar rejects, with column and reason."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.errors import InvalidWordError
from kvs.language import diagnostics
from kvs.language.diagnostics import (
    LANGUAGE,
    MAX_COUNTED_BYTES,
    CommandSet,
    check,
    diagnose_line,
    line_at,
    number_lines,
    validate_word,
    verdict_is_final,
)
from kvs.language.grammar import INVALID, LINE
from tests.language.test_grammar import INVALID_LINES, VALID_LINES
from tests.model import Invalid, parse
from tests.strategies import lines, scripts

REASONS = [
    (b"WRITE [(k,%b)]" % (b"v" * 52), 11, "a value is at most 40 bytes, this one has 52"),
    (b"WRITE [(%b,v)]" % (b"k" * 41), 9, "a key is at most 40 bytes, this one has 41"),
    (b"  FOO [a]", 3, "'FOO' is not a command; the commands are WRITE, READ, DELETE, WAIT, SHOW, "
     "BACKUP and HELP"),
    (b"read [a]", 1, "command names are upper case: READ"),
    (b"(a,1)", 1, "a line begins with a command or with #, not with '('"),
    (b"\0", 1, "a line begins with a command or with #, not with a NUL byte"),
    (b"READ a", 6, "expected '[' after READ, not 'a'"),
    (b"READ [a", 8, "expected ',' or ']' after a key, not the end of the line"),
    (b"READ [a b]", 9, "expected ',' or ']' after a key, not 'b'"),
    (b"READ []", 7, "expected a key, not ']'"),
    (b"READ [a,]", 9, "expected a key, not ']'"),
    (b"READ [a]\r\r", 9, "nothing may follow the command, but a carriage return does"),
    (b"READ [a\0b]", 8, "expected ',' or ']' after a key, not a NUL byte"),
    (b"WRITE [a,1]", 8, "expected '(' before a key, not 'a,1'"),
    (b"WRITE [(a)]", 10, "expected ',' after a key, not ')'"),
    (b"WRITE [(a,)]", 11, "expected a value, not ')'"),
    (b"WRITE [(a,1,2)]", 12, "expected ')' after a value, not ',2'"),
    (b"WRITE [(a,1),(b,2)]", 13, "expected '(' or ']' after a pair, not ','"),
    (b"WRITE [(a,1)", 13, "expected '(' or ']' after a pair, not the end of the line"),
    (b"WRITE [(a,KVSERROR)]", 11, "KVSERROR is reserved and cannot be a value"),
    (b"WAIT", 5, "WAIT takes a whole number of milliseconds, not the end of the line"),
    (b"WAIT x", 6, "WAIT takes a whole number of milliseconds, not 'x'"),
    (b"WAIT 12345678901", 6, "milliseconds have at most 10 digits, these have 11"),
    (b"SHOW all", 6, "nothing may follow the command, but 'all' does"),
    (b"SHOW \x1b[31m", 6, "nothing may follow the command, but '\\x1b' does"),
    (b"WAIT \xff", 6, "WAIT takes a whole number of milliseconds, not '\\xff'"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "column", "reason"), REASONS)
def test_diagnostic_names_first_offending_part(line: bytes, column: int, reason: str) -> None:
    diagnostic = diagnose_line(b"SHOW\n" + line + b"\r\nSHOW", 5)
    assert diagnostic is not None
    assert (diagnostic.offset, diagnostic.column, diagnostic.reason) == (5, column, reason)


def test_scanner_reads_no_more_of_long_part_than_it_reports() -> None:
    scanner = diagnostics._LineScanner(b"x" * 1_000_000, 0, 1_000_000)
    assert scanner.take(diagnostics._WORD) == b"x" * (MAX_COUNTED_BYTES + 1)
    assert scanner.position == MAX_COUNTED_BYTES + 1
    assert scanner.take(diagnostics._DIGITS) == b""


@pytest.mark.parametrize("line", VALID_LINES)
def test_valid_line_has_no_diagnostic(line: bytes) -> None:
    assert diagnose_line(line + b"\n", 0) is None


@pytest.mark.parametrize("line", INVALID_LINES)
def test_invalid_line_has_printable_diagnostic(line: bytes) -> None:
    diagnostic = diagnose_line(line + b"\n", 0)
    assert diagnostic is not None
    assert 1 <= diagnostic.column <= len(line) + 1
    assert diagnostic.reason.isprintable()


CLIENT = CommandSet(
    {**LANGUAGE.forms, "SUBSCRIBE": "READ", "DELAY": "WAIT"}, ["SUBSCRIBE", "DELAY"]
)


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        (b"SUBSCRIBE a", 11, "expected '[' after SUBSCRIBE, not 'a'"),
        (b"DELAY x", 7, "DELAY takes a whole number of milliseconds, not 'x'"),
        (b"delay 1", 1, "command names are upper case: DELAY"),
        (b"FOO", 1, "'FOO' is not a command; the commands are SUBSCRIBE and DELAY"),
    ],
)
def test_diagnostic_names_command_of_other_command_set(
    line: bytes, column: int, reason: str
) -> None:
    assert diagnose_line(line, 0, commands=CLIENT) == diagnostics.Diagnostic(0, column, reason)


def test_line_of_other_command_set_is_valid() -> None:
    assert diagnose_line(b"SUBSCRIBE [a]", 0) is not None
    assert diagnose_line(b"SUBSCRIBE [a]", 0, commands=CLIENT) is None


@given(lines)
def test_scanner_agrees_with_grammar_on_any_line(line: bytes) -> None:
    for one in line.split(b"\n"):
        match = LINE.match(one + b"\n")
        assert match is not None
        assert (diagnose_line(one + b"\n", 0) is not None) == (match.lastindex == INVALID)


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


@given(scripts())
def test_check_counts_commands_as_the_model(script: bytes) -> None:
    expected = 0
    for line in script.split(b"\n"):
        with suppress(Invalid):
            expected += parse(line) is not None
    assert check(script).commands == expected


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


def test_verdict_is_final_for_comment_but_not_for_valid_start() -> None:
    assert verdict_is_final(b" # " + b"x" * 100_000)
    assert not verdict_is_final(b"WRITE [" + b"(a,1)" * 100_000)
    assert not verdict_is_final(b"SHOW" + b" " * 100_000)
    assert not verdict_is_final(b" " * 100_000)


@given(start=st.sampled_from(INVALID_LINES), rest=st.binary(max_size=60))
def test_final_verdict_does_not_depend_on_rest_of_line(start: bytes, rest: bytes) -> None:
    beginning = start + b"x" * (MAX_COUNTED_BYTES + 200)
    rest = rest.replace(b"\n", b"")
    if verdict_is_final(beginning):
        assert diagnose_line(beginning, 0) == diagnose_line(beginning + rest, 0)


@given(st.binary(max_size=50))
def test_validate_word_accepts_exactly_words_of_lines(raw: bytes) -> None:
    match = LINE.match(b"WRITE [(%b,%b)]\n" % (raw, raw))
    assert match is not None
    # In a line, blanks around a word are not part of the word.
    in_line = match.lastindex != INVALID and raw == raw.strip(b" \t")
    try:
        validate_word(raw, "value")
    except InvalidWordError:
        assert not in_line
    else:
        assert in_line


def test_validate_word_explains_rejected_word() -> None:
    for word, reason in [
        ("", "a key has at least 1 byte, this one is empty"),
        ("a b", "'a b': a space is not allowed in a key"),
        ("x" * 41, "'" + "x" * 24 + "...': a key is at most 40 bytes, this one has 41"),
    ]:
        with pytest.raises(InvalidWordError) as caught:
            validate_word(word, "key")
        assert str(caught.value) == reason
    with pytest.raises(InvalidWordError, match="reserved"):
        validate_word("KVSMISSING", "value")
    with pytest.raises(InvalidWordError, match="UTF-8"):
        validate_word("\ud800", "key")
    with pytest.raises(TypeError, match="a key is str or bytes, not int"):
        validate_word(7, "key")  # type: ignore[arg-type]
    assert validate_word("KVSMISSING", "key") == b"KVSMISSING"
    assert validate_word("ключ", "key") == "ключ".encode()


@pytest.mark.parametrize("blanks", [b"", b" ", b" " * 200])
@pytest.mark.parametrize(
    ("head", "unit", "tail"),
    [
        (b"WRITE [", b"(ab,cd)", b"(x"),
        (b"WRITE [", b"(ab,cd)", b"(x,KVSERROR)]"),
        (b"READ [", b"ab,", b",]"),
        (b"DELETE [", b"ab,", b"x" * 41 + b"]"),
    ],
)
def test_diagnostic_does_not_depend_on_where_matches_end(
    monkeypatch: pytest.MonkeyPatch, head: bytes, unit: bytes, tail: bytes, blanks: bytes
) -> None:
    line = head + (blanks + unit.replace(b",", blanks + b"," + blanks)) * 40 + tail
    monkeypatch.setattr(diagnostics, "MATCHED_BYTES", len(line) + 1)
    whole = diagnose_line(line, 0)
    assert whole is not None
    assert whole.column > 40 * len(unit)
    for size in (*range(1, 50), 512):
        monkeypatch.setattr(diagnostics, "MATCHED_BYTES", size)
        assert diagnose_line(line, 0) == whole
