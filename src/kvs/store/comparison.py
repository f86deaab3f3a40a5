"""What changed from one store to another, as lines of the command language.

A store is a backup, which is read in parts, or a data directory, which is replayed into memory.
Threads: one.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial

from kvs.language.builder import parse_listings
from kvs.language.output_format import format_changes
from kvs.settings import ProgressCallback, ignore_progress
from kvs.snapshot.reader import stream
from kvs.store.maintenance import Path, load

Pair = tuple[bytes, bytes, int | None]
"""A key, its value, and when the pair expires, in milliseconds since the epoch, or None."""


def compare(
    old: Path,
    new: Path,
    write: Callable[[bytes], None],
    progress: ProgressCallback = ignore_progress,
) -> None:
    """Call `write` with the lines that turn `old` into `new`, one for each key, in ascending order.

    The lines are in canonical spelling. What `write` raises is raised.

    Raises:
        BackupReadError, BackupFormatError: a backup cannot be read, or is malformed; lines for what
            was read before were written.
        DataDirectoryError: it is not a data directory, or cannot be read.
        DirectoryLockedError: another process has locked a data directory.
        CorruptionError: a file of a data directory is damaged or missing.

    """

    def compare_with(olds: Iterator[Pair]) -> None:
        _with_pairs(new, partial(_write_differences, write, olds), progress)

    _with_pairs(old, compare_with, progress)


def _write_differences(
    write: Callable[[bytes], None], olds: Iterator[Pair], news: Iterator[Pair]
) -> None:
    before, after = next(olds, None), next(news, None)
    while before or after:
        if after is None or (before is not None and before[0] < after[0]):
            assert before is not None
            write(format_changes([(before[0], None, None)]))
            before = next(olds, None)
        elif before is None or after[0] < before[0]:
            write(format_changes([after]))
            after = next(news, None)
        else:
            if before != after:
                write(format_changes([after]))
            before, after = next(olds, None), next(news, None)


def _with_pairs(
    path: Path, use: Callable[[Iterator[Pair]], None], progress: ProgressCallback
) -> None:
    """Call `use` with the pairs of a store in ascending order of the keys."""
    if os.path.isdir(path):
        load(path, progress).with_locked_view(
            lambda view: use(parse_listings(view.listing(expiries=True)))
        )
    else:
        use(_backup_pairs(path))


def _backup_pairs(path: Path) -> Iterator[Pair]:
    for part in stream(os.fsencode(path)):
        expiries = part.expiries
        for key, value in part.pairs.items():
            yield key, value, expiries.get(key)
