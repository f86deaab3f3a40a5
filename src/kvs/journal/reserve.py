"""Disk space that a data directory holds back, so that a store can be compacted on a full disk.

The reserve is a file of up to `RESERVE_BYTES`, allocated and never written, and never larger than
the space that stays free. On a full disk it is truncated or removed:

- The journal's writer thread gets half of it, once, so that executed changes are committed and a
  compaction can begin. It gets half again after the reserve has grown to half of its full size. So
  after a failure, too, some of the reserve is left for the next start, to delete and to compact.
- A compaction gets all of it, because a compaction frees more than it takes.

Limits: another process may take the space that is freed. On a filesystem that compresses zeros, or
that never overwrites in place, the file holds back less than its size.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from threading import Lock

from kvs.posix.files import open_regular

RESERVE = b"kvs.reserve"
"""Name of the file."""

RESERVE_BYTES = 1 << 20
"""Maximum size of the reserve. A compaction of few pairs takes 20 KiB, a group some 100 bytes."""

MIN_RESERVE_BYTES = 64 << 10
"""Minimum bytes by which the reserve grows, unless to its full size. The writer thread gets all of
a reserve of less than twice this."""

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk or quota."""


class Reserve:
    """The reserve of a data directory, which is open as `directory`.

    Threads: any. Locking: `_lock` guards the file and `_half_used`.
    """

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._lock = Lock()
        self._renewal_suspended = False
        """Whether a compaction may use the reserve, so that it is not renewed."""
        self._half_used = False
        """Whether the writer thread has had its half since the reserve last grew to half."""

    def size(self) -> int:
        """Return the size of the reserve in bytes."""
        try:
            status = os.stat(RESERVE, dir_fd=self._directory, follow_symlinks=False)
        except OSError:
            return 0
        return status.st_size if stat.S_ISREG(status.st_mode) else 0

    def renew(self) -> None:
        """Grow the reserve until as much space stays free, unless a compaction may use it.

        A limit or a quota that does not allow this is no error: the reserve keeps its size.
        """
        with self._lock:
            before = self.size()
            if self._renewal_suspended or before >= RESERVE_BYTES:
                return
            with contextlib.suppress(OSError):
                free = os.fstatvfs(self._directory)
                size = min(RESERVE_BYTES, (before + free.f_bavail * free.f_frsize) // 2)
                if size == RESERVE_BYTES or size >= before + MIN_RESERVE_BYTES:
                    self._allocate(before, size)
                    self._half_used = self._half_used and size < RESERVE_BYTES // 2

    def free_half(self) -> bool:
        """Free half of the reserve, or all of a small one; return whether any space was freed.

        Free nothing if this was done since the reserve last grew to half of its full size.
        """
        with self._lock:
            if self._half_used:
                return False
            self._half_used = True
            half = self.size() // 2
            return self._truncate(half if half >= MIN_RESERVE_BYTES else 0)

    def free(self) -> bool:
        """Free all of the reserve; return whether any space was freed."""
        with self._lock:
            return self._truncate(0)

    @contextlib.contextmanager
    def without_renewal(self) -> Iterator[None]:
        """Leave the reserve as it is within the ``with`` statement; renew it at the end."""
        self._renewal_suspended = True
        try:
            yield
        finally:
            self._renewal_suspended = False
            self.renew()

    def _allocate(self, before: int, size: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        file = open_regular(RESERVE, flags, self._directory)
        try:
            os.posix_fallocate(file, 0, size)
        except OSError:
            self._truncate(before)
            raise
        finally:
            os.close(file)

    def _truncate(self, size: int) -> bool:
        """Truncate the file to `size` bytes, or remove it if that is 0.

        Return whether any space was freed.
        """
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
