"""Replies and notifications on pipes that take little or nothing, or are closed."""

import fcntl
import os
from collections.abc import Iterator

import pytest

from kvs.concurrency.atomic import atomically
from kvs.protocol.frames import NOTIFICATION_BYTES, encode_notification
from kvs.server.loop import ERR, EventLoop
from kvs.server.writers import FRAMES_PER_WRITE, WRITE_BYTES, NotificationWriter, ReplyWriter
from kvs.store.subscriptions import Outbox

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    one = EventLoop()
    yield one
    one.close()


def smallest_pipe() -> tuple[int, int]:
    """Return both ends of a pipe; the writer closes its own end."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PAGE)
    return reader, writer


def frames(count: int) -> list[bytes]:
    return [encode_notification(b"key", b"%d" % number) for number in range(count)]


def test_slow_reader_gets_whole_frames_only(
    loop: EventLoop,
) -> None:
    reader, writer = smallest_pipe()
    outbox: Outbox[bytes] = Outbox(lambda: None, held=False)
    sent = frames(5000)
    atomically(*outbox.steps(sent))
    notifications = NotificationWriter(outbox, loop)
    notifications.open(writer, lambda _: notifications.on_writable())
    read: list[bytes] = []
    while len(read) < len(sent):
        try:
            frame = os.read(reader, NOTIFICATION_BYTES)
        except BlockingIOError:
            loop.run_once()
            continue
        assert len(frame) == NOTIFICATION_BYTES
        read.append(frame)
        taken = len(sent) - len(outbox)
        assert taken - len(read) <= 2 * FRAMES_PER_WRITE
    assert read == sent
    notifications.close()
    os.close(reader)


def test_reader_that_closes_before_a_write_is_harmless(loop: EventLoop) -> None:
    reader, writer = smallest_pipe()
    outbox: Outbox[bytes] = Outbox(lambda: None, held=False)
    events: list[int] = []
    notifications = NotificationWriter(outbox, loop)
    notifications.open(writer, events.append)
    atomically(*outbox.steps(frames(500)))
    notifications.flush()
    os.close(reader)
    notifications.on_writable()  # as if the pipe had taken more a moment ago
    notifications.flush()
    loop.run_once()
    assert events[-1] & ERR
    notifications.close()
    notifications.close()
    notifications.flush()


def test_reply_of_any_size_passes_through_a_small_pipe(loop: EventLoop) -> None:
    reader, writer = smallest_pipe()
    written: list[int] = []
    replies = ReplyWriter(writer, loop, lambda _: replies.flush(), written.append)
    parts = [b"head", b"", os.urandom(300_000), b"tail"]
    replies.write(parts)
    read = b""
    while replies.pending:
        read += os.read(reader, PAGE)
        loop.run_once()
    read += os.read(reader, 2 * PAGE)
    assert read == b"".join(parts)
    assert written == [4, 300_000, 4]
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        replies.write([b"more"])
    replies.close()


def test_fast_reader_of_a_large_reply_delays_no_others(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
    written: list[int] = []
    replies = ReplyWriter(writer, loop, lambda _: replies.flush(), written.append)
    sizes = [100_000, 1, 500_000, 7]
    replies.write([bytes(size) for size in sizes])
    assert len(os.read(reader, 1 << 20)) == WRITE_BYTES
    assert written == sizes[:2]
    while replies.pending:
        loop.run_once()
    assert written == sizes
    assert len(os.read(reader, 1 << 20)) == sum(sizes) - WRITE_BYTES
    replies.close()
    os.close(reader)


def test_small_reply_is_one_write(loop: EventLoop) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    written: list[int] = []
    replies = ReplyWriter(writer, loop, lambda _: replies.flush(), written.append)
    replies.write([b"header", b"", b"text"])
    replies.write([b"", b""])
    assert written == [10]
    assert not replies.pending
    assert os.read(reader, 100) == b"headertext"
    replies.close()
    os.close(reader)
