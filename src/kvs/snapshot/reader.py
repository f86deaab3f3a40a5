r"""Read a backup: lines ``(key, value)``, strictly ascending by key, each with its newline.

Only the exact bytes that a backup can have are accepted. So a file that is damaged, joined from two
backups, or truncated within a line is never loaded in silence. A file that is truncated at the end
of a line cannot be detected: it is a backup of fewer pairs.
"""

import os
import re
from collections.abc import Iterator

from kvs.errors import BackupFormatError, BackupReadError
from kvs.language.grammar import RESERVED, WORD
from kvs.posix.files import open_regular
from kvs.text import os_error_text, printable

BLOCK = 1 << 20
"""Bytes read at a time."""

LINE_BYTES = 40 + 40 + len("(, )")
"""Maximum bytes of a line without its newline."""

_LINE = re.compile(rb"\((%b), ((?!(?:%b)\))%b)\)\n" % (WORD, b"|".join(RESERVED), WORD))


def load(path: bytes) -> dict[bytes, bytes]:
    """Return the pairs of the backup at `path`.

    Raises:
        BackupReadError: the file cannot be opened or read.
        BackupFormatError: a line is not ``(key, value)``, the keys do not strictly ascend, or the
            last line has no newline.

    """
    name = printable(path)
    pairs: dict[bytes, bytes] = {}
    last = b""
    try:
        for block in _blocks(path):
            position = 0
            while position < len(block):
                match = _LINE.match(block, position)
                if match is None:
                    raise BackupFormatError(name, len(pairs) + 1, _describe_fault(block, position))
                key, value = match.groups()
                if key <= last:
                    reason = f"key '{printable(key)}' does not ascend from '{printable(last)}'"
                    raise BackupFormatError(name, len(pairs) + 1, reason)
                pairs[key] = value
                last = key
                position = match.end()
    except OSError as error:
        raise BackupReadError(name, os_error_text(error)) from error
    return pairs


def _blocks(path: bytes) -> Iterator[bytes]:
    """Yield the file in blocks that end at a newline, unless a line is too long or the last."""
    file = open_regular(path, os.O_RDONLY)
    try:
        rest = b""
        while data := os.read(file, BLOCK):
            block = rest + data
            end = block.rfind(b"\n") + 1
            rest = block[end:]
            if len(rest) > LINE_BYTES:  # this line is too long, whatever follows
                end, rest = len(block), b""
            yield block[:end]
        yield rest
    finally:
        os.close(file)


def _describe_fault(block: bytes, position: int) -> str:
    end = block.find(b"\n", position)
    if end < 0 and len(block) - position <= LINE_BYTES:
        return "the last line has no newline: the file was cut short"
    line = block[position : end if end >= 0 else len(block)]
    for word in RESERVED:
        if line.endswith(b", %b)" % word):
            return f"{word.decode('ascii')} is reserved and cannot be a value"
    return f"expected '(key, value)', not '{printable(line, 60)}'"
