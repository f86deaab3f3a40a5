"""What hypothesis draws from: words, lines good and bad, scripts."""

from hypothesis import strategies as st

words = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b"key", b"(", b"[", b"((x[", b"KVSERROR", b"#", b"x" * 40]),
    st.binary(min_size=1, max_size=40).map(
        lambda raw: bytes(byte for byte in raw if byte not in b"\0\n\r \t,)]") or b"w"
    ),
)
values = words.map(lambda word: b"v" if word in {b"KVSERROR", b"KVSMISSING"} else word)
blanks = st.sampled_from([b"", b"", b"", b" ", b"\t", b"  "])


NO_TIME = bytes.maketrans(b"123456789", b"000000000")


@st.composite
def commands(draw: st.DrawFn) -> bytes:
    """A valid line without its ending."""
    name = draw(st.sampled_from([b"WRITE", b"READ", b"DELETE", b"SHOW", b"WAIT", b"HELP", b"#"]))
    if name == b"#":
        return b"#" + draw(st.binary(max_size=20)).replace(b"\n", b"")
    parts = [name]
    if name == b"WAIT":
        parts.append(draw(st.sampled_from([b"0", b"00", b"0000000000"])))
    elif name in {b"READ", b"DELETE"}:
        keys = draw(st.lists(words, min_size=1, max_size=6))
        parts += [b"[", *b"\n,\n".join(keys).split(b"\n"), b"]"]
    elif name == b"WRITE":
        parts.append(b"[")
        for key, value in draw(st.lists(st.tuples(words, values), min_size=1, max_size=6)):
            parts += [b"(", key, b",", value, b")"]
        parts.append(b"]")
    return draw(blanks) + b"".join(part + draw(blanks) for part in parts)


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A valid line with some bytes cut out, put in or changed: mostly invalid."""
    line = draw(commands())
    at = draw(st.integers(0, len(line)))
    until = draw(st.integers(at, min(len(line), at + 2)))
    changed = line[:at] + draw(st.binary(max_size=3)) + line[until:]
    # A WAIT may still be valid, and is carried out: not one of days.
    return changed.translate(NO_TIME) if b"WAIT" in changed else changed


lines = st.one_of(commands(), commands(), broken(), st.binary(max_size=30), st.just(b""))
endings = st.sampled_from([b"\n", b"\n", b"\n", b"\r\n"])


@st.composite
def scripts(draw: st.DrawFn) -> bytes:
    """Lines of all kinds; the last may lack its ending."""
    script = b"".join(line + draw(endings) for line in draw(st.lists(lines, max_size=12)))
    return script[:-1] if script and draw(st.booleans()) else script
