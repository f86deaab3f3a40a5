"""What changed from one store to another, as lines of the command language.

A store is a backup, which is read in parts, or a data directory, which is replayed into memory.
Threads: one.
"""

import os
from collections.abc import Iterator

from kvs.language.builder import parse_listing
from kvs.language.output_format import format_changes
from kvs.settings import ProgressCallback, ignore_progress
from kvs.snapshot.reader import stream
from kvs.store.maintenance import Path, dump

Pair = tuple[bytes, bytes, int | None]
"""A key, its value, and when the pair expires, in milliseconds since the epoch, or None."""


def compare(old: Path, new: Path, progress: ProgressCallback = ignore_progress) -> Iterator[bytes]:
    """Yield the lines that turn `old` into `new`, one for each key, in ascending order of the keys.

    The lines are in canonical spelling.

    Raises:
        BackupReadError, BackupFormatError: a backup cannot be read, or is malformed; lines for what
            was read before were yielded.
        DataDirectoryError: it is not a data directory, or cannot be read.
        DirectoryLockedError: another process has locked a data directory.
        CorruptionError: a file of a data directory is damaged or missing.

    """
    olds, news = _pairs(old, progress), _pairs(new, progress)
    before, after = next(olds, None), next(news, None)
    while before or after:
        if after is None or (before is not None and before[0] < after[0]):
            assert before is not None
            yield format_changes([(before[0], None, None)])
            before = next(olds, None)
        elif before is None or after[0] < before[0]:
            yield format_changes([after])
            after = next(news, None)
        else:
            if before != after:
                yield format_changes([after])
            before, after = next(olds, None), next(news, None)


def _pairs(path: Path, progress: ProgressCallback) -> Iterator[Pair]:
    """Yield the pairs of a store in ascending order of the keys."""
    if os.path.isdir(path):
        for block in dump(path, progress):
            yield from parse_listing(block)
        return
    for part in stream(os.fsencode(path)):
        expiries = part.expiries
        for key, value in part.pairs.items():
            yield key, value, expiries.get(key)
