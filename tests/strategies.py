"""What hypothesis draws from: words, lines good and bad, scripts.

A line is made from one drawn seed: to draw each of its parts takes thirty times as long, and lines
are short enough to read without shrinking.
"""

from collections.abc import Sequence
from random import Random

from hypothesis import strategies as st

NOT_PLAIN = b"\0\n\r \t,)]"
RESERVED = (b"KVSERROR", b"KVSMISSING")

KEYS = [b"a", b"b", b"c", b"key", b"(", b"a b", b'"']
"""Keys that the lines of a script share."""
VALUES = [b"1", b"", b"KVSERROR", b"KVSMISSING", b"two words", b"v" * 41, b" " * 3000]
NUMBERS = [
    *(b"0", b"1", b"-1", b"7", b"42", b"-9223372036854775808", b"9223372036854775807"),
    *(b"-9223372036854775807", b"4611686018427387904"),
]
NO_NUMBERS = [b"-0", b"01", b"+1", b"1.5", b"9223372036854775808", b"-", b"", b"1 "]
FUTURE = [b"100000000000000", b"100000000000001", b"500000000000000", b"999999999999999"]
"""Times of expiry that no store reaches during a test."""
PAST = [b"0", b"1", b"007", b"1000000000000"]
"""Times at which a store that has a clock removes pairs soon; an engine has none."""
FOREVER = [b"999999999999999", b"999000000000000"]
"""Numbers of FOR that mean the latest time there is, whatever the clock says."""

words = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b"key", b"(", b"[", b"((x[", b"KVSERROR", b"#", b"x" * 40]),
    st.binary(min_size=1, max_size=40).map(
        lambda raw: bytes(byte for byte in raw if byte not in NOT_PLAIN).lstrip(b'"') or b"w"
    ),
)
"""Words that can be written plain."""
values = words.map(lambda word: b"v" if word in RESERVED else word)
"""Words that can be plain values."""


NO_TIME = bytes.maketrans(b"123456789", b"000000000")

ESCAPES = {0: rb"\0", 10: rb"\n", 13: rb"\r", 34: rb"\"", 92: rb"\\"}

INVALID_LINES = [
    *(b'ADD [(a,"%b")]' % number for number in NO_NUMBERS),
    b"WRITE [(a,1)] FOR 0",
    b"WRITE [(a,1)] FOR 00",
    b"WRITE [(a,1)] UNTIL 1000000000000000",
    b"WRITE [(a,1)] WAIT 0",
    b"WRITE [(a,KVSERROR)]",
    b"READ [a] UNTIL 5",
    b'READ [""]',
    b'READ ["a"b]',
    b"READ [%b]" % (b"x" * 1025),
    b"READ [a] IF [(a,1)]",
    b"IF [(a,1)] IF [(a,1)] READ [a]",
    b"IF [(a,1)]",
    b"IF [(a,KVSMISSING)] READ [a]",
    b"CLEAR",
    b"CLEAR []",
    b"COUNT [a",
    b'COUNT ["%b"]' % (b"x" * 1025),
    b"SHOW READ [a]",
    b"SHOW UNTIL LIMIT 5",
    b"SHOW LIMIT",
    b"EXPIRE",
]


def random_key(rng: Random, keys: Sequence[bytes] = KEYS) -> bytes:
    kind = rng.random()
    if kind < 0.85:
        return rng.choice(keys)
    return rng.choice([b"k" * 41, b"x" * 1024]) if kind < 0.87 else rng.randbytes(rng.randint(1, 9))


def random_value(rng: Random) -> bytes:
    kind = rng.random()
    if kind < 0.6:
        return rng.choice(VALUES if kind < 0.2 else NUMBERS)
    return rng.randbytes(rng.randrange(9)) if kind < 0.8 else b"v%d" % rng.randrange(100)


def spelled(rng: Random, word: bytes, *, is_value: bool = False) -> bytes:
    """Spell a word plain if that is possible, or in quotes, with more escapes than needed."""
    can_be_plain = not (
        word[:1] in {b"", b'"'}
        or any(byte in NOT_PLAIN for byte in word)
        or (is_value and word in RESERVED)
    )
    style = rng.random()
    if can_be_plain and style < 0.7:
        return word
    quoted = b""
    for byte in word:
        if style > 0.9 and rng.random() < 0.5:
            quoted += rng.choice([b"\\x%02x", b"\\x%02X"]) % byte
        elif byte == 9 and style > 0.9:
            quoted += b"\\t"
        else:
            quoted += ESCAPES.get(byte, bytes([byte]))
    return b'"' + quoted + b'"'


def random_list(rng: Random, keys: Sequence[bytes], max_size: int, empty: float = 0) -> list[bytes]:
    """Return the parts of a list of words, each empty with a probability."""
    parts = [b"["]
    for _ in range(rng.randint(1, max_size)):
        word = b"" if rng.random() < empty else random_key(rng, keys)
        parts += [spelled(rng, word), b","]
    return [*parts[:-1], b"]"]


