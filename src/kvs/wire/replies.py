"""What a server sends on the responses and the notifications pipe, as a client reads it. Pure."""

from dataclasses import dataclass

from kvs.wire import frames


@dataclass(frozen=True, slots=True)
class Reply:
    """The response to an operation but execute."""

    operation: int
    result: int


@dataclass(frozen=True, slots=True)
class Executed:
    """The response to execute."""

    result: int
    """0 if every command was valid."""
    output: bytes
    errors: bytes
    """A line ``LINE:COLUMN: reason`` for each invalid command."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a subscribed key."""

    key: bytes
    value: bytes
    """The new value, or `frames.DELETED`."""


class Replies:
    """The bytes of one responses pipe, cut anyhow. For one thread."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        self._data += data

    def next(self) -> Reply | Executed | None:
        """Return the next whole response; None until more is fed."""
        if len(self._data) < frames.REPLY_BYTES:
            return None
        if self._data[0] != frames.EXECUTE:
            reply = Reply(self._data[0], self._data[1])
            del self._data[: frames.REPLY_BYTES]
            return reply
        start = frames.EXECUTED_HEAD_BYTES
        if len(self._data) < start:
            return None
        result, output, errors = frames.executed_lengths(bytes(self._data[:start]))
        end = start + output + errors
        if len(self._data) < end:
            return None
        with memoryview(self._data) as data:  # a slice of it is no copy, and it may be very large
            executed = Executed(
                result, bytes(data[start : start + output]), bytes(data[start + output : end])
            )
        del self._data[:end]
        return executed


class Notifications:
    """The bytes of one notifications pipe, cut anyhow. For one thread."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Change]:
        """Take what was read; return the changes that it completes, in order."""
        data = self._rest + data
        whole = len(data) - len(data) % frames.NOTIFICATION_BYTES
        self._rest = data[whole:]
        size = frames.NOTIFICATION_BYTES
        return [Change(*frames.change_of(data[at : at + size])) for at in range(0, whole, size)]
