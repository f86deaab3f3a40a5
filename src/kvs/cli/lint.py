"""``kvs lint``: what is wrong with every line of some job files, changing nothing."""

import argparse
import os
import unicodedata

from kvs.cli.stdio import UsageError, print_error, print_result
from kvs.engine.selection import check
from kvs.errors import JobError, JobsDirectoryError
from kvs.jobs.directory import JOB_SUFFIX, JobsDirectory, open_job
from kvs.jobs.input import line_blocks
from kvs.language.diagnostics import Diagnostic, line_end
from kvs.text import os_error_text, pluralize, printable

BEFORE_BYTES = 40
AFTER_BYTES = 32
"""So much of a line is quoted around a fault."""


def lint(options: argparse.Namespace) -> int:
    """Carry out ``kvs lint``; return the exit status."""
    missing = [path for path in options.paths if not os.path.lexists(path)]
    if missing:
        raise UsageError(f"{printable(missing[0])}: no such file or directory")
    good = True
    for path in options.paths:
        if os.path.isdir(path):
            good &= _lint_directory(path)
        else:
            good &= _lint_file(os.fsencode(path), printable(path))
    return 0 if good else 1


def _lint_directory(path: str) -> bool:
    try:
        with JobsDirectory(path) as directory:
            names = [name + JOB_SUFFIX for name in directory.list_jobs()]
            if not names:
                print_result(f"{printable(path)}: no jobs")
            results = [
                _lint_file(name, directory.shown(name), directory.descriptor) for name in names
            ]
    except JobsDirectoryError as error:
        raise UsageError(str(error)) from error
    return all(results)


def _lint_file(name: bytes, shown_name: str, directory: int | None = None) -> bool:
    try:
        file = open_job(name, shown_name, directory)
    except JobError as failure:
        print_error(str(failure))
        return False
    try:
        return _lint_open_file(file, shown_name)
    except OSError as error:
        print_error(str(JobError(shown_name, f"cannot read it: {os_error_text(error)}")))
        return False
    finally:
        os.close(file)


def _lint_open_file(file: int, name: str) -> bool:
    lines = commands = invalid = 0
    for script in line_blocks(file):
        looked_at = 0
        number = lines
        checked = check(script)
        for fault in checked.diagnostics:
            number += script.count(b"\n", looked_at, fault.offset)
            looked_at = fault.offset
            where = f"{name}:{number + 1}:{fault.column}"
            print_result(f"{where}: {fault.reason}\n{excerpt_with_caret(script, fault)}")
            invalid += 1
        commands += checked.commands
        lines += script.count(b"\n") + (not script.endswith(b"\n"))
    verdict = f"{invalid} invalid" if invalid else "all valid"
    print_result(f"{name}: {pluralize(lines, 'line')}, {pluralize(commands, 'command')}, {verdict}")
    return not invalid


def excerpt_with_caret(script: bytes, fault: Diagnostic) -> str:
    """Return the line of `fault`, or what stands around the place if it is long, and a caret."""
    at = fault.offset + fault.column - 1
    start = max(fault.offset, at - BEFORE_BYTES)
    line_ends = line_end(script, fault.offset)
    end = min(at + AFTER_BYTES, line_ends)
    before = ("..." if start > fault.offset else "") + printable(script[start:at])
    after = printable(script[at:end]) + ("..." if end < line_ends else "")
    return f"    {before}{after}\n    {' ' * _width(before)}^"


def _width(text: str) -> int:
    """Return how many columns of a terminal `text` takes (Unicode's annex 11)."""
    return sum(
        0 if unicodedata.category(character) in {"Mn", "Me"} else
        2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1
        for character in text
    )  # fmt: skip
