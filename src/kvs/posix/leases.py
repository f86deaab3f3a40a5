"""Whether a file is open for writing: then the kernel gives no read lease (fcntl(2)).

Linux only. The lease is released at once: until then open(2) for writing blocks in other processes,
or fails with O_NONBLOCK.
"""

import fcntl
import signal


class LeasesUnsupportedError(OSError):
    """The filesystem has no leases, or this process may not take one on the file."""


def has_writer(file: int) -> bool:
    """Return whether any process has a regular file, open here for reading only, open for writing.

    A file that is just being closed may still count as open. The kernel signals the holder of a
    lease when another process opens the file. The default, SIGIO, would kill this process; so the
    signal is set to SIGURG, which is ignored by default (signal(7)).

    Raises:
        LeasesUnsupportedError: the answer is unknown: another user's file, or a filesystem without
            leases.

    """
    try:
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError as error:
        raise LeasesUnsupportedError(error.errno, error.strerror) from error
    return False
