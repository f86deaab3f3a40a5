"""A job file read in blocks of whole lines, with bounded memory.

The file is read, never mapped: a mapped file that shrinks kills the process by SIGBUS.
"""

import os
from collections.abc import Iterator

from kvs.engine.selection import check, is_unfinished
from kvs.language.diagnostics import FINAL_BYTES, verdict_is_final

BLOCK = 256 * 1024
"""Bytes per read(2)."""

LONG_LINE_BYTES = 1 << 20
"""Bytes after which a line is checked before its end has been read."""


class FileShrankError(OSError):
    """The file became shorter while it was read."""

    def __init__(self) -> None:
        super().__init__("the file was truncated while it was read")


def line_blocks(file: int) -> Iterator[bytes]:
    """Yield the contents of the open regular `file` as scripts of whole lines, in order.

    Only the last script may lack its newline. Memory: a few blocks and the longest valid line. Of a
    line that can only be a comment or invalid, the bytes after about the first MiB, or as soon as
    that is certain, are read and dropped, which does not change the result of the line. So no more
    is stored of one line than `FINAL_BYTES` and a block.

    Raises:
        FileShrankError: the file became shorter; what is buffered is not yielded.
        OSError: the file cannot be read.

    """
    partial_line = _PartialLine()
    for block in _blocks(file):
        end = block.rfind(b"\n") + 1
        if end:
            yield partial_line.complete(block[:end])
            partial_line = _PartialLine()
            block = block[end:]  # noqa: PLW2901  (the rest of it)
        partial_line.add(block)
    if last := partial_line.complete(b""):
        yield last


def _blocks(file: int) -> Iterator[bytes]:
    size = offset = 0
    while True:
        block = os.read(file, BLOCK)
        size_now = os.fstat(file).st_size
        offset += len(block)
        if size_now < size or (not block and offset < size):
            raise FileShrankError
        if not block:
            return
        size = size_now
        yield block


class _PartialLine:
    """The start of a line whose end has not been read yet."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._check_at = LONG_LINE_BYTES
        self._dropping = False
        self._dropping_blanks = False
        """Whether the line has only blanks so far, and more of them make no difference."""

    def add(self, piece: bytes) -> None:
        if self._dropping_blanks:
            piece = piece.lstrip(b" \t")
        if self._dropping or not piece:
            return
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size >= self._check_at:  # at each doubling, so that all checks are linear
            beginning = b"".join(self._pieces)
            self._pieces = [beginning]
            if self._size < FINAL_BYTES and is_unfinished(beginning):
                self._dropping = False  # most lines, and this takes far less than the verdict
            else:
                self._dropping = verdict_is_final(beginning, check)
            self._dropping_blanks = self._size >= FINAL_BYTES and not self._dropping
            self._check_at = max(min(2 * self._size, FINAL_BYTES), self._size + 1)

    def complete(self, block: bytes) -> bytes:
        """Return the line with its end, and the lines after it, from `block`."""
        if self._dropping:
            block = block[block.find(b"\n") :] if block else b""
        return b"".join((*self._pieces, block))
