"""The frame of a backup of `Store.backup`: a line before the pairs, and one behind them.

Apart from `kvs.snapshot.reader`, so that a program that has no framed backup need not load the
checksums.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from google_crc32c import extend

from kvs.snapshot.reader import START_OF_FRAME

_END = re.compile(rb"# end (0|[1-9][0-9]*) (0|[1-9][0-9]*) ([0-9a-f]{8})\n")


class End(NamedTuple):
    """The last line of a framed backup."""

    revision: int
    pairs: int
    """Number of pairs."""
    checksum: int
    """CRC-32C of all bytes before the line."""

    def encode(self) -> bytes:
        """Return the line."""
        return b"# end %d %d %08x\n" % self

    @classmethod
    def decode(cls, line: bytes) -> "End | None":
        """Return what `line` says; None if it is not the last line of a framed backup."""
        match = _END.fullmatch(line)
        return None if match is None else cls(int(match[1]), int(match[2]), int(match[3], 16))


def add_to_checksum(checksum: int, data: bytes) -> int:
    """Return the checksum of the bytes before and `data`."""
    return int(extend(checksum, data))


def framed(revision: int, pairs: int, listing: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the blocks of a framed backup, whose lines of pairs are those of `listing`."""
    checksum = add_to_checksum(0, START_OF_FRAME)
    yield START_OF_FRAME
    for block in listing:
        checksum = add_to_checksum(checksum, block)
        yield block
    yield End(revision, pairs, checksum).encode()
