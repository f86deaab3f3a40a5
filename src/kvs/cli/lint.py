"""``kvs lint``: report every invalid line of job files; change nothing."""

import argparse
import os
import unicodedata

from kvs.cli.stdio import UsageError, print_error, print_result
from kvs.engine.selection import check
from kvs.errors import JobError, JobsDirectoryError
from kvs.jobs.directory import JOB_SUFFIX, JobsDirectory, open_job
from kvs.jobs.input import line_blocks
from kvs.language.diagnostics import Diagnostic, line_end, number_lines
from kvs.text import os_error_text, pluralize, printable, printable_line

MAX_EXCERPT_BYTES_BEFORE = 40
MAX_EXCERPT_BYTES_AFTER = 32
"""Maximum bytes of a line that are quoted before and after the column of a diagnostic."""


def lint(options: argparse.Namespace) -> int:
    """Run ``kvs lint``; return the exit status."""
    missing = [path for path in options.paths if not os.path.lexists(path)]
    if missing:
        raise UsageError(f"{printable(missing[0])}: No such file or directory")
    is_valid = True
    for path in options.paths:
        if os.path.isdir(path):
            is_valid &= _lint_directory(path)
        else:
            is_valid &= _lint_file(os.fsencode(path), printable(path))
    return 0 if is_valid else 1


def _lint_directory(path: str) -> bool:
    try:
        with JobsDirectory(path) as directory:
            names = [name + JOB_SUFFIX for name in directory.list_jobs()]
            if not names:
                print_result(f"{printable(path)}: no jobs (no file ends in .job)")
            results = [
                _lint_file(name, directory.display_path_of(name), directory.descriptor)
                for name in names
            ]
    except JobsDirectoryError as error:
        raise UsageError(str(error)) from error
    return all(results)


def _lint_file(name: bytes, display_path: str, directory: int | None = None) -> bool:
    try:
        file = open_job(name, display_path, directory)
    except JobError as error:
        print_error(str(error))
        return False
    try:
        return _lint_open_file(file, display_path)
    except OSError as error:
        print_error(str(JobError(display_path, f"cannot read it: {os_error_text(error)}")))
        return False
    finally:
        os.close(file)


def _lint_open_file(file: int, name: str) -> bool:
    lines = commands = invalid = 0
    for script in line_blocks(file):
        result = check(script)
        for line, diagnostic in number_lines(result.diagnostics, script, 0, lines + 1):
            position = f"{name}:{line}:{diagnostic.column}"
            excerpt = excerpt_with_caret(script, diagnostic)
            print_result(f"{position}: {diagnostic.reason}\n{excerpt}")
            invalid += 1
        commands += result.commands
        lines += script.count(b"\n") + (not script.endswith(b"\n"))
    verdict = f"{invalid} invalid" if invalid else "all valid"
    print_result(f"{name}: {pluralize(lines, 'line')}, {pluralize(commands, 'command')}, {verdict}")
    return not invalid


def excerpt_with_caret(script: bytes, diagnostic: Diagnostic) -> str:
    """Return the line of `diagnostic`, cut if it is long, and a caret under its column."""
    column = diagnostic.offset + diagnostic.column - 1
    start = max(diagnostic.offset, column - MAX_EXCERPT_BYTES_BEFORE)
    end_of_line = line_end(script, diagnostic.offset)
    end = min(column + MAX_EXCERPT_BYTES_AFTER, end_of_line)
    before = ("..." if start > diagnostic.offset else "") + printable_line(script[start:column])
    after = printable_line(script[column:end]) + ("..." if end < end_of_line else "")
    return f"    {before}{after}\n    {' ' * _width(before)}^"


def _width(text: str) -> int:
    """Return the number of terminal columns of `text` (Unicode Standard Annex 11)."""
    return sum(
        0 if unicodedata.category(character) in {"Mn", "Me"} else
        2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1
        for character in text
    )  # fmt: skip
