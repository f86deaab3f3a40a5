"""How what a server sends is shown: the interface, and plain lines for programs."""

from abc import ABC, abstractmethod

from kvs.cli.stdio import print_error, write_result
from kvs.protocol import frames
from kvs.protocol.replies import Reply
from kvs.store.watch import Change


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
        write_result(b"".join(b"(%b,%b)\n" % (c.key, shown_value(c)) for c in changes))

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


def shown_value(change: Change) -> bytes:
    """Return the new value of a change, ``DELETED`` for a key that was removed."""
    return frames.DELETED if change.value is None else change.value
