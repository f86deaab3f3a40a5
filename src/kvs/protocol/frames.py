"""The layout of every message. No other module knows it.

Invariants:

- A field is an array of a fixed number of bytes, padded with NUL. Fields are not aligned. A string
  ends at the first NUL of its field, and the bytes after that NUL must be ignored. A path of
  exactly `MAX_PATH_BYTES` bytes has no NUL.
- Numbers of four bytes are little-endian.
- A word is in a field as raw bytes, not in its spelling. A word over `MAX_FIELD_WORD_BYTES` bytes
  or with a NUL does not fit a field, and must never be cut short: such a key cannot be subscribed
  to, and such a value is sent as `CHANGED`.
- A session has one dialect, chosen by the first byte of its connect (`Dialect`). In it, the op byte
  of every request and the first two bytes of every reply are numbers or ASCII digits. All sizes
  are the same in both dialects, and a notification has no such byte.
"""

import re
import struct
from dataclasses import dataclass, field
from enum import IntEnum

CONNECT = 1
DISCONNECT = 2
SUBSCRIBE = 3
UNSUBSCRIBE = 4
EXECUTE = 5
"""An extension of this server; clients of the course project never send it."""


class Dialect(IntEnum):
    """How op bytes and results are encoded; the value is added to each number."""

    BINARY = 0
    DIGITS = ord("0")
    """For programs whose authors read the protocol's "(char) OP_CODE=1" as the character."""


OPERATIONS = {
    CONNECT: "connect",
    DISCONNECT: "disconnect",
    SUBSCRIBE: "subscribe",
    UNSUBSCRIBE: "unsubscribe",
    EXECUTE: "execute",
}

MAX_PATH_BYTES = 40
MAX_FIELD_WORD_BYTES = 40
"""Maximum bytes of a key or value in a frame, without NUL."""
FIELD_BYTES = MAX_FIELD_WORD_BYTES + 1
"""Bytes of a key or value in a frame: the word and a NUL."""

MAX_SCRIPT_BYTES = 1 << 20
"""Maximum bytes of the script of an `EXECUTE`."""

DELETED = b"DELETED"
"""Value in the notification for a key that was removed."""

CHANGED = b"CHANGED"
"""Value in the notification for a value that does not fit a field."""

_CONNECT = struct.Struct(f"<B{MAX_PATH_BYTES}s{MAX_PATH_BYTES}s{MAX_PATH_BYTES}s")
_KEY_REQUEST = struct.Struct(f"<B{FIELD_BYTES}s")
_EXECUTE = struct.Struct("<BI")
_REPLY = struct.Struct("<BB")
_EXECUTE_REPLY_HEADER = struct.Struct("<BBII")
_NOTIFICATION = struct.Struct(f"<{FIELD_BYTES}s{FIELD_BYTES}s")

_CONNECT_DIALECTS = {CONNECT + dialect: dialect for dialect in Dialect}

CONNECT_START = re.compile(b"[" + b"".join(b"\\x%02x" % byte for byte in _CONNECT_DIALECTS) + b"]")
"""Matches the first byte of a connect in any dialect."""

CONNECT_BYTES = _CONNECT.size
KEY_REQUEST_BYTES = _KEY_REQUEST.size
EXECUTE_HEADER_BYTES = _EXECUTE.size
REPLY_BYTES = _REPLY.size
EXECUTE_REPLY_HEADER_BYTES = _EXECUTE_REPLY_HEADER.size
NOTIFICATION_BYTES = _NOTIFICATION.size


@dataclass(frozen=True, slots=True)
class Connect:
    """A request to connect, which names the pipes that the client has made."""

    requests: bytes
    responses: bytes
    notifications: bytes
    dialect: Dialect = field(default=Dialect.BINARY, kw_only=True)

    def __post_init__(self) -> None:
        for path in self.paths:
            if not 1 <= len(path) <= MAX_PATH_BYTES or b"\0" in path:
                raise ValueError(f"a path is 1 to {MAX_PATH_BYTES} bytes without NUL, not {path!r}")

    @property
    def paths(self) -> tuple[bytes, bytes, bytes]:
        """All three paths, in the order of the frame."""
        return self.requests, self.responses, self.notifications

    def encode(self) -> bytes:
        """Return the frame, of `CONNECT_BYTES` bytes."""
        return _CONNECT.pack(CONNECT + self.dialect, *self.paths)

    @classmethod
    def decode(cls, frame: bytes) -> "Connect | None":
        """Decode a frame of `CONNECT_BYTES` bytes; return None if it is not a connect."""
        operation, *fields = _CONNECT.unpack(frame)
        dialect = _CONNECT_DIALECTS.get(operation)
        paths = [_decode_field(field) for field in fields]
        return cls(*paths, dialect=dialect) if dialect is not None and all(paths) else None


def fits_field(word: bytes) -> bool:
    """Return whether a key or value can be sent in a frame."""
    return len(word) <= MAX_FIELD_WORD_BYTES and b"\0" not in word


def encode_key_request(operation: int, key: bytes) -> bytes:
    """Return the frame of a `SUBSCRIBE` or `UNSUBSCRIBE`; `key` must fit a field."""
    return _KEY_REQUEST.pack(operation, key)


def decode_key_request(frame: bytes) -> bytes:
    """Return the key in the frame of a `SUBSCRIBE` or `UNSUBSCRIBE`."""
    return _decode_field(_KEY_REQUEST.unpack(frame)[1])


def encode_execute(script: bytes) -> bytes:
    """Return the frame of an `EXECUTE`."""
    return _EXECUTE.pack(EXECUTE, len(script)) + script


def decode_execute_length(head: bytes) -> int:
    """Return the length of the script that follows the header of an `EXECUTE`."""
    length: int = _EXECUTE.unpack(head)[1]
    return length


def encode_reply(operation: int, result: int) -> bytes:
    """Return the reply to any operation but `EXECUTE`."""
    return _REPLY.pack(operation, result)


def in_dialect(reply: bytes | bytearray, dialect: Dialect) -> bytes | bytearray:
    """Return a reply, or the first part of one, with its first two bytes in `dialect`."""
    if dialect is Dialect.BINARY:
        return reply
    operation, result = _REPLY.unpack_from(reply)
    return _REPLY.pack(operation + dialect, result + dialect) + reply[REPLY_BYTES:]


def encode_execute_reply_header(result: int, output: int, errors: int) -> bytes:
    """Return the header of a reply to `EXECUTE`, given the bytes of its output and errors."""
    return _EXECUTE_REPLY_HEADER.pack(EXECUTE, result, output, errors)


def decode_execute_reply_header(head: bytes) -> tuple[int, int, int]:
    """Return the result and the lengths of output and errors in such a header."""
    _, result, output, errors = _EXECUTE_REPLY_HEADER.unpack(head)
    return result, output, errors


def encode_notification(key: bytes, value: bytes | None) -> bytes:
    """Return the notification of a change; `value` is None for a key that was removed.

    `key`, which is subscribed, must fit a field.
    """
    if value is None:
        value = DELETED
    elif not fits_field(value):
        value = CHANGED
    return _NOTIFICATION.pack(key, value)


def decode_notification(frame: bytes) -> tuple[bytes, bytes]:
    """Return the key and value in a notification; the value may be `DELETED` or `CHANGED`."""
    key, value = _NOTIFICATION.unpack(frame)
    return _decode_field(key), _decode_field(value)


def _decode_field(field: bytes) -> bytes:
    return field.partition(b"\0")[0]
