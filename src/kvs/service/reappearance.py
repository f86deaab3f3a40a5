"""Waiting for a directory that was removed or renamed: a watch on its parent."""

import contextlib
import os

from kvs.posix.files import open_directory
from kvs.posix.inotify import DirectoryWatcher, FileEvent


class ReappearanceWatcher:
    """Events that `path` may exist again, until `close`. Not thread-safe.

    If the parent cannot be watched, perhaps because it does not exist either, there are no events:
    the caller must check the path from time to time.
    """

    def __init__(self, path: bytes) -> None:
        parent, self._name = os.path.split(path.rstrip(b"/"))
        self._watcher: DirectoryWatcher | None = None
        with contextlib.suppress(OSError):
            directory = open_directory(parent or b".")
            try:
                self._watcher = DirectoryWatcher(directory)
            finally:
                os.close(directory)

    def fileno(self) -> int | None:
        """Return the descriptor that is readable when there are events; None if none can come."""
        return None if self._watcher is None else self._watcher.fileno()

    def may_have_reappeared(self) -> bool:
        """Read the events; return whether one suggests that the path exists again."""
        events = [] if self._watcher is None else self._watcher.read_events()
        if any(event is FileEvent.SELF_MOVED for event, _ in events):
            self.close()
        return any(name == self._name or event is FileEvent.OVERFLOWED for event, name in events)

    def close(self) -> None:
        """Close the watch. Idempotent."""
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None
