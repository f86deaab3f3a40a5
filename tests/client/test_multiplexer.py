"""Requests and changes of several threads over one transport."""

import threading

import pytest

from kvs.client.conversation import Request
from kvs.client.multiplexer import RequestMultiplexer
from kvs.errors import SessionClosedError
from kvs.protocol import frames
from kvs.protocol.replies import Reply
from kvs.protocol.requests import Disconnect, Subscribe, Unsubscribe
from kvs.store.watch import Change
from tests.client.far_ends import FarEnds
from tests.helpers import SECONDS

CHANGES = [frames.encode_notification(b"a", value) for value in (b"1", b"2")]


@pytest.fixture(name="multiplexer")
def _multiplexer(server: FarEnds) -> RequestMultiplexer:
    return RequestMultiplexer(server.transport)


def test_each_request_gets_its_own_reply(server: FarEnds, multiplexer: RequestMultiplexer) -> None:
    got: dict[str, object] = {}
    requests: dict[str, Request] = {"add": Subscribe(b"a"), "remove": Unsubscribe(b"a")}
    threads = []
    for name, request in requests.items():
        thread = threading.Thread(
            target=lambda name=name, request=request: got.update(
                {name: multiplexer.request(request)}
            )
        )
        thread.start()
        threads.append(thread)
        assert server.read(len(request.encode())) == request.encode()
    server.send("resp", frames.encode_reply(frames.SUBSCRIBE, 1))
    server.send("resp", frames.encode_reply(frames.UNSUBSCRIBE, 0))
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert got == {"add": Reply(frames.SUBSCRIBE, 1), "remove": Reply(frames.UNSUBSCRIBE, 0)}


def test_changes_are_returned_in_order_and_once(
    server: FarEnds, multiplexer: RequestMultiplexer
) -> None:
    assert multiplexer.next_change(0) is None
    server.send("not", b"".join(CHANGES))
    changes = [multiplexer.next_change(SECONDS) for _ in CHANGES]
    assert changes == [Change(b"a", b"1"), Change(b"a", b"2")]
    assert multiplexer.next_change(0.01) is None


def test_changes_before_the_end_are_returned(
    server: FarEnds, multiplexer: RequestMultiplexer
) -> None:
    server.send("not", CHANGES[0])
    server.close("not")
    assert multiplexer.next_change(SECONDS) == Change(b"a", b"1")
    with pytest.raises(SessionClosedError, match="the server closed the session"):
        multiplexer.next_change(SECONDS)


def test_waiting_request_fails_at_the_end(server: FarEnds, multiplexer: RequestMultiplexer) -> None:
    errors: list[str] = []

    def request() -> None:
        try:
            multiplexer.request(Subscribe(b"a"))
        except SessionClosedError as error:
            errors.append(str(error))

    thread = threading.Thread(target=request)
    thread.start()
    server.read(len(Subscribe(b"a").encode()))
    server.close("resp", "not")
    thread.join(SECONDS)
    assert errors == ["the server closed the session"]


def test_reply_to_another_request_ends_the_session(
    server: FarEnds, multiplexer: RequestMultiplexer
) -> None:
    server.send("resp", frames.encode_reply(frames.UNSUBSCRIBE, 0))
    with pytest.raises(SessionClosedError, match="a reply that does not match the request"):
        multiplexer.request(Subscribe(b"a"))


def test_close_disconnects_and_returns_pending_changes(
    server: FarEnds, multiplexer: RequestMultiplexer
) -> None:
    server.send("not", CHANGES[0])
    thread = threading.Thread(target=multiplexer.close)
    thread.start()
    frame = Disconnect().encode()
    assert server.read(len(frame)) == frame
    server.send("resp", frames.encode_reply(frames.DISCONNECT, 0))
    server.close("resp", "not")
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert (multiplexer.closed, multiplexer.is_drained) == (True, False)
    assert multiplexer.next_change(None) == Change(b"a", b"1")
    assert (multiplexer.next_change(None), multiplexer.is_drained) == (None, True)
    with pytest.raises(SessionClosedError, match="the session is closed"):
        multiplexer.request(Subscribe(b"a"))
