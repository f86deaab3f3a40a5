"""The second look: why a line is no command, and where.

`grammar` only tells that a line is invalid. Here the line is read again, part by part from the
left, and the first part that does not fit is named, by the column in which it begins. What this
finds and what the grammar accepts must agree on every line of bytes; the tests hold them against
each other.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NoReturn

from kvs.errors import InvalidWordError
from kvs.language.grammar import (
    BLANKS,
    COMMANDS,
    INVALID,
    LINE,
    RESERVED,
    VALID_KEYS_PREFIX,
    VALID_PAIRS_PREFIX,
    WORD,
    WORD_BYTES,
    WORD_DELIMITERS,
)
from kvs.text import printable

MAX_QUOTED_BYTES = 24
"""So much of an offending part is quoted in a reason."""

MAX_COUNTED_BYTES = 9_999
"""A part longer than this is told as longer, not counted: its end may not have been read."""

SKIPPED_BYTES = 1 << 16
"""Bytes of a list that are looked at together."""

# No part is taken out of a line that is longer than what is said of it.
_BLANKS = re.compile(BLANKS)
_NAME = re.compile(rb"[A-Za-z]{1,%d}+" % (MAX_QUOTED_BYTES + 1))
_WORD = re.compile(rb"[^%b]{0,%d}+" % (WORD_DELIMITERS, MAX_COUNTED_BYTES + 1))
_WHOLE_WORD = re.compile(WORD)
_DIGITS = re.compile(rb"[0-9]{0,%d}+" % (MAX_COUNTED_BYTES + 1))
_COMMENT = re.compile(BLANKS + rb"#")
_PART = re.compile(rb"[^ \t\[\]()]++|.", re.DOTALL)
_BYTE_NAMES = {0: "a NUL byte", 13: "a carriage return", 9: "a tab", 32: "a space"}


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """Why one line of a script is no command."""

    offset: int
    """Where the line begins, in bytes from the start of the script."""
    column: int
    """Where the offending part begins, in bytes from 1, in that line."""
    reason: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What a validation of a script found, without executing anything."""

    diagnostics: list[Diagnostic]
    """The faults of the invalid lines, in order."""
    commands: int
    """The number of valid commands; comments and empty lines are none."""


Check = Callable[[bytes], Checked]
"""Validates every line of a script, as `check` does; an engine has one that is faster."""


class _SyntaxError(Exception):
    def __init__(self, position: int, reason: str) -> None:
        self.position = position
        self.reason = reason


def line_at(script: bytes, offset: int) -> bytes:
    """Return the line of `script` that begins at `offset`, without its ending."""
    return script[offset : line_end(script, offset)]


def line_end(script: bytes, offset: int) -> int:
    """Return where the line of `script` that begins at `offset` ends, without its ending."""
    newline = script.find(b"\n", offset)
    end = newline if newline >= 0 else len(script)
    return end - script.endswith(b"\r", offset, end)


def diagnose_line(script: bytes, offset: int, good: int = 0) -> Diagnostic | None:
    """Return why the line of `script` that begins at `offset` is invalid; None if it is valid.

    The line is not copied. If its list is known to be valid up to `good`, the end of one of its
    items and what closes that, it is read from there on.
    """
    try:
        _LineScanner(script, offset, line_end(script, offset), good).line()
    except _SyntaxError as found:
        return Diagnostic(offset, found.position - offset + 1, found.reason)
    return None


def check(script: bytes) -> Checked:
    """Validate every line of `script`. Nothing is executed."""
    found: list[Diagnostic] = []
    commands = 0
    for match in LINE.finditer(script):
        if match.lastindex != INVALID:
            commands += match.lastindex is not None
        elif fault := diagnose_line(script, match.start()):
            found.append(fault)
    return Checked(found, commands)


def diagnose_script(script: bytes) -> list[Diagnostic]:
    """Return the faults of every invalid line of `script`, in order. Nothing is carried out."""
    return check(script).diagnostics


def verdict_is_final(beginning: bytes, check: Check = check) -> bool:
    """Tell whether what follows `beginning`, the long start of a line, can change nothing.

    It cannot if the line is a comment, or if its fault lies so far back that neither place nor
    reason depends on what is to come. The rest of such a line need not be kept.
    """
    if found := check(beginning).diagnostics:
        return found[0].column - 1 + MAX_COUNTED_BYTES < len(beginning)
    return _COMMENT.match(beginning) is not None


def validate_word(word: str | bytes, what: Literal["key", "value"]) -> bytes:
    """Return a key or value given to the library as bytes, a str encoded as UTF-8.

    Raises:
        InvalidWordError: the language cannot write it: it is empty, too long, reserved, or holds a
            byte that no word holds.
        TypeError: it is neither str nor bytes.

    """
    if not isinstance(word, str | bytes):
        raise TypeError(f"a {what} is str or bytes, not {type(word).__name__}")
    try:
        raw = word.encode(errors="surrogateescape") if isinstance(word, str) else word
    except UnicodeEncodeError as error:
        raise InvalidWordError(
            f"{word!r}: it cannot be encoded as UTF-8: {error.reason}"
        ) from error
    if _WHOLE_WORD.fullmatch(raw) and (what == "key" or raw not in RESERVED):
        return raw if type(raw) is bytes else bytes(raw)
    if not raw:
        raise InvalidWordError(f"a {what} has at least 1 byte, this one is empty")
    scan = _LineScanner(raw, 0, len(raw))
    try:
        scan.word(what)
        scan.fail(f"{scan.describe_next()} cannot stand in a {what}")
    except _SyntaxError as found:
        raise InvalidWordError(f"'{printable(raw, MAX_QUOTED_BYTES)}': {found.reason}") from None


