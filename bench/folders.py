"""Folders in memory where that can be: disks take long for small files now and then."""

import os
import tempfile

IN_MEMORY = "/dev/shm"
"""Where Linux keeps files in memory (tmpfs(5), shm_overview(7))."""


def memory_is_usable() -> bool:
    """Tell whether files can be made in memory here."""
    return os.access(IN_MEMORY, os.W_OK | os.X_OK)


def short_folder() -> "tempfile.TemporaryDirectory[str]":
    """Return a new folder, removed where the block is left.

    Its path is short: that of a client's pipe has at most 40 bytes in the protocol.
    """
    where = IN_MEMORY if memory_is_usable() else "/tmp"
    return tempfile.TemporaryDirectory(prefix="kb", dir=where)
