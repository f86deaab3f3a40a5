"""Events of an open directory: inotify(7), reduced to a few kinds.

Linux only. The watch is on the directory of a descriptor, not on a path, so no other directory can
be watched by mistake.
"""

import os
from collections.abc import Iterable
from enum import Enum, auto
from typing import Any


class FileEvent(Enum):
    """A change of a directory entry, or of the directory."""

    MODIFIED = auto()
    """The contents of the file changed (IN_MODIFY). Not reported for changes by mmap(2)."""
    CLOSED_AFTER_WRITE = auto()
    """A process that had the file open for writing closed it, with or without a write."""
    CREATED = auto()
    """The entry was created by open(2), link(2), symlink(2) or the like."""
    MOVED_IN = auto()
    """A file was renamed to the entry, which may have existed before."""
    REMOVED = auto()
    """The entry was removed or renamed; a new one under its name has a later event."""
    OVERFLOWED = auto()
    """The kernel's queue was full, and any number of events are missing here."""
    SELF_MOVED = auto()
    """The directory was renamed, removed or unmounted, or its watch has ended."""


class DirectoryWatcher:
    """The events of one open directory, until `close`. Not thread-safe: the owner locks.

    Raises:
        OSError: the system gives no watch; the message names the limit to raise.

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
        mask = (
            flags.MODIFY | flags.CLOSE_WRITE | flags.CREATE | flags.MOVED_TO | flags.MOVED_FROM
            | flags.DELETE | flags.MOVE_SELF | flags.DELETE_SELF
            | flags.EXCL_UNLINK  # no events of writes to a file that was replaced
        )  # fmt: skip
        try:
            self._inotify: Any = INotify(nonblocking=True)
        except OSError as error:
            raise _explain(error, "max_user_instances") from error
        try:
            self._inotify.add_watch(f"/proc/self/fd/{directory}", mask)
        except OSError as error:
            self.close()
            raise _explain(error, "max_user_watches") from error

    def fileno(self) -> int:
        """Return the descriptor that is readable when there are events."""
        return int(self._inotify.fileno())

    def read_events(self) -> list[tuple[FileEvent, bytes]]:
        """Return the events since the last call, with the entry's name. Never blocks."""
        return list(self._read(self._inotify.read(timeout=0)))

    def close(self) -> None:
        """End the watch."""
        self._inotify.close()

    def _read(self, events: Iterable[Any]) -> Iterable[tuple[FileEvent, bytes]]:
        for _, bits, _, name in events:
            for flag, event in self._events.items():
                if bits & flag:
                    yield event, os.fsencode(name)


def _explain(error: OSError, limit: str) -> OSError:
    """Return `error` with the limit that causes it, because its own text misleads."""
    reason = error.strerror or str(error)
    return OSError(f"{reason} (the limit may be /proc/sys/fs/inotify/{limit})")
