"""A file read in blocks of whole lines, with bounded memory.

Files are read, never mapped: a mapped file that shrinks kills the process.
"""

import os
from collections.abc import Iterator

from kvs.engine.selection import check
from kvs.language.diagnostics import verdict_is_final

BLOCK = 256 * 1024
"""Bytes read at a time."""

LONG_LINE_BYTES = 1 << 20
"""A line longer than this is looked at before its end has been read."""


class FileShrankError(OSError):
    """The file became shorter while it was read."""

    def __init__(self) -> None:
        super().__init__("it shrank while it was read")


def line_blocks(file: int) -> Iterator[bytes]:
    """Yield the contents of the open regular `file` as scripts of whole lines, in order.

    Only the last may lack its newline. Memory is bounded by some blocks and the longest valid
    line: of a line that can only be a comment or an error, what follows its first MiB or so is
    read and dropped, with no effect on what the language says of it.

    Raises:
        Shrunk: the file became shorter than it was; what had been read is not yielded.
        OSError: it cannot be read.

    """
    beginning = _PartialLine()
    for block in _blocks(file):
        end = block.rfind(b"\n") + 1
        if end:
            yield beginning.ended_by(block[:end])
            beginning = _PartialLine()
            block = block[end:]  # noqa: PLW2901  (what is left of it)
        beginning.add(block)
    if rest := beginning.ended_by(b""):
        yield rest


def _blocks(file: int) -> Iterator[bytes]:
    size = got = 0
    while True:
        block = os.read(file, BLOCK)
        now = os.fstat(file).st_size
        got += len(block)
        if now < size or (not block and got < size):
            raise FileShrankError
        if not block:
            return
        size = now
        yield block


class _PartialLine:
    """The start of a line whose end has not been read yet."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._look_at = LONG_LINE_BYTES
        self._dropping = False

    def add(self, piece: bytes) -> None:
        if self._dropping or not piece:
            return
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size >= self._look_at:  # at each doubling, so that all looks are linear
            self._pieces = [b"".join(self._pieces)]
            self._look_at = 2 * self._size
            self._dropping = verdict_is_final(self._pieces[0], check)

    def ended_by(self, block: bytes) -> bytes:
        """Return the line with its end, and the lines after it, from `block`."""
        if self._dropping:
            block = block[block.find(b"\n") :] if block else b""
        return b"".join((*self._pieces, block))
