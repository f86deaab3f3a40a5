"""Explain which lines of a script are invalid, and why. Pure functions.

The pattern in `grammar` finds the invalid lines, and `scanner` what is wrong with each.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from kvs.errors import InvalidWordError
from kvs.language.grammar import BLANKS, INVALID, LINE, MAX_LINE_BYTES, MAX_OUTPUT_BYTES, kind_of
from kvs.language.scanner import (
    AFTER,
    KEY,
    LANGUAGE,
    MAX_COUNTED_BYTES,
    MAX_QUOTED_BYTES,
    PREFIX,
    VALUE,
    CommandSet,
    find_problem,
    size_problem,
)
from kvs.text import printable

__all__ = [
    "FINAL_BYTES",
    "LANGUAGE",
    "MAX_QUOTED_BYTES",
    "Check",
    "Checked",
    "CommandSet",
    "Diagnostic",
    "check",
    "diagnose_line",
    "line_at",
    "line_end",
    "number_lines",
    "output_too_long",
    "validate_word",
    "verdict_is_final",
]

FINAL_BYTES = MAX_LINE_BYTES + MAX_COUNTED_BYTES + 3
"""Bytes of a line of which the verdict is always final, if one of them is no blank."""

_BEFORE_COMMAND = re.compile(BLANKS)
_COMMENT = re.compile(BLANKS + rb"#")
_ROLES = {"key": KEY, "value": VALUE, "prefix": PREFIX, "after": AFTER}


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """Why one line of a script is invalid."""

    offset: int
    """Offset of the line in the script, in bytes."""
    column: int
    """Position of the offending part in the line, in bytes from 1."""
    reason: str
    """Why the part does not fit: one line, without PATH, line or column."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of validating a script."""

    diagnostics: list[Diagnostic]
    """One for each invalid line, in order."""
    commands: int
    """Number of valid commands, without comments and empty lines."""


Check = Callable[[bytes], Checked]
"""Validates every line of a script, as `check` does. An engine has a faster one."""


def line_at(script: bytes, offset: int) -> bytes:
    """Return the line of `script` that begins at `offset`, without its line ending."""
    return script[offset : line_end(script, offset)]


def line_end(script: bytes, offset: int) -> int:
    """Return the end of the line of `script` that begins at `offset`, before its line ending."""
    newline = script.find(b"\n", offset)
    end = newline if newline >= 0 else len(script)
    return end - script.endswith(b"\r", offset, end)


def diagnose_line(
    script: bytes,
    offset: int,
    valid_until: int = 0,
    commands: CommandSet = LANGUAGE,
    *,
    limits: bool = True,
) -> Diagnostic | None:
    """Return why the line of `script` that begins at `offset` is invalid, or None if it is valid.

    `valid_until` is an offset up to which the first list of the line is known to be valid, the end
    of an item and its delimiter; 0 if none is known. The scan of the list begins there. `commands`
    are the commands that the line may hold. With `limits`, the line must not be longer than
    `MAX_LINE_BYTES`. The line is not copied.
    """
    end = line_end(script, offset)
    problem = find_problem(script, offset, end, valid_until, commands, limits=limits)
    if problem is None:
        return None
    return Diagnostic(offset, problem.position - offset + 1, problem.reason)


def output_too_long(script: bytes, offset: int) -> Diagnostic:
    """Return the diagnostic of the valid line at `offset`, whose output exceeds the limit."""
    blanks = _BEFORE_COMMAND.match(script, offset)
    column = (blanks.end() if blanks else offset) - offset + 1
    reason = f"the output of a line is at most {MAX_OUTPUT_BYTES} bytes, this one has more"
    return Diagnostic(offset, column, reason)


def check(script: bytes) -> Checked:
    """Validate every line of `script`; execute nothing."""
    diagnostics: list[Diagnostic] = []
    commands = 0
    for match in LINE.finditer(script):
        kind = kind_of(match)
        if kind != INVALID:
            commands += kind is not None
        elif diagnostic := diagnose_line(script, match.start()):
            diagnostics.append(diagnostic)
    return Checked(diagnostics, commands)


def number_lines(
    diagnostics: Iterable[Diagnostic], script: bytes, start: int, first_line: int
) -> Iterator[tuple[int, Diagnostic]]:
    """Yield the diagnostics of `script`, in order, each after the number of its line.

    The line that begins at the offset `start` has the number `first_line`.
    """
    line, counted = first_line, start
    for diagnostic in diagnostics:
        line += script.count(b"\n", counted, diagnostic.offset)
        counted = diagnostic.offset
        yield line, diagnostic


def verdict_is_final(beginning: bytes, check: Check = check) -> bool:
    """Return whether the rest of a line that starts with `beginning` cannot change its diagnostic.

    It cannot if the line is a comment, if it is too long whatever follows, or if neither column nor
    reason of its diagnostic depends on the rest. The caller need not store the rest of such a line.
    """
    diagnostics = check(beginning).diagnostics
    if not diagnostics:
        return _COMMENT.match(beginning) is not None
    size = len(beginning) - beginning.endswith(b"\r")
    if diagnostics[0].column - 1 + MAX_COUNTED_BYTES >= size:
        return False  # most lines that are invalid only because their end is missing
    problem = find_problem(beginning, 0, size)
    return problem is not None and problem.known_at < size


def validate_word(word: str | bytes, role: Literal["key", "value", "prefix", "after"]) -> bytes:
    """Return a key, a value, a prefix or the key of AFTER as bytes; a str is encoded as UTF-8.

    Raises:
        InvalidWordError: `word` is empty and must not be, or is too long.
        TypeError: `word` is neither str nor bytes.

    """
    if not isinstance(word, str | bytes):
        raise TypeError(f"a {_ROLES[role].name} is str or bytes, not {type(word).__name__}")
    try:
        raw = word.encode(errors="surrogateescape") if isinstance(word, str) else word
    except UnicodeEncodeError as error:
        raise InvalidWordError(
            f"{word!r}: it cannot be encoded as UTF-8: {error.reason}"
        ) from error
    if reason := size_problem(_ROLES[role], len(raw)):
        shown = f"'{printable(raw, MAX_QUOTED_BYTES)}': " if raw else ""
        raise InvalidWordError(shown + reason)
    return raw if type(raw) is bytes else bytes(raw)
