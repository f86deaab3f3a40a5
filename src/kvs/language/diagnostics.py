"""Explain why a line is invalid, and where.

The pattern in `grammar` says only that a line is invalid. This module scans the line once more,
part by part from the left, and reports the first part that does not fit with the column of its
first byte.

Invariant: the scanner must report an error in exactly the lines that the pattern rejects. Tests
compare the two on random bytes.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
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
"""Maximum bytes of an offending part that a reason quotes."""

MAX_COUNTED_BYTES = 9_999
"""Maximum length of a part that a reason states; a longer part is "over" this, because its end may
not have been read."""

MATCHED_BYTES = 1 << 16
"""Bytes of a list that one match covers, which holds the interpreter's lock."""

# No pattern matches more of a part than a reason can state: a part may have any length.
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
    """Why one line of a script is invalid."""

    offset: int
    """Offset of the line in the script, in bytes."""
    column: int
    """Position of the offending part in the line, in bytes from 1."""
    reason: str
    """Why the part does not fit: one line, without PATH, line or column."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of validating a script."""

    diagnostics: list[Diagnostic]
    """One for each invalid line, in order."""
    commands: int
    """Number of valid commands, without comments and empty lines."""


Check = Callable[[bytes], Checked]
"""Validates every line of a script, as `check` does. An engine has a faster one."""


@dataclass(frozen=True, slots=True)
class CommandSet:
    """The commands that a line may hold, for the diagnostics of `diagnose_line`."""

    forms: Mapping[str, str]
    """Each command name, with the command of the language whose arguments it takes: SUBSCRIBE, for
    example, takes those of READ."""
    listed: Sequence[str]
    """The names that the diagnostic of an unknown command lists."""


LANGUAGE = CommandSet(MappingProxyType({name: name for name in COMMANDS}), COMMANDS)
"""The commands of the language."""


class _SyntaxError(Exception):
    """The line is invalid from `position` on."""

    def __init__(self, position: int, reason: str) -> None:
        self.position = position
        self.reason = reason


def line_at(script: bytes, offset: int) -> bytes:
    """Return the line of `script` that begins at `offset`, without its line ending."""
    return script[offset : line_end(script, offset)]


def line_end(script: bytes, offset: int) -> int:
    """Return the end of the line of `script` that begins at `offset`, before its line ending."""
    newline = script.find(b"\n", offset)
    end = newline if newline >= 0 else len(script)
    return end - script.endswith(b"\r", offset, end)


def diagnose_line(
    script: bytes, offset: int, valid_until: int = 0, commands: CommandSet = LANGUAGE
) -> Diagnostic | None:
    """Return why the line of `script` that begins at `offset` is invalid, or None if it is valid.

    `valid_until` is an offset up to which the list of the line is known to be valid, the end of an
    item and its delimiter; 0 if none is known. The scan of the list begins there. `commands` are
    the commands that the line may hold. The line is not copied.
    """
    end = line_end(script, offset)
    try:
        _LineScanner(script, offset, end, valid_until, commands).line()
    except _SyntaxError as error:
        return Diagnostic(offset, error.position - offset + 1, error.reason)
    return None


def output_too_long(script: bytes, offset: int) -> Diagnostic:
    """Return the diagnostic of the valid line at `offset`, whose output exceeds the limit."""
    column = len(script[offset:]) - len(script[offset:].lstrip(b" \t")) + 1
    return Diagnostic(offset, column, "the output of a line is at most 268435456 bytes, this one has more")


def check(script: bytes) -> Checked:
    """Validate every line of `script`; execute nothing."""
    diagnostics: list[Diagnostic] = []
    commands = 0
    for match in LINE.finditer(script):
        if match.lastindex != INVALID:
            commands += match.lastindex is not None
        elif diagnostic := diagnose_line(script, match.start()):
            diagnostics.append(diagnostic)
    return Checked(diagnostics, commands)


def number_lines(
    diagnostics: Iterable[Diagnostic], script: bytes, start: int, first_line: int
) -> Iterator[tuple[int, Diagnostic]]:
    """Yield the diagnostics of `script`, in order, each after the number of its line.

    The line that begins at the offset `start` has the number `first_line`.
    """
    line, counted = first_line, start
    for diagnostic in diagnostics:
        line += script.count(b"\n", counted, diagnostic.offset)
        counted = diagnostic.offset
        yield line, diagnostic


def verdict_is_final(beginning: bytes, check: Check = check) -> bool:
    """Return whether the rest of a line that starts with `beginning` cannot change its diagnostic.

    It cannot if the line is a comment, or if the offending part is more than `MAX_COUNTED_BYTES`
    before the end of `beginning`: neither column nor reason depends on the rest then. The caller
    need not store the rest of such a line.
    """
    if diagnostics := check(beginning).diagnostics:
        return diagnostics[0].column - 1 + MAX_COUNTED_BYTES < len(beginning)
    return _COMMENT.match(beginning) is not None


