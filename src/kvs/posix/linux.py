"""The operating system that KVS needs."""

import sys


def require_linux() -> None:
    """Return if this is Linux.

    Raises:
        ImportError: it is another system, which has no epoll(7), no inotify(7), or no /proc.

    """
    if sys.platform != "linux":
        raise ImportError(f"kvs needs Linux; this system is {sys.platform}")
