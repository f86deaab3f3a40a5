"""What a client sends on its requests pipe, as the server reads it. Pure."""

from dataclasses import dataclass

from kvs.protocol import frames
from kvs.protocol.frames import Dialect


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The client wants to go."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """The client wants to be told of every change of a key."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """The client does not want to be told any more."""

    key: bytes


class Execute:
    """A request to execute lines of the command language. Immutable, so any thread may use it."""

    __slots__ = ("_data", "length")
    __match_args__ = ("script",)

    def __init__(self, data: bytes | bytearray) -> None:
        """Take over `data`, which nobody changes any more."""
        self._data = data
        self.length = len(data)
        """Bytes of the script."""

    @property
    def script(self) -> bytes:
        """The script. Cost: a copy, unless it came in one piece."""
        return bytes(self._data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Execute) and self._data == other._data

    def __hash__(self) -> int:
        return hash(self.script)

    def __repr__(self) -> str:
        return f"Execute({self.script!r})"


@dataclass(frozen=True, slots=True)
class OversizedExecute:
    """An `Execute` whose script was longer than is taken; it has been read to its end."""

    length: int


@dataclass(frozen=True, slots=True)
class UnknownOperation:
    """An operation that is none: what follows it means nothing, the session is at its end."""

    operation: int
    """The byte as it was sent."""


Request = Disconnect | Subscribe | Unsubscribe | Execute | OversizedExecute | UnknownOperation

_LENGTHS = {
    frames.DISCONNECT: 1,
    frames.SUBSCRIBE: frames.KEY_REQUEST_BYTES,
    frames.UNSUBSCRIBE: frames.KEY_REQUEST_BYTES,
    frames.EXECUTE: frames.EXECUTE_HEADER_BYTES,
}
"""How many bytes of a request must be there before it can be looked at."""


class RequestParser:
    """The bytes of one requests pipe, cut anyhow. For one thread.

    Cost: a byte is copied once as it comes, and once into its request; those of a long script are
    not, so that the last one takes no longer than the others.
    """

    def __init__(self, dialect: Dialect = Dialect.BINARY) -> None:
        self._dialect = dialect
        self._data = bytearray()
        """What no request has been made of yet, but for a script."""
        self._head = b""
        """The first bytes of the last `Execute`, before its script."""
        self._script: bytes | bytearray | None = None
        """What has come of a script."""
        self._missing = 0
        """Bytes of that script still to come."""
        self._skip = 0
        """Bytes still to come of a script that is too long."""
        self._skipped = 0
        """The length of that script."""

    def feed(self, data: bytes) -> None:
        """Add what was read."""
        if self._script is not None and self._missing:
            piece, data = data[: self._missing], data[self._missing :]
            self._missing -= len(piece)
            self._script += piece
        self._data += data

    @property
    def is_incomplete(self) -> bool:
        """Whether something has come that `next_request` has not returned."""
        return bool(self._data or self._missing or self._skip)

    @property
    def unused(self) -> bytes:
        """Bytes fed and not returned by `next_request`; of an oversized script, its header."""
        begun = self._head if self._missing or self._skip else b""
        return begun + bytes(self._script or b"") + self._data

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
        came = self._take(min(length, len(self._data)))
        self._missing = length - len(came)
        self._script = bytearray(came) if self._missing else came
        return self._whole_script(self._script)

    def _whole_script(self, script: bytes | bytearray) -> Execute | None:
        if self._missing:
            return None
        self._script = None
        return Execute(script)

    def _skip_script(self) -> bool:
        gone = min(self._skip, len(self._data))
        del self._data[:gone]
        self._skip -= gone
        return not self._skip

    def _take(self, length: int) -> bytes:
        with memoryview(self._data) as data:
            taken = bytes(data[:length])
        del self._data[:length]
        return taken
