"""What a person types to a client: four commands of its own beside the command language. Pure.

The four are written as commands of the language are: each is read as the one of the language that
has its shape (`_SYNTAX_TEMPLATES`), so blanks, words and faults are the same everywhere.
"""

import re
from dataclasses import dataclass

from kvs.language import grammar, output_format
from kvs.language.diagnostics import Diagnostic, diagnose_line, line_at


@dataclass(frozen=True, slots=True)
class Subscribe:
    """``SUBSCRIBE [key]``."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """``UNSUBSCRIBE [key]``."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Delay:
    """``DELAY milliseconds``: the client waits before it reads on."""

    milliseconds: int


@dataclass(frozen=True, slots=True)
class Disconnect:
    """``DISCONNECT``."""


@dataclass(frozen=True, slots=True)
class Execute:
    """A valid line of the command language."""

    line: bytes


@dataclass(frozen=True, slots=True)
class Blank:
    """A comment or an empty line."""


ClientCommand = Subscribe | Unsubscribe | Delay | Disconnect | Execute | Blank

_SYNTAX_TEMPLATES = {
    b"SUBSCRIBE": b"READ",
    b"UNSUBSCRIBE": b"READ",
    b"DELAY": b"WAIT",
    b"DISCONNECT": b"SHOW",
}

COMMANDS = (
    *(name.decode("ascii") for name in _SYNTAX_TEMPLATES),
    *(name for name in grammar.COMMANDS if name != "BACKUP"),
)
"""The names of all commands that a person can type; BACKUP belongs to a job."""

HELP = b"""\
SUBSCRIBE [key]                    be told of every change of the key
UNSUBSCRIBE [key]                  be told no more
DELAY milliseconds                 wait before the next line is read
DISCONNECT                         take leave; the end of the input does it, too
""" + b"".join(
    line for line in output_format.HELP.splitlines(keepends=True) if not line.startswith(b"BACKUP")
)
"""What the commands do, a line each."""

_NAME = re.compile(rb"[ \t]*+([A-Za-z]*+)")


def parse_line(raw: bytes) -> ClientCommand | Diagnostic:
    """Return what one line means, or why it is invalid. Its ending may be there or not."""
    line = line_at(raw, 0)
    found = _NAME.match(line)
    name = found[1] if found else b""
    if found is None or name not in _SYNTAX_TEMPLATES:
        return _language(line, name)
    shape = _SYNTAX_TEMPLATES[name]
    likeness = line[: found.start(1)] + shape + line[found.end(1) :]
    longer = len(name) - len(shape)
    fault = diagnose_line(likeness, 0)
    if fault is not None:
        reason = fault.reason.replace(f"after {shape.decode()}", f"after {name.decode()}", 1)
        reason = reason.replace(f"{shape.decode()} takes", f"{name.decode()} takes", 1)
        return Diagnostic(0, fault.column + longer, reason)
    parts = grammar.LINE.fullmatch(likeness)
    if parts is None:
        raise ValueError(line)
    if name == b"DISCONNECT":
        return Disconnect()
    if name == b"DELAY":
        return Delay(int(parts[grammar.WAIT]))
    keys = grammar.split_keys(parts[grammar.READ])
    if len(keys) > 1:
        return Diagnostic(
            0, line.index(b",") + 1, f"{name.decode()} takes one key, these are {len(keys)}"
        )
    return Subscribe(keys[0]) if name == b"SUBSCRIBE" else Unsubscribe(keys[0])


def _language(line: bytes, name: bytes) -> ClientCommand | Diagnostic:
    fault = diagnose_line(line, 0)
    if fault is None:
        empty = not name  # a command begins with its name
        return Blank() if empty else Execute(line)
    if name.upper() in _SYNTAX_TEMPLATES:
        return Diagnostic(0, fault.column, f"command names are upper case: {name.upper().decode()}")
    known, sign, _ = fault.reason.partition("; the commands are ")
    if sign:
        names = ", ".join(COMMANDS[:-1]) + " and " + COMMANDS[-1]
        return Diagnostic(0, fault.column, f"{known}{sign}{names}")
    return fault


def named_keys(line: bytes) -> list[bytes]:
    """Return the keys that a line names, if it is a valid one."""
    match parse_line(line):
        case Subscribe(key) | Unsubscribe(key):
            return [key]
        case Execute(line):
            parts = grammar.LINE.fullmatch(line)
            kind = parts.lastindex if parts else None
            if parts and kind in {grammar.READ, grammar.DELETE}:
                return grammar.split_keys(parts[kind])
            if parts and kind == grammar.WRITE:
                return grammar.split_pairs(parts[kind])[::2]
    return []
