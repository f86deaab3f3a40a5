"""The bytes of a session: requests out whole, messages in, monitors, and the end."""

import os

import pytest

from kvs.client import transport as module
from kvs.client.transport import CLOSED_BY_SERVER, Transport
from kvs.protocol import frames
from kvs.protocol.replies import Notification, Reply
from kvs.protocol.requests import Disconnect, Execute, Subscribe
from tests.client.far_ends import FarEnds, far_ends

REQUEST = Subscribe(b"a").encode()
REPLY = frames.encode_reply(frames.SUBSCRIBE, 1)
CHANGE = frames.encode_notification(b"a", b"1")


@pytest.fixture(name="transport")
def _transport(server: FarEnds) -> Transport:
    return server.transport


def test_request_larger_than_the_pipe_arrives_whole(server: FarEnds) -> None:
    steps: list[bool] = []
    frame = Execute(b"x" * 500_000).encode()
    assert server.transport.send(frame, lambda: steps.append(True))
    assert steps == [True]
    assert server.transport.send(REQUEST)
    assert server.read(len(frame) + len(REQUEST)) == frame + REQUEST


def test_messages_are_parsed_from_pieces(server: FarEnds, transport: Transport) -> None:
    for pipe, data in (("resp", REPLY + REPLY), ("not", CHANGE + CHANGE)):
        for piece in (data[:1], data[1:50], data[50:]):
            if piece:
                server.send(pipe, piece)
            transport.pump()
    assert list(transport.replies) == [Reply(frames.SUBSCRIBE, 1)] * 2
    assert list(transport.notifications) == [Notification(b"a", b"1")] * 2


def test_monitor_wakes_each_thread_when_bytes_arrive(server: FarEnds, transport: Transport) -> None:
    one, two = transport.monitor(), transport.monitor()
    assert one.poll(0) == two.poll(0) == []
    server.send("resp", REPLY)
    assert one.poll(0)
    transport.pump()  # by the thread of `one`
    events = two.poll(0)
    assert events
    transport.advance(events)
    assert len(transport.replies) == 1
    for monitor in (one, two):
        monitor.poll(0)
        assert monitor.poll(0) == []
        transport.put_back(monitor)
    assert transport.monitor() is two


def test_bytes_before_the_end_are_read(server: FarEnds, transport: Transport) -> None:
    server.send("resp", REPLY)
    server.send("not", CHANGE)
    server.close("resp")
    transport.pump()
    assert (len(transport.replies), len(transport.notifications)) == (1, 1)
    transport.pump()
    assert (transport.close_reason, transport.replies_closed) == (CLOSED_BY_SERVER, True)
    assert str(transport.closed_error()) == CLOSED_BY_SERVER
    assert not transport.send(REQUEST)


def test_disconnect_is_the_last_request(server: FarEnds, transport: Transport) -> None:
    frame = Disconnect().encode()
    assert [transport.send(data) for data in (frame, frame, REQUEST)] == [True, False, False]
    assert server.read(len(frame)) == frame
    server.close("resp")
    transport.pump()
    assert (transport.replies_closed, transport.close_reason) == (True, None)
    server.send("not", CHANGE)
    server.close("not")
    transport.pump()
    transport.pump()
    assert (transport.close_reason, len(transport.notifications)) == (CLOSED_BY_SERVER, 1)


def test_closed_requests_end_the_pipe(server: FarEnds, transport: Transport) -> None:
    assert transport.requests_are_open
    assert not server.at_end()
    transport.close_requests()
    assert server.at_end()
    assert transport.close_reason is None


def test_too_many_changes_not_taken_end_the_session(
    server: FarEnds, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_UNREAD_CHANGES", 3)
    server.send("not", CHANGE * 3)
    transport.pump()
    assert transport.close_reason is None
    server.send("not", CHANGE)
    transport.pump()
    assert transport.close_reason == "more than 3 changes were not taken by the program"


def test_first_reason_for_the_end_stays(transport: Transport) -> None:
    transport.end("first")
    transport.end("second")
    assert transport.close_reason == "first"


def test_close_removes_the_pipes_and_closes_them() -> None:
    before = os.listdir("/proc/self/fd")
    with far_ends() as ends:
        assert len(os.listdir(ends.directory)) == 4
        ends.transport.close()
        assert os.listdir(ends.directory) == []
        assert ends.at_end()
        ends.transport.close()
    del ends
    assert len(os.listdir("/proc/self/fd")) == len(before)
