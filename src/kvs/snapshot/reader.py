r"""Read a backup: lines ``(key, value)``, strictly ascending by key, each with its newline.

A pair that expires has its time behind it: ``(key, value) UNTIL 1790000000000``. `Store.backup`
writes a framed file, with a line before and a line after the pairs::

    # kvs backup 2
    (key, value)
    # end 17 1 0a1b2c3d

The last line has the revision, the number of pairs, and the CRC-32C of all bytes before it.

Only the exact bytes that a backup can have are accepted, words in canonical spelling included. So a
file that is damaged, joined from two backups, or truncated within a line is never loaded in
silence. A framed file must have its last line, and nothing behind it. A file without a frame, as a
BACKUP in a job writes it, that is truncated at the end of a line cannot be detected: it is a backup
of fewer pairs.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kvs.errors import MAX_KEY_SHOWN_BYTES, BackupFormatError, BackupReadError
from kvs.language import grammar
from kvs.language.grammar import RESERVED
from kvs.posix.files import open_regular
from kvs.text import os_error_text, printable, printable_line

BLOCK = 1 << 20
"""Bytes read at a time."""

START_OF_FRAME = b"# kvs backup 2\n"
"""First line of a framed backup."""

LONG_BYTES = 1 << 20
"""Bytes of a line above which the spelling of its value is not copied."""

LINE_BYTES = 2 * (grammar.MAX_KEY_BYTES + grammar.MAX_VALUE_BYTES) + 100
"""Maximum bytes of a line: a word is at most twice as long in its spelling."""

_LINE = re.compile(
    rb"\((%b), (%b)\)(?: UNTIL (0|[1-9][0-9]{0,14}))?\n" % (grammar.WORD, grammar.WORD)
)


@dataclass(slots=True)
class Backup:
    """The pairs of a backup."""

    pairs: dict[bytes, bytes] = field(default_factory=dict)
    expiries: dict[bytes, int] = field(default_factory=dict)
    """Keys of pairs that expire, and the times: milliseconds since the epoch."""
    revision: int | None = None
    """Revision of the store that it contains; None if there is no frame, which names it."""


def load(path: bytes) -> Backup:
    """Return the contents of the backup at `path`.

    Raises:
        BackupReadError: the file cannot be opened or read.
        BackupFormatError: a line is not ``(key, value)``, the keys do not strictly ascend, the last
            line has no newline, or the frame is not complete.

    """
    backup = Backup()
    for _ in _read(path, backup):
        pass
    return backup


def stream(path: bytes) -> Iterator[Backup]:
    """Yield the pairs of the backup at `path` in parts, in order of the keys; hold one at a time.

    The last part has the revision. What comes behind the last pair, the checksum included, is
    verified after all pairs were yielded.

    Raises:
        BackupReadError, BackupFormatError: as `load`.

    """
    part = Backup()
    for _ in _read(path, part):
        yield part
        part.pairs.clear()
        part.expiries.clear()
    yield part


def _read(path: bytes, backup: Backup) -> Iterator[None]:
    """Add the contents of the file at `path` to `backup`; yield after each block.

    Raises:
        BackupReadError, BackupFormatError: as `load`.

    """
    try:
        file = open_regular(path, os.O_RDONLY)
        try:
            yield from _Reader(printable(path), backup).read(_blocks(file))
        finally:
            os.close(file)
    except OSError as error:
        raise BackupReadError(printable(path), os_error_text(error)) from error


class _Reader:
    """One reading of a backup, which messages call `name`, into `backup`.

    The caller may remove what was added, between two blocks.
    """

    def __init__(self, name: str, backup: Backup) -> None:
        self._name = name
        self._backup = backup
        self._pairs_before = 0
        """Pairs in the blocks before the one that is read."""
        self._kept = 0
        """Pairs in `backup` when the block was begun."""
        self._last_key = b""
        self._is_framed = False
        self._checksum = 0
        """Of the bytes before the block that is read."""
        self._add_to_checksum: Callable[[int, bytes], int] = lambda _checksum, _data: 0

    def read(self, blocks: Iterator[bytes]) -> Iterator[None]:
        """Add the contents of `blocks`, which end with a newline unless a line is invalid.

        Yields after each block.
        """
        block = next(blocks, b"")
        position = 0
        if block.startswith(START_OF_FRAME):
            from kvs.snapshot.frame import add_to_checksum  # not loaded without need

            self._add_to_checksum = add_to_checksum
            self._is_framed = True
            position = len(START_OF_FRAME)
        while block:
            end = self._read_pairs(block, position)
            if end < len(block):
                self._read_end(block, end, next(blocks, b""))
                return
            self._checksum = self._add_to_checksum(self._checksum, block)
            block = b""  # before the next one is read: it may be long
            self._pairs_before = self._pair_count()
            yield
            self._kept = len(self._backup.pairs)
            block, position = next(blocks, b""), 0
        if self._is_framed:
            raise self._error("the last line, '# end ...', is missing: the file was cut short")

    def _pair_count(self) -> int:
        """Return the number of pairs so far."""
        return self._pairs_before + len(self._backup.pairs) - self._kept

    def _read_pairs(self, block: bytes, position: int) -> int:
        """Add the pairs of `block` from `position` on; return where they end."""
        pairs, last_key = self._backup.pairs, self._last_key
        while match := _LINE.match(block, position):
            end = match.end()
            if end - position > LONG_BYTES:
                (key, value), until = self._long_pair(block, match), match[3]
            else:
                key, value, until = match.groups()
                if (
                    b'"' in {key[:1], value[:1]}
                    or len(key) > grammar.MAX_KEY_BYTES
                    or value in RESERVED
                ):
                    key, value = self._unquote(block, position, key, value)
            if key <= last_key:
                previous = printable(last_key, MAX_KEY_SHOWN_BYTES)
                raise self._error(
                    f"key '{printable(key, MAX_KEY_SHOWN_BYTES)}' is not greater than the key "
                    f"before it, '{previous}'"
                )
            pairs[key] = value
            if until is not None:
                self._backup.expiries[key] = int(until)
            last_key = key
            position = end
        self._last_key = last_key
        return position

    def _long_pair(self, block: bytes, match: re.Match[bytes]) -> tuple[bytes, bytes]:
        """Return the words of a long line, without a copy of the spelling of its value."""
        start, end = match.span(2)
        value = None
        if block.startswith(b'"', start):
            value = grammar.unquote_long_value(memoryview(block)[start:end])
        if value is None or len(value) > grammar.MAX_VALUE_BYTES:
            return self._unquote(block, match.start(), match[1], match[2])
        key, _ = self._unquote(block, match.start(), match[1], b"-")
        return key, value

    def _unquote(self, block: bytes, at: int, key: bytes, value: bytes) -> tuple[bytes, bytes]:
        """Return the words of two spellings in the line at `at` of `block`."""
        word, content = grammar.unquote(key), grammar.unquote(value)
        if value in RESERVED:
            reason = f"{value.decode('ascii')} is reserved and cannot be a value"
        elif not word:
            reason = "a key has at least 1 byte, this one is empty"
        elif len(word) > grammar.MAX_KEY_BYTES:
            reason = f"a key is at most {grammar.MAX_KEY_BYTES} bytes, this one has {len(word)}"
        elif len(content) > grammar.MAX_VALUE_BYTES:
            limit = grammar.MAX_VALUE_BYTES
            reason = f"a value is at most {limit} bytes, this one has {len(content)}"
        elif (word is not key and grammar.spell(word) != key) or (
            content is not value and grammar.spell_value(content) != value
        ):
            line = _line_at(block, at)
            reason = f"a word is not in its canonical spelling: '{printable_line(line, 60)}'"
        else:
            return word, content
        raise self._error(reason)

    def _read_end(self, block: bytes, position: int, following: bytes) -> None:
        """Check the last line of a framed backup, which is at `position` of `block`."""
        end = None
        line = block[position : block.find(b"\n", position) + 1]
        if self._is_framed:
            from kvs.snapshot.frame import End

            end = End.decode(line)
        if end is None:
            raise self._error(self._describe_fault(block, position))
        if following or position + len(line) != len(block):
            raise self._error("there is more behind the last line, '# end ...'", after=1)
        if end.pairs != self._pair_count():
            raise self._error(f"there are {self._pair_count()} pairs, not {end.pairs}")
        if end.checksum != self._add_to_checksum(self._checksum, block[:position]):
            raise self._error("the lines before do not match the checksum")
        self._backup.revision = end.revision

    def _describe_fault(self, block: bytes, position: int) -> str:
        line = _line_at(block, position)
        starts = (b"(", b"#") if self._is_framed else (b"(",)
        if b"\n" not in block[position:] and len(line) <= LINE_BYTES and line.startswith(starts):
            return "the last line has no newline: the file was cut short"
        return f"expected '(key, value)', not '{printable_line(line, 60)}'"

    def _error(self, reason: str, after: int = 0) -> BackupFormatError:
        """Return the error of the line behind the pairs so far, or of a later one."""
        line = self._pair_count() + 1 + self._is_framed + after
        return BackupFormatError(self._name, line, reason)


def _line_at(block: bytes, position: int) -> bytes:
    end = block.find(b"\n", position)
    return block[position : end if end >= 0 else len(block)]


def _blocks(file: int) -> Iterator[bytes]:
    """Yield the file in blocks that end at a newline, unless a line is too long or the last.

    A block is read once its size is known: to join pieces would take twice the memory.
    """
    offset = 0
    while data := os.pread(file, BLOCK, offset):
        end, size = data.rfind(b"\n") + 1, len(data)
        while not end and size <= LINE_BYTES and (data := os.pread(file, BLOCK, offset + size)):
            newline = data.find(b"\n")
            end = size + newline + 1 if newline >= 0 else 0
            size += len(data)
        data = b""
        blocks = [os.pread(file, end or size, offset)]
        offset += len(blocks[0])
        yield blocks.pop()  # not referred to while the caller reads: it may be long
