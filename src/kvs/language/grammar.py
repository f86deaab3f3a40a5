r"""The grammar of the command language, as one compiled pattern.

Invariants:

- A script is a sequence of lines. A line ends with a newline or with the script; one carriage
  return before the end is part of the ending.
- `LINE` matches every line of every script, one after the other, with no gap. A command is in the
  group of its kind, a comment or an empty line is in no group, and every other line is in the group
  `INVALID`. So ``match.lastindex`` is the kind of a line, but for the limits that `kind_of` adds.
- A word is plain or quoted. A plain word never has a blank, ``,``, ``)`` or ``]`` and never begins
  with ``"``; a quoted word has no ``"`` but after a backslash. So a list without a ``"`` can be
  split at its delimiters, after removing all blanks.
- Every repetition must be possessive: matching never backtracks, so the time for a line is linear
  in the length of the line.
- The length of a quoted word is that of the bytes it stands for, so no pattern checks it. Nor does
  a pattern count the bytes of a plain value: a repetition with a great maximum is eight times
  slower. `kind_of` checks both.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

MAX_KEY_BYTES = 1024
"""Maximum bytes of a key, a prefix, or the word after AFTER. A key has at least 1."""
MAX_VALUE_BYTES = 1 << 24
"""Maximum bytes of a value."""
MAX_LINE_BYTES = 1 << 26
"""Maximum bytes of a command without its line ending."""
MAX_OUTPUT_BYTES = 1 << 28
"""Maximum bytes of the output of one line; SHOW has no limit."""

MISSING_VALUE = b"KVSERROR"
"""The output of READ for a missing key; in IF, the value of a missing key."""
MISSING_KEY = b"KVSMISSING"
"""The output of DELETE for a missing key."""
RESERVED = (MISSING_VALUE, MISSING_KEY)
"""Plain words that cannot be values."""

COMMANDS = (
    "WRITE", "READ", "DELETE", "ADD", "IF", "SHOW", "COUNT", "CLEAR", "EXPIRE", "WAIT", "BACKUP",
    "HELP",
)  # fmt: skip
"""The names with which a command begins."""

WRITE, READ, DELETE, STEPS, WAIT, SHOW, COUNT, CLEAR, EXPIRE, BACKUP, HELP = range(1, 12)
"""The groups of `LINE`. WRITE, READ and DELETE are lines of one such step, without IF, FOR and
UNTIL, and their group is the list without brackets. STEPS is every other line of steps, whole. The
group of WAIT and EXPIRE is the number, that of SHOW, COUNT and CLEAR what follows the name."""
INVALID = 12

# Python before 3.11.5 does not return to the start of an iteration of a possessive repetition that
# fails half-way (github.com/python/cpython/issues/106052), and would accept invalid lines. An
# atomic group matches the same, but needs memory for every iteration.
_OPTIONAL, _ZERO_OR_MORE, _ONE_OR_MORE = (
    (rb"(?>(?:%b)?)", rb"(?>(?:%b)*)", rb"(?>(?:%b)+)")
    if sys.version_info < (3, 11, 5)
    else (rb"(?:%b)?+", rb"(?:%b)*+", rb"(?:%b)++")
)
"""Repetitions of a group that never backtrack."""

BLANKS = rb"[ \t]*+"
WORD_DELIMITERS = rb"\0\n\r \t,)\]"
ESCAPE = rb'\\(?:["\\nrt0]|x[0-9A-Fa-f]{2})'
_UNESCAPED = rb'[^"\\\0\n\r]*+'
IN_QUOTES = _UNESCAPED + _ZERO_OR_MORE % (ESCAPE + _UNESCAPED)
QUOTED = rb'"%b"' % IN_QUOTES
PLAIN = rb'[^%b"][^%b]*+' % (WORD_DELIMITERS, WORD_DELIMITERS)
_PLAIN_KEY = rb'[^%b"][^%b]{0,%d}+' % (WORD_DELIMITERS, WORD_DELIMITERS, MAX_KEY_BYTES - 1)
KEY = rb'(?:%b|(?!"")%b)' % (_PLAIN_KEY, QUOTED)
PREFIX = rb"(?:%b|%b)" % (_PLAIN_KEY, QUOTED)
WORD = rb"(?:%b|%b)" % (PLAIN, QUOTED)
VALUE = rb"(?!(?:%b)[ \t)])%b" % (b"|".join(RESERVED), WORD)
_EXPECTED = rb"(?!%b[ \t)])%b" % (MISSING_KEY, WORD)


def _digits_up_to(maximum: bytes) -> bytes:
    """Return a pattern of the decimal numbers from 1 to `maximum`, without leading zeros."""
    shorter = rb"[1-9][0-9]{0,%d}+(?![0-9])" % (len(maximum) - 2)
    equally_long = [
        rb"%b[%d-%d][0-9]{%d}" % (maximum[:i], i == 0, digit - 49, len(maximum) - i - 1)
        for i, digit in enumerate(maximum)
        if digit > (49 if i == 0 else 48)
    ]
    return b"|".join([shorter, *equally_long, maximum])


_NUMBER = rb"(?:0|%b|-(?:%b))" % (
    _digits_up_to(b"9223372036854775807"),
    _digits_up_to(b"9223372036854775808"),
)
_ADDEND = rb"(?:%b(?=[ \t)])|%b)" % (_NUMBER, QUOTED)


def _pair(key: bytes, value: bytes) -> bytes:
    return rb"%b\(%b,%b\)" % (BLANKS, BLANKS + key + BLANKS, BLANKS + value + BLANKS)


def _items(item: bytes) -> bytes:
    """Return a pattern of a list of words, without its brackets."""
    item = BLANKS + item + BLANKS
    return item + _ZERO_OR_MORE % (b"," + item)


def _list(name: bytes, items: bytes) -> bytes:
    return name + BLANKS + rb"\[" + items + BLANKS + rb"\]"


_PAIRS = _ONE_OR_MORE % _pair(KEY, VALUE)
_NUMBERS = _ONE_OR_MORE % _pair(KEY, _ADDEND)
_CONDITIONS = _ONE_OR_MORE % _pair(KEY, _EXPECTED)
_KEYS = _items(KEY)
_PREFIXES = _items(PREFIX)

_FOR = rb"FOR%b(?!0++(?![0-9]))[0-9]{1,15}+" % BLANKS
_UNTIL = rb"UNTIL%b[0-9]{1,15}+" % BLANKS
_EXPIRY = _OPTIONAL % (BLANKS + rb"(?:%b|%b)" % (_FOR, _UNTIL))
_STEP = rb"(?:%b|%b|%b|%b)" % (
    _list(b"WRITE", _PAIRS) + _EXPIRY,
    _list(b"READ", _KEYS),
    _list(b"DELETE", _KEYS),
    _list(b"ADD", _NUMBERS) + _EXPIRY,
)
_STEPS = _OPTIONAL % (_list(b"IF", _CONDITIONS) + BLANKS) + _STEP + _ZERO_OR_MORE % (BLANKS + _STEP)
_LISTING = b"".join(
    _OPTIONAL % (BLANKS + option)
    for option in (
        _list(b"", _PREFIXES),
        _list(b"AFTER", BLANKS + PREFIX),
        rb"LIMIT%b[0-9]{1,15}+" % BLANKS,
        rb"UNTIL",
    )
)

_COMMAND = rb"|".join(
    (
        _list(b"WRITE", rb"(%b)" % _PAIRS),
        _list(b"READ", rb"(%b)" % _KEYS),
        _list(b"DELETE", rb"(%b)" % _KEYS),
        rb"(%b)" % _STEPS,
        rb"WAIT%b([0-9]{1,10}+)" % BLANKS,
        rb"SHOW(%b)" % _LISTING,
        rb"COUNT(%b)" % (_OPTIONAL % _list(BLANKS, _PREFIXES)),
        rb"CLEAR(%b)" % _list(BLANKS, _PREFIXES),
        rb"EXPIRE%b([0-9]{1,15}+)" % BLANKS,
        rb"BACKUP()",
        rb"HELP()",
        rb"#[^\n]*+",
        rb"",
    )
)

LINE = re.compile(
    rb"(?!\Z)(?:%b(?:%b)%b\r?(?:\n|\Z)|([^\n]*+)(?:\n|\Z))" % (BLANKS, _COMMAND, BLANKS)
)

VALID_PAIRS_PREFIX = re.compile(_ZERO_OR_MORE % _pair(KEY, VALUE))
"""All valid pairs at the start of a list: the end of the list or an error follows."""
VALID_NUMBERS_PREFIX = re.compile(_ZERO_OR_MORE % _pair(KEY, _ADDEND))
"""The same of ADD."""
VALID_CONDITIONS_PREFIX = re.compile(_ZERO_OR_MORE % _pair(KEY, _EXPECTED))
"""The same of IF."""
VALID_KEYS_PREFIX = re.compile(_ZERO_OR_MORE % (BLANKS + KEY + BLANKS + b","))
"""All valid keys at the start of a list that a comma follows."""
VALID_PREFIXES_PREFIX = re.compile(_ZERO_OR_MORE % (BLANKS + PREFIX + BLANKS + b","))
"""The same of prefixes."""
VALID_STEPS_PREFIX = re.compile(
    _ZERO_OR_MORE % (BLANKS + _STEP + BLANKS + rb"(?=WRITE|READ|DELETE|ADD)")
)
"""All valid steps that the name of another step follows."""

NUMBER = re.compile(_NUMBER)
"""A number of ADD; to be used with `fullmatch`."""

# The parts of valid lines. What `LINE` has checked is not checked again.
ANY_PAIR = re.compile(_pair(rb"(%b)" % PREFIX, rb"(%b)" % WORD))
"""One valid pair of a list; its groups are the spellings of the words."""
ANY_WORD = re.compile(BLANKS + rb"(%b)" % PREFIX + BLANKS + rb"(?:,|\Z)")
"""One valid word of a list, with the comma that follows it or at the end of the list."""
_ANY_STEP = re.compile(
    rb"%b(?:(IF|WRITE|ADD)%b\[(%b)%b\]|(READ|DELETE)%b\[(%b)\])(?:%b(FOR|UNTIL)%b([0-9]++))?"
    % (
        BLANKS, BLANKS, _ONE_OR_MORE % _pair(PREFIX, WORD), BLANKS, BLANKS, _KEYS, BLANKS, BLANKS,
    )
)  # fmt: skip
_ANY_LISTING = re.compile(
    rb"(?:%b\[(%b)\])?(?:%bAFTER%b\[%b(%b)%b\])?(?:%bLIMIT%b([0-9]++))?%b(UNTIL)?"
    % (BLANKS, _PREFIXES, BLANKS, BLANKS, BLANKS, PREFIX, BLANKS, BLANKS, BLANKS, BLANKS)
)
_PLAIN = re.compile(PLAIN)


class Step(NamedTuple):
    """One WRITE, READ, DELETE or ADD of a line."""

    name: bytes
    keys: list[bytes]
    """In the order of the line."""
    values: list[bytes]
    """Of a WRITE or ADD, one for each key; else empty. Those of ADD are numbers."""
    for_ms: int | None
    """The number after FOR, in milliseconds; None without FOR."""
    until: int | None
    """The number after UNTIL, in milliseconds since the epoch; None without UNTIL."""


class Steps(NamedTuple):
    """The condition and the steps of one line."""

    condition: list[tuple[bytes, bytes | None]]
    """Keys and the values that they must have, None for a missing key; empty without IF."""
    steps: list[Step]


class Listing(NamedTuple):
    """The arguments of a SHOW."""

    prefixes: list[bytes]
    """Empty if there is no list; then every key is listed."""
    after: bytes | None
    limit: int | None
    expiries: bool
    """Whether the arguments end in UNTIL."""


def kind_of(match: re.Match[bytes], *, limits: bool = True) -> int | None:
    """Return the kind of a line that `LINE` matched: its group, or None if it has no command.

    A line with a word that is too long, or with an ADD of a quoted word that is no number, is
    `INVALID`; with `limits`, a line that is too long is as well.
    """
    kind = match.lastindex
    if kind is None or kind == INVALID:
        return kind
    size = match.end() - match.start()
    if size > MAX_LINE_BYTES and limits and _size_without_ending(match) > MAX_LINE_BYTES:
        return INVALID
    if (size > MAX_KEY_BYTES or kind == STEPS) and not _has_valid_words(match[kind], kind):
        return INVALID
    return kind


def _size_without_ending(match: re.Match[bytes]) -> int:
    script, end = match.string, match.end()
    end -= script.endswith(b"\n", match.start(), end)
    return end - script.endswith(b"\r", match.start(), end) - match.start()


def _has_valid_words(text: bytes, kind: int) -> bool:
    """Return whether the words are valid, of which `LINE` does not check all: see the module."""
    if b'"' not in text and not _may_have_long_value(text):
        return True
    if kind == WRITE:
        return _are_valid_pairs(text)
    if kind in {READ, DELETE}:
        return _are_valid_keys(ANY_WORD.finditer(text))
    if kind == STEPS:
        return find_invalid_step(text) is None
    if kind in {SHOW, COUNT, CLEAR}:
        prefixes, after, _, _ = _match_listing(text)
        words = ANY_WORD.finditer(prefixes or b"")
        return _are_valid_keys(words) and (after is None or _has_size(after, MAX_KEY_BYTES))
    return True


def _may_have_long_value(text: bytes) -> bool:
    """Return False only if no plain value is too long: such a value fills a block with no comma."""
    block_bytes = MAX_VALUE_BYTES // 2
    starts = range(0, len(text) - block_bytes + 1, block_bytes)
    return any(text.find(b",", start, start + block_bytes) < 0 for start in starts)


def find_invalid_step(text: bytes) -> int | None:
    """Return the offset of the first step with an invalid word in steps that `LINE` accepts."""
    for step in _ANY_STEP.finditer(text):
        name, pairs, _, keys, _, _ = step.groups()
        if not (
            _are_valid_keys(ANY_WORD.finditer(keys))
            if name is None
            else _are_valid_pairs(pairs, are_numbers=name == b"ADD")
        ):
            return step.start()
    return None


def _are_valid_pairs(text: bytes, *, are_numbers: bool = False) -> bool:
    return all(
        _has_size(pair[1], MAX_KEY_BYTES)
        and (
            NUMBER.fullmatch(unquote(pair[2]))
            if are_numbers
            else _has_size(pair[2], MAX_VALUE_BYTES)
        )
        for pair in ANY_PAIR.finditer(text)
    )


def _are_valid_keys(words: Iterable[re.Match[bytes]]) -> bool:
    return all(_has_size(word[1], MAX_KEY_BYTES) for word in words)


def _has_size(spelling: bytes, max_bytes: int) -> bool:
    return len(spelling) <= max_bytes or len(unquote(spelling)) <= max_bytes


def split_keys(body: bytes) -> list[bytes]:
    """Return the words in the list of a valid READ or DELETE, in the order of the line."""
    if b'"' in body:
        return unquote_all(ANY_WORD.findall(body))
    if b" " in body or b"\t" in body:
        body = body.translate(None, b" \t")
    return body.split(b",")


def split_pairs(body: bytes) -> list[bytes]:
    """Return the words in the list of a valid WRITE: key, value, key, value, ..."""
    if b'"' in body:
        return unquote_all([word for pair in ANY_PAIR.findall(body) for word in pair])
    if b" " in body or b"\t" in body:
        body = body.translate(None, b" \t")
    return body[1:-1].replace(b")(", b",").split(b",")


def parse_steps(text: bytes) -> Steps:
    """Return the parts of a valid line of steps, without its line ending."""
    condition: list[tuple[bytes, bytes | None]] = []
    steps: list[Step] = []
    for match in _ANY_STEP.finditer(text):
        with_pairs, pairs, with_keys, body, expiry, digits = match.groups()
        if with_pairs == b"IF":
            condition = [
                (unquote(key), None if value == MISSING_VALUE else unquote(value))
                for key, value in ANY_PAIR.findall(pairs)
            ]
            continue
        number = None if digits is None else int(digits)
        words = split_pairs(pairs) if with_pairs else []
        step = Step(
            name=with_pairs or with_keys,
            keys=words[::2] if with_pairs else split_keys(body),
            values=words[1::2],
            for_ms=number if expiry == b"FOR" else None,
            until=number if expiry == b"UNTIL" else None,
        )
        steps.append(step)
    return Steps(condition, steps)


def parse_listing(arguments: bytes) -> Listing:
    """Return the arguments of a valid SHOW, COUNT or CLEAR."""
    prefixes, after, limit, expiries = _match_listing(arguments)
    return Listing(
        [] if prefixes is None else split_keys(prefixes),
        None if after is None else unquote(after),
        None if limit is None else int(limit),
        expiries is not None,
    )


def _match_listing(arguments: bytes) -> Sequence[bytes | None]:
    match = _ANY_LISTING.match(arguments)
    assert match is not None, arguments
    return match.groups()


# Words and their spellings.


def spell(word: bytes) -> bytes:
    """Return the canonical spelling of a key or a prefix: plain if it can be written plain."""
    return word if _PLAIN.fullmatch(word) else _quote(word)


def spell_value(word: bytes) -> bytes:
    """Return the canonical spelling of a value: a reserved word is quoted."""
    return word if _PLAIN.fullmatch(word) and word not in RESERVED else _quote(word)


def spell_all(words: list[bytes], spell: Callable[[bytes], bytes] = spell_value) -> list[bytes]:
    """Return the spellings of many words: `words` itself if each is its own spelling."""
    return words if are_plain(words) else list(map(spell, words))


def are_plain(words: Sequence[bytes]) -> bool:
    """Return True only if each word is its own spelling, also as a value; much faster than `spell`.

    The answer is False for a few words that are.
    """
    joined = b"".join(words)
    return (
        len(joined) == len(joined.translate(None, _NOT_PLAIN))
        and b"KVS" not in joined
        and b"" not in words
    )


def _quote(word: bytes) -> bytes:
    return b'"%b"' % _escape(word)


def _escape(word: bytes) -> bytes:
    for byte, escape in _ESCAPES:
        word = word.replace(byte, escape)
    return word


def spell_long_value(word: bytes) -> Iterator[bytes]:
    """Yield what `spell_value` returns, in pieces, so that a long spelling takes no memory."""
    if _PLAIN.fullmatch(word):
        yield word
        return
    yield b'"'
    for start in range(0, len(word), PIECE_BYTES):
        yield _escape(word[start : start + PIECE_BYTES])
    yield b'"'


def unquote_long_value(spelling: memoryview) -> bytes | None:
    """Return the word of a valid spelling in quotes, or None if that is not the canonical one.

    In pieces, so that the call takes little memory beside the word.
    """
    word = bytearray()
    start, end = 1, len(spelling) - 1
    while start < end:
        piece = bytes(spelling[start : min(start + PIECE_BYTES, end)])
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # within an escape
            piece += spelling[start + len(piece) : start + len(piece) + 1]
        if rb"\x" in piece.replace(rb"\\", b""):  # of four bytes, perhaps cut; never canonical
            return None
        content = unquote(b'"%b"' % piece)
        if _escape(content) != piece:
            return None
        word += content
        start += len(piece)
    return None if _PLAIN.fullmatch(word) else bytes(word)


def unquote_all(spellings: list[bytes]) -> list[bytes]:
    """Return the words of many spellings."""
    return [unquote(word) if word.startswith(b'"') else word for word in spellings]


def unquote(spelling: bytes) -> bytes:
    r"""Return the word of a valid spelling, plain or quoted.

    Every step is one call into C: a pattern would take twenty times as long for a word of escapes.
    Python's codec knows every escape of the language, but takes the digits that follow ``\0`` for
    a part of it. To replace ``\0``, each backslash must begin an escape, so ``\\`` goes first.
    """
    if not spelling.startswith(b'"'):
        return spelling
    word = spelling[1:-1]
    if b"\\" not in word:
        return word
    word = word.replace(rb"\\", rb"\x5c").replace(rb"\0", rb"\x00")
    return word.decode("unicode_escape").encode("latin-1")


_ESCAPES = ((b"\\", rb"\\"), (b'"', rb"\""), (b"\n", rb"\n"), (b"\r", rb"\r"), (b"\0", rb"\0"))
"""The escapes of canonical spelling, in the order in which they must replace bytes."""
PIECE_BYTES = 1 << 20
"""Bytes of a long word that are spelled or read at a time."""
_NOT_PLAIN = b'\0\n\r \t,)]"'