def validate_word(word: str | bytes, role: Literal["key", "value"]) -> bytes:
    """Return a key or a value as bytes; a str is encoded as UTF-8.

    Raises:
        InvalidWordError: `word` is not a word of the language: it is empty or too long, holds a
            delimiter, or is reserved.
        TypeError: `word` is neither str nor bytes.

    """
    if not isinstance(word, str | bytes):
        raise TypeError(f"a {role} is str or bytes, not {type(word).__name__}")
    try:
        raw = word.encode(errors="surrogateescape") if isinstance(word, str) else word
    except UnicodeEncodeError as error:
        raise InvalidWordError(
            f"{word!r}: it cannot be encoded as UTF-8: {error.reason}"
        ) from error
    if _WHOLE_WORD.fullmatch(raw) and (role == "key" or raw not in RESERVED):
        return raw if type(raw) is bytes else bytes(raw)
    if not raw:
        raise InvalidWordError(f"a {role} has at least 1 byte, this one is empty")
    scanner = _LineScanner(raw, 0, len(raw))
    try:
        scanner.word(role)
        scanner.fail(f"{scanner.describe_next()} is not allowed in a {role}")
    except _SyntaxError as error:
        raise InvalidWordError(f"'{printable(raw, MAX_QUOTED_BYTES)}': {error.reason}") from None


class _LineScanner:
    """Scans one line from the left; raises `_SyntaxError` at the first part that does not fit."""

    def __init__(
        self,
        text: bytes,
        position: int,
        end: int,
        valid_until: int = 0,
        commands: CommandSet = LANGUAGE,
    ) -> None:
        """Scan `text` from `position` to `end`; see `diagnose_line`."""
        self.text = text
        self.position = position
        self.end = end
        self.valid_until = valid_until
        self.commands = commands

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
        match self.commands.forms.get(name):
            case "WRITE":
                self.pairs(name)
            case "READ" | "DELETE":
                self.keys(name)
            case "WAIT":
                self.milliseconds(name)
            case "SHOW" | "BACKUP" | "HELP":
                pass
            case _:
                self.position = start
                self.fail(_describe_unknown(name, self.commands))

    def pairs(self, name: str) -> None:
        self.symbol(b"[", f"after {name}")
        has_pairs = self.items(VALID_PAIRS_PREFIX)
        self.blanks()
        if has_pairs and self.next_is(b"]"):
            self.position += 1
            return
        self.symbol(b"(", "or ']' after a pair" if has_pairs else "before a key")
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

    def milliseconds(self, name: str) -> None:
        self.blanks()
        start = self.position
        digits = len(self.take(_DIGITS))
        if not digits:
            self.fail(f"{name} takes a whole number of milliseconds, not {self.describe_next()}")
        if digits > 10:
            self.position = start
            self.fail(f"milliseconds have at most 10 digits, these have {_count(digits)}")

    def word(self, role: str) -> None:
        start = self.position
        word = self.take(_WORD)
        if not word:
            self.fail(f"expected a {role}, not {self.describe_next()}")
        if len(word) > WORD_BYTES:
            self.position = start
            self.fail(f"a {role} is at most {WORD_BYTES} bytes, this one has {_count(len(word))}")
        if role == "value" and word in RESERVED:
            self.position = start
            self.fail(f"{word.decode('ascii')} is reserved and cannot be a value")

    def symbol(self, symbol: bytes, place: str) -> None:
        self.blanks()
        if not self.next_is(symbol):
            self.fail(f"expected '{symbol.decode('ascii')}' {place}, not {self.describe_next()}")
        self.position += 1

    def items(self, pattern: re.Pattern[bytes]) -> bool:
        """Move past all valid items of a list; return whether there are any."""
        start = self.position
        self.position = max(start, self.valid_until)
        self.skip(pattern)
        return self.position > start

    def blanks(self) -> None:
        self.skip(_BLANKS)

    def take(self, pattern: re.Pattern[bytes]) -> bytes:
        """Move past one match of `pattern` at this position and return it, or no bytes."""
        start = self.position
        if match := pattern.match(self.text, start, self.end):
            self.position = match.end()
        return self.text[start : self.position]

    def skip(self, pattern: re.Pattern[bytes]) -> None:
        """Move past all that `pattern`, a repetition, matches at this position.

        A match holds the interpreter's lock, so a long one is made of many short ones. Blanks can
        make one item longer than `MATCHED_BYTES`; then the limit is doubled.
        """
        max_bytes = MATCHED_BYTES
        while True:
            end = min(self.position + max_bytes, self.end)
            match = pattern.match(self.text, self.position, end)
            if match is not None and match.end() > self.position:
                self.position = match.end()
                max_bytes = MATCHED_BYTES
            elif end == self.end:
                return
            else:
                max_bytes *= 2

    def next_is(self, symbol: bytes) -> bool:
        return self.text.startswith(symbol, self.position, self.end)

    def ended(self) -> bool:
        return self.position == self.end

    def describe_next(self) -> str:
        """Return a description of the part at this position, as a noun phrase."""
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


def _describe_unknown(name: str, commands: CommandSet) -> str:
    if name.upper() in commands.forms:
        return f"command names are upper case: {name.upper()}"
    names = ", ".join(commands.listed[:-1]) + " and " + commands.listed[-1]
    return f"'{printable(name, MAX_QUOTED_BYTES)}' is not a command; the commands are {names}"


def _count(length: int) -> str:
    return str(length) if length <= MAX_COUNTED_BYTES else f"over {MAX_COUNTED_BYTES}"
