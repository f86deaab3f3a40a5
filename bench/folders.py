"""Directories in memory, if possible: disks sometimes take long for small files."""

import os
import tempfile

IN_MEMORY = "/dev/shm"
"""Directory whose files Linux holds in memory (tmpfs(5), shm_overview(7))."""


def memory_is_usable() -> bool:
    """Return whether files can be created in memory."""
    return os.access(IN_MEMORY, os.W_OK | os.X_OK)


def short_folder() -> "tempfile.TemporaryDirectory[str]":
    """Return a new directory, removed at the end of the block.

    Its path is short: the protocol limits the path of a client's pipe to 40 bytes.
    """
    where = IN_MEMORY if memory_is_usable() else "/tmp"
    return tempfile.TemporaryDirectory(prefix="kb", dir=where)
