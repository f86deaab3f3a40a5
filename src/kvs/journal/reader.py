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
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from kvs.journal import format as journal_format

PAGE = 4096
"""Bytes of a page: the kernel writes a file back page by page."""

BLOCK = 1 << 20
"""Bytes read at a time."""


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
    body: bytes
    offset: int
    """Offset of its header in the file, in bytes."""


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
        self.tail_state = TailState.CLEAN
        self.reason = ""
        """Why the file is torn or damaged at `end`; empty if it is clean."""

    def __iter__(self) -> Iterator[Group]:
        """Yield the valid groups in order."""
        with open(self._file, "rb", buffering=BLOCK, closefd=False) as reader:
            reader.seek(self.end)
            while self.end < self.size:
                start = reader.read(journal_format.GROUP_HEADER_BYTES)
                decoded = journal_format.decode_group_header(self.last_checksum, start)
                if decoded is None:
                    self._classify_header(start)
                    return
                header, checksum = decoded
                body_offset = self.end + journal_format.GROUP_HEADER_BYTES
                if body_offset + header.length > self.size:
                    self._set_torn("the file ends within a group")
                    return
                body = reader.read(header.length)
                if not journal_format.body_matches(header, body):
                    reason = "a group does not match its checksum"
                    self._classify_zero_tail(body, body_offset, reason)
                    return
                yield Group(header.before, header.after, body, self.end)
                self.last_checksum = checksum
                self.end = body_offset + header.length

    def _classify_header(self, start: bytes) -> None:
        written = start.rstrip(b"\0")
        if not journal_format.is_header_prefix(written):
            self._set_damaged("expected a group header ('# group ...')")
        elif len(start) < journal_format.GROUP_HEADER_BYTES and written == start:
            self._set_torn("the file ends within the header of a group")
        elif not written:
            self._classify_zero_tail(start, self.end, "there are zeros where a group should be")
        else:
            self._classify_zero_tail(
                start, self.end, "the header of a group does not match its checksum"
            )

    def _classify_zero_tail(self, data: bytes, at: int, reason: str) -> None:
        """Set the state to torn if all bytes after some byte of `data` are zeros, else to damaged.

        `data` begins at the offset `at`; `reason` describes the damage.
        """
        zeros_at = at + len(data.rstrip(b"\0"))
        zeros = self.size - zeros_at
        if (
            zeros
            and (zeros > 1 or zeros_at % PAGE == 0 or zeros_at == self.end)
            and b"\0" not in data[: zeros_at - at]
            and self._is_zero_from(at + len(data))
        ):
            self._set_torn("the file ends in zeros")
        else:
            self._set_damaged(reason)

    def _is_zero_from(self, offset: int) -> bool:
        while block := os.pread(self._file, BLOCK, offset):
            if block.strip(b"\0"):
                return False
            offset += len(block)
        return True

    def _set_torn(self, reason: str) -> None:
        self.tail_state, self.reason = TailState.TORN, reason

    def _set_damaged(self, reason: str) -> None:
        self.tail_state, self.reason = TailState.DAMAGED, reason
