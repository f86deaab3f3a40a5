"""The grammar: valid and invalid lines, their parts, and the spellings of words."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvs.language import grammar
from kvs.language.grammar import Listing, Step, Steps, spell, spell_value, unquote
from tests import model
from tests.language import old_grammar, soup
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
    b"WRITE [(%b,%b)]" % (b"k" * 1024, b"v" * 5000),
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
    # Quoted words.
    b'WRITE [("a b", "(),[]\t\x01\xff") ( c ,"")]',
    rb'READ ["\"\\\n\r\t\0\x00\xaB\xFf","\00"]',
    b'WRITE [(a"b,1")("KVSERROR","KVSERROR")(b,KVSERROR2)]',
    b'READ ["%b"]' % (rb"\x41" * 1024),
    # Steps.
    b"WRITE[(a,1)]FOR5DELETE[b]",
    b"IF [(lock,KVSERROR)(b,1)] WRITE [(lock,me)] FOR 60000",
    b"IF[(a,1)]READ[a]ADD[(b,1)]UNTIL0READ[b]",
    b"WRITE [(a,1)] UNTIL 999999999999999",
    b"ADD [(hits,1)(stock,-3)] FOR 000000000000001",
    b"ADD [(a,9223372036854775807)(b,-9223372036854775808)(c,0)]",
    b'ADD [(a,"\\x35")(b,"-7")]',
    # Listings and numbers.
    b"SHOW [n]",
    b'SHOW [n,"a b"] AFTER [""] LIMIT 3 UNTIL',
    b"SHOWAFTER[x]LIMIT0UNTIL",
    b"COUNT",
    b'COUNT["",KVSERROR]',
    b'CLEAR [""]',
    b"CLEAR [a,b]",
    b"EXPIRE 123",
    b"EXPIRE000000000000000",
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
    b"WRITE [(%b,1)]" % (b"k" * 1025),
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
    b"READ [%b]" % (b"k" * 1025),
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
    # Quoted words.
    b'READ [""]',
    b'WRITE [("",a)]',
    b'WRITE [(a,")]',
    b'WRITE [(a,"x)]',
    b'WRITE [(a,"x"y)]',
    b'WRITE [(a,"x""y")]',
    b'WRITE [(a,"\0")]',
    b'WRITE [(a,"\r")]',
    b'WRITE [("a\\q",1)]',
    b'WRITE [("a\\xZZ",1)]',
    b'WRITE [("a\\",1)]',
    b'READ ["%b"]' % (rb"\x41" * 1025),
    b'COUNT ["%b"]' % (b" " * 1025),
    b'SHOW AFTER ["%b"]' % (b" " * 1025),
    b'IF [("%b",1)] READ [a]' % (b" " * 1025),
    # Steps.
    b"IF [(lock,1)]",
    b"IF [(lock,KVSMISSING)] WRITE [(lock,me)]",
    b"IF [(a,1)] SHOW",
    b"READ [a] IF [(a,1)] READ [a]",
    b"READ [a] SHOW",
    b"READ [a] FOR 5",
    b"WRITE [(a,1)] FOR 0",
    b"WRITE [(a,1)] FOR 0000000000000001",
    b"WRITE [(a,1)] FOR 5 UNTIL 6",
    b"WRITE [(a,1)] UNTIL 1234567890123456",
    b"ADD [(a,9223372036854775808)]",
    b"ADD [(a,-9223372036854775809)]",
    b"ADD [(a,01)]",
    b"ADD [(a,-0)]",
    b"ADD [(a,+1)]",
    b'ADD [(a,"x")]',
    b'ADD [(a,"")]',
    b'READ [a] ADD [(a,"5 ")]',
    b"NOT [(a,1)]",
    # Listings and numbers.
    b"SHOW []",
    b"SHOW UNTIL LIMIT 3",
    b"SHOW LIMIT 3 LIMIT 3",
    b"SHOW LIMIT 1234567890123456",
    b"SHOW AFTER [a,b]",
    b"SHOW [a] [b]",
    b"COUNT []",
    b"COUNT AFTER [a]",
    b"CLEAR",
    b"CLEAR a",
    b"EXPIRE",
    b"EXPIRE 1234567890123456",
]


def kinds(script: bytes) -> list[int | None]:
    return [grammar.kind_of(match) for match in grammar.LINE.finditer(script)]


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("line", VALID_LINES)
def test_valid_line_is_of_a_kind(line: bytes, ending: bytes) -> None:
    assert grammar.INVALID not in kinds(line + ending)


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("line", INVALID_LINES)
def test_invalid_line_is_of_kind_invalid(line: bytes, ending: bytes) -> None:
    assert kinds(line + ending) == [grammar.INVALID]


KINDS = [
    (b"WRITE [(a,1)(b,2)]", grammar.WRITE),
    (b"READ[a, b]", grammar.READ),
    (b"DELETE[a, b]", grammar.DELETE),
    (b"WRITE [(a,1)] FOR 5", grammar.STEPS),
    (b"READ [a] READ [a]", grammar.STEPS),
    (b"IF [(a,1)] READ [a]", grammar.STEPS),
    (b"ADD [(a,1)]", grammar.STEPS),
    (b"WAIT 1", grammar.WAIT),
    (b"SHOW", grammar.SHOW),
    (b"SHOW [n]", grammar.SHOW),
    (b"COUNT", grammar.COUNT),
    (b"CLEAR [a]", grammar.CLEAR),
    (b"EXPIRE 1", grammar.EXPIRE),
    (b"BACKUP", grammar.BACKUP),
    (b"HELP ", grammar.HELP),
    (b"# x", None),
    (b" \t", None),
    (b"FOO", grammar.INVALID),
]


@pytest.mark.parametrize(("line", "kind"), KINDS)
@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_kind_is_that_of_the_command(line: bytes, kind: int | None, ending: bytes) -> None:
    assert kinds(line + ending) == [kind]


def test_every_command_has_a_kind() -> None:
    assert {line.split(b" ")[0].split(b"[")[0].decode() for line, _ in KINDS} >= {*grammar.COMMANDS}


# Old lines.


@given(lines | soup.lines)
@example(b"WRITE [((a,[1)(#,\\)]")
@example(b'DELETE [a"]')
def test_old_valid_line_keeps_kind_and_words(line: bytes) -> None:
    for one in line.split(b"\n"):
        old = old_grammar.LINE.match(one + b"\n")
        assert old is not None
        if old.lastindex == old_grammar.INVALID:
            continue
        new = grammar.LINE.match(one + b"\n")
        assert new is not None
        if old.lastindex is None:
            assert grammar.kind_of(new) is None
            continue
        name = old_grammar.COMMANDS[old.lastindex - 1]
        words = old_grammar.words_of(old)
        if any(word.startswith(b'"') for word in words):
            continue
        kind = getattr(grammar, name)
        assert grammar.kind_of(new) == kind
        if name == "WRITE":
            assert grammar.split_pairs(new[kind]) == words
        elif name in {"READ", "DELETE"}:
            assert grammar.split_keys(new[kind]) == words
        elif name == "WAIT":
            assert [new[kind]] == words


# Lines and their parts, compared with the naive model.


@given(lines | soup.lines)
@example(b"READ [a]\r")
@example(b"WRITE[(a,1)]FOR5DELETE[b]")
def test_grammar_accepts_same_lines_as_model(line: bytes) -> None:
    for one in line.split(b"\n"):
        match = grammar.LINE.match(one + b"\n")
        assert match is not None
        kind = grammar.kind_of(match)
        try:
            command = model.parse(one)
        except model.Invalid:
            assert kind == grammar.INVALID
            continue
        if command is None:
            assert kind is None
            continue
        name, arguments = command
        assert kind == getattr(grammar, name.decode())
        assert kind is not None
        text = match[kind]
        if name == b"WRITE":
            assert grammar.split_pairs(text) == arguments
        elif name in {b"READ", b"DELETE"}:
            assert grammar.split_keys(text) == arguments
        elif name == b"STEPS":
            assert_steps_equal(grammar.parse_steps(text), arguments)
        elif name in {b"SHOW", b"COUNT", b"CLEAR"}:
            found = grammar.parse_listing(text)
            prefixes = arguments.prefixes or []
            assert found == Listing(prefixes, arguments.after, arguments.limit, arguments.until)
        elif name == b"EXPIRE":
            assert int(text) == arguments


def assert_steps_equal(found: Steps, line: model.Line) -> None:
    assert found.condition == line.condition
    assert len(found.steps) == len(line.steps)
    for step, expected in zip(found.steps, line.steps, strict=True):
        words = step.keys
        if step.name in {b"WRITE", b"ADD"}:
            words = [word for pair in zip(step.keys, step.values, strict=True) for word in pair]
        assert (step.name, words) == (expected.name, expected.words)
        assert (step.for_ms, step.until) == (expected.for_ms, expected.until)


def test_split_removes_blanks_delimiters_and_quotes() -> None:
    assert grammar.split_pairs(b" ( a , 1 )(((b,[2) ") == [b"a", b"1", b"((b", b"[2"]
    assert grammar.split_keys(b" a ,\tb,[c ") == [b"a", b"b", b"[c"]
    assert grammar.split_pairs(b' ( "a,b" , "" )(c"d,"x)(y")') == [
        b"a,b", b"", b'c"d', b"x)(y",
    ]  # fmt: skip
    assert grammar.split_keys(rb' a ,"b, \" ",c" ') == [b"a", b'b, " ', b'c"']


def test_steps_have_their_condition_words_and_times() -> None:
    line = (
        rb'IF [(lock,KVSERROR)(b,"KVSERROR")] WRITE [(lock,me)("a b","\"q\\")] FOR 60000 '
        rb'READ["a",b , c]ADD[(x,-3)]UNTIL 77 DELETE [d]'
    )
    assert kinds(line) == [grammar.STEPS]
    assert grammar.parse_steps(line) == Steps(
        [(b"lock", None), (b"b", b"KVSERROR")],
        [
            Step(b"WRITE", [b"lock", b"a b"], [b"me", b'"q\\'], 60000, None),
            Step(b"READ", [b"a", b"b", b"c"], [], None, None),
            Step(b"ADD", [b"x"], [b"-3"], None, 77),
            Step(b"DELETE", [b"d"], [], None, None),
        ],
    )


def test_listing_has_its_prefixes_and_limits() -> None:
    for arguments, listing in [
        (b"", Listing([], None, None, expiries=False)),
        (b'AFTER["x"]', Listing([], b"x", None, expiries=False)),
        (b'[""] UNTIL', Listing([b""], None, None, expiries=True)),
        (
            b' ["a,b",c ] AFTER [ z ]LIMIT 5 UNTIL',
            Listing([b"a,b", b"c"], b"z", 5, expiries=True),
        ),
    ]:
        assert kinds(b"SHOW" + arguments) == [grammar.SHOW]
        assert grammar.parse_listing(arguments) == listing


@given(st.one_of(scripts(), st.binary(max_size=200), st.lists(soup.lines).map(b"\n".join)))
def test_matches_cover_script_without_gap(script: bytes) -> None:
    position = 0
    for match in grammar.LINE.finditer(script):
        assert match.start() == position
        position = match.end()
        assert script[position - 1 : position] == b"\n" or position == len(script)
        assert match[0].count(b"\n") <= 1
    assert position == len(script)


@pytest.mark.slow
def test_line_of_many_megabytes_matches() -> None:
    pairs = b"".join(b"(key%d,value)" % number for number in range(1_500_000))
    assert len(pairs) > grammar.MAX_VALUE_BYTES
    match = grammar.LINE.match(b"WRITE [" + pairs + b"]\n")
    assert match is not None
    assert grammar.kind_of(match) == grammar.WRITE
    assert len(grammar.split_pairs(match[1])) == 3_000_000
    assert kinds(b"WRITE [" + pairs + b")]\n") == [grammar.INVALID]


@pytest.mark.slow
@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_length_of_a_line_is_that_without_its_ending(ending: bytes) -> None:
    line = b"READ [a" + b" " * (grammar.MAX_LINE_BYTES - 8) + b"]"
    assert len(line) == grammar.MAX_LINE_BYTES
    assert kinds(line + ending) == [grammar.READ]
    assert kinds(line + b" " + ending) == [grammar.INVALID]
    match = grammar.LINE.match(line + b" " + ending)
    assert match is not None
    assert grammar.kind_of(match, limits=False) == grammar.READ


# Spellings.

hard_words = st.lists(st.sampled_from([*b'\0\n\r \t,)]"\\xnrt0a5cC1\xff'])).map(bytes)
ESCAPES = {0: rb"\0", 10: rb"\n", 13: rb"\r", 9: rb"\t", 34: rb"\"", 92: rb"\\"}


@pytest.mark.parametrize("piece", [1, 2, 1 << 20])
@given(word=st.binary(min_size=1))
def test_long_value_is_spelled_in_pieces(piece: int, word: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grammar, "PIECE_BYTES", piece)
        pieces = list(grammar.spell_long_value(word))
    assert b"".join(pieces) == spell(word)
    assert pieces == [word] or max(map(len, pieces)) <= 2 * piece


@given(hard_words | st.binary() | st.sampled_from([b"KVSERROR", b"KVSMISSING", b"KVS"]))
def test_canonical_spelling_is_read_back(word: bytes) -> None:
    for spelling in (spell(word), spell_value(word)):
        assert unquote(spelling) == word
        assert spelling == word or spelling.startswith(b'"')
        if 0 < len(word) <= grammar.MAX_KEY_BYTES:
            assert kinds(b"READ [" + spelling + b"]") == [grammar.READ]
    assert kinds(b"WRITE [(a,%b)]" % spell_value(word)) == [grammar.WRITE]


@given(hard_words)
def test_canonical_spelling_is_plain_if_the_word_can_be(word: bytes) -> None:
    can_be_plain = kinds(b"READ [" + word + b"]\n") == [grammar.READ] and (
        grammar.split_keys(word) == [word]
    )
    assert (spell(word) == word) == can_be_plain
    assert spell_value(b"KVSERROR") == b'"KVSERROR"'
    assert spell(b"KVSERROR") == b"KVSERROR"


@given(st.data())
def test_every_spelling_is_read_as_its_word(data: st.DataObject) -> None:
    word = data.draw(hard_words | st.binary(max_size=9))
    spelling = b""
    for byte in word:
        choices = [b"\\x%02x" % byte, b"\\x%02X" % byte]
        if byte in ESCAPES:
            choices.append(ESCAPES[byte])
        if byte not in b'\0\n\r"\\':
            choices.append(bytes([byte]))
        spelling += data.draw(st.sampled_from(choices))
    assert unquote(b'"' + spelling + b'"') == word


@given(st.lists(hard_words | st.sampled_from([b"a", b"KVSERROR", b"b"])))
def test_many_words_are_spelled_as_each_is(words: list[bytes]) -> None:
    assert grammar.spell_all(words) == [spell_value(word) for word in words]
    assert grammar.spell_all(words, spell) == [spell(word) for word in words]
    if grammar.are_plain(words):
        assert words == [spell_value(word) for word in words]


@pytest.mark.slow
def test_words_of_many_megabytes_are_unquoted() -> None:
    for spelling, word in [
        (rb"\x41", b"A"),
        (rb"\\", b"\\"),
        (rb"\0", b"\0"),
        (rb"\0\n\x00\x5C0", b"\0\n\0\\0"),
    ]:
        count = grammar.MAX_VALUE_BYTES // len(word)
        assert unquote(b'"%b"' % (spelling * count)) == word * count
