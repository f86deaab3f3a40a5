"""Read and verify one file of a journal: its valid groups, and the state of what follows them.

Invariants:

- A group must be returned only if its header and its body match their checksums.
- The end of the last valid group must be the end of the file (`TailState.CLEAN`), or the rest is
  torn or damaged. Torn is what a crash leaves while a group is written: the file ends within the
  group, or all bytes from some byte of the group to the end of the file are zeros. Anything else is
  damage.
- A single zero byte at the end of a group may be a flipped byte: it is damage, unless it is the
  first of a page.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from functools import reduce
from typing import BinaryIO

from google_crc32c import extend as crc

from kvs.journal import format as journal_format
from kvs.journal.format import RESTORE, GroupHeader

PAGE = 4096
"""Bytes of a page: the kernel writes a file back page by page."""

BLOCK = 1 << 20
"""Bytes read at a time."""

LONG_BODY_BYTES = 32 << 20
"""Bytes of a body beyond which it is not read as a whole if it is that of a restore."""


class TailState(Enum):
    """The state of a file after its last valid group."""

    CLEAN = auto()
    TORN = auto()
    DAMAGED = auto()


@dataclass(frozen=True, slots=True)
class Group:
    """Lines that were committed together."""

    before: int
    """Revision before the group."""
    after: int
    """Revision after the group."""
    body: Iterable[bytes]
    """The lines, in pieces of whole lines: one piece, unless it is a long restore."""
    length: int
    """Length of the body in bytes."""
    offset: int
    """Offset of its header in the file, in bytes."""
    is_restore: bool
    """Whether all lines are one change, see `RESTORE` of `kvs.journal.format`."""
    time_ms: int
    """Time at which it was written, in milliseconds since the epoch; 0 if it is unknown."""


class JournalReader:
    """One file, open as `file`. Iterate over it once; `end`, `tail_state` and `reason` follow.

    Threads: one.

    Raises:
        InvalidFileHeader: the file does not begin with a valid file header.
        OSError: the file cannot be read.

    """

    def __init__(self, file: int) -> None:
        self._file = file
        self.size = os.fstat(file).st_size
        """Size of the file in bytes."""
        start = os.pread(file, journal_format.FILE_HEADER_BYTES, 0)
        self.header, self.end, self.last_checksum = journal_format.decode_file_header(start)
        """The file header; the end of the last valid group; the checksum of its header."""
        self._header_bytes = journal_format.group_header_bytes(self.header.version)
        self.tail_state = TailState.CLEAN
        self.reason = ""
        """Why the file is torn or damaged at `end`; empty if it is clean."""

    def __iter__(self) -> Iterator[Group]:
        """Yield the valid groups in order."""
        with open(self._file, "rb", buffering=BLOCK, closefd=False) as reader:
            reader.seek(self.end)
            while self.end < self.size:
                start = reader.read(self._header_bytes)
                decoded = journal_format.decode_group_header(self.last_checksum, start)
                if decoded is None:
                    return self._classify_header(start)
                header, checksum = decoded
                body_offset = self.end + self._header_bytes
                if body_offset + header.length > self.size:
                    return self._set_torn("the file ends within a group")
                group = self._read_group(header, reader, body_offset)
                if group is None:
                    reason = "a group does not match its checksum"
                    return self._classify_zero_tail(body_offset, header.length, reason)
                yield group
                del group  # before the next one is read: a group may be long
                self.last_checksum = checksum
                self.end = body_offset + header.length
        return None

    def _read_group(self, header: GroupHeader, reader: BinaryIO, offset: int) -> Group | None:
        """Return the group whose body is next, at `offset`; None if its checksum is another."""
        is_restore = False
        if header.length > LONG_BODY_BYTES:
            is_restore = os.pread(self._file, len(RESTORE), offset) == RESTORE
        body: Iterable[bytes]
        if is_restore:
            body = self._whole_lines(offset, header.length)
            checksum = reduce(crc, self._blocks(offset, header.length), 0)
            reader.seek(offset + header.length)
        else:
            text = reader.read(header.length)
            body = (text,)
            is_restore = text.startswith(RESTORE)
            checksum = crc(0, text)
        if checksum != header.checksum:
            return None
        return Group(
            header.before,
            header.after,
            body,
            header.length,
            self.end,
            is_restore,
            header.time_ms,
        )

    def _blocks(self, offset: int, length: int) -> Iterator[bytes]:
        """Yield the next `length` bytes, less after the end of the file."""
        end = offset + length
        while offset < end and (block := os.pread(self._file, min(BLOCK, end - offset), offset)):
            yield block
            offset += len(block)

    def _whole_lines(self, offset: int, length: int) -> Iterator[bytes]:
        """Yield the next `length` bytes in pieces that end with a newline."""
        pieces: list[bytes] = []
        for block in self._blocks(offset, length):
            end = block.rfind(b"\n") + 1
            if end:
                pieces.append(block[:end])
                pieces[:] = [b"".join(pieces)]
                yield pieces.pop()  # not referred to while the caller executes it: it may be long
            pieces.append(block[end:])

    def _classify_header(self, start: bytes) -> None:
        written = start.rstrip(b"\0")
        if not journal_format.is_header_prefix(written, self.header.version):
            self._set_damaged("expected a group header ('# group ...')")
        elif len(start) < self._header_bytes and written == start:
            self._set_torn("the file ends within the header of a group")
        elif not written:
            self._classify_zero_tail(
                self.end, len(start), "there are zeros where a group should be"
            )
        else:
            reason = "the header of a group does not match its checksum"
            self._classify_zero_tail(self.end, len(start), reason)

    def _classify_zero_tail(self, at: int, length: int, reason: str) -> None:
        """Set the state to torn if all bytes after some of the next `length` are zeros.

        Else set it to damaged for `reason`. `at` is the offset of the next bytes.
        """
        zeros_at = at
        for block in self._blocks(at, length):
            zero = block.find(b"\0")
            zeros_at += len(block) if zero < 0 else zero
            if zero >= 0:
                break
        zeros = self.size - zeros_at
        if (
            zeros
            and (zeros > 1 or zeros_at % PAGE == 0 or zeros_at == self.end)
            and self._is_zero_from(zeros_at)
        ):
            self._set_torn("the file ends in zeros")
        else:
            self._set_damaged(reason)

    def _is_zero_from(self, offset: int) -> bool:
        return not any(block.strip(b"\0") for block in self._blocks(offset, self.size - offset))

    def _set_torn(self, reason: str) -> None:
        self.tail_state, self.reason = TailState.TORN, reason

    def _set_damaged(self, reason: str) -> None:
        self.tail_state, self.reason = TailState.DAMAGED, reason
