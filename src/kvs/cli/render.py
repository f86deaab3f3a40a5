"""How what a server sends is shown: the interface, and plain lines for programs."""

import re
from abc import ABC, abstractmethod

from kvs.cli.stdio import print_error, write_result
from kvs.language import grammar
from kvs.protocol import frames
from kvs.protocol.replies import Reply
from kvs.store.watch import Change
from kvs.text import printable_line

MAX_SHOWN_BYTES = 200
"""Maximum bytes of a word that a terminal shows; of a longer one this many, and its length."""

_PAIR = re.compile(rb"\((%b)(, ?)(%b)\)" % (grammar.WORD, grammar.WORD))


class Renderer(ABC):
    """Shows replies, changes, output and invalid lines to the user."""

    @abstractmethod
    def show_reply(self, reply: Reply) -> None:
        """Show a reply."""

    @abstractmethod
    def show_changes(self, changes: list[Change]) -> None:
        """Show changes of subscribed keys."""

    @abstractmethod
    def show_output(self, output: bytes) -> None:
        """Show the output of commands."""

    @abstractmethod
    def show_error(self, line: bytes, number: int, column: int, reason: str) -> None:
        """Show why a line is invalid; lines count from 1, columns in bytes from 1."""


class PlainRenderer(Renderer):
    """Lines on stdout and stderr that programs can parse."""

    def show_reply(self, reply: Reply) -> None:
        """Write the line of a reply."""
        write_result(reply_line(reply).encode())

    def show_changes(self, changes: list[Change]) -> None:
        """Write a line for each change."""
        write_result(b"".join(map(change_line, changes)))

    def show_output(self, output: bytes) -> None:
        """Write the output unchanged."""
        write_result(output)

    def show_error(self, line: bytes, number: int, column: int, reason: str) -> None:  # noqa: ARG002
        """Write position and reason to stderr."""
        print_error(f"stdin:{number}:{column}: {reason}")


def reply_line(reply: Reply) -> str:
    """Return the line that shows a reply."""
    operation = frames.OPERATIONS.get(reply.operation, str(reply.operation))
    return f"Server returned {reply.result} for operation: {operation}\n"


def change_line(change: Change) -> bytes:
    """Return the line that shows a change: both words as output spells them, or ``DELETED``."""
    value = frames.DELETED if change.value is None else grammar.spell_value(change.value)
    return b"(%b,%b)\n" % (grammar.spell(change.key), value)


def terminal_line(line: bytes) -> str:
    """Return a line of output for a terminal: printable, its long words shortened.

    A backslash, which escapes bytes in words, stays as it is.
    """
    parts: list[str] = []
    at = 0
    for pair in _PAIR.finditer(line):
        if len(pair[0]) > MAX_SHOWN_BYTES:
            key, value = map(_shortened, (pair[1], pair[3]))
            parts += [printable_line(line[at : pair.start()]), f"({key}{pair[2].decode()}{value})"]
            at = pair.end()
    return "".join([*parts, printable_line(line[at:])])


def _shortened(spelling: bytes) -> str:
    if len(spelling) <= MAX_SHOWN_BYTES:
        return printable_line(spelling)
    size = len(grammar.unquote(spelling))
    return f"{printable_line(spelling[:MAX_SHOWN_BYTES])}... ({size:,} bytes)"
