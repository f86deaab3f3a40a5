"""Scan one line from the left, and find the first part that does not fit.

The pattern in `grammar` says only that a line is invalid. The scanner reads the line once more,
part by part, for the column and the reason of its diagnostic.

Invariants:

- The scanner must find a problem in exactly the lines that `grammar.kind_of` rejects. Tests compare
  the two on random bytes.
- A problem states how far the line was read for it (`Problem.known_at`), and must be the same
  whatever follows, so that nobody needs to store the rest of a long invalid line.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple, NoReturn

from kvs.language import grammar
from kvs.language.grammar import COMMANDS, MAX_KEY_BYTES, MAX_LINE_BYTES, MAX_VALUE_BYTES
from kvs.text import printable, printable_line

MAX_QUOTED_BYTES = 24
"""Maximum bytes of an offending part that a reason quotes."""

MAX_COUNTED_BYTES = 9_999
"""Maximum bytes beyond the limit of a part that a reason states; a part with more is "over" this,
because its end may not have been read."""

MATCHED_BYTES = 1 << 16
"""Bytes of a line that one match covers, which holds the interpreter's lock."""

_BLANKS = re.compile(grammar.BLANKS)
_NAME = re.compile(rb"[A-Za-z]{1,%d}+" % (MAX_QUOTED_BYTES + 1))
_PLAIN_START = re.compile(rb'[^%b"]' % grammar.WORD_DELIMITERS)
_PLAIN_REST = re.compile(rb"[^%b]*+" % grammar.WORD_DELIMITERS)
_IN_QUOTES = re.compile(grammar.IN_QUOTES)
_DIGITS = re.compile(rb"[0-9]{0,%d}+" % (MAX_COUNTED_BYTES + 1))
_PART = re.compile(rb"[^ \t\[\]()]++|.", re.DOTALL)
_BYTE_NAMES = {0: "a NUL byte", 13: "a carriage return", 9: "a tab", 32: "a space"}
_BYTE_ESCAPES = {0: r"\0", 13: r"\r"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UNIT = re.compile(
    rb"\.|%b(?:[mun]?s|secs?|seconds?|m|mins?|minutes?|h|hours?|d|days?)(?![A-Za-z])"
    % grammar.BLANKS
)
"""What may stand after a number of milliseconds by mistake."""
_NOTHING = re.compile(b"")

_STEP_NAMES = ("WRITE", "READ", "DELETE", "ADD")
_STEPS_IN_WORDS = "WRITE, READ, DELETE or ADD"
_STEPS_WITH_EXPIRY = ("WRITE", "ADD")
_EXPIRY_NAMES = ("FOR", "UNTIL")
_LISTING_NAMES = ("AFTER", "LIMIT", "UNTIL")
_LISTING_IN_WORDS = "[prefix,...], AFTER [key], LIMIT number and UNTIL, in this order"
_SHOW_AND_PART = tuple("SHOW" + name for name in _LISTING_NAMES)


@dataclass(frozen=True, slots=True)
class CommandSet:
    """The commands that a line may hold, for the diagnostics of a line."""

    forms: Mapping[str, str]
    """Each command name, with the command of the language whose arguments it takes: SUBSCRIBE, for
    example, takes those of READ. Only a name of the language itself can be a step among others."""
    listed: Sequence[str]
    """The names that the diagnostic of an unknown command lists."""


CLIENT_NAMES = ("SUBSCRIBE", "UNSUBSCRIBE", "DELAY", "DISCONNECT")
"""The commands that ``kvs client`` has and the language has not."""

LANGUAGE = CommandSet(MappingProxyType({name: name for name in COMMANDS}), COMMANDS)
"""The commands of the language."""


class Problem(NamedTuple):
    """Why a line is invalid from `position` on."""

    position: int
    """Offset of the offending part in the text, in bytes."""
    reason: str
    known_at: int
    """Offset in the text from which on no byte changes the problem."""


class Role(NamedTuple):
    """What a word is used as."""

    name: str
    min_bytes: int
    max_bytes: int
    reserved: tuple[bytes, ...] = ()
    """Plain words that the role refuses."""


KEY = Role("key", 1, MAX_KEY_BYTES)
PREFIX = Role("prefix", 0, MAX_KEY_BYTES)
VALUE = Role("value", 0, MAX_VALUE_BYTES, grammar.RESERVED)
AFTER = Role("key", 0, MAX_KEY_BYTES)
_EXPECTED = Role("value", 0, MAX_VALUE_BYTES, (grammar.MISSING_KEY,))
_NUMBER = Role("number", 0, MAX_QUOTED_BYTES)


class _Items(NamedTuple):
    """The items of a list."""

    valid: re.Pattern[bytes]
    """All items at a position that the pattern of the language accepts."""
    item: re.Pattern[bytes]
    """One of these items, its words in groups."""
    roles: tuple[Role, ...]
    """One for each group."""


_PAIRS = _Items(grammar.VALID_PAIRS_PREFIX, grammar.ANY_PAIR, (KEY, VALUE))
_NUMBERS = _Items(grammar.VALID_NUMBERS_PREFIX, grammar.ANY_PAIR, (KEY, _NUMBER))
_CONDITIONS = _Items(grammar.VALID_CONDITIONS_PREFIX, grammar.ANY_PAIR, (KEY, _EXPECTED))
_KEYS = _Items(grammar.VALID_KEYS_PREFIX, grammar.ANY_WORD, (KEY,))
_PREFIXES = _Items(grammar.VALID_PREFIXES_PREFIX, grammar.ANY_WORD, (PREFIX,))
_ONE_AFTER = _Items(_NOTHING, _NOTHING, (AFTER,))


class _ProblemError(Exception):
    """A part of the line does not fit."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


def find_problem(
    text: bytes,
    start: int,
    end: int,
    valid_until: int = 0,
    commands: CommandSet = LANGUAGE,
    *,
    limits: bool = True,
) -> Problem | None:
    """Return why the line between `start` and `end` of `text` is invalid, or None if it is valid.

    See `diagnostics.diagnose_line` for the arguments. The problem of a line of more than
    `MAX_LINE_BYTES` is its length, unless its first `MAX_LINE_BYTES` show another one.
    """
    scanner = _LineScanner(text, start, end, valid_until, commands)
    if scanner.is_empty():
        return None
    is_too_long = limits and end - start > MAX_LINE_BYTES
    if is_too_long:
        scanner.end = start + MAX_LINE_BYTES
    try:
        scanner.command()
    except _ProblemError as error:
        if not is_too_long or error.problem.known_at < scanner.end:
            return error.problem
    if not is_too_long:
        return None
    known_at = start + MAX_LINE_BYTES + MAX_COUNTED_BYTES + 1
    return Problem(start, _size_reason("line", MAX_LINE_BYTES, end - start), known_at)


def size_problem(role: Role, size: int) -> str | None:
    """Return why a word of `size` bytes cannot have `role`, or None."""
    if size < role.min_bytes:
        return f"a {role.name} has at least 1 byte, this one is empty"
    return _size_reason(role.name, role.max_bytes, size) if size > role.max_bytes else None


def _size_reason(part: str, max_bytes: int, size: int) -> str:
    return f"a {part} is at most {max_bytes} bytes, this one has {_count(size, max_bytes)}"


def _count(size: int, max_bytes: int = 0) -> str:
    max_counted = max_bytes + MAX_COUNTED_BYTES
    return str(size) if size <= max_counted else f"over {max_counted}"


class _LineScanner:
    """Scans one line from the left; raises `_ProblemError` at the first part that does not fit."""

    def __init__(
        self, text: bytes, position: int, end: int, valid_until: int, commands: CommandSet
    ) -> None:
        self.text = text
        self.position = position
        self.end = end
        self.valid_until = valid_until
        self.commands = commands

    def is_empty(self) -> bool:
        """Return whether the line is empty or a comment, after moving past its first blanks."""
        self.blanks()
        return self.ended() or self.next_is(b"#")

    def command(self) -> None:
        start = self.position
        name = self.name()
        if self.next_is(_BYTE_ORDER_MARK) and not name:
            self.fail("a byte order mark (BOM) is no part of a line; save the file without it")
        if not name:
            self.fail(f"a line begins with a command or with #, not with {self.describe_next()}")
        if name in _SHOW_AND_PART:  # without a blank between them
            name = "SHOW"
            self.position = start + len(name)
        form = self.commands.forms.get(name)
        if form is None:
            self.position = start
            self.fail(_describe_unknown(name, self.commands))
        if form == name and name in {"IF", *_STEP_NAMES}:
            self.steps(name)
        else:
            self.lone_command(name, form)
        self.blanks()
        if not self.ended():
            self.fail_at_rest(f"nothing may follow the command, but {self.describe_next()} does")

    def lone_command(self, name: str, form: str) -> None:
        match form:
            case "READ" | "DELETE":
                self.list_of(_KEYS, f"after {name}")
            case "COUNT":
                self.blanks()
                if self.next_is(b"["):
                    self.list_of(_PREFIXES, f"after {name}")
            case "CLEAR":
                self.blanks()
                if self.ended():
                    self.fail(f'{name} takes a list of prefixes; {name} [""] removes every key')
                self.list_of(_PREFIXES, f"after {name}")
            case "SHOW":
                self.listing(name)
            case "WAIT":
                self.milliseconds(name, 10)
            case "EXPIRE":
                self.milliseconds(name, 15)

    # Lines of steps.

    def steps(self, name: str) -> None:
        if name == "IF":
            self.list_of(_CONDITIONS, "after IF")
            name = self.step_name("")
        while name:
            items = {"WRITE": _PAIRS, "ADD": _NUMBERS}.get(name, _KEYS)
            self.list_of(items, f"after {name}")
            self.expiry(name)
            self.skip_steps()
            name = self.step_name(name)

    def expiry(self, step: str) -> None:
        """Move past the FOR or UNTIL of a step, if it has one."""
        self.blanks()
        start = self.position
        name = self.name()
        if name in _EXPIRY_NAMES and step in _STEPS_WITH_EXPIRY:
            self.milliseconds(name, 15)
        else:
            self.position = start

    def step_name(self, before: str) -> str:
        """Move past the name of the next step and return it, or "" at the end of the line.

        The name of the step before is "" for the condition, which a step must follow.
        """
        self.blanks()
        start = self.position
        name = self.name()
        if name not in _STEP_NAMES and not (self.ended() and before and not name):
            self.position = start
            self.fail_at_rest(self.describe_misplaced(name, before))
        return name

    def describe_misplaced(self, name: str, before: str) -> str:
        """Return why `name` cannot stand here, after a step or after the condition, ""."""
        reason = f"only {_STEPS_IN_WORDS} may follow, but {self.describe_next()} does"
        if name.upper() != name and name.upper() in {*_STEP_NAMES, *_EXPIRY_NAMES}:
            reason = f"command names are upper case: {name.upper()}"
        elif not before:
            reason = f"{_STEPS_IN_WORDS} must follow IF, not {self.describe_next()}"
        elif name in _EXPIRY_NAMES and before in _STEPS_WITH_EXPIRY:
            reason = f"{before} takes one FOR or one UNTIL, and no other one"
        elif name in _EXPIRY_NAMES:
            reason = f"{name} belongs to WRITE or ADD, and {before} never sets a time"
        elif name == "IF":
            reason = "IF stands once, at the beginning of its line"
        elif name in COMMANDS:
            reason = f"{name} stands alone on its line"
        return reason

    # Lists.

    def list_of(self, items: _Items, place: str) -> None:
        self.symbol(b"[", place)
        if len(items.roles) == 2:
            self.pairs(items)
        else:
            self.words(items)

    def pairs(self, items: _Items) -> None:
        key, value = items.roles
        start = self.position
        self.position = max(start, self.valid_until)
        while True:
            self.skip_items(items)
            has_pairs = self.position > start
            self.blanks()
            if has_pairs and self.next_is(b"]"):
                self.position += 1
                return
            place, hint = "before a key", ""
            if has_pairs:
                place = "or ']' after a pair"
                if self.touches(b")", but=b",]"):
                    hint = "; a value with ')' is written in quotes"
            self.symbol(b"(", place, hint=hint)
            self.word(key, b",", "','")
            self.word(value, b")", "')'")

    def words(self, items: _Items) -> None:
        self.position = max(self.position, self.valid_until)
        delimiters, expected = (b"]", "']'") if items is _ONE_AFTER else (b",]", "',' or ']'")
        while True:
            self.skip_items(items)
            self.word(items.roles[0], delimiters, expected)
            if self.text.endswith(b"]", 0, self.position):
                return

    def skip_items(self, items: _Items) -> None:
        """Move past valid items of a list, to the first that is not valid or has many bytes."""
        self.skip(items.valid, partial(self.find_invalid_item, items))

    def listing(self, name: str) -> None:
        self.blanks()
        parts = list(_LISTING_NAMES)
        if self.next_is(b"["):
            self.list_of(_PREFIXES, f"after {name}")
        while True:
            self.blanks()
            start = self.position
            part = self.name()
            if part not in parts:
                self.position = start
                break
            del parts[: parts.index(part) + 1]
            if part == "AFTER":
                self.list_of(_ONE_AFTER, "after AFTER")
            elif part == "LIMIT":
                self.digits("LIMIT takes a whole number", "a limit has", "this one has", 15)
        if part.upper() in parts:
            self.fail(f"command names are upper case: {part.upper()}")
        if not self.ended():
            self.fail_at_rest(f"{name} takes {_LISTING_IN_WORDS}, not {self.describe_next()}")

    # Numbers.

    def milliseconds(self, name: str, max_digits: int) -> None:
        self.blanks()
        start = self.position
        expected = f"{name} takes a whole number of milliseconds"
        digits = self.digits(expected, "milliseconds have", "these have", max_digits)
        if _UNIT.match(self.text, self.position, self.end):
            self.blanks()
            self.fail(f"{expected} without a unit, but {self.describe_next()} follows it")
        if name == "FOR" and not digits.strip(b"0"):
            self.position = start
            self.fail("FOR takes at least 1 millisecond")

    def digits(self, expected: str, have: str, these_have: str, max_digits: int) -> bytes:
        self.blanks()
        start = self.position
        digits = self.take(_DIGITS)
        if not digits:
            self.fail(f"{expected}, not {self.describe_next()}")
        if len(digits) > max_digits:
            self.position = start
            self.fail(f"{have} at most {max_digits} digits, {these_have} {_count(len(digits))}")
        return digits

    # Words.

    def word(self, role: Role, delimiters: bytes, expected: str) -> None:
        """Move past a word, blanks around it, and one of the delimiters that must follow it."""
        self.blanks()
        is_quoted = self.next_is(b'"')
        if is_quoted:
            self.quoted_word(role)
        else:
            self.plain_word(role)
        if not is_quoted:
            hint = self.hint_at_quotes(role)
        else:
            hint = r'; in quotes, " is written \"' if self.touches(b'"', but=b",)]") else ""
        self.symbol(delimiters, f"after a {role.name}", expected, hint)

    def plain_word(self, role: Role) -> None:
        start = self.position
        if not _PLAIN_START.match(self.text, start, self.end):
            hint = '; an empty value is written ""' if role.name == "value" else ""
            self.fail(f"expected a {role.name}, not {self.describe_next()}{hint}")
        max_counted = role.max_bytes + MAX_COUNTED_BYTES + 1
        self.skip(_PLAIN_REST, end=min(self.end, start + max_counted))
        end, self.position = self.position, start
        word = self.text[start : min(end, start + MAX_QUOTED_BYTES + 1)]
        if role is _NUMBER:
            self.number(word)
        elif reason := size_problem(role, end - start):
            self.fail(reason, known_at=start + max_counted)
        elif word in role.reserved:
            self.fail(_describe_reserved(word.decode("ascii"), role))
        self.position = end

    def quoted_word(self, role: Role) -> None:
        start = self.position
        end, size = self.measure_in_quotes(start + 1, role.max_bytes + MAX_COUNTED_BYTES)
        if size <= role.max_bytes + MAX_COUNTED_BYTES:
            if end >= self.end:
                self.fail(
                    f"expected '\"' at the end of a {role.name}, not the end of the line",
                    known_at=end,
                )
            if not self.text.startswith(b'"', end):
                self.position = end
                self.fail(self.describe_in_quotes())
            end += 1
        if role is _NUMBER:
            self.number(self.beginning_in_quotes(start + 1), known_at=end)
        elif reason := size_problem(role, size):
            self.fail(reason, known_at=end)
        self.position = end

    def measure_in_quotes(self, start: int, max_bytes: int) -> tuple[int, int]:
        """Return the end of what may stand in quotes at `start`, and the bytes it stands for.

        The end is before the whole of it if these are more than `max_bytes`.
        """
        end, size = start, 0
        while size <= max_bytes:
            match = _IN_QUOTES.match(self.text, end, min(end + MATCHED_BYTES + 3, self.end))
            if match is None or match.end() == end:
                break
            end = match.end()
            size += _unquoted_size(match[0])
        return end, size

    def beginning_in_quotes(self, start: int) -> bytes:
        """Return the first bytes that the inside of a quoted word at `start` stands for."""
        max_bytes = MAX_QUOTED_BYTES + 1
        inside = _IN_QUOTES.match(self.text, start, min(start + 4 * max_bytes, self.end))
        return grammar.unquote(b'"%b"' % inside[0])[:max_bytes] if inside else b""

    def number(self, word: bytes, known_at: int = 0) -> None:
        if grammar.NUMBER.fullmatch(word):
            return
        digits = word.removeprefix(b"-")
        reason = f"ADD takes whole numbers, not {self.describe_next()}"
        if digits.isdigit():
            reason = "a number is from -9223372036854775808 to 9223372036854775807"
            if digits.startswith(b"0"):
                reason = "a number of ADD has no zero at its beginning"
        self.fail(reason, known_at=known_at)

    def describe_in_quotes(self) -> str:
        """Return why the byte at this position cannot stand in quotes."""
        byte = self.text[self.position]
        if byte in _BYTE_ESCAPES:
            return f"in quotes, {_BYTE_NAMES[byte]} is written {_BYTE_ESCAPES[byte]}"
        return r"in quotes, a backslash begins one of \" \\ \n \r \t \0 and \xHH"

    def hint_at_quotes(self, role: Role) -> str:
        """Return the end of a reason: how to write a word with the byte at this position."""
        self.blanks()
        if self.ended() or role is _NUMBER or (role is KEY and self.next_is(b")")):
            return ""
        byte = self.text[self.position]
        if byte in _BYTE_ESCAPES:
            return f"; in a {role.name} in quotes it is written {_BYTE_ESCAPES[byte]}"
        return f'; a {role.name} with a blank, comma or bracket is written in quotes: "two words"'

    # Moving.

    def symbol(self, symbols: bytes, place: str, expected: str = "", hint: str = "") -> None:
        """Move past blanks and one of the bytes of `symbols`, which must follow."""
        self.blanks()
        if self.ended() or self.text[self.position] not in symbols:
            expected = expected or f"'{symbols.decode('ascii')}'"
            self.fail(f"expected {expected} {place}, not {self.describe_next()}{hint}")
        self.position += 1

    def blanks(self) -> None:
        self.skip(_BLANKS)

    def name(self) -> str:
        return self.take(_NAME).decode("ascii")

    def take(self, pattern: re.Pattern[bytes]) -> bytes:
        """Move past one match of `pattern` at this position and return it, or no bytes."""
        start = self.position
        if match := pattern.match(self.text, start, self.end):
            self.position = match.end()
        return self.text[start : self.position]

    def skip_steps(self) -> None:
        """Move past valid steps to the last step, or to the first that is not valid."""
        self.skip(grammar.VALID_STEPS_PREFIX, self.find_invalid_step)

    def skip(
        self,
        pattern: re.Pattern[bytes],
        find_invalid: Callable[[int], int | None] | None = None,
        *,
        end: int | None = None,
    ) -> None:
        """Move past what `pattern`, a repetition, matches at this position, up to `end` at most.

        A match holds the interpreter's lock, so a long one is made of many short ones, and the move
        ends before an item of more than `MATCHED_BYTES`. `find_invalid` returns where a part with
        an invalid word begins, between this position and an offset, or None; the move ends there.
        """
        end = self.end if end is None else end
        while True:
            match = pattern.match(self.text, self.position, min(self.position + MATCHED_BYTES, end))
            if match is None or match.end() == self.position:
                return
            if find_invalid and (position := find_invalid(match.end())) is not None:
                self.position = position
                return
            self.position = match.end()

    def find_invalid_step(self, end: int) -> int | None:
        if self.text.find(b'"', self.position, end) < 0:
            return None
        offset = grammar.find_invalid_step(self.text[self.position : end])
        return None if offset is None else self.position + offset

    def find_invalid_item(self, items: _Items, end: int) -> int | None:
        if self.text.find(b'"', self.position, end) < 0:
            return None
        if _NUMBER not in items.roles:
            found = items.item.findall(self.text, self.position, end)
            words = found if len(items.roles) == 1 else chain.from_iterable(found)
            if max(map(len, words), default=0) <= MAX_KEY_BYTES:
                return None
        for item in items.item.finditer(self.text, self.position, end):
            if not all(map(_is_valid, items.roles, item.groups())):
                return item.start()
        return None

    def touches(self, symbol: bytes, *, but: bytes) -> bool:
        """Return whether a byte that is neither a blank nor one of `but` follows `symbol`."""
        self.blanks()
        if self.ended() or self.text[self.position] in but:
            return False
        return self.text.endswith(symbol, 0, self.position)

    def next_is(self, symbol: bytes) -> bool:
        return self.text.startswith(symbol, self.position, self.end)

    def ended(self) -> bool:
        return self.position >= self.end

    def describe_next(self) -> str:
        """Return a description of the part at this position, as a noun phrase."""
        if self.ended():
            return "the end of the line"
        byte = self.text[self.position]
        if byte in _BYTE_NAMES:
            return _BYTE_NAMES[byte]
        end = min(self.end, self.position + MAX_QUOTED_BYTES + 1)
        part = _PART.match(self.text, self.position, end)
        return f"'{printable_line(part[0], MAX_QUOTED_BYTES)}'" if part else "the end of the line"

    def fail_at_rest(self, reason: str) -> NoReturn:
        """Fail where the line should end, or other parts of it may follow."""
        self.fail("a comment has a line of its own" if self.next_is(b"#") else reason)

    def fail(self, reason: str, *, known_at: int = 0) -> NoReturn:
        known_at = max(known_at, self.position + MAX_COUNTED_BYTES + 1)
        raise _ProblemError(Problem(self.position, reason, known_at))


def _unquoted_size(inside: bytes) -> int:
    """Return the bytes that the inside of a quoted word stands for."""
    rest = inside.replace(rb"\\", b"")  # each backslash of it begins an escape
    return (len(inside) + len(rest)) // 2 - rest.count(b"\\") - 2 * rest.count(rb"\x")


def _is_valid(role: Role, spelling: bytes) -> bool:
    """Return whether a word that the pattern of the language accepts can have `role`."""
    if role is _NUMBER:
        return grammar.NUMBER.fullmatch(grammar.unquote(spelling)) is not None
    return len(spelling) <= role.max_bytes or len(grammar.unquote(spelling)) <= role.max_bytes


def _describe_unknown(name: str, commands: CommandSet) -> str:
    if name.upper() in commands.forms:
        return f"command names are upper case: {name.upper()}"
    if name.upper() in CLIENT_NAMES:
        return f"{name.upper()} is a command of 'kvs client', not of the language"
    names = ", ".join(commands.listed[:-1]) + " and " + commands.listed[-1]
    return f"'{printable(name, MAX_QUOTED_BYTES)}' is not a command; the commands are {names}"


def _describe_reserved(word: str, role: Role) -> str:
    if role is _EXPECTED:
        return f'{word} is not a value; KVSERROR stands for a missing key, and "{word}" is a value'
    return f'{word} is an answer, not a value; "{word}" in quotes is an ordinary value'
