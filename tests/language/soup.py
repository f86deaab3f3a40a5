"""What hypothesis draws lines from: forms of commands, these with a change, and mere tokens."""

from hypothesis import strategies as st

tokens = st.sampled_from(
    [
        *b"WRITE READ DELETE ADD IF SHOW COUNT CLEAR EXPIRE WAIT BACKUP HELP FOR UNTIL AFTER LIMIT "
        b"NOT write for [a] [(a,1)] FOR5 UNTIL7 KVSERROR KVSMISSING".split(),
        *(bytes([byte]) for byte in b'[](), \t"\\\0\r#a0-'),
        *rb'"" \" \\ \x41 \x4 \n \q "5" "x" "\x35" ""x b1 00 1 -1 -0 07 123456789012345'.split(),
        *b"9223372036854775807 9223372036854775808 -9223372036854775808 "
        b"-9223372036854775809".split(),
        *(b"x" * 1024, b"x" * 1025, b'"' + b"y" * 1024 + b'"', b'"' + b"y" * 1025 + b'"'),
        *(b'"' + rb"\x41" * 1024 + b'"', b'"' + rb"\n" * 1025 + b'"'),
        *(b'["a",b]', b'[(a,"b c")(d,2)]', b"[(a,KVSERROR)]"),
    ]
)
blanks = st.sampled_from([b"", b"", b"", b" ", b"\t"])
spellings = st.sampled_from(
    [
        *rb'a key "" "x\"y" "\x00" KVSERROR "KVSERROR" KVSMISSING 1 -5 "7" 07 x"y (( [ k,k'.split(),
        b'"a b"',
        b"",
        b'"',
    ]
)


@st.composite
def lists(draw: st.DrawFn, *, pairs: bool) -> bytes:
    count = draw(st.integers(1, 3))
    words = [draw(blanks) + draw(spellings) + draw(blanks) for _ in range(2 * count)]
    if not pairs:
        return b"[" + b",".join(words[:count]) + b"]"
    items = zip(words[::2], words[1::2], strict=True)
    return b"[" + b"".join(b"(%b,%b)%b" % (*item, draw(blanks)) for item in items) + b"]"


@st.composite
def steps(draw: st.DrawFn) -> bytes:
    name = draw(st.sampled_from([b"WRITE", b"ADD", b"READ", b"DELETE"]))
    has_pairs = name in {b"WRITE", b"ADD"}
    parts = [name, draw(lists(pairs=has_pairs))]
    if has_pairs and draw(st.booleans()):
        times = [b"0", b"1", b"60000", b"1" * 15, b"1" * 16, b"0" * 16, b""]
        parts += [draw(st.sampled_from([b"FOR", b"UNTIL"])), draw(st.sampled_from(times))]
    return b"".join(part + draw(blanks) for part in parts)


@st.composite
def commands(draw: st.DrawFn) -> bytes:
    """A line in the form of a command; its words may be invalid."""
    name = draw(st.sampled_from([b"", b"", b"SHOW", b"COUNT", b"CLEAR", b"WAIT", b"EXPIRE"]))
    parts = [name]
    if not name:
        condition = [b"IF", draw(lists(pairs=True))] if draw(st.booleans()) else []
        parts = [*condition, *draw(st.lists(steps(), min_size=1, max_size=3))]
    elif name in {b"WAIT", b"EXPIRE"}:
        parts.append(draw(st.sampled_from([b"0", b"1" * 10, b"1" * 11, b"1" * 15, b"1" * 16])))
    elif draw(st.booleans()):
        parts.append(draw(lists(pairs=False)))
    if name == b"SHOW":
        if draw(st.booleans()):
            parts += [b"AFTER", b"[%b]" % draw(spellings)]
        if draw(st.booleans()):
            parts += [b"LIMIT", draw(st.sampled_from([b"0", b"12", b"1" * 16]))]
        parts += draw(st.sampled_from([[], [b"UNTIL"]]))
    return b"".join(part + draw(blanks) for part in parts)


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A line in the form of a command with a token put in or instead of some bytes."""
    line = draw(commands())
    at = draw(st.integers(0, len(line)))
    token = draw(st.just(b"") | tokens)
    return line[:at] + token + line[at + draw(st.integers(0, 2)) :]


lines = commands() | changed() | st.lists(tokens, max_size=12).map(b"".join)
"""Lines without their ending, valid and invalid."""
