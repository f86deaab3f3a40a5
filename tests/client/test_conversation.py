"""The client's side of the protocol, without pipes: requests, replies and changes in queues."""

import copy
from collections import deque

import pytest

from kvs.client.conversation import (
    UNEXPECTED_REPLY,
    Conversation,
    PendingRequest,
    Request,
    decode_change,
)
from kvs.concurrency.atomic import Step
from kvs.protocol import frames
from kvs.protocol.replies import ExecuteReply, Notification, Reply
from kvs.protocol.requests import Disconnect, Execute, RequestParser, Subscribe, Unsubscribe
from kvs.store.watch import Change

REQUESTS: list[Request] = [
    Subscribe(b"a"),
    Unsubscribe(b"x" * 40),
    Execute(b"READ [a]\nSHOW"),
    Execute(b""),
    Disconnect(),
]


class Wire:
    """A conversation, the frames it has sent, and the queues it consumes."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.replies: deque[Reply | ExecuteReply] = deque()
        self.notifications: deque[Notification] = deque()
        self.is_open = True
        self.conversation = Conversation(self.replies, self.notifications)

    def send(self, request: Request) -> PendingRequest:
        pending = self.conversation.send(request, self._accept)
        assert pending is not None
        return pending

    def _accept(self, frame: bytes, step: Step) -> bool:
        if self.is_open:
            step()
            self.frames.append(frame)
        return self.is_open

    def send_when_closed(self, request: Request) -> PendingRequest | None:
        self.is_open = False
        return self.conversation.send(request, self._accept)


@pytest.mark.parametrize("request_", REQUESTS, ids=repr)
def test_frame_is_parsed_by_a_server_as_the_request(request_: Request) -> None:
    parser = RequestParser()
    parser.feed(request_.encode())
    assert parser.next_request() == request_
    assert not parser.is_incomplete


def test_request_is_pending_until_its_reply_arrives() -> None:
    wire = Wire()
    assert wire.conversation.is_idle
    pending = wire.send(Subscribe(b"a"))
    assert wire.frames == [Subscribe(b"a").encode()]
    assert wire.conversation.assign_replies() is None
    assert (pending.reply, wire.conversation.is_idle) == (None, False)
    wire.replies.append(Reply(frames.SUBSCRIBE, 1))
    assert wire.conversation.assign_replies() is None
    assert pending.reply == Reply(frames.SUBSCRIBE, 1)
    assert wire.conversation.is_idle
    assert not wire.replies


def test_replies_go_to_requests_in_the_order_of_sending() -> None:
    wire = Wire()
    pending = [wire.send(request) for request in REQUESTS]
    replies: list[Reply | ExecuteReply] = [
        Reply(frames.SUBSCRIBE, 0),
        Reply(frames.UNSUBSCRIBE, 1),
        ExecuteReply(0, b"1", b""),
        ExecuteReply(1, b"2", b"1:1: x\n"),
        Reply(frames.DISCONNECT, 0),
    ]
    wire.replies.extend(replies[:2])
    assert wire.conversation.assign_replies() is None
    wire.replies.extend(replies[2:])
    assert wire.conversation.assign_replies() is None
    assert [request.reply for request in pending] == replies


def test_request_that_is_not_accepted_does_not_become_pending() -> None:
    wire = Wire()
    assert wire.send_when_closed(Execute(b"SHOW")) is None
    assert wire.conversation.is_idle


@pytest.mark.parametrize(
    "reply", [Reply(frames.UNSUBSCRIBE, 0), Reply(0, 0), ExecuteReply(0, b"", b"")], ids=repr
)
def test_unexpected_reply_ends_the_session(reply: Reply | ExecuteReply) -> None:
    wire = Wire()
    pending = wire.send(Subscribe(b"a"))
    wire.replies += [reply, Reply(frames.SUBSCRIBE, 1)]
    for _ in range(2):  # a caller that is interrupted before it ends the session asks again
        assert wire.conversation.assign_replies() == UNEXPECTED_REPLY
    wire.conversation.discard_replies()
    assert wire.conversation.assign_replies() is None
    assert pending.reply is None


def test_reply_without_a_request_ends_the_session() -> None:
    wire = Wire()
    pending = wire.send(Subscribe(b"a"))
    wire.replies += [Reply(frames.SUBSCRIBE, 1), Reply(frames.SUBSCRIBE, 1)]
    assert wire.conversation.assign_replies() == UNEXPECTED_REPLY
    assert pending.reply == Reply(frames.SUBSCRIBE, 1)


def test_changes_are_taken_in_order() -> None:
    wire = Wire()
    wire.notifications += [Notification(b"a", b"%d" % number) for number in range(3)]
    assert wire.conversation.has_changes
    taken = list(iter(wire.conversation.take_change, None))
    assert taken == [Change(b"a", b"%d" % number) for number in range(3)]
    assert not wire.conversation.has_changes


def test_changes_do_not_disturb_replies() -> None:
    wire = Wire()
    pending = wire.send(Execute(b"WRITE [(a,1)]"))
    wire.notifications.append(Notification(b"a", b"1"))
    wire.replies.append(ExecuteReply(0, b"", b""))
    assert wire.conversation.assign_replies() is None
    assert pending.reply == ExecuteReply(0, b"", b"")
    assert wire.conversation.take_change() == Change(b"a", b"1")


def test_removal_becomes_a_change_without_a_value() -> None:
    assert decode_change(Notification(b"a", frames.DELETED)) == Change(b"a", None)
    assert decode_change(Notification(b"a", b"")) == Change(b"a", b"")


def test_abort_drops_the_pending_requests() -> None:
    wire = Wire()
    wire.send(Subscribe(b"a"))
    wire.conversation.abort()
    assert wire.conversation.is_idle


def test_conversation_cannot_be_copied() -> None:
    with pytest.raises(TypeError, match="cannot copy or pickle a Conversation"):
        copy.copy(Wire().conversation)
