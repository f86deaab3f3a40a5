"""A naive model of the command language: slow, obvious, and sharing no code with the package."""

import time
from dataclasses import dataclass, field
from typing import Any

NOT_IN_WORDS = b"\0\n\r \t,)]"
ESCAPES = {b"\\": b"\\", b'"': b'"', b"n": b"\n", b"r": b"\r", b"t": b"\t", b"0": b"\0"}
MAX_UNTIL = 999_999_999_999_999


class Invalid(Exception):
    """The line is not a command."""


class Failed(Exception):
    """The line changes nothing, and writes NOT and these keys."""

    def __init__(self, keys: list[bytes]) -> None:
        self.keys = keys


@dataclass
class Step:
    """One WRITE, READ, DELETE or ADD."""

    name: bytes
    words: list[bytes]
    """Keys, or keys and values in turn."""
    for_ms: int | None = None
    until: int | None = None


@dataclass
class Line:
    """A line of steps."""

    condition: list[tuple[bytes, bytes | None]]
    steps: list[Step]


@dataclass
class Listing:
    """The arguments of SHOW, COUNT and CLEAR."""

    prefixes: list[bytes] | None
    after: bytes | None = None
    limit: int | None = None
    until: bool = False


@dataclass
class Model:
    """One store, one script after the other."""

    help_text: bytes = b""
    pairs: dict[bytes, bytes] = field(default_factory=dict)
    revision: int = 0
    output: bytes = b""
    invalid: list[int] = field(default_factory=list)
    """Line numbers of the invalid lines, from 1."""
    commands: int = 0
    backups: list[dict[bytes, bytes]] = field(default_factory=list)
    waits: list[int] = field(default_factory=list)
    untils: dict[bytes, int] = field(default_factory=dict)
    records: list[bytes] = field(default_factory=list)
    """The changes as lines."""
    changes: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    """The changes of every key."""

    def run(self, script: bytes) -> None:
        lines = script.split(b"\n")
        if lines[-1] == b"":
            lines.pop()
        for number, line in enumerate(lines, 1):
            try:
                command = parse(line)
            except Invalid:
                self.invalid.append(number)
                continue
            if command is not None:
                self.commands += 1
                self._execute(command, line)

    def _execute(self, command: tuple[bytes, Any], line: bytes) -> None:
        name, arguments = command
        if name in {b"WRITE", b"READ", b"DELETE"}:
            self._steps(Line([], [Step(name, arguments)]), line if name == b"WRITE" else None)
        elif name == b"STEPS":
            self._steps(arguments, None)
        elif name == b"SHOW":
            for key in sorted(self._selected(arguments)):
                self.output += b"(" + spell(key) + b", " + spell_value(self.pairs[key]) + b")"
                if arguments.until and key in self.untils:
                    self.output += b" UNTIL %d" % self.untils[key]
                self.output += b"\n"
        elif name == b"COUNT":
            self.output += b"%d\n" % len(self._selected(arguments))
        elif name == b"CLEAR":
            keys = sorted(self._selected(arguments))
            self.output += b"%d\n" % len(keys)
            prefixes = b",".join(spell(prefix) for prefix in arguments.prefixes)
            self._remove(keys, b"CLEAR [" + prefixes + b"]\n")
        elif name == b"EXPIRE":
            self.expire(arguments)
        elif name == b"WAIT":
            self.waits.append(int(arguments[0]))
            if int(arguments[0]):
                self.output += b"Waiting...\n"
        elif name == b"BACKUP":
            self.backups.append(dict(self.pairs))
        elif name == b"HELP":
            self.output += self.help_text

    def expire(self, until: int, limit: int | None = None) -> int:
        """Remove pairs as EXPIRE does; return their number."""
        due = sorted((self.untils[key], key) for key in self.untils if self.untils[key] <= until)
        keys = sorted(key for _, key in due[:limit])
        spelled = b",".join(spell(key) for key in keys)
        self._remove(keys, b"DELETE [" + spelled + b"]\n")
        return len(keys)

    def _selected(self, listing: Listing) -> list[bytes]:
        keys = []
        for key in sorted(self.pairs):
            if listing.after is not None and not key > listing.after:
                continue
            if listing.prefixes is None or any(key.startswith(each) for each in listing.prefixes):
                keys.append(key)
        return keys[: listing.limit]

    def _remove(self, keys: list[bytes], record: bytes) -> None:
        for key in keys:
            self._forget(key)
            self.changes.append((key, None))
        if keys:
            self.revision += 1
            self.records.append(record)

    def _forget(self, key: bytes) -> None:
        del self.pairs[key]
        self.untils.pop(key, None)

    # Lines of steps.

    def _steps(self, line: Line, given: bytes | None) -> None:
        """Execute a line of steps; `given` is the line if it is recorded as it was given."""
        pairs, untils, output = dict(self.pairs), dict(self.untils), self.output
        named: list[bytes] = []
        try:
            self._require(line.condition)
            for step in line.steps:
                self._step(step, named)
        except Failed as failure:
            answer = self._answer(failure.keys)
            self.pairs, self.untils, self.output = pairs, untils, output + b"NOT " + answer
            return
        changed = [key for key in dict.fromkeys(named) if key in pairs or key in self.pairs]
        if changed:
            self.revision += 1
            self.changes += [(key, self.pairs.get(key)) for key in changed]
            self.records.append(self._record(changed) if given is None else given + b"\n")

    def _require(self, condition: list[tuple[bytes, bytes | None]]) -> None:
        if any(self.pairs.get(key) != expected for key, expected in condition):
            raise Failed([key for key, _ in condition])

    def _step(self, step: Step, named: list[bytes]) -> None:
        keys = step.words if step.name in {b"READ", b"DELETE"} else step.words[::2]
        until = step.until
        if step.for_ms is not None:
            until = min(time.time_ns() // 1_000_000 + step.for_ms, MAX_UNTIL)
        if step.name == b"READ":
            self.output += self._answer(keys)
            return
        if step.name == b"WRITE":
            for key, value in zip(keys, step.words[1::2], strict=True):
                self.pairs[key] = value
                self.untils.pop(key, None)
        elif step.name == b"DELETE":
            self._delete(keys)
        elif step.name == b"ADD":
            self._add(keys, step.words[1::2])
        if until is not None:
            self.untils.update(dict.fromkeys(keys, until))
        named += keys

    def _delete(self, keys: list[bytes]) -> None:
        missing = []
        for key in keys:
            if key in self.pairs:
                self._forget(key)
            else:
                missing.append(key)
        if missing:
            marks = b"".join(b"(" + spell(key) + b",KVSMISSING)" for key in sorted(missing))
            self.output += b"[" + marks + b"]\n"

    def _add(self, keys: list[bytes], numbers: list[bytes]) -> None:
        before = dict(self.pairs)
        for key, number in zip(keys, numbers, strict=True):
            stored = self.pairs.get(key, b"0")
            if not is_number(stored) or not is_number(b"%d" % (int(stored) + int(number))):
                self.pairs = before
                raise Failed(keys)
            self.pairs[key] = b"%d" % (int(stored) + int(number))
        self.output += self._answer(keys)

    def _answer(self, keys: list[bytes]) -> bytes:
        answer = b"["
        for key in sorted(keys):
            value = spell_value(self.pairs[key]) if key in self.pairs else b"KVSERROR"
            answer += b"(" + spell(key) + b"," + value + b")"
        return answer + b"]\n"

    def _record(self, keys: list[bytes]) -> bytes:
        """Return the line that makes `keys` what they are."""
        steps: list[tuple[bytes, bytes, bytes]] = []
        for key in keys:
            if key in self.pairs:
                name, item, end = b"WRITE", self._answer([key])[1:-2], b"]"
                if key in self.untils:
                    end += b" UNTIL %d" % self.untils[key]
            else:
                name, item, end = b"DELETE", spell(key), b"]"
            if steps and steps[-1][0] == name and steps[-1][2] == end:
                comma = b"," if name == b"DELETE" else b""
                steps[-1] = (name, steps[-1][1] + comma + item, end)
            else:
                steps.append((name, item, end))
        return b" ".join(name + b" [" + items + end for name, items, end in steps) + b"\n"


# Words.


def spell(word: bytes) -> bytes:
    """Return the canonical spelling of a key or a prefix."""
    if word and word[:1] != b'"' and not any(byte in NOT_IN_WORDS for byte in word):
        return word
    escapes = {b"\\": b"\\\\", b'"': b'\\"', b"\n": b"\\n", b"\r": b"\\r", b"\0": b"\\0"}
    each = [word[index : index + 1] for index in range(len(word))]
    return b'"' + b"".join(escapes.get(byte, byte) for byte in each) + b'"'


def spell_value(word: bytes) -> bytes:
    return b'"' + word + b'"' if word in {b"KVSERROR", b"KVSMISSING"} else spell(word)


def is_number(word: bytes) -> bool:
    digits = word[1:] if word.startswith(b"-") else word
    if not digits or any(digit not in b"0123456789" for digit in digits):
        return False
    if word != b"0" and digits.startswith(b"0"):
        return False
    return -(2**63) <= int(word) < 2**63


# Lines.


def parse(line: bytes) -> tuple[bytes, Any] | None:
    """Return the name and arguments of a line without its newline; None for a comment or blank.

    A line of one WRITE, READ or DELETE without FOR and UNTIL has its name and its words; any other
    line of steps has the name STEPS.
    """
    if line.endswith(b"\r"):
        line = line[:-1]
    command_text = line.strip(b" \t")
    if command_text == b"" or command_text.startswith(b"#"):
        return None
    if len(line) > 64 * 1024 * 1024:
        raise Invalid
    parser = Parser(command_text)
    command = parser.command()
    if parser.rest:
        raise Invalid
    return command


class Parser:
    """Takes a line apart from the left."""

    def __init__(self, line: bytes) -> None:
        self.rest = line

    def command(self) -> tuple[bytes, Any]:
        for name in (b"SHOW", b"BACKUP", b"HELP"):
            if self.takes(name):
                return name, self.listing() if name == b"SHOW" else None
        if self.takes(b"COUNT"):
            return b"COUNT", Listing(self.words(0) if self.sees(b"[") else None)
        if self.takes(b"CLEAR"):
            return b"CLEAR", Listing(self.words(0))
        if self.takes(b"EXPIRE"):
            return b"EXPIRE", int(self.digits(15))
        if self.takes(b"WAIT"):
            return b"WAIT", [self.digits(10)]
        return self.steps()

    def listing(self) -> Listing:
        listing = Listing(self.words(0) if self.sees(b"[") else None)
        if self.takes(b"AFTER"):
            [listing.after] = self.words(0, only_one=True)
        if self.takes(b"LIMIT"):
            listing.limit = int(self.digits(15))
        listing.until = self.takes(b"UNTIL")
        return listing

    def steps(self) -> tuple[bytes, Any]:
        condition: list[tuple[bytes, bytes | None]] = []
        if self.takes(b"IF"):
            for key, value, is_plain in self.pairs():
                if is_plain and value == b"KVSMISSING":
                    raise Invalid
                condition.append((key, None if is_plain and value == b"KVSERROR" else value))
        steps = [self.step()]
        while self.rest:
            steps.append(self.step())
        [first, *others] = steps
        if (
            others
            or condition
            or first.name == b"ADD"
            or (first.for_ms, first.until) != (None,) * 2
        ):
            return b"STEPS", Line(condition, steps)
        return first.name, first.words

    def step(self) -> Step:
        for name in (b"READ", b"DELETE"):
            if self.takes(name):
                return Step(name, self.words(1))
        for name in (b"WRITE", b"ADD"):
            if self.takes(name):
                break
        else:
            raise Invalid
        step = Step(name, [])
        for key, value, is_plain in self.pairs():
            if name == b"WRITE" and is_plain and value in {b"KVSERROR", b"KVSMISSING"}:
                raise Invalid
            if name == b"ADD" and not is_number(value):
                raise Invalid
            step.words += [key, value]
        if self.takes(b"FOR"):
            step.for_ms = int(self.digits(15))
            if step.for_ms == 0:
                raise Invalid
        elif self.takes(b"UNTIL"):
            step.until = int(self.digits(15))
        return step

    def words(self, min_bytes: int, *, only_one: bool = False) -> list[bytes]:
        self.require(b"[")
        words = [self.word(min_bytes, 1024)[0]]
        while not only_one and self.takes(b","):
            words.append(self.word(min_bytes, 1024)[0])
        self.require(b"]")
        return words

    def pairs(self) -> list[tuple[bytes, bytes, bool]]:
        """Return keys, values and whether the value is plain."""
        self.require(b"[")
        pairs: list[tuple[bytes, bytes, bool]] = []
        while not pairs or not self.takes(b"]"):
            self.require(b"(")
            key, _ = self.word(1, 1024)
            self.require(b",")
            pairs.append((key, *self.word(0, 16 * 1024 * 1024)))
            self.require(b")")
        return pairs

    def word(self, min_bytes: int, max_bytes: int) -> tuple[bytes, bool]:
        """Return the next word, and whether it is plain."""
        self.rest = self.rest.lstrip(b" \t")
        is_plain = not self.rest.startswith(b'"')
        word = self.plain() if is_plain else self.quoted()
        if not min_bytes <= len(word) <= max_bytes:
            raise Invalid
        return word, is_plain

    def plain(self) -> bytes:
        size = 0
        while size < len(self.rest) and self.rest[size] not in NOT_IN_WORDS:
            size += 1
        if size == 0:
            raise Invalid
        word, self.rest = self.rest[:size], self.rest[size:]
        return word

    def quoted(self) -> bytes:
        word = b""
        self.require(b'"')
        while not self.rest.startswith(b'"'):
            byte, self.rest = self.rest[:1], self.rest[1:]
            if byte in {b"", b"\0", b"\n", b"\r"}:
                raise Invalid
            word += self.escape() if byte == b"\\" else byte
        self.rest = self.rest[1:]
        return word

    def escape(self) -> bytes:
        letter, self.rest = self.rest[:1], self.rest[1:]
        if letter in ESCAPES:
            return ESCAPES[letter]
        digits, self.rest = self.rest[:2], self.rest[2:]
        if letter != b"x" or len(digits) < 2 or digits.lower().strip(b"0123456789abcdef"):
            raise Invalid
        return bytes([int(digits, 16)])

    def digits(self, max_digits: int) -> bytes:
        self.rest = self.rest.lstrip(b" \t")
        size = 0
        while size < len(self.rest) and self.rest[size] in b"0123456789":
            size += 1
        if not 1 <= size <= max_digits:
            raise Invalid
        digits, self.rest = self.rest[:size], self.rest[size:]
        return digits

    def sees(self, token: bytes) -> bool:
        return self.rest.lstrip(b" \t").startswith(token)

    def takes(self, token: bytes) -> bool:
        """Move past `token` if it comes next, blanks aside; return whether it does."""
        if not self.sees(token):
            return False
        self.rest = self.rest.lstrip(b" \t")[len(token) :]
        return True

    def require(self, token: bytes) -> None:
        if not self.takes(token):
            raise Invalid
