"""Replies and notifications, parsed from pieces of any size."""

from hypothesis import given
from hypothesis import strategies as st

from kvs.protocol import frames
from kvs.protocol.replies import ExecuteReply, Notification, Reply, parse_replies
from tests.protocol.pieces import Notifications, cut, cut_everywhere
from tests.strategies import values, words

replies = st.one_of(
    st.builds(Reply, st.integers(0, 255).filter(lambda op: op != 5), st.integers(0, 255)),
    st.builds(ExecuteReply, st.integers(0, 255), st.binary(max_size=40), st.binary(max_size=40)),
)
changes = st.builds(Notification, words, st.one_of(values, st.just(b"DELETED")))


def encoded(reply: Reply | ExecuteReply) -> bytes:
    if isinstance(reply, Reply):
        return frames.encode_reply(reply.operation, reply.result)
    head = frames.encode_execute_reply_header(reply.result, len(reply.output), len(reply.errors))
    return head + reply.output + reply.errors


def read(pieces: list[bytes]) -> list[Reply | ExecuteReply]:
    data = bytearray()
    found = []
    for piece in pieces:
        data += piece
        replies, used = parse_replies(data)
        del data[:used]
        found += replies
    assert parse_replies(data) == ([], 0)
    return found


SOME: list[Reply | ExecuteReply] = [
    Reply(1, 0),
    ExecuteReply(0, b"", b""),
    ExecuteReply(1, b"[(a,b)]\n", b"1:1: x\n"),
    Reply(3, 1),
    ExecuteReply(0, b"\x05\x05", b""),
    Reply(2, 0),
]


def test_replies_cut_at_every_byte_are_parsed() -> None:
    for pieces in cut_everywhere(b"".join(map(encoded, SOME))):
        assert read(pieces) == SOME


@given(st.lists(replies, max_size=8), st.data())
def test_random_replies_in_random_pieces_are_parsed(
    sent: list[Reply | ExecuteReply], data: st.DataObject
) -> None:
    assert read(data.draw(cut(b"".join(map(encoded, sent))))) == sent


@given(st.lists(replies, min_size=1, max_size=4))
def test_half_reply_is_not_returned(sent: list[Reply | ExecuteReply]) -> None:
    assert read([b"".join(map(encoded, sent))[:-1]]) == sent[:-1]


def notified(pieces: list[bytes]) -> list[Notification]:
    parser = Notifications()
    return [change for piece in pieces for change in parser.feed(piece)]


def test_notifications_cut_at_every_byte_are_parsed() -> None:
    sent = [Notification(b"k" * 40, b"DELETED"), Notification(b"a", b"v" * 40)]
    for pieces in cut_everywhere(
        b"".join(frames.encode_notification(c.key, c.value) for c in sent)
    ):
        assert notified(pieces) == sent


@given(st.lists(changes, max_size=8), st.data())
def test_random_notifications_in_random_pieces_are_parsed(
    sent: list[Notification], data: st.DataObject
) -> None:
    stream = b"".join(frames.encode_notification(change.key, change.value) for change in sent)
    assert notified(data.draw(cut(stream))) == sent
    assert notified([stream[:-1]]) == sent[:-1]
