"""etcd: a server that the benchmark starts, and a client that speaks gRPC through a bare socket.

The client is the part of HTTP/2 that a single connection with one request at a time needs, as
`bench.redis.Connection` is for Redis: a library would be most of the time. The server listens on
sockets in the benchmark's own directory only, and is killed at the end.
"""

import contextlib
import os
import re
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator

from bench.processes import timed

SERVER = "etcd"
_START_SECONDS = 60

_PUT, _RANGE, _TXN = (b"/etcdserverpb.KV/" + name for name in (b"Put", b"Range", b"Txn"))

_MAX_OPERATIONS = 10_000
"""Maximum operations of a transaction, as the server is told."""
_MAX_TRANSACTION_BYTES = 50_000
"""Bytes after which a transaction ends: less than the initial window of a stream."""

# HTTP/2 (RFC 9113).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_HEADER_TABLE_SIZE, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 1, 4, 5
_WINDOW = 65_535
"""Initial window of a connection and of a stream in bytes."""
_LARGEST_WINDOW = (1 << 31) - 1
_FRAME_BYTES = 16_384
"""Maximum bytes in a frame, by default."""
_LARGEST_FRAME = (1 << 24) - 1

_OK = b"\x9a\xca\xc8\xb2\x12\x34\xda\x8f\x010"
"""``grpc-status: 0`` in the trailers of a successful call: the name in Huffman's code."""


class EtcdError(Exception):
    """The server did not start, or did not execute a request."""


def missing() -> str | None:
    """Return a sentence on the missing program; None if it is there."""
    if shutil.which(SERVER) is not None:
        return None
    return (
        f"etcd was not measured: {SERVER} not found on the PATH "
        "(on Debian, the package `etcd-server` has it)."
    )


def version() -> str:
    """Return the version of the server."""
    match = re.search(r"etcd Version: (\S+)", timed([SERVER, "--version"])[1])
    return match[1] if match else "(unknown version)"


class Connection:
    """A connection with one request at a time, for one thread; closed at the end of the block."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._received = self._socket.makefile("rb")
        self._stream = -1
        self._window = _WINDOW
        """Bytes of data that the server still takes on this connection."""
        # Without a table of headers, each reply spells its own in full.
        settings = {
            _HEADER_TABLE_SIZE: 0,
            _INITIAL_WINDOW_SIZE: _LARGEST_WINDOW,
            _MAX_FRAME_SIZE: _LARGEST_FRAME,
        }
        encoded = b"".join(struct.pack(">HI", *setting) for setting in settings.items())
        increment = struct.pack(">I", _LARGEST_WINDOW - _WINDOW)
        self._socket.sendall(
            _PREFACE + _frame(_SETTINGS, 0, 0, encoded) + _frame(_WINDOW_UPDATE, 0, 0, increment)
        )

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._received.close()
        self._socket.close()

    def put(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Set every pair, in transactions of many.

        Raises:
            EtcdError: the server refused a transaction.

        """
        operations: list[bytes] = []
        size = 0
        for key, value in pairs:
            operations.append(_field(2, _field(2, _field(1, key) + _field(2, value))))
            size += len(operations[-1])
            if size > _MAX_TRANSACTION_BYTES or len(operations) == _MAX_OPERATIONS:
                self._ask(_TXN, b"".join(operations))
                operations, size = [], 0
        if operations:
            self._ask(_TXN, b"".join(operations))

    def range(self, prefix: bytes) -> bytes:
        """Return the reply to a request for all pairs whose key begins with `prefix`.

        The last byte of `prefix` must be less than 255.

        Raises:
            EtcdError: the server refused the request.

        """
        end = prefix[:-1] + bytes([prefix[-1] + 1])
        return self._ask(_RANGE, _field(1, prefix) + _field(2, end))

    def _ask(self, method: bytes, message: bytes) -> bytes:
        """Send a request of one stream; block until its reply, and return it."""
        self._stream += 2
        data = b"\0" + struct.pack(">I", len(message)) + message
        while self._window < len(data):
            self._receive()
        self._window -= len(data)
        requests = [_frame(_HEADERS, _END_HEADERS, self._stream, _headers(method))]
        for start in range(0, len(data), _FRAME_BYTES):
            flags = _END_STREAM if start + _FRAME_BYTES >= len(data) else 0
            part = data[start : start + _FRAME_BYTES]
            requests.append(_frame(_DATA, flags, self._stream, part))
        self._socket.sendall(b"".join(requests))
        reply = []
        while True:
            kind, flags, payload = self._receive()
            if kind == _DATA:
                reply.append(payload)
            if kind in {_DATA, _HEADERS} and flags & _END_STREAM:
                break
        if _OK not in payload:
            raise EtcdError(f"etcd refused a request: {payload!r}")
        return b"".join(reply)[5:]

    def _receive(self) -> tuple[int, int, bytes]:
        """Receive a frame, and do what it asks for; return its kind, flags and payload."""
        head = self._received.read(9)
        if len(head) < 9:
            raise EtcdError("etcd closed the connection")
        payload = self._received.read(int.from_bytes(head[:3]))
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
        if kind in {_RST_STREAM, _GOAWAY}:
            raise EtcdError(f"etcd ended a stream or the connection: {payload!r}")
        if kind in {_SETTINGS, _PING} and not flags & _ACK:
            answer = b"" if kind == _SETTINGS else payload
            self._socket.sendall(_frame(kind, _ACK, 0, answer))
        if kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload)
        return kind, flags, payload


