"""The layout of every message, compared with literal bytes."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.protocol import frames
from kvs.protocol.frames import Connect, Dialect

field_words = st.binary(max_size=40).filter(lambda word: b"\0" not in word)
paths = st.binary(min_size=1, max_size=40).filter(lambda path: b"\0" not in path)


def padded(text: bytes, length: int) -> bytes:
    return text + bytes(length - len(text))


@given(paths, paths, paths, st.sampled_from(Dialect))
def test_connect_is_1_and_three_fields_of_40_bytes(
    requests: bytes, responses: bytes, notifications: bytes, dialect: Dialect
) -> None:
    connect = Connect(requests, responses, notifications, dialect=dialect)
    start = b"1" if dialect is Dialect.DIGITS else b"\x01"
    frame = start + b"".join(padded(path, 40) for path in connect.paths)
    assert frames.CONNECT_START.match(frame)
    assert connect.encode() == frame
    assert len(frame) == frames.CONNECT_BYTES == 121
    assert Connect.decode(frame) == connect


@given(paths, paths, paths, st.binary(min_size=40, max_size=40))
def test_bytes_behind_a_nul_are_ignored(a: bytes, b: bytes, c: bytes, noise: bytes) -> None:
    frame = b"\x01" + b"".join((path + b"\0" + noise)[:40] for path in (a, b, c))
    assert Connect.decode(frame) == Connect(a, b, c)


@pytest.mark.parametrize("path", [b"", b"x" * 41, b"a\0b", b"\0"])
def test_path_that_does_not_fit_its_field_is_refused(path: bytes) -> None:
    with pytest.raises(ValueError, match="a path is 1 to 40 bytes without NUL"):
        Connect(b"a", path, b"c")


@given(st.binary(min_size=121, max_size=121))
def test_any_121_bytes_decode_to_a_connect_or_none(frame: bytes) -> None:
    connect = Connect.decode(frame)
    good = frame[0] in b"\x011" and all(frame[at] for at in (1, 41, 81))
    assert (connect is not None) == good


@given(field_words)
def test_request_with_a_key_is_42_bytes(key: bytes) -> None:
    for operation in (frames.SUBSCRIBE, frames.UNSUBSCRIBE):
        frame = frames.encode_key_request(operation, key)
        assert frame == bytes([operation]) + padded(key, 41)
        assert frames.decode_key_request(frame) == key


@given(field_words, st.one_of(field_words, st.none()))
def test_notification_is_two_fields_of_41_bytes(key: bytes, value: bytes | None) -> None:
    sent = b"DELETED" if value is None else value
    frame = frames.encode_notification(key, value)
    assert frame == padded(key, 41) + padded(sent, 41)
    assert len(frame) == frames.NOTIFICATION_BYTES == 82
    assert frames.decode_notification(frame) == (key, sent)


@pytest.mark.parametrize("value", [b"v" * 41, b"\0", b"a\0", b"v" * 100_000])
def test_value_that_fits_no_field_is_sent_as_changed(value: bytes) -> None:
    frame = frames.encode_notification(b"k", value)
    assert frame == padded(b"k", 41) + padded(b"CHANGED", 41)
    assert frames.decode_notification(frame) == (b"k", frames.CHANGED)


def test_word_fits_a_field_up_to_40_bytes_without_nul() -> None:
    assert [frames.fits_field(word) for word in (b"", b"a b,)]\n\xff", b"x" * 40)] == 3 * [True]
    assert [frames.fits_field(word) for word in (b"x" * 41, b"\0", b"a\0b")] == 3 * [False]


@given(st.binary(max_size=300))
def test_execute_is_5_length_and_script(script: bytes) -> None:
    frame = frames.encode_execute(script)
    assert frame == b"\x05" + struct.pack("<I", len(script)) + script
    assert frames.decode_execute_length(frame[: frames.EXECUTE_HEADER_BYTES]) == len(script)


def test_reply_layouts() -> None:
    assert frames.encode_reply(frames.SUBSCRIBE, 1) == b"\x03\x01"
    assert frames.encode_execute_reply_header(1, 258, 3) == b"\x05\x01\x02\x01\0\0\x03\0\0\0"
    reply = frames.encode_execute_reply_header(1, 258, 3) + b"x"
    assert frames.in_dialect(reply, Dialect.BINARY) == reply
    assert frames.in_dialect(reply, Dialect.DIGITS) == b"51" + reply[2:]
    assert frames.decode_execute_reply_header(b"\x05\x01\x02\x01\0\0\x03\0\0\0") == (1, 258, 3)
