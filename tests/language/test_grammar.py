"""The grammar: valid and invalid lines, and random bytes compared with a naive model."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvs.language import grammar
from tests.model import Invalid, parse
from tests.strategies import lines, scripts

VALID_LINES = [
    b"WRITE [(a,1)]",
    b"WRITE [(a,1)(b,2)]",
    b"WRITE [(a,1) (b,2)]",
    b"WRITE[(a,1)]",
    b" \tWRITE \t[ ( a , 1 )\t( b , 2 ) ] \t",
    b"WRITE [((a,[1)]",
    b"WRITE [((((,(((()]",
    b"WRITE [(KVSERROR,1)]",
    b"WRITE [(KVSMISSING,KVSERRO)]",
    b"WRITE [(a,KVSERRORS)(b,xKVSERROR)]",
    b"WRITE [(a,DELETED)]",
    b"WRITE [(%b,%b)]" % (b"k" * 40, b"v" * 40),
    b"WRITE [(\xff\x01,\x7f\x80)]",
    b"READ [a]",
    b"READ [a,b]",
    b"READ [[a]",
    b"READ [ [a , (b ]",
    b"READ [#]",
    b"READ [KVSERROR]",
    b"DELETE[a, b]",
    b"DELETE [a,a]",
    b"WAIT 0",
    b"WAIT1",
    b"WAIT \t 9999999999 ",
    b"WAIT 0000000000",
    b"SHOW",
    b" SHOW ",
    b"BACKUP",
    b"HELP",
    b"",
    b" \t ",
    b"#",
    b"# WRITE [(",
    b"\t# any \0 \xff \r bytes",
]

INVALID_LINES = [
    b"WRITE",
    b"WRITE []",
    b"WRITE [ ]",
    b"WRITE [()]",
    b"WRITE [(a)]",
    b"WRITE [(a,)]",
    b"WRITE [(,1)]",
    b"WRITE [(a,1,2)]",
    b"WRITE [(a,1)",
    b"WRITE [(a,1]",
    b"WRITE (a,1)",
    b"WRITE [(a,1),(b,2)]",
    b"WRITE [(a b,1)]",
    b"WRITE [(a,1 2)]",
    b"WRITE [(a,1)] x",
    b"WRITE [(a,1)] # comment",
    b"WRITE [(a,KVSERROR)]",
    b"WRITE [(a, KVSMISSING )]",
    b"WRITE [(a,1)(b,KVSERROR)]",
    b"WRITE [(%b,1)]" % (b"k" * 41),
    b"WRITE [(a,%b)]" % (b"v" * 41),
    b"WRITE [(a\0,1)]",
    b"WRITE [(a,1\r)]",
    b"WRITE [(a],1)]",
    b"READ",
    b"READ []",
    b"READ a",
    b"READ [a",
    b"READ [a,]",
    b"READ [,a]",
    b"READ [a b]",
    b"READ [a)]",
    b"READ [a]]",
    b"READ [%b]" % (b"k" * 41),
    b"READ [a]\r ",
    b"READ [a]\r\r",
    b"RE AD [a]",
    b"READS [a]",
    b"read [a]",
    b"DELETE [a][b]",
    b"WAIT",
    b"WAIT x",
    b"WAIT -1",
    b"WAIT +1",
    b"WAIT 1.5",
    b"WAIT 1 2",
    b"WAIT 00000000001",
    b"WAIT \xd9\xa1",
    b"WAIT 1s",
    b"SHOW x",
    b"SHOWx",
    b"SHOW[]",
    b"BACKUP 1",
    b"HELP!",
    b"EXIT",
    b"\xef\xbb\xbfSHOW",
    b"\0",
    b"\r\r",
    b"\x0bSHOW",
]


def kinds(script: bytes) -> list[int | None]:
    return [match.lastindex for match in grammar.LINE.finditer(script)]


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("line", VALID_LINES)
def test_valid_line_matches_group_of_command(line: bytes, ending: bytes) -> None:
    assert grammar.INVALID not in kinds(line + ending)


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("line", INVALID_LINES)
def test_invalid_line_matches_invalid_group(line: bytes, ending: bytes) -> None:
    assert kinds(line + ending) == [grammar.INVALID]


@pytest.mark.parametrize("number", range(1, 8))
def test_group_numbers_follow_command_order(number: int) -> None:
    bodies = {"WRITE": " [(a,1)]", "READ": " [a]", "DELETE": " [a]", "WAIT": " 1"}
    name = grammar.COMMANDS[number - 1]
    assert kinds((name + bodies.get(name, "")).encode()) == [number]
    assert getattr(grammar, name) == number


def test_split_removes_blanks_and_delimiters() -> None:
    assert grammar.split_pairs(b" ( a , 1 )(((b,[2) ") == [b"a", b"1", b"((b", b"[2"]
    assert grammar.split_keys(b" a ,\tb,[c ") == [b"a", b"b", b"[c"]


@given(lines)
@example(b"READ [a]\r")
def test_grammar_accepts_same_lines_as_model(line: bytes) -> None:
    for one in line.split(b"\n"):
        try:
            command = parse(one)
        except Invalid:
            assert kinds(one + b"\n") == [grammar.INVALID]
            continue
        match = grammar.LINE.match(one + b"\n")
        assert match is not None
        if command is None:
            assert match.lastindex is None
        else:
            name, words = command
            assert match.lastindex is not None
            assert grammar.COMMANDS[match.lastindex - 1].encode() == name
            if name == b"WRITE":
                assert grammar.split_pairs(match[match.lastindex]) == words
            elif name in {b"READ", b"DELETE"}:
                assert grammar.split_keys(match[match.lastindex]) == words


@given(st.one_of(scripts(), st.binary(max_size=200)))
def test_matches_cover_script_without_gap(script: bytes) -> None:
    position = 0
    for match in grammar.LINE.finditer(script):
        assert match.start() == position
        position = match.end()
        assert script[position - 1 : position] == b"\n" or position == len(script)
        assert match[0].count(b"\n") <= 1
    assert position == len(script)


def test_line_of_many_megabytes_matches() -> None:
    pairs = b"".join(b"(key%d,value)" % number for number in range(500_000))
    match = grammar.LINE.match(b"WRITE [" + pairs + b"]\n")
    assert match is not None
    assert match.lastindex == grammar.WRITE
    assert len(grammar.split_pairs(match[1])) == 1_000_000
    assert kinds(b"WRITE [" + pairs + b")]\n") == [grammar.INVALID]