def random_pairs(rng: Random, name: bytes, keys: Sequence[bytes], max_size: int) -> list[bytes]:
    """Return the parts of a list of pairs, as the command `name` takes them."""
    parts = [b"["]
    for _ in range(rng.randint(1, max_size)):
        if name == b"IF" and rng.random() < 0.6:
            value = b"KVSERROR"
        else:
            value = rng.choice(NUMBERS) if name == b"ADD" else random_value(rng)
            value = spelled(rng, value, is_value=True)
        parts += [b"(", spelled(rng, random_key(rng, keys)), b",", value, b")"]
    return [*parts, b"]"]


def random_steps(rng: Random, untils: Sequence[bytes], keys: Sequence[bytes]) -> list[bytes]:
    """Return the parts of a line of steps."""
    parts: list[bytes] = []
    if rng.random() < 0.3:
        parts += [b"IF", *random_pairs(rng, b"IF", keys, 2)]
    for _ in range(rng.choice([1, 1, 2, 3])):
        name = rng.choice([b"WRITE", b"READ", b"DELETE", b"ADD", b"ADD"])
        parts.append(name)
        if name in {b"READ", b"DELETE"}:
            parts += random_list(rng, keys, 4)
            continue
        parts += random_pairs(rng, name, keys, 3)
        expiry = rng.random()
        if expiry < 0.3:
            parts += [b"FOR", rng.choice(FOREVER)]
        elif expiry < 0.6:
            parts += [b"UNTIL", rng.choice(untils)]
    return parts


def random_show(rng: Random, keys: Sequence[bytes]) -> list[bytes]:
    """Return the parts of a SHOW with arguments."""
    parts = [b"SHOW"]
    if rng.random() < 0.5:
        parts += random_list(rng, keys, 3, 0.2)
    if rng.random() < 0.5:
        parts += [b"AFTER", *random_list(rng, keys, 1, 0.2)]
    if rng.random() < 0.5:
        parts += [b"LIMIT", rng.choice([b"0", b"1", b"02", b"999999999999999"])]
    return [*parts, b"UNTIL"] if rng.random() < 0.5 else parts


def random_command(rng: Random, untils: Sequence[bytes], keys: Sequence[bytes] = KEYS) -> bytes:
    """Return a valid line without its ending."""
    name = rng.choice(
        b"WRITE READ DELETE STEPS STEPS STEPS SHOW SHOW COUNT CLEAR EXPIRE WAIT HELP #".split()
    )
    parts = [name]
    if name == b"#":
        return b"#" + rng.randbytes(rng.randrange(20)).replace(b"\n", b"")
    if name == b"WAIT":
        parts.append(rng.choice([b"0", b"00", b"0000000000"]))
    elif name in {b"READ", b"DELETE"}:
        parts += random_list(rng, keys, 6)
    elif name == b"WRITE":
        parts += random_pairs(rng, name, keys, 6)
    elif name == b"STEPS":
        parts = random_steps(rng, untils, keys)
    elif name == b"SHOW" and rng.random() < 0.7:
        parts = random_show(rng, keys)
    elif name == b"COUNT" and rng.random() < 0.7:
        parts += random_list(rng, keys, 3, 0.2)
    elif name == b"CLEAR":
        parts += random_list(rng, keys, 2)
    elif name == b"EXPIRE":
        parts.append(rng.choice(untils))
    blanks = rng.choice([[b""], [b"", b"", b"", b" ", b"\t", b"  "]])
    return rng.choice(blanks) + b"".join(part + rng.choice(blanks) for part in parts)


def random_broken(rng: Random, untils: Sequence[bytes]) -> bytes:
    """Return a valid line with some bytes cut out, put in or changed: mostly invalid."""
    line = random_command(rng, untils)
    at = rng.randint(0, len(line))
    inserted = rng.choice([b"", rng.randbytes(rng.randint(1, 3)), b'"', b"\\", b" ", b"KVSERROR"])
    changed = line[:at] + inserted + line[at + rng.choice([0, 1, 2]) :]
    if any(name in changed for name in (b"FOR", b"UNTIL", b"EXPIRE")):
        return line  # a time that a test may reach, or that depends on the clock
    # A WAIT may still be valid, and is carried out: not one of days.
    return changed.translate(NO_TIME) if b"WAIT" in changed else changed


def random_line(rng: Random, untils: Sequence[bytes]) -> bytes:
    kind = rng.random()
    if kind < 0.7:
        return random_command(rng, untils)
    if kind < 0.85:
        return random_broken(rng, untils)
    if kind < 0.95:
        return rng.choice(INVALID_LINES)
    return rng.randbytes(rng.randrange(30)).replace(b"\n", b"")


def lines_of(untils: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Lines of all kinds, in which pairs expire at `untils`."""
    return st.integers(0, 2**64 - 1).map(lambda seed: random_line(Random(seed), untils))


lines = lines_of(FUTURE)
endings = st.sampled_from([b"\n", b"\n", b"\n", b"\r\n"])


@st.composite
def scripts(draw: st.DrawFn, untils: Sequence[bytes] = FUTURE) -> bytes:
    """Lines of all kinds; the last may lack its ending."""
    given = draw(st.lists(lines_of(untils), max_size=12))
    script = b"".join(line + draw(endings) for line in given)
    return script[:-1] if script and draw(st.booleans()) else script


engine_scripts = scripts(FUTURE + PAST)
"""For an engine alone, which looks at no clock: pairs may expire in the past."""
