"""Waiting for a directory that is gone: a watch on the one it stood in."""

import contextlib
import os

from kvs.posix.files import open_directory
from kvs.posix.inotify import Sign, Watch


class Returning:
    """Signs that something may stand at `path` again, until `close`. Not thread-safe.

    Where its parent cannot be watched, because it is gone as well, say, there are none: look now
    and then.
    """

    def __init__(self, path: bytes) -> None:
        parent, self._name = os.path.split(path.rstrip(b"/"))
        self._watch: Watch | None = None
        with contextlib.suppress(OSError):
            directory = open_directory(parent or b".")
            try:
                self._watch = Watch(directory)
            finally:
                os.close(directory)

    def fileno(self) -> int | None:
        """Return the descriptor that is readable when there are signs, None if none will come."""
        return None if self._watch is None else self._watch.fileno()

    def is_told(self) -> bool:
        """Take in the signs; tell whether one speaks for a return."""
        signs = [] if self._watch is None else self._watch.signs()
        if any(sign is Sign.MOVED for sign, _ in signs):
            self.close()
        return any(name == self._name or sign is Sign.LOST for sign, name in signs)

    def close(self) -> None:
        """End the watch."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
