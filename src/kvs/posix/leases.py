"""Who has a file open for writing: the kernel tells by refusing a read lease (fcntl(2)).

Linux only. A lease is taken and given back at once: in between, a writer who opens the file waits
for us, or is refused if it does not want to wait, so this must last an instant only.
"""

import fcntl
import signal


class LeasesUnsupportedError(OSError):
    """The file's system has no leases, or they are not ours to take: nothing can be told."""


def has_writer(file: int) -> bool:
    """Tell whether anybody has the regular file, open here for reading only, open for writing.

    A file that is just being closed may still count as open. The kernel tells who holds a lease
    by SIGIO that somebody wants the file; that would end a process that does not expect it, so
    SIGURG is asked for, which by default does nothing (signal(7)).

    Raises:
        LeasesUnsupportedError: it cannot be told: another user's file, or a filesystem without
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
