"""Requests, parsed from pieces of any size, and bytes that are not requests."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.protocol import frames
from kvs.protocol.frames import Dialect
from kvs.protocol.requests import (
    Disconnect,
    Execute,
    OversizedExecute,
    Request,
    RequestParser,
    Subscribe,
    UnknownOperation,
    Unsubscribe,
)
from tests.protocol.pieces import cut, cut_everywhere
from tests.strategies import words

requests = st.one_of(
    st.just(Disconnect()),
    st.builds(Subscribe, words),
    st.builds(Unsubscribe, words),
    st.builds(Execute, st.binary(max_size=60)),
)


def encoded(request: Request, dialect: Dialect = Dialect.BINARY) -> bytes:
    frame = _encoded(request)
    if isinstance(request, UnknownOperation):
        return frame
    return bytes([frame[0] + dialect]) + frame[1:]


def _encoded(request: Request) -> bytes:
    match request:
        case Disconnect() | Subscribe() | Unsubscribe() | Execute():
            return request.encode()
        case OversizedExecute(length):
            return b"\x05" + struct.pack("<I", length) + bytes(length)
        case UnknownOperation(operation):
            return bytes([operation])


def read(pieces: list[bytes], dialect: Dialect = Dialect.BINARY) -> list[Request]:
    """Return the requests, up to the first unknown operation, where a session ends."""
    parser = RequestParser(dialect)
    found: list[Request] = []
    for piece in pieces:
        parser.feed(piece)
        while (request := parser.next_request()) is not None:
            found.append(request)
            if isinstance(request, UnknownOperation):
                return found
    assert parser.next_request() is None
    return found


def test_requests_encode_to_their_frames() -> None:
    assert Disconnect().encode() == b"\x02"
    assert Subscribe(b"key").encode() == b"\x03key" + bytes(38)
    assert Unsubscribe(b"k" * 40).encode() == b"\x04" + b"k" * 40 + b"\0"
    assert Execute(b"SHOW\n").encode() == b"\x05\x05\0\0\0SHOW\n"


def test_requests_cut_at_every_byte_are_parsed() -> None:
    sent: list[Request] = [
        Subscribe(b"k" * 40),
        Execute(b""),
        Execute(b"SHOW\n\x02\x03"),
        Unsubscribe(b"a"),
        Disconnect(),
        Subscribe(b"b"),
    ]
    for pieces in cut_everywhere(b"".join(map(encoded, sent))):
        assert read(pieces) == sent


@given(st.lists(requests, max_size=8), st.sampled_from(Dialect), st.data())
def test_random_requests_in_random_pieces_are_parsed(
    sent: list[Request], dialect: Dialect, data: st.DataObject
) -> None:
    stream = b"".join(encoded(request, dialect) for request in sent)
    assert read(data.draw(cut(stream)), dialect) == sent


@given(
    st.lists(requests, max_size=4),
    st.sampled_from(Dialect),
    st.sampled_from([0, 1, 6, 65, 255]),
    st.binary(max_size=50),
)
def test_unknown_operation_comes_after_the_requests_before_it(
    sent: list[Request], dialect: Dialect, operation: int, noise: bytes
) -> None:
    stream = b"".join(encoded(request, dialect) for request in sent) + bytes([operation]) + noise
    assert read([stream], dialect) == [*sent, UnknownOperation(operation)]


@pytest.mark.parametrize("operation", range(256))
def test_no_op_byte_belongs_to_both_dialects(operation: int) -> None:
    data = bytes([operation]) + bytes(42)
    unknown = [
        dialect for dialect in Dialect if read([data], dialect)[:1] == [UnknownOperation(operation)]
    ]
    expected = {
        **dict.fromkeys(range(2, 6), Dialect.DIGITS),
        **dict.fromkeys(b"2345", Dialect.BINARY),
    }
    assert unknown == ([expected[operation]] if operation in expected else list(Dialect))


@given(st.lists(requests, min_size=1, max_size=4), st.integers(1, 41))
def test_half_request_is_not_returned(sent: list[Request], missing: int) -> None:
    last = encoded(sent[-1])
    half = last[: max(0, len(last) - missing)]
    stream = b"".join(map(encoded, sent[:-1])) + half
    assert read([stream]) == sent[:-1]


@given(requests, st.integers(0, 41), st.integers(1, 50))
def test_incomplete_request_is_reported_as_it_arrived(
    request: Request, missing: int, size: int
) -> None:
    whole = encoded(request)
    half = whole[: max(0, len(whole) - missing)]
    parser = RequestParser()
    for at in range(0, len(half), size):
        parser.feed(half[at : at + size])
        parser.next_request()
    is_whole = half == whole
    assert parser.is_incomplete == (not is_whole and half != b"")
    assert parser.unused == (b"" if is_whole else half)


@pytest.mark.parametrize("over", [1, 70_000])
def test_oversized_script_is_read_to_its_end(over: int) -> None:
    length = frames.MAX_SCRIPT_BYTES + over
    sent: list[Request] = [
        OversizedExecute(length),
        Subscribe(b"a"),
        OversizedExecute(length),
        Disconnect(),
    ]
    stream = b"".join(map(encoded, sent))
    for size in (len(stream), 65536, 65535, 9973):
        assert read([stream[at : at + size] for at in range(0, len(stream), size)]) == sent


def test_script_of_maximum_length_is_accepted() -> None:
    script = b"#" * frames.MAX_SCRIPT_BYTES
    assert read([Execute(script).encode() + b"\x02"]) == [Execute(script), Disconnect()]


def test_oversized_script_is_not_buffered() -> None:
    parser = RequestParser()
    parser.feed(b"\x05" + struct.pack("<I", 2**32 - 1))
    for _ in range(100):
        parser.feed(bytes(65536))
        assert parser.next_request() is None
    assert len(parser._data) == 0


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_random_bytes_parse_alike_in_any_pieces(pieces: list[bytes]) -> None:
    assert read(pieces) == read([b"".join(pieces)])


def test_long_script_is_not_copied_with_its_last_byte() -> None:
    script = bytes(frames.MAX_SCRIPT_BYTES)
    parser = RequestParser()
    sent = Execute(script).encode()
    for at in range(0, len(sent) - 1, 65536):
        parser.feed(sent[at : min(at + 65536, len(sent) - 1)])
        assert parser.next_request() is None
    parser.feed(sent[-1:])
    request = parser.next_request()
    assert isinstance(request, Execute)
    assert request.length == len(script)
    assert isinstance(request._data, bytearray)
    assert request == Execute(script)
    assert hash(request) == hash(Execute(script))
    assert request != Execute(b"x")
    assert repr(Execute(b"x")) == "Execute(b'x')"
