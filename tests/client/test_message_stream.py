"""Messages from the bytes of a pipe, also when another call parses in between."""

from collections import deque

import pytest

from kvs.client.message_stream import MessageStream


def parse_lines(data: bytearray) -> tuple[list[bytes], int]:
    """Return the complete lines, and their size."""
    size = data.rfind(b"\n") + 1
    return bytes(data[:size]).splitlines(), size


def test_incomplete_message_waits_for_its_rest() -> None:
    messages: deque[bytes] = deque()
    stream = MessageStream(parse_lines, messages)
    for data, expected in ((b"a\nb", [b"a"]), (b"", []), (b"c\nd\n", [b"bc", b"d"])):
        stream.data.extend(data)
        stream.parse()
        assert list(messages) == expected
        messages.clear()
    assert not stream.data


@pytest.mark.parametrize("error", [None, IndexError])
def test_call_that_another_overtakes_parses_again(error: type[Exception] | None) -> None:
    messages: deque[bytes] = deque()
    calls = 0

    def parse(data: bytearray) -> tuple[list[bytes], int]:
        nonlocal calls
        calls += 1
        result = parse_lines(data)
        if calls == 1:
            stream.parse()  # as a signal handler does
            stream.data.extend(b"b\n")
            if error is not None:
                raise error
        return result

    stream = MessageStream(parse, messages)
    stream.data.extend(b"a\n")
    stream.parse()
    assert list(messages) == [b"a", b"b"]


def test_error_of_the_parser_is_raised() -> None:
    def parse(data: bytearray) -> tuple[list[bytes], int]:
        raise IndexError

    stream = MessageStream(parse, deque[bytes]())
    stream.data.extend(b"a")
    with pytest.raises(IndexError):
        stream.parse()
