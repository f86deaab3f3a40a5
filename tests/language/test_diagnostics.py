"""The second look: agrees with the grammar on every line, and names the place and the reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvs.language.diagnostics as faults_module
from kvs.errors import InvalidWordError
from kvs.language.diagnostics import (
    MAX_COUNTED_BYTES,
    diagnose_line,
    diagnose_script,
    line_at,
    validate_word,
    verdict_is_final,
)
from kvs.language.grammar import INVALID, LINE
from tests.language.test_grammar import BAD, GOOD
from tests.strategies import lines, scripts

REASONS = [
    (b"WRITE [(k,%b)]" % (b"v" * 52), 11, "a value is at most 40 bytes, this one has 52"),
    (b"WRITE [(%b,v)]" % (b"k" * 41), 9, "a key is at most 40 bytes, this one has 41"),
    (b"  FOO [a]", 3, "'FOO' is no command; the commands are WRITE, READ, DELETE, WAIT, SHOW, "
     "BACKUP and HELP"),
    (b"read [a]", 1, "command names are upper case: READ"),
    (b"(a,1)", 1, "a line begins with a command or with #, not with '('"),
    (b"\0", 1, "a line begins with a command or with #, not with a NUL byte"),
    (b"READ a", 6, "expected '[' after READ, not 'a'"),
    (b"READ [a", 8, "expected ',' or ']' after a key, not the end of the line"),
    (b"READ [a b]", 9, "expected ',' or ']' after a key, not 'b'"),
    (b"READ []", 7, "a key is missing: ']' stands in its place"),
    (b"READ [a,]", 9, "a key is missing: ']' stands in its place"),
    (b"READ [a]\r\r", 9, "nothing may follow the command, but a carriage return does"),
    (b"READ [a\0b]", 8, "expected ',' or ']' after a key, not a NUL byte"),
    (b"WRITE [a,1]", 8, "expected '(' before a key, not 'a,1'"),
    (b"WRITE [(a)]", 10, "expected ',' after a key, not ')'"),
    (b"WRITE [(a,)]", 11, "a value is missing: ')' stands in its place"),
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
def test_the_first_part_that_does_not_fit_is_named(line: bytes, column: int, reason: str) -> None:
    fault = diagnose_line(b"SHOW\n" + line + b"\r\nSHOW", 5)
    assert fault is not None
    assert (fault.offset, fault.column, fault.reason) == (5, column, reason)


def test_of_a_part_that_is_too_long_no_more_is_read_than_is_said_of_it() -> None:
    scan = faults_module._LineScanner(b"x" * 1_000_000, 0, 1_000_000)
    assert scan.take(faults_module._WORD) == b"x" * (MAX_COUNTED_BYTES + 1)
    assert scan.position == MAX_COUNTED_BYTES + 1
    assert scan.take(faults_module._DIGITS) == b""


@pytest.mark.parametrize("line", GOOD)
def test_a_good_line_has_no_fault(line: bytes) -> None:
    assert diagnose_line(line + b"\n", 0) is None


@pytest.mark.parametrize("line", BAD)
def test_a_bad_line_has_one_on_one_printable_line(line: bytes) -> None:
    fault = diagnose_line(line + b"\n", 0)
    assert fault is not None
    assert 1 <= fault.column <= len(line) + 1
    assert fault.reason.isprintable()


@given(lines)
def test_grammar_and_second_look_agree_on_every_line(line: bytes) -> None:
    for one in line.split(b"\n"):
        match = LINE.match(one + b"\n")
        assert match is not None
        assert (diagnose_line(one + b"\n", 0) is not None) == (match.lastindex == INVALID)


@given(st.binary(max_size=60))
def test_any_bytes_have_a_printable_fault_or_none(raw: bytes) -> None:
    for fault in diagnose_script(raw):
        assert fault.reason.isprintable()
        assert 1 <= fault.column <= len(line_at(raw, fault.offset)) + 1


@given(scripts())
def test_all_faults_of_a_script_are_those_of_its_lines(script: bytes) -> None:
    starts = [match.start() for match in LINE.finditer(script)]
    assert diagnose_script(script) == [
        fault for start in starts if (fault := diagnose_line(script, start))
    ]


def test_a_comment_is_settled_by_its_first_bytes_and_a_valid_beginning_never() -> None:
    assert verdict_is_final(b" # " + b"x" * 100_000)
    assert not verdict_is_final(b"WRITE [" + b"(a,1)" * 100_000)
    assert not verdict_is_final(b"SHOW" + b" " * 100_000)
    assert not verdict_is_final(b" " * 100_000)


@given(broken=st.sampled_from(BAD), follows=st.binary(max_size=60))
def test_what_follows_a_settled_beginning_changes_neither_place_nor_reason(
    broken: bytes, follows: bytes
) -> None:
    beginning = broken + b"x" * (MAX_COUNTED_BYTES + 200)
    follows = follows.replace(b"\n", b"")
    if verdict_is_final(beginning):
        assert diagnose_line(beginning, 0) == diagnose_line(beginning + follows, 0)


@given(st.binary(max_size=50))
def test_the_library_takes_exactly_the_words_that_a_line_can_write(raw: bytes) -> None:
    match = LINE.match(b"WRITE [(%b,%b)]\n" % (raw, raw))
    assert match is not None
    # Blanks around a word are no part of it in a line; the library takes words as they are.
    in_line = match.lastindex != INVALID and raw == raw.strip(b" \t")
    try:
        validate_word(raw, "value")
    except InvalidWordError:
        assert not in_line
    else:
        assert in_line


def test_the_library_says_why_it_refuses_a_word() -> None:
    for word, reason in [
        ("", "a key has at least 1 byte, this one is empty"),
        ("a b", "'a b': a space cannot stand in a key"),
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
def test_a_fault_is_found_behind_many_good_parts_wherever_they_are_cut(
    monkeypatch: pytest.MonkeyPatch, head: bytes, unit: bytes, tail: bytes, blanks: bytes
) -> None:
    line = head + (blanks + unit.replace(b",", blanks + b"," + blanks)) * 40 + tail
    monkeypatch.setattr(faults_module, "SKIPPED_BYTES", len(line) + 1)
    whole = diagnose_line(line, 0)
    assert whole is not None
    assert whole.column > 40 * len(unit)
    for size in (*range(1, 50), 512):
        monkeypatch.setattr(faults_module, "SKIPPED_BYTES", size)
        assert diagnose_line(line, 0) == whole
