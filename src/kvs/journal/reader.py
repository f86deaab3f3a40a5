"""Reading a file of a journal: its groups, as far as they prove themselves, and how it ends.

Laws:

- A group is given out only when its header and its body match their checksums.
- After the last one the file is over (`Ending.CLEAN`), or it is torn, as a crash while a group was
  written leaves it: it ends within the group, or from some byte of the group on it is zeros to its
  end. Whatever else is there is damage.
- A single zero byte at the end of a group may be a flipped one: it is damage, unless it begins a
  page.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from kvs.journal import format as journal_format

PAGE = 4096

BLOCK = 1 << 20


class TailState(Enum):
    """How what is proved in a file ends."""

    CLEAN = auto()
    TORN = auto()
    DAMAGED = auto()


@dataclass(frozen=True, slots=True)
class Group:
    """Lines that were committed together."""

    before: int
    after: int
    body: bytes
    offset: int
    """Where its header begins."""


class JournalReader:
    """One file, open as `file`, read once from its beginning. For one thread.

    Iterate it to its end; `end`, `tail_state` and `reason` are right then.

    Raises:
        form.InvalidFileHeader: it does not begin as a file of a journal.
        OSError: it cannot be read.

    """

    def __init__(self, file: int) -> None:
        self._file = file
        self.size = os.fstat(file).st_size
        start = os.pread(file, journal_format.FILE_HEADER_BYTES, 0)
        self.head, self.end, self.chain = journal_format.decode_file_header(start)
        """The head; where what is proved ends; the checksum that the next header goes on from."""
        self.tail_state = TailState.CLEAN
        self.reason = ""
        """What is wrong at `end`, where something is."""

    def __iter__(self) -> Iterator[Group]:
        """Yield the groups in order, up to the end of what is proved."""
        with open(self._file, "rb", buffering=BLOCK, closefd=False) as reader:
            reader.seek(self.end)
            while self.end < self.size:
                start = reader.read(journal_format.GROUP_HEADER_BYTES)
                decoded = journal_format.decode_group_header(self.chain, start)
                if decoded is None:
                    self._classify_header(start)
                    return
                header, chain = decoded
                body_at = self.end + journal_format.GROUP_HEADER_BYTES
                if body_at + header.length > self.size:
                    self._torn("the file ends within a group")
                    return
                body = reader.read(header.length)
                if not journal_format.body_matches(header, body):
                    self._classify_zero_tail(body, body_at, "a group does not match its checksum")
                    return
                yield Group(header.before, header.after, body, self.end)
                self.chain = chain
                self.end = body_at + header.length

    def _classify_header(self, start: bytes) -> None:
        written = start.rstrip(b"\0")
        if not journal_format.is_header_prefix(written):
            self._damaged("a line that begins with '# group' should stand there")
        elif len(start) < journal_format.GROUP_HEADER_BYTES and written == start:
            self._torn("the file ends within the header of a group")
        elif not written:
            self._classify_zero_tail(start, self.end, "there are zeros where a group should be")
        else:
            self._classify_zero_tail(
                start, self.end, "the header of a group does not match its checksum"
            )

    def _classify_zero_tail(self, data: bytes, at: int, reason: str) -> None:
        """Call it torn if from some byte of `data`, which begins at `at`, all is zeros."""
        zeros_at = at + len(data.rstrip(b"\0"))
        zeros = self.size - zeros_at
        if (
            zeros
            and (zeros > 1 or zeros_at % PAGE == 0 or zeros_at == self.end)
            and b"\0" not in data[: zeros_at - at]
            and self._zeros_from(at + len(data))
        ):
            self._torn("the file ends in zeros")
        else:
            self._damaged(reason)

    def _zeros_from(self, offset: int) -> bool:
        while block := os.pread(self._file, BLOCK, offset):
            if block.strip(b"\0"):
                return False
            offset += len(block)
        return True

    def _torn(self, reason: str) -> None:
        self.tail_state, self.reason = TailState.TORN, reason

    def _damaged(self, reason: str) -> None:
        self.tail_state, self.reason = TailState.DAMAGED, reason
