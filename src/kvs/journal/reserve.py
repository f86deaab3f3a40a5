"""Disk space that a data directory holds back, so that a full disk can still be worked on.

A file of up to `RESERVE_BYTES`, allocated and never written, and never larger than what stays free.
When the disk is full, it is truncated or removed: the journal's writer gets half of it, once, so
that what was executed is committed and a compaction can begin; a compaction gets all of it, because
it frees more than it takes. The writer gets half again after the reserve has grown to at least half
of its full size. So after a failure, too, some of it is left for the next start, to delete and to
compact.

Limits: another process may take what is freed here. On a filesystem that compresses zeros, or that
never overwrites in place, the file holds back less than its size.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from threading import Lock

from kvs.posix.files import open_regular

RESERVE = b"kvs.reserve"

RESERVE_BYTES = 1 << 20
"""Most that is held back. A compaction of few pairs takes 20 KiB, a group some hundred bytes."""

MIN_RESERVE_BYTES = 64 << 10
"""The writer gets all of less than twice this; it grows by this at least, or to its full size."""

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
"""The error numbers of a full disk."""


class Reserve:
    """The reserve of a data directory, open as `directory`. Thread-safe; `_lock` guards all."""

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._lock = Lock()
        self._lent = False
        self._taken = False
        """Whether the writer has had its half, and the reserve has not grown to half since."""

    def size(self) -> int:
        """Return how many bytes are held back."""
        try:
            found = os.stat(RESERVE, dir_fd=self._directory, follow_symlinks=False)
        except OSError:
            return 0
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    def renew(self) -> None:
        """Grow the reserve to as much as stays free, unless a compaction uses it.

        What a limit or a quota forbids is left out: then there is less of it, or none.
        """
        with self._lock:
            before = self.size()
            if self._lent or before >= RESERVE_BYTES:
                return
            with contextlib.suppress(OSError):
                free = os.fstatvfs(self._directory)
                most = min(RESERVE_BYTES, (before + free.f_bavail * free.f_frsize) // 2)
                if most == RESERVE_BYTES or most >= before + MIN_RESERVE_BYTES:
                    self._allocate(before, most)
                    self._taken = self._taken and most < RESERVE_BYTES // 2

    def release_half(self) -> bool:
        """Free half of the reserve, or all of a small one; return whether anything was freed.

        Only once until it has grown to half of its full size, or more.
        """
        with self._lock:
            if self._taken:
                return False
            self._taken = True
            half = self.size() // 2
            return self._shorten(half if half >= MIN_RESERVE_BYTES else 0)

    def release(self) -> bool:
        """Free all of the reserve; return whether anything was freed."""
        with self._lock:
            return self._shorten(0)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Do not renew the reserve meanwhile; renew it at the end."""
        self._lent = True
        try:
            yield
        finally:
            self._lent = False
            self.renew()

    def _allocate(self, before: int, size: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        file = open_regular(RESERVE, flags, self._directory)
        try:
            os.posix_fallocate(file, 0, size)
        except OSError:
            self._shorten(before)
            raise
        finally:
            os.close(file)

    def _shorten(self, size: int) -> bool:
        """Make the file `size` bytes long, or remove it; return whether anything was freed."""
        try:
            file = open_regular(RESERVE, os.O_RDWR | os.O_NOFOLLOW, self._directory)
        except OSError:
            return False
        try:
            freed = os.fstat(file).st_size > size
            with contextlib.suppress(OSError):
                os.ftruncate(file, size)  # some filesystems free an unlinked file only later
                if not size:
                    os.unlink(RESERVE, dir_fd=self._directory)
        finally:
            os.close(file)
        return freed