def pairs_of(reply: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the pairs in the reply to a range request, a message in protocol buffers."""
    for number, pair in _fields(reply):
        if number == 2:
            fields = dict(_fields(pair))
            yield fields[1], fields[5]


@contextlib.contextmanager
def running(directory: str) -> Iterator[str]:
    """Start a server with its files in `directory`; kill it at the end of the block.

    Yields the path of its socket.

    Raises:
        EtcdError: the server does not start.

    """
    # The socket of the URL unix://NAME:PORT is the file NAME:PORT in the working directory.
    client, peer = "unix://client:1", "unix://peer:1"
    command = [SERVER, "--data-dir", "data", "--logger", "zap", "--log-level", "error"]
    command += ["--listen-client-urls", client, "--advertise-client-urls", client]
    command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
    command += ["--initial-cluster", f"default={peer}", "--max-txn-ops", str(_MAX_OPERATIONS)]
    server = subprocess.Popen(
        command, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    path = os.path.join(directory, client.removeprefix("unix://"))
    try:
        _await(path, server)
        yield path
    finally:
        server.kill()
        server.wait()


def _await(path: str, server: "subprocess.Popen[bytes]") -> None:
    """Block until the server executes requests: it accepts connections only then."""
    deadline = time.monotonic() + _START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), Connection(path) as connection:
            connection.range(b"started")
            return
        time.sleep(0.01)
    raise EtcdError(f"{SERVER} does not accept connections on its socket")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return b"%b%c%c%b%b" % (
        len(payload).to_bytes(3), kind, flags, stream.to_bytes(4), payload,
    )  # fmt: skip


def _headers(method: bytes) -> bytes:
    """Return the headers of a request, without compression (RFC 7541): index, length, value."""
    return b"".join(
        (
            b"\x83\x86",  # :method: POST, :scheme: http
            b"\x04%c%b" % (len(method), method),  # :path
            b"\x01\x04etcd",  # :authority
            b"\x0f\x10\x10application/grpc",  # content-type
            b"\x00\x02te\x08trailers",
        )
    )


def _field(number: int, value: bytes) -> bytes:
    """Return a field of a message in protocol buffers: bytes, or another message."""
    return b"%c%b%b" % (number << 3 | 2, _varint(len(value)), value)


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the value of each field that has bytes or another message."""
    at = 0

    def varint() -> int:
        nonlocal at
        number = shift = 0
        while True:
            byte = message[at]
            at += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number

    while at < len(message):
        tag = varint()
        if tag & 7 == 2:
            size = varint()
            yield tag >> 3, message[at : at + size]
            at += size
        else:
            varint()
