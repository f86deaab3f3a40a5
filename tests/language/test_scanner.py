"""The scanner: a problem in exactly the lines that the grammar rejects, with place and reason."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvs.language import scanner
from kvs.language.diagnostics import Diagnostic, diagnose_line
from kvs.language.grammar import (
    INVALID,
    LINE,
    MAX_LINE_BYTES,
    MAX_VALUE_BYTES,
    kind_of,
    unquote,
)
from kvs.language.scanner import LANGUAGE, MAX_COUNTED_BYTES, CommandSet, find_problem
from tests.language.soup import lines
from tests.language.test_grammar import INVALID_LINES, VALID_LINES

IN_QUOTES = ' is written in quotes: "two words"'
QUOTE_IN_QUOTES = r'; in quotes, " is written \"'
SHOW_TAKES = "SHOW takes [prefix,...], AFTER [key], LIMIT number and UNTIL, in this order, not "

REASONS = [
    # Names.
    (b"  FOO [a]", 3, "'FOO' is not a command; the commands are WRITE, READ, DELETE, ADD, IF, "
     "SHOW, COUNT, CLEAR, EXPIRE, WAIT, BACKUP and HELP"),
    (b"read [a]", 1, "command names are upper case: READ"),
    (b"(a,1)", 1, "a line begins with a command or with #, not with '('"),
    (b"\0", 1, "a line begins with a command or with #, not with a NUL byte"),
    (b"DELAY 5", 1, "DELAY is a command of 'kvs client', not of the language"),
    (b"disconnect", 1, "DISCONNECT is a command of 'kvs client', not of the language"),
    (b"\xef\xbb\xbfREAD [a]", 1, "a byte order mark (BOM) is no part of a line; save the file "
     "without it"),
    (b"HELP # all", 6, "a comment has a line of its own"),
    (b"HELP all", 6, "nothing may follow the command, but 'all' does"),
    # Lists.
    (b"READ a", 6, "expected '[' after READ, not 'a'"),
    (b"READ [a", 8, "expected ',' or ']' after a key, not the end of the line"),
    (b"READ [a b]", 9, "expected ',' or ']' after a key, not 'b'; a key with a blank, comma or "
     "bracket" + IN_QUOTES),
    (b"READ []", 7, "expected a key, not ']'"),
    (b"READ [a,]", 9, "expected a key, not ']'"),
    (b"READ [a\0b]", 8, "expected ',' or ']' after a key, not a NUL byte; in a key in quotes it is "
     "written \\0"),
    (b"WRITE [a,1]", 8, "expected '(' before a key, not 'a,1'"),
    (b"WRITE [(a)]", 10, "expected ',' after a key, not ')'"),
    (b"WRITE [(a,)]", 11, "expected a value, not ')'; an empty value is written \"\""),
    (b"WRITE [(a,1,2)]", 12, "expected ')' after a value, not ',2'; a value with a blank, comma or "
     "bracket" + IN_QUOTES),
    (b"WRITE [(a,two words)]", 15, "expected ')' after a value, not 'words'; a value with a blank, "
     "comma or bracket" + IN_QUOTES),
    (b"WRITE [(a,1),(b,2)]", 13, "expected '(' or ']' after a pair, not ','"),
    (b"WRITE [(u,http://x/?q=(1))]", 26, "expected '(' or ']' after a pair, not ')'; a value with "
     "')' is written in quotes"),
    (b"WRITE [(a,1) b)]", 14, "expected '(' or ']' after a pair, not 'b'"),
    (b"WRITE [(a,1)", 13, "expected '(' or ']' after a pair, not the end of the line"),
    # Words.
    (b"WRITE [(k,v)(%b,v)]" % (b"k" * 1100), 14, "a key is at most 1024 bytes, this one has 1100"),
    (b"READ [a,%b]" % (b"k" * 20000), 9, "a key is at most 1024 bytes, this one has over 11023"),
    (b'READ [a,"%b"]' % (rb"\x41" * 1025), 9, "a key is at most 1024 bytes, this one has 1025"),
    (b'READ ["%b' % (rb"\\" * 20000), 7, "a key is at most 1024 bytes, this one has over 11023"),
    (b'DELETE ["a", ""]', 14, "a key has at least 1 byte, this one is empty"),
    (b'WRITE [("",1)]', 9, "a key has at least 1 byte, this one is empty"),
    (b'COUNT ["%b"]' % (b"," * 1025), 8, "a prefix is at most 1024 bytes, this one has 1025"),
    (b'SHOW AFTER ["%b"]' % (b"," * 1025), 13, "a key is at most 1024 bytes, this one has 1025"),
    (b"WRITE [(a,KVSERROR)]", 11, "KVSERROR is an answer, not a value; \"KVSERROR\" in quotes is "
     "an ordinary value"),
    (b"IF [(a,KVSMISSING)] READ [a]", 8, "KVSMISSING is not a value; KVSERROR stands for a missing "
     "key, and \"KVSMISSING\" is a value"),
    # Quotes.
    (b'READ [a, "b]', 10, "expected '\"' at the end of a key, not the end of the line"),
    (b'WRITE [(a,"b\\")]', 11, "expected '\"' at the end of a value, not the end of the line"),
    (b'WRITE [(a,"b" c)]', 15, "expected ')' after a value, not 'c'"),
    (b'WRITE [("a"b,c)]', 12, "expected ',' after a key, not 'b,c'" + QUOTE_IN_QUOTES),
    (b'WRITE [(j,"{"a":1}")]', 14, "expected ')' after a value, not 'a\":1}\"'" + QUOTE_IN_QUOTES),
    (b'WRITE [("a")]', 12, "expected ',' after a key, not ')'"),
    (b'WRITE [(a,"b\\q")]', 13, r"in quotes, a backslash begins one of \" \\ \n \r \t \0 and \xHH"),
    (b'WRITE [(a,"\\x4")]', 12, r"in quotes, a backslash begins one of \" \\ \n \r \t \0 and \xHH"),
    (b'WRITE [(a,"b\\', 13, r"in quotes, a backslash begins one of \" \\ \n \r \t \0 and \xHH"),
    (b'READ ["a\0"]', 9, r"in quotes, a NUL byte is written \0"),
    (b'READ ["a\r"]', 9, r"in quotes, a carriage return is written \r"),
    # Numbers.
    (b"WAIT", 5, "WAIT takes a whole number of milliseconds, not the end of the line"),
    (b"WAIT x", 6, "WAIT takes a whole number of milliseconds, not 'x'"),
    (b"WAIT \xff", 6, "WAIT takes a whole number of milliseconds, not '\\xff'"),
    (b"WAIT 12345678901", 6, "milliseconds have at most 10 digits, these have 11"),
    (b"WAIT 1s", 7, "WAIT takes a whole number of milliseconds without a unit, but 's' follows it"),
    (b"WRITE [(a,1)] FOR 0.5", 20, "FOR takes a whole number of milliseconds without a unit, but "
     "'.5' follows it"),
    (b"ADD [(a,1)] FOR 5 min", 19, "FOR takes a whole number of milliseconds without a unit, but "
     "'min' follows it"),
    (b"WAIT 5 more", 8, "nothing may follow the command, but 'more' does"),
    (b"EXPIRE 1234567890123456", 8, "milliseconds have at most 15 digits, these have 16"),
    (b"WRITE [(a,1)] FOR 00", 19, "FOR takes at least 1 millisecond"),
    (b"WRITE [(a,1)] UNTIL", 20, "UNTIL takes a whole number of milliseconds, not the end of the "
     "line"),
    (b"ADD [(a,1)(b,x)]", 14, "ADD takes whole numbers, not 'x'"),
    (b'ADD [(a,"5")(b,"5 ")]', 16, "ADD takes whole numbers, not '\"5'"),
    (b'ADD [(a,"%b")]' % (rb"\x31" * 99), 9, "a number is from -9223372036854775808 to "
     "9223372036854775807"),
    (b"ADD [(a,01)]", 9, "a number of ADD has no zero at its beginning"),
    (b"ADD [(a,9223372036854775808)]", 9, "a number is from -9223372036854775808 to "
     "9223372036854775807"),
    (b"ADD [(a,%b)]" % (b"9" * 1000), 9, "a number is from -9223372036854775808 to "
     "9223372036854775807"),
    # Steps.
    (b"READ [a]\r\r", 9, "only WRITE, READ, DELETE or ADD may follow, but a carriage return does"),
    (b"WRITE [(a,1)] # x", 15, "a comment has a line of its own"),
    (b"WRITE [(a,1)] x", 15, "only WRITE, READ, DELETE or ADD may follow, but 'x' does"),
    (b"READ [a] read [b]", 10, "command names are upper case: READ"),
    (b"READ [a] SHOW", 10, "SHOW stands alone on its line"),
    (b"READ [a] IF [(a,1)] READ [b]", 10, "IF stands once, at the beginning of its line"),
    (b"READ [a] FOR 5", 10, "FOR belongs to WRITE or ADD, and READ never sets a time"),
    (b"ADD [(a,1)] FOR 5 UNTIL 6", 19, "ADD takes one FOR or one UNTIL, and no other one"),
    (b"IF [(a,1)]", 11, "WRITE, READ, DELETE or ADD must follow IF, not the end of the line"),
    (b"IF [(a,1)] SHOW", 12, "WRITE, READ, DELETE or ADD must follow IF, not 'SHOW'"),
    # Listings.
    (b"SHOW all", 6, SHOW_TAKES + "'all'"),
    (b"SHOW # all", 6, "a comment has a line of its own"),
    (b"SHOW a\\b", 6, SHOW_TAKES + r"'a\b'"),
    (b"SHOW \x1b[31m", 6, SHOW_TAKES + "'\\x1b'"),
    (b"SHOW UNTIL LIMIT 3", 12, SHOW_TAKES + "'LIMIT'"),
    (b"SHOW AFTER [a] [b]", 16, SHOW_TAKES + "'['"),
    (b"SHOW after [a]", 6, "command names are upper case: AFTER"),
    (b"SHOW AFTER [a,b]", 14, "expected ']' after a key, not ',b'; a key with a blank, comma or "
     "bracket" + IN_QUOTES),
    (b"SHOW LIMIT", 11, "LIMIT takes a whole number, not the end of the line"),
    (b"SHOW LIMIT 1234567890123456", 12, "a limit has at most 15 digits, this one has 16"),
    (b"SHOW []", 7, "expected a prefix, not ']'"),
    (b"COUNT x", 7, "nothing may follow the command, but 'x' does"),
    (b"CLEAR", 6, 'CLEAR takes a list of prefixes; CLEAR [""] removes every key'),
    (b"CLEAR a", 7, "expected '[' after CLEAR, not 'a'"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "column", "reason"), REASONS)
def test_problem_names_first_offending_part(line: bytes, column: int, reason: str) -> None:
    diagnostic = diagnose_line(b"SHOW\n" + line + b"\r\nSHOW", 5)
    assert diagnostic == Diagnostic(5, column, reason)
    assert reason.isprintable()


@pytest.mark.parametrize("line", VALID_LINES)
def test_valid_line_has_no_problem(line: bytes) -> None:
    assert find_problem(line, 0, len(line)) is None


@pytest.mark.parametrize("line", INVALID_LINES)
def test_invalid_line_has_printable_problem(line: bytes) -> None:
    problem = find_problem(line, 0, len(line))
    assert problem is not None
    assert 0 <= problem.position <= len(line)
    assert problem.reason.isprintable()


@given(lines)
@example(b"SHOWUNTIL")
@example(b"SHOWLIMIT5UNTIL")
def test_scanner_agrees_with_grammar_on_any_line(line: bytes) -> None:
    match = LINE.match(line + b"\n")
    assert match is not None
    diagnostic = diagnose_line(line + b"\n", 0)
    assert (diagnostic is not None) == (kind_of(match) == INVALID)
    if diagnostic is not None:
        assert diagnostic.reason.isprintable()
        assert 1 <= diagnostic.column <= len(line) + 1


@given(st.binary(max_size=60))
def test_scanner_agrees_with_grammar_on_any_bytes(raw: bytes) -> None:
    line = raw.replace(b"\n", b"")
    match = LINE.match(line + b"\n")
    assert match is not None
    assert (diagnose_line(line + b"\n", 0) is not None) == (kind_of(match) == INVALID)


@given(lines, st.integers(1, 40))
def test_problem_does_not_depend_on_where_matches_end(line: bytes, matched_bytes: int) -> None:
    whole = find_problem(line, 0, len(line))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanner, "MATCHED_BYTES", matched_bytes)
        assert find_problem(line, 0, len(line)) == whole


@pytest.mark.parametrize("blanks", [b"", b" ", b" " * 200])
@pytest.mark.parametrize(
    ("head", "unit", "tail"),
    [
        (b"WRITE [", b"(ab,cd)", b"(x"),
        (b"WRITE [", b"(ab,cd)", b"(x,KVSERROR)]"),
        (b"WRITE [", b'(ab,"c d")', b"(x,KVSERROR)]"),
        (b"WRITE [", b"(ab,cd)", b'("%b",x)]' % (b"," * 1025)),
        (b"READ [", b"ab,", b",]"),
        (b"READ [", b'"a b",', b'""]'),
        (b"DELETE [", b"ab,", b"x" * 1025 + b"]"),
        (b"IF [", b'(ab,"c d")', b"(x,KVSMISSING)]READ [a]"),
        (b"ADD [", b'(ab,"7")', b'(x,"y")]'),
        (b"SHOW [", b'"",', b"a) AFTER [a]"),
        (b"READ [a]", b'READ["b",d]', b'READ[""]READ [a]'),
        (b"READ [a]", b'ADD[(b,"5")]FOR17', b'ADD[(b,"x")]READ [a]'),
        (b"READ [a]", b"WRITE[(b,d)]UNTIL77", b"FOR 5 READ[a]"),
    ],
)
def test_problem_behind_many_items_does_not_depend_on_matches(
    monkeypatch: pytest.MonkeyPatch, head: bytes, unit: bytes, tail: bytes, blanks: bytes
) -> None:
    line = head + (blanks + unit.replace(b",", blanks + b"," + blanks)) * 40 + tail
    monkeypatch.setattr(scanner, "MATCHED_BYTES", len(line) + 1)
    whole = find_problem(line, 0, len(line))
    assert whole is not None
    assert whole.position >= 40 * len(unit)
    for size in (*range(1, 50), 512):
        monkeypatch.setattr(scanner, "MATCHED_BYTES", size)
        assert find_problem(line, 0, len(line)) == whole


@given(
    st.lists(st.sampled_from([b"a", b"x41", rb"\\", rb"\"", rb"\n", rb"\0", rb"\x4f"]), min_size=1),
    st.integers(1, 40),
)
def test_size_of_a_quoted_word_is_that_of_its_bytes(parts: list[bytes], matched_bytes: int) -> None:
    spelling = b'"%b"' % (b"".join(parts) * 1025)
    size = min(len(unquote(spelling)), 11024)
    found = "over 11023" if size > 11023 else str(size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanner, "MATCHED_BYTES", matched_bytes)
        diagnostic = diagnose_line(b"READ [a," + spelling + b"]", 0)
    reason = f"a key is at most 1024 bytes, this one has {found}"
    assert diagnostic == Diagnostic(0, 9, reason)


def test_long_items_are_scanned_one_by_one() -> None:
    key, value = b'"%b"' % (rb"\x61" * 1024), b'"%b"' % (rb"\n" * scanner.MATCHED_BYTES)
    pair = b"(%b,%b)" % (key, value)
    write = b"WRITE [%b]" % (3 * pair)
    keys = b"READ [%b]" % b",".join(3 * [b" " * scanner.MATCHED_BYTES + key])
    for line in (write, keys, write + keys + write):
        assert diagnose_line(line, 0) is None
        assert diagnose_line(line + b"READ [a b]", 0) == Diagnostic(
            0, len(line) + 9, {line: reason for line, _, reason in REASONS}[b"READ [a b]"]
        )


@given(lines, lines)
def test_problem_that_is_known_does_not_depend_on_what_follows(line: bytes, rest: bytes) -> None:
    beginning = line + b"," * (MAX_COUNTED_BYTES + 100)
    problem = find_problem(beginning, 0, len(beginning))
    if problem is not None and problem.known_at < len(beginning):
        assert find_problem(beginning + rest, 0, len(beginning + rest)) == problem


def test_scan_of_list_begins_where_it_is_known_to_be_valid() -> None:
    line = b"READ [a,b,c d]"
    assert diagnose_line(line, 0, line.index(b"c")) == diagnose_line(line, 0)
    # Nothing before is read again.
    assert diagnose_line(b"READ [a b,c]", 0, 10) is None


# Lines and words at their limits.


@pytest.mark.slow
def test_value_of_16_mib_is_valid_and_one_byte_more_is_not() -> None:
    plain_line, steps_line = b"WRITE [(a,%b)]", b"READ [a]WRITE [(c,d)(a,%b)]READ [a]"
    for form, value, size in [
        (plain_line, b"v" * MAX_VALUE_BYTES, MAX_VALUE_BYTES),
        (steps_line, b'"%b"' % (b" " * MAX_VALUE_BYTES), MAX_VALUE_BYTES),
        (steps_line, b"v" * (MAX_VALUE_BYTES + 1), MAX_VALUE_BYTES + 1),
        (plain_line, b'"\\x41%b"' % (b" " * MAX_VALUE_BYTES), MAX_VALUE_BYTES + 1),
    ]:
        line = form % value
        match = LINE.match(line)
        assert match is not None
        assert (kind_of(match) == INVALID) == (size > MAX_VALUE_BYTES)
        diagnostic = diagnose_line(line, 0)
        if size == MAX_VALUE_BYTES:
            assert diagnostic is None
        else:
            reason = "a value is at most 16777216 bytes, this one has 16777217"
            assert diagnostic == Diagnostic(0, line.index(value) + 1, reason)


LINE_REASON = "a line is at most 67108864 bytes, this one has "


@pytest.fixture(scope="module")
def longest_line() -> bytes:
    """A valid line that is as long as a line may be."""
    return b"READ [a" + b" " * (MAX_LINE_BYTES - 8) + b"]"


@pytest.mark.slow
@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_line_of_64_mib_is_valid_and_one_byte_more_is_not(
    longest_line: bytes, ending: bytes
) -> None:
    assert len(longest_line) == MAX_LINE_BYTES
    assert diagnose_line(longest_line + ending, 0) is None
    longer = longest_line[:-1] + b" ]" + ending
    assert diagnose_line(longer, 0) == Diagnostic(0, 1, LINE_REASON + "67108865")
    assert diagnose_line(longer, 0, limits=False) is None


@pytest.mark.slow
def test_too_long_line_has_an_earlier_problem_or_its_length() -> None:
    rest = b" " * MAX_LINE_BYTES
    over = LINE_REASON + f"over {MAX_LINE_BYTES + MAX_COUNTED_BYTES}"
    for line, column, reason in [
        (b"READ [a b]" + rest, 9, {line: reason for line, _, reason in REASONS}[b"READ [a b]"]),
        (b"SHOW" + rest * 2, 1, over),
        (b"READ [a" + rest * 2 + b"b c]", 1, over),
        (b'READ ["a"' + rest, 1, LINE_REASON + "67108873"),
        (b'READ ["' + rest, 7, "a key is at most 1024 bytes, this one has over 11023"),
    ]:
        diagnostic = diagnose_line(line, 0)
        assert diagnostic == Diagnostic(0, column, reason)


def test_comment_and_empty_line_may_have_any_length() -> None:
    blanks = b" " * (MAX_LINE_BYTES + 1)
    for line in (blanks, blanks + b"#", b"#" + blanks):
        match = LINE.match(line)
        assert match is not None
        assert kind_of(match) is None
        assert diagnose_line(line, 0) is None


# Commands of others.

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
        (b"SUBSCRIBE [a] READ [b]", 15, "nothing may follow the command, but 'READ' does"),
        (b"READ [a] SUBSCRIBE [b]", 10, "only WRITE, READ, DELETE or ADD may follow, but "
         "'SUBSCRIBE' does"),
    ],
)  # fmt: skip
def test_problem_names_command_of_other_command_set(line: bytes, column: int, reason: str) -> None:
    assert diagnose_line(line, 0, commands=CLIENT) == Diagnostic(0, column, reason)


def test_line_of_other_command_set_is_valid() -> None:
    assert diagnose_line(b'SUBSCRIBE ["a b"]', 0) is not None
    assert diagnose_line(b'SUBSCRIBE ["a b"]', 0, commands=CLIENT) is None
    assert diagnose_line(b"IF [(a,1)] WRITE [(a,2)]", 0, commands=CLIENT) is None
