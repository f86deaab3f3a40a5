"""The lines that a client's user types: the command language and four commands of the client. Pure.

Each of the four has the syntax of a command of the language (`_SYNTAX_TEMPLATES`) and is parsed as
that command, so blanks, words and diagnostics are the same everywhere.
"""

import re
from dataclasses import dataclass

from kvs.language import grammar, output_format
from kvs.language.diagnostics import CommandSet, Diagnostic, diagnose_line, line_at
from kvs.protocol import frames
from kvs.protocol.requests import Disconnect, Execute, Subscribe, Unsubscribe


@dataclass(frozen=True, slots=True)
class Delay:
    """``DELAY milliseconds``: the client waits before it reads the next line."""

    milliseconds: int


@dataclass(frozen=True, slots=True)
class Blank:
    """A comment or an empty line."""


ClientCommand = Subscribe | Unsubscribe | Delay | Disconnect | Execute | Blank
"""What a valid line means; an `Execute` holds one line of the command language."""

_SYNTAX_TEMPLATES = {
    b"SUBSCRIBE": b"READ",
    b"UNSUBSCRIBE": b"READ",
    b"DELAY": b"WAIT",
    b"DISCONNECT": b"HELP",
}
"""Each command of the client, and the command of the language that has its syntax."""

COMMANDS = (
    *(name.decode("ascii") for name in _SYNTAX_TEMPLATES),
    *(name for name in grammar.COMMANDS if name != "BACKUP"),
)
"""The names of all commands that a user can type; BACKUP is for jobs only."""

_COMMAND_SET = CommandSet(
    forms={name: name for name in grammar.COMMANDS}
    | {name.decode(): template.decode() for name, template in _SYNTAX_TEMPLATES.items()},
    listed=COMMANDS,
)

HELP = b"""\
SUBSCRIBE [key]                    report every change of the key
UNSUBSCRIBE [key]                  stop reporting changes of the key
DELAY milliseconds                 wait before the next line is read
DISCONNECT                         end the session, as the end of the input does
""" + b"".join(
    line for line in output_format.HELP.splitlines(keepends=True) if not line.startswith(b"BACKUP")
)
"""One line for each command."""

_NAME = re.compile(rb"[ \t]*+([A-Za-z]*+)")
_FIRST_KEY = re.compile(rb"[^\[]*+\[%b(%b)%b" % (grammar.BLANKS, grammar.KEY, grammar.BLANKS))


def parse_line(raw: bytes) -> ClientCommand | Diagnostic:
    """Return the command in a line, or why the line is invalid. The newline is optional."""
    line = line_at(raw, 0)
    if (diagnostic := diagnose_line(line, 0, commands=_COMMAND_SET)) is not None:
        return diagnostic
    match = _NAME.match(line)
    name = match[1] if match else b""
    if match is None or name not in _SYNTAX_TEMPLATES:
        return Execute(line) if name else Blank()
    template = _SYNTAX_TEMPLATES[name]
    parts = grammar.LINE.fullmatch(line[: match.start(1)] + template + line[match.end(1) :])
    if parts is None:
        raise ValueError(line)
    if name == b"DISCONNECT":
        return Disconnect()
    if name == b"DELAY":
        return Delay(int(parts[grammar.WAIT]))
    return _parse_subscription(name, line, grammar.split_keys(parts[grammar.READ]))


def _parse_subscription(name: bytes, line: bytes, keys: list[bytes]) -> ClientCommand | Diagnostic:
    first = _FIRST_KEY.match(line)
    assert first is not None, line
    if len(keys) > 1:
        return Diagnostic(
            0, first.end() + 1, f"{name.decode()} takes one key, these are {len(keys)}"
        )
    if (reason := unsubscribable_reason(keys[0])) is not None:
        return Diagnostic(0, first.start(1) + 1, reason)
    return Subscribe(keys[0]) if name == b"SUBSCRIBE" else Unsubscribe(keys[0])


def unsubscribable_reason(key: bytes) -> str | None:
    """Return why a key cannot be subscribed to over pipes; None if it can."""
    if frames.fits_field(key):
        return None
    what = f"has {len(key)}" if len(key) > frames.MAX_FIELD_WORD_BYTES else "has a NUL byte"
    return (
        f"a key that is subscribed to is at most {frames.MAX_FIELD_WORD_BYTES} bytes without NUL, "
        f"this one {what}"
    )


def named_keys(line: bytes) -> list[bytes]:
    """Return the keys that a line names; none if it is invalid."""
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
            if parts and kind == grammar.STEPS:
                condition, steps = grammar.parse_steps(parts[kind])
                return [key for key, _ in condition] + [key for step in steps for key in step.keys]
    return []
