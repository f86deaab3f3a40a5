"""The operating system that KVS requires."""

import sys


def require_linux() -> None:
    """Raise an exception unless the operating system is Linux.

    Raises:
        ImportError: the system is another one, without epoll(7), inotify(7) or /proc.

    """
    if sys.platform != "linux":
        raise ImportError(f"kvs needs Linux; this system is {sys.platform}")
