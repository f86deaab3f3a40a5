"""Parses what a server sends on the responses and the notifications pipe. Pure."""

import struct
from dataclasses import dataclass

from kvs.protocol import frames


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to any operation but execute."""

    operation: int
    result: int


@dataclass(frozen=True, slots=True)
class ExecuteReply:
    """The reply to execute."""

    result: int
    """0 if every command was valid."""
    output: bytes
    errors: bytes
    """A line ``LINE:COLUMN: reason`` for each invalid command."""


@dataclass(frozen=True, slots=True)
class Notification:
    """One change of a subscribed key."""

    key: bytes
    value: bytes
    """The new value; `frames.DELETED` or `frames.CHANGED` if a notification cannot hold it."""


def parse_replies(data: bytearray) -> tuple[list[Reply | ExecuteReply], int]:
    """Return the whole replies at the start of `data`, and the number of their bytes."""
    parsed: list[Reply | ExecuteReply] = []
    at = 0
    while len(data) - at >= frames.REPLY_BYTES:
        if data[at] != frames.EXECUTE:
            parsed.append(Reply(data[at], data[at + 1]))
            at += frames.REPLY_BYTES
            continue
        start = at + frames.EXECUTE_REPLY_HEADER_BYTES
        if len(data) < start:
            break
        result, output, errors = frames.decode_execute_reply_header(bytes(data[at:start]))
        end = start + output + errors
        if len(data) < end:
            break
        # One copy even of a long output, and one call into C: no memoryview remains that would keep
        # `data` from being resized.
        parsed.append(ExecuteReply(result, *struct.unpack_from(f"{output}s{errors}s", data, start)))
        at = end
    return parsed, at


def parse_notifications(data: bytearray) -> tuple[list[Notification], int]:
    """Return the whole notifications at the start of `data`, and the number of their bytes."""
    size = frames.NOTIFICATION_BYTES
    whole = len(data) - len(data) % size
    raw = bytes(data[:whole])
    return [
        Notification(*frames.decode_notification(raw[at : at + size]))
        for at in range(0, whole, size)
    ], whole
