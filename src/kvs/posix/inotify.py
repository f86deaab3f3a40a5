"""What the kernel tells of a directory that is open: inotify(7), as signs of a few kinds.

Linux only. The watch is on the directory that the descriptor holds, not on a path, so that nothing
can come between.
"""

import os
from collections.abc import Iterable
from enum import Enum, auto
from typing import Any


class FileEvent(Enum):
    """What may have happened to an entry, or to the directory."""

    MODIFIED = auto()
    """Some of its contents changed. Changes through a mapping, mmap(2), are not told."""
    CLOSED_AFTER_WRITE = auto()
    """Somebody who had it open for writing closed it, written or not."""
    CREATED = auto()
    """It is new there: made by open(2), by link(2), by symlink(2), ..."""
    MOVED_IN = auto()
    """It was renamed to there, in the place of another or not."""
    REMOVED = auto()
    """It was removed or renamed; what stands there now is told by a later sign."""
    OVERFLOWED = auto()
    """The kernel's queue was full: any number of signs are missing here."""
    SELF_MOVED = auto()
    """The directory itself was renamed, removed or unmounted, or is watched no more."""


class DirectoryWatcher:
    """The signs of one open directory, until `close`. Not thread-safe: its owner locks.

    Raises:
        OSError: there can be no watch, with what to do about it.

    """

    def __init__(self, directory: int) -> None:
        from inotify_simple import INotify, flags  # type: ignore[import-untyped]

        self._events = {
            flags.MODIFY: FileEvent.MODIFIED,
            flags.CLOSE_WRITE: FileEvent.CLOSED_AFTER_WRITE,
            flags.CREATE: FileEvent.CREATED,
            flags.MOVED_TO: FileEvent.MOVED_IN,
            flags.DELETE | flags.MOVED_FROM: FileEvent.REMOVED,
            flags.Q_OVERFLOW: FileEvent.OVERFLOWED,
            flags.MOVE_SELF
            | flags.DELETE_SELF
            | flags.UNMOUNT
            | flags.IGNORED: FileEvent.SELF_MOVED,
        }
        wanted = (
            flags.MODIFY | flags.CLOSE_WRITE | flags.CREATE | flags.MOVED_TO | flags.MOVED_FROM
            | flags.DELETE | flags.MOVE_SELF | flags.DELETE_SELF
            | flags.EXCL_UNLINK  # a file that was replaced is still written: not of interest
        )  # fmt: skip
        try:
            self._inotify: Any = INotify(nonblocking=True)
        except OSError as error:
            raise _explain(error, "max_user_instances") from error
        try:
            self._inotify.add_watch(f"/proc/self/fd/{directory}", wanted)
        except OSError as error:
            self.close()
            raise _explain(error, "max_user_watches") from error

    def fileno(self) -> int:
        """Return the descriptor that is readable when there are signs."""
        return int(self._inotify.fileno())

    def read_events(self) -> list[tuple[FileEvent, bytes]]:
        """Return what has been told since the last call, with the entry's name; never waits."""
        return list(self._read(self._inotify.read(timeout=0)))

    def close(self) -> None:
        """End the watch."""
        self._inotify.close()

    def _read(self, events: Iterable[Any]) -> Iterable[tuple[FileEvent, bytes]]:
        for _, mask, _, name in events:
            for flag, sign in self._events.items():
                if mask & flag:
                    yield sign, os.fsencode(name)


def _explain(error: OSError, limit: str) -> OSError:
    """Return `error` as what it means here: inotify's limits have misleading names."""
    reason = error.strerror or str(error)
    return OSError(f"{reason} (the limit may be /proc/sys/fs/inotify/{limit})")
