"""Waiting for a directory that is gone: a watch on the one it stood in."""

import contextlib
import os

from kvs.posix.files import open_directory
from kvs.posix.inotify import DirectoryWatcher, FileEvent


class ReappearanceWatcher:
    """Signs that something may stand at `path` again, until `close`. Not thread-safe.

    Where its parent cannot be watched, because it is gone as well, say, there are none: look now
    and then.
    """

    def __init__(self, path: bytes) -> None:
        parent, self._name = os.path.split(path.rstrip(b"/"))
        self._watch: DirectoryWatcher | None = None
        with contextlib.suppress(OSError):
            directory = open_directory(parent or b".")
            try:
                self._watch = DirectoryWatcher(directory)
            finally:
                os.close(directory)

    def fileno(self) -> int | None:
        """Return the descriptor that is readable when there are signs, None if none will come."""
        return None if self._watch is None else self._watch.fileno()

    def may_have_reappeared(self) -> bool:
        """Take in the signs; tell whether one speaks for a return."""
        signs = [] if self._watch is None else self._watch.read_events()
        if any(sign is FileEvent.SELF_MOVED for sign, _ in signs):
            self.close()
        return any(name == self._name or sign is FileEvent.OVERFLOWED for sign, name in signs)

    def close(self) -> None:
        """End the watch."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
