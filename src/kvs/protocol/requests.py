"""What a client sends on its requests pipe: encoded by the client, parsed by the server. Pure."""

from dataclasses import dataclass

from kvs.protocol import frames
from kvs.protocol.frames import Dialect


@dataclass(frozen=True, slots=True)
class Disconnect:
    """End the session."""

    def encode(self) -> bytes:
        """Return the frame."""
        return bytes([frames.DISCONNECT])


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Send a notification for every change of a key."""

    key: bytes

    def encode(self) -> bytes:
        """Return the frame, of `frames.KEY_REQUEST_BYTES` bytes."""
        return frames.encode_key_request(frames.SUBSCRIBE, self.key)


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Send no more notifications for a key."""

    key: bytes

    def encode(self) -> bytes:
        """Return the frame, of `frames.KEY_REQUEST_BYTES` bytes."""
        return frames.encode_key_request(frames.UNSUBSCRIBE, self.key)


class Execute:
    """Execute a script. Immutable. Threads: any."""

    __slots__ = ("_data", "length")
    __match_args__ = ("script",)

    def __init__(self, data: bytes | bytearray) -> None:
        """Take over `data`, which the caller must not change any more."""
        self._data = data
        self.length = len(data)
        """Bytes of the script."""

    @property
    def script(self) -> bytes:
        """The script. Cost: a copy, unless the script arrived in one piece."""
        return bytes(self._data)

    def encode(self) -> bytes:
        """Return the frame: a header of `frames.EXECUTE_HEADER_BYTES` bytes, then the script."""
        return frames.encode_execute(self.script)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Execute) and self._data == other._data

    def __hash__(self) -> int:
        return hash(self.script)

    def __repr__(self) -> str:
        return f"Execute({self.script!r})"


@dataclass(frozen=True, slots=True)
class OversizedExecute:
    """A request to execute a script over the limit. The script has been read and dropped."""

    length: int
    """Bytes of the script."""


@dataclass(frozen=True, slots=True)
class UnknownOperation:
    """An op byte that no request begins with. The bytes after it cannot be parsed."""

    operation: int
    """The byte as it was sent."""


Request = Disconnect | Subscribe | Unsubscribe | Execute | OversizedExecute | UnknownOperation

_LENGTHS = {
    frames.DISCONNECT: 1,
    frames.SUBSCRIBE: frames.KEY_REQUEST_BYTES,
    frames.UNSUBSCRIBE: frames.KEY_REQUEST_BYTES,
    frames.EXECUTE: frames.EXECUTE_HEADER_BYTES,
}
"""Bytes of each request that must have arrived before it can be parsed, without the script."""


class RequestParser:
    """Parses the bytes of one requests pipe, in pieces of any size. For one thread.

    Cost: each byte is copied once by `feed` and once into its request. The bytes of a long script
    are copied by `feed` alone, so that the last piece takes no longer than the others.
    """

    def __init__(self, dialect: Dialect = Dialect.BINARY) -> None:
        self._dialect = dialect
        self._data = bytearray()
        """Bytes of the next request and of those after it, without those in `_script`."""
        self._head = b""
        """Header of the last `Execute`."""
        self._script: bytes | bytearray | None = None
        """Bytes of a script that have arrived; None while no script is arriving."""
        self._missing = 0
        """Number of bytes of that script that have not arrived."""
        self._skip = 0
        """Number of bytes of an oversized script that have not arrived."""
        self._skipped = 0
        """Length of that script, in bytes; 0 while no script is skipped."""

    def feed(self, data: bytes) -> None:
        """Add bytes that were read from the pipe."""
        if self._script is not None and self._missing:
            piece, data = data[: self._missing], data[self._missing :]
            self._missing -= len(piece)
            self._script += piece
        self._data += data

    @property
    def is_incomplete(self) -> bool:
        """Whether bytes have been fed that `next_request` has not returned."""
        return bool(self._data or self._missing or self._skip)

    @property
    def unused(self) -> bytes:
        """Bytes fed and not returned by `next_request`; of an oversized script, its header."""
        head = self._head if self._missing or self._skip else b""
        return head + bytes(self._script or b"") + self._data

    def next_request(self) -> Request | None:  # noqa: PLR0911  (a table would hide it)
        """Return the next whole request; None until more is fed."""
        if self._script is not None:
            return self._whole_script(self._script)
        if self._skipped and not self._skip_script():
            return None
        if self._skipped:
            length, self._skipped = self._skipped, 0
            return OversizedExecute(length)
        if not self._data:
            return None
        operation = self._data[0] - self._dialect
        needed = _LENGTHS.get(operation)
        if needed is None:
            return UnknownOperation(self._data[0])
        if len(self._data) < needed:
            return None
        if operation == frames.EXECUTE:
            return self._execute()
        frame = self._take(needed)
        if operation == frames.DISCONNECT:
            return Disconnect()
        key = frames.decode_key_request(frame)
        return Subscribe(key) if operation == frames.SUBSCRIBE else Unsubscribe(key)

    def _execute(self) -> Request | None:
        self._head = self._take(frames.EXECUTE_HEADER_BYTES)
        length = frames.decode_execute_length(self._head)
        if length > frames.MAX_SCRIPT_BYTES:
            self._skip = self._skipped = length
            return self.next_request()
        arrived = self._take(min(length, len(self._data)))
        self._missing = length - len(arrived)
        self._script = bytearray(arrived) if self._missing else arrived
        return self._whole_script(self._script)

    def _whole_script(self, script: bytes | bytearray) -> Execute | None:
        if self._missing:
            return None
        self._script = None
        return Execute(script)

    def _skip_script(self) -> bool:
        count = min(self._skip, len(self._data))
        del self._data[:count]
        self._skip -= count
        return not self._skip

    def _take(self, length: int) -> bytes:
        with memoryview(self._data) as data:
            head = bytes(data[:length])
        del self._data[:length]
        return head
