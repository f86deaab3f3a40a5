"""``kvs history``: the changes of a key in a data directory."""

import argparse
import os

from kvs.cli.open_store import progress_bar, usage_errors
from kvs.cli.stdio import UsageError, write_result
from kvs.errors import InvalidWordError
from kvs.language.builder import encode_key
from kvs.language.grammar import spell_value
from kvs.store.history import SNAPSHOT, KeyVersion, format_time
from kvs.store.history import history as versions_of


def history(options: argparse.Namespace) -> int:
    """Run ``kvs history``; return the exit status."""
    try:
        key = encode_key(os.fsencode(options.key))
    except InvalidWordError as error:
        raise UsageError(str(error)) from error
    with usage_errors(), progress_bar() as progress:
        for version in versions_of(options.directory, key, progress):
            write_result(_line(version))
    return 0


def _line(version: KeyVersion) -> bytes:
    """Return the fields, separated by tabs, which no word has in its canonical spelling."""
    if version.value is not None:
        value = spell_value(version.value)
        if version.until is not None:
            value += b" UNTIL %d" % version.until
    else:
        value = b"(missing)" if version.origin == SNAPSHOT else b"(removed)"
    time = format_time(version.time_ms).encode()
    return b"%d\t%b\t%b\t%b\n" % (version.revision, time, version.origin or b"-", value)
