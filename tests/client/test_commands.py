"""The lines that a user types: the four commands of a client, and those of the language."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kvs.client.commands import (
    COMMANDS,
    HELP,
    Blank,
    ClientCommand,
    Delay,
    named_keys,
    parse_line,
)
from kvs.language import grammar
from kvs.language.diagnostics import Diagnostic, check, diagnose_line
from kvs.language.grammar import spell
from kvs.language.scanner import CLIENT_NAMES
from kvs.protocol.requests import Disconnect, Execute, Subscribe, Unsubscribe
from tests.strategies import lines as any_line

blanks = st.sampled_from([b"", b" ", b"\t", b"  "])
subscribable = st.binary(min_size=1, max_size=40).filter(lambda key: b"\0" not in key)
CLIENT_COMMAND = re.compile(rb"[ \t]*(SUBSCRIBE|UNSUBSCRIBE|DELAY|DISCONNECT)(?![A-Za-z])")

COMMAND_OF_LINE: dict[bytes, ClientCommand] = {
    b"SUBSCRIBE [a]": Subscribe(b"a"),
    b" \tSUBSCRIBE\t[ a\t] \r\n": Subscribe(b"a"),
    b"SUBSCRIBE[READ]": Subscribe(b"READ"),
    b'SUBSCRIBE ["two words"]': Subscribe(b"two words"),
    b'UNSUBSCRIBE [ "a,\\"]\\n" ]': Unsubscribe(b'a,"]\n'),
    b'SUBSCRIBE ["\\x41"]': Subscribe(b"A"),
    b"UNSUBSCRIBE [%b]" % (b"x" * 40): Unsubscribe(b"x" * 40),
    b"DELAY 20": Delay(20),
    b"DELAY0\n": Delay(0),
    b"DISCONNECT": Disconnect(),
    b" DISCONNECT \r": Disconnect(),
    b"": Blank(),
    b" \t\r\n": Blank(),
    b"# SUBSCRIBE a": Blank(),
    b" READ [a]\r\n": Execute(b" READ [a]"),
    b"WRITE [(a,1)]": Execute(b"WRITE [(a,1)]"),
    b"SHOW": Execute(b"SHOW"),
    b"BACKUP": Execute(b"BACKUP"),
}


def test_commands_of_the_language_and_of_clients_differ() -> None:
    assert set(COMMANDS) - set(grammar.COMMANDS) == set(CLIENT_NAMES)


@pytest.mark.parametrize(("line", "command"), COMMAND_OF_LINE.items())
def test_valid_line_is_parsed(line: bytes, command: ClientCommand) -> None:
    assert parse_line(line) == command


SUBSCRIBED = "a key that is subscribed to is at most 40 bytes without NUL"
INVALID = {
    b"SUBSCRIBE": (10, "expected '[' after SUBSCRIBE, not the end of the line"),
    b"SUBSCRIBE a": (11, "expected '[' after SUBSCRIBE, not 'a'"),
    b"SUBSCRIBE []": (12, "expected a key, not ']'"),
    b"SUBSCRIBE [a": (13, "expected ',' or ']' after a key, not the end of the line"),
    b"SUBSCRIBE [ %b]" % (b"x" * 41): (13, f"{SUBSCRIBED}, this one has 41"),
    b"UNSUBSCRIBE [%b]" % (b"x" * 1024): (14, f"{SUBSCRIBED}, this one has 1024"),
    b'SUBSCRIBE ["\\0"]': (12, f"{SUBSCRIBED}, this one has a NUL byte"),
    b'SUBSCRIBE ["a,b" ,c]': (18, "SUBSCRIBE takes one key, these are 2"),
    b"SUBSCRIBE [a,b]": (13, "SUBSCRIBE takes one key, these are 2"),
    b"UNSUBSCRIBE [a,,]": (16, "expected a key, not ','"),
    b"UNSUBSCRIBE [a] b": (17, "nothing may follow the command, but 'b' does"),
    b"DELAY": (6, "DELAY takes a whole number of milliseconds, not the end of the line"),
    b" DELAY x": (8, "DELAY takes a whole number of milliseconds, not 'x'"),
    b"DELAY 12345678901": (7, "milliseconds have at most 10 digits, these have 11"),
    b"DISCONNECT now": (12, "nothing may follow the command, but 'now' does"),
    b"DISCONNECT [a]": (12, "nothing may follow the command, but '[' does"),
    b" subscribe [a]": (2, "command names are upper case: SUBSCRIBE"),
    b"read [a]": (1, "command names are upper case: READ"),
    b"READ a": (6, "expected '[' after READ, not 'a'"),
    b"SUBSCRIBES [a]": (
        1,
        "'SUBSCRIBES' is not a command; the commands are SUBSCRIBE, UNSUBSCRIBE, DELAY, "
        "DISCONNECT, WRITE, READ, DELETE, ADD, IF, SHOW, COUNT, CLEAR, EXPIRE, WAIT and HELP",
    ),
}


@pytest.mark.parametrize(("line", "diagnostic"), INVALID.items())
def test_invalid_line_gets_column_and_reason(line: bytes, diagnostic: tuple[int, str]) -> None:
    assert parse_line(line) == Diagnostic(0, *diagnostic)


@given(subscribable, blanks, blanks, blanks)
def test_subscribe_accepts_every_word(key: bytes, a: bytes, b: bytes, c: bytes) -> None:
    line = a + b"SUBSCRIBE" + b + b"[" + c + spell(key) + a + b"]" + b
    assert parse_line(line) == Subscribe(key)
    assert named_keys(line) == [key]


@given(any_line)
def test_commands_of_the_language_parse_as_in_jobs(line: bytes) -> None:
    line = line.partition(b"\n")[0]
    assume(not CLIENT_COMMAND.match(line))
    parsed = parse_line(line)
    diagnostic = diagnose_line(line, 0)
    if diagnostic is not None:
        assert isinstance(parsed, Diagnostic)
        assert parsed.column == diagnostic.column
    else:
        assert isinstance(parsed, Execute if check(line).commands else Blank)


def test_named_keys_returns_the_keys_of_a_line() -> None:
    assert named_keys(b"WRITE [(a,1) (b,2)]") == [b"a", b"b"]
    assert named_keys(b"DELETE [ a , b ]") == [b"a", b"b"]
    assert named_keys(b"READ [a]") == [b"a"]
    assert named_keys(b'IF [(a,1)] WRITE [("b c",2)] FOR 5 READ [d]') == [b"a", b"b c", b"d"]
    for line in (b"SHOW", b"READ a", b"# a", b"DELAY 3"):
        assert named_keys(line) == []


def test_help_lists_every_command() -> None:
    assert b"BACKUP" not in HELP
    for name in COMMANDS:
        assert HELP.decode().count(name) >= 1
        diagnostic = parse_line(name.encode() + b" ?")
        assert isinstance(diagnostic, Diagnostic)
        assert "is not a command" not in diagnostic.reason
