"""``kvs import`` and ``kvs export``: pairs of other programs into and out of a data directory."""

import argparse
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedReader

from kvs.cli.formats import FORMATS, MAX_ROW_BYTES, BadRow, Format, Record, format_of
from kvs.cli.maintenance import replace_file
from kvs.cli.open_store import progress_bar, usage_errors
from kvs.cli.stdio import UsageError, print_error, write_result
from kvs.engine.interface import TableView
from kvs.errors import KvsError
from kvs.language.builder import parse_listings
from kvs.language.output_format import format_writes
from kvs.posix.files import check_path
from kvs.settings import ProgressCallback
from kvs.store import maintenance
from kvs.store.core import StoreCore
from kvs.text import os_error_text, pluralize, printable

BATCH_BYTES = 1 << 20
"""Bytes of keys and values after which an import commits what it has read."""

MAX_REPORTED_ROWS = 1000
"""Maximum invalid lines that an import reports one by one."""

STANDARD_STREAM = "-"


class TransferError(KvsError):
    """A file that could not be imported, or written by an export."""


# Import.


def import_(options: argparse.Namespace) -> int:
    """Run ``kvs import``; return the exit status."""
    form = _format(options.file, options.format)
    path = _display_path(options.file)
    with _opened(options.file, path) as file:
        is_regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        if is_regular:
            start = file.tell()
            with progress_bar("checking the file") as progress:
                if not _check(form, _Lines(file, path, progress), path):
                    return 1
            file.seek(start)
        return _import(form, file, path, options.directory)


def _check(form: Format, lines: "_Lines", path: str) -> bool:
    """Report every invalid line; return whether there is none."""
    bad = 0
    for row in form.read(lines):
        if isinstance(row, BadRow):
            bad += 1
            if bad <= MAX_REPORTED_ROWS:
                print_error(_bad_row_text(path, row))
    if bad > MAX_REPORTED_ROWS:
        print_error(f"{path}: {bad - MAX_REPORTED_ROWS} more are invalid")
    if bad:
        print_error(f"kvs import: {path}: {pluralize(bad, 'invalid line')}; nothing was imported")
    return not bad


def _import(form: Format, file: BufferedReader, path: str, directory: str) -> int:
    pairs = 0
    failure = None
    with usage_errors(), progress_bar() as progress:
        store = StoreCore(directory, progress=progress)
    with store, progress_bar("importing") as progress:
        batch = _Batch(store)
        try:
            for row in form.read(_Lines(file, path, progress)):
                if isinstance(row, BadRow):
                    failure = _bad_row_text(path, row)
                    break
                batch.add(row)
                pairs += 1
        except TransferError as error:
            failure = str(error)
        batch.write()
        revision = store.revision
    if failure is not None:
        print_error(failure)
    extent = "imported" if failure is None else "imported before that"
    summary = f"{pluralize(pairs, 'pair')} {extent}, at revision {revision}"
    print_error(f"{printable(directory)}: {summary}")
    return int(failure is not None)


def _bad_row_text(path: str, row: BadRow) -> str:
    return f"{path}:{row.line}: {row.reason}"


class _Batch:
    """The records that were read and not written: of a key, the last one."""

    def __init__(self, store: StoreCore) -> None:
        self._store = store
        self._pairs: dict[bytes, bytes] = {}
        self._expiries: dict[bytes, int] = {}
        self._bytes = 0

    def add(self, record: Record) -> None:
        key, value, until = record
        self._pairs[key] = value
        self._expiries.pop(key, None)
        if until is not None:
            self._expiries[key] = until
        self._bytes += len(key) + len(value)
        if self._bytes >= BATCH_BYTES:
            self.write()

    def write(self) -> None:
        """Write all as lines of WRITE; return when they are committed."""
        for line in format_writes(self._pairs.items(), self._expiries):
            self._store.execute(line)
        self._store.commit_point().wait()
        self._pairs.clear()
        self._expiries.clear()
        self._bytes = 0


class _Lines:
    """The lines of a file with their newlines, of bounded length; shows the progress."""

    def __init__(self, file: BufferedReader, path: str, progress: ProgressCallback) -> None:
        self._file = file
        self._path = path
        self._number = 0
        self._progress = progress
        self._total = os.fstat(file.fileno()).st_size
        self._done = 0

    def __iter__(self) -> Iterator[bytes]:
        try:
            while line := self._file.readline(MAX_ROW_BYTES + 1):
                self._number += 1
                if len(line) > MAX_ROW_BYTES:
                    reason = f"a line is at most {MAX_ROW_BYTES} bytes"
                    raise TransferError(f"{self._path}:{self._number}: {reason}")
                self._done += len(line)
                if self._total:
                    self._progress(self._done, self._total)
                yield line
        except OSError as error:
            raise _cannot_read(self._path, error) from error


@contextmanager
def _opened(path: str, display_path: str) -> Iterator[BufferedReader]:
    """Yield the file to import, open for reading."""
    if path == STANDARD_STREAM:
        if sys.stdin is None:
            raise UsageError("stdin is closed")
        with open(sys.stdin.fileno(), "rb", closefd=False) as file:
            yield file
        return
    try:
        check_path(os.fsencode(path))
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise UsageError(str(_cannot_read(display_path, error))) from error
    with file:
        yield file


def _cannot_read(path: str, error: OSError) -> TransferError:
    return TransferError(f"{path}: cannot read it: {os_error_text(error)}")


def _display_path(path: str) -> str:
    return "stdin" if path == STANDARD_STREAM else printable(path)


def _format(path: str, name: str | None) -> Format:
    """Return the format that an option names, or else the end of the file's name."""
    form = FORMATS[name] if name is not None else format_of(os.fsencode(path))
    if form is None:
        names = ", ".join(FORMATS)
        raise UsageError(
            f"{printable(path)}: its name does not tell the format: give --format ({names})"
        )
    return form


# Export.


def export(options: argparse.Namespace) -> int:
    """Run ``kvs export``; return the exit status."""
    form = _format(options.file, options.format)
    with usage_errors(), progress_bar() as progress:
        engine = maintenance.load(options.directory, progress)
    try:
        engine.with_locked_view(partial(_export, form, options.file))
    except OSError as error:
        reason = f"not written: {os_error_text(error)}"
        raise TransferError(f"{printable(options.file)}: {reason}") from error
    return 0


def _export(form: Format, path: str, view: TableView) -> None:
    records = map(Record._make, parse_listings(view.listing(expiries=True)))
    data = _buffered(form.write(records))
    if path == STANDARD_STREAM:
        for block in data:
            write_result(block)
    else:
        replace_file(path, data)


def _buffered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the pieces joined into blocks of about `BATCH_BYTES`."""
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        if len(buffer) >= BATCH_BYTES:
            yield bytes(buffer)
            buffer.clear()
    yield bytes(buffer)