class _LineScanner:
    """Reads one line from the left; raises `_SyntaxError` at the first part that is not valid."""

    def __init__(self, text: bytes, position: int, end: int, good: int = 0) -> None:
        """Read `text` from `position` to `end`; up to `good` its list is known to be valid."""
        self.text = text
        self.position = position
        self.end = end
        self.good = good

    def line(self) -> None:
        self.blanks()
        if self.ended() or self.next_is(b"#"):
            return
        start = self.position
        name = self.take(_NAME)
        if not name:
            self.fail(f"a line begins with a command or with #, not with {self.describe_next()}")
        self.command(start, name.decode("ascii"))
        self.blanks()
        if not self.ended():
            self.fail(f"nothing may follow the command, but {self.describe_next()} does")

    def command(self, start: int, name: str) -> None:
        match name:
            case "WRITE":
                self.pairs()
            case "READ" | "DELETE":
                self.keys(name)
            case "WAIT":
                self.milliseconds()
            case "SHOW" | "BACKUP" | "HELP":
                pass
            case _:
                self.position = start
                self.fail(_unknown(name))

    def pairs(self) -> None:
        self.symbol(b"[", "after WRITE")
        good = self.items(VALID_PAIRS_PREFIX)
        self.blanks()
        if good and self.next_is(b"]"):
            self.position += 1
            return
        self.symbol(b"(", "or ']' after a pair" if good else "before a key")
        self.blanks()
        self.word("key")
        self.symbol(b",", "after a key")
        self.blanks()
        self.word("value")
        self.symbol(b")", "after a value")

    def keys(self, name: str) -> None:
        self.symbol(b"[", f"after {name}")
        self.items(VALID_KEYS_PREFIX)
        self.blanks()
        self.word("key")
        self.blanks()
        if not self.next_is(b"]"):
            self.symbol(b",", "or ']' after a key")
        self.position += 1

    def milliseconds(self) -> None:
        self.blanks()
        start = self.position
        digits = len(self.take(_DIGITS))
        if not digits:
            self.fail(f"WAIT takes a whole number of milliseconds, not {self.describe_next()}")
        if digits > 10:
            self.position = start
            self.fail(f"milliseconds have at most 10 digits, these have {_count(digits)}")

    def word(self, what: str) -> None:
        start = self.position
        word = self.take(_WORD)
        if not word:
            self.fail(f"a {what} is missing: {self.describe_next()} stands in its place")
        if len(word) > WORD_BYTES:
            self.position = start
            self.fail(f"a {what} is at most {WORD_BYTES} bytes, this one has {_count(len(word))}")
        if what == "value" and word in RESERVED:
            self.position = start
            self.fail(f"{word.decode('ascii')} is reserved and cannot be a value")

    def symbol(self, symbol: bytes, place: str) -> None:
        self.blanks()
        if not self.next_is(symbol):
            self.fail(f"expected '{symbol.decode('ascii')}' {place}, not {self.describe_next()}")
        self.position += 1

    def items(self, pattern: re.Pattern[bytes]) -> bool:
        """Pass over all valid items of a list; return whether there are any."""
        start = self.position
        self.position = max(start, self.good)
        self.skip(pattern)
        return self.position > start

    def blanks(self) -> None:
        self.skip(_BLANKS)

    def take(self, pattern: re.Pattern[bytes]) -> bytes:
        """Move past one match of `pattern` here, and return it; empty if there is none."""
        start = self.position
        if match := pattern.match(self.text, start, self.end):
            self.position = match.end()
        return self.text[start : self.position]

    def skip(self, pattern: re.Pattern[bytes]) -> bool:
        """Go behind all that `pattern`, a repetition, matches here; return whether it is any.

        A match holds the interpreter: so it is made of some that each take a moment only. Where
        a part is longer than `SKIPPED_BYTES`, by its blanks, more is looked at together.
        """
        start = self.position
        most = SKIPPED_BYTES
        while True:
            end = min(self.position + most, self.end)
            match = pattern.match(self.text, self.position, end)
            if match is not None and match.end() > self.position:
                self.position = match.end()
                most = SKIPPED_BYTES
            elif end == self.end:
                return self.position > start
            else:
                most *= 2

    def next_is(self, symbol: bytes) -> bool:
        return self.text.startswith(symbol, self.position, self.end)

    def ended(self) -> bool:
        return self.position == self.end

    def describe_next(self) -> str:
        if self.ended():
            return "the end of the line"
        byte = self.text[self.position]
        if byte in _BYTE_NAMES:
            return _BYTE_NAMES[byte]
        end = min(self.end, self.position + MAX_QUOTED_BYTES + 1)
        part = _PART.match(self.text, self.position, end)
        return f"'{printable(part[0], MAX_QUOTED_BYTES)}'" if part else "the end of the line"

    def fail(self, reason: str) -> NoReturn:
        raise _SyntaxError(self.position, reason)


def _unknown(name: str) -> str:
    if name.upper() in COMMANDS:
        return f"command names are upper case: {name.upper()}"
    names = ", ".join(COMMANDS[:-1]) + " and " + COMMANDS[-1]
    return f"'{printable(name, MAX_QUOTED_BYTES)}' is no command; the commands are {names}"


def _count(length: int) -> str:
    return str(length) if length <= MAX_COUNTED_BYTES else f"over {MAX_COUNTED_BYTES}"
