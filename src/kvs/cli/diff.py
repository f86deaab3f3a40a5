"""``kvs diff``: what changed between two backups or data directories."""

import argparse

from kvs.cli.open_store import progress_bar
from kvs.cli.stdio import StdoutClosed, print_error, write_result
from kvs.errors import KvsError
from kvs.store.comparison import compare

TROUBLE = 2
"""Exit status of an error, as that of diff(1)."""


def diff(options: argparse.Namespace) -> int:
    """Run ``kvs diff``; return the exit status: 0 equal, 1 different, 2 an error."""
    status = 0

    def write(line: bytes) -> None:
        nonlocal status
        status = 1
        write_result(line)

    try:
        with progress_bar() as progress:
            compare(options.old, options.new, write, progress)
    except StdoutClosed:
        return TROUBLE
    except KvsError as error:
        print_error(f"kvs diff: {error}")
        return TROUBLE
    return status
