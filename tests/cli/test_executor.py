"""Commands in a session without pipes: what is sent, what is shown, in which order."""

from collections import deque
from collections.abc import Callable
from typing import cast

import pytest

from kvs.cli.executor import CommandExecutor
from kvs.cli.render import Renderer
from kvs.client.commands import Blank, ClientCommand, Delay
from kvs.client.conversation import UNEXPECTED_REPLY
from kvs.client.transport import Transport
from kvs.errors import SessionClosedError
from kvs.protocol import frames
from kvs.protocol.replies import ExecuteReply, Notification, Reply
from kvs.protocol.requests import Disconnect, Execute, Subscribe
from kvs.store.watch import Change


class Log(Renderer):
    """Remembers what is shown."""

    def __init__(self) -> None:
        self.shown: list[object] = []

    def show_reply(self, reply: Reply) -> None:
        self.shown.append(reply)

    def show_changes(self, changes: list[Change]) -> None:
        self.shown += changes

    def show_output(self, output: bytes) -> None:
        self.shown.append(output)

    def show_error(self, line: bytes, number: int, column: int, reason: str) -> None:
        self.shown.append((line, number, column, reason))


class FakeTransport:
    """Accepts requests, and receives messages at given calls of `pump`."""

    def __init__(self) -> None:
        self.replies: deque[Reply | ExecuteReply] = deque()
        self.notifications: deque[Notification] = deque()
        self.close_reason: str | None = None
        self.requests_are_closed = False
        self.on_pump: list[Callable[[], object]] = []

    @property
    def replies_closed(self) -> bool:
        return self.close_reason is not None

    def send(self, _frame: bytes, step: Callable[[], object]) -> bool:
        step()
        return True

    def pump(self) -> None:
        if self.on_pump:
            self.on_pump.pop(0)()

    def close_requests(self) -> None:
        self.requests_are_closed = True

    def closed_error(self) -> SessionClosedError:
        return SessionClosedError(self.close_reason or "")


class Session:
    """An executor with its fake transport."""

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.log = Log()
        self.executor = CommandExecutor(cast(Transport, self.transport), self.log)

    def start(self, command: ClientCommand, line: bytes = b"") -> None:
        self.executor.start(command, line, 7)

    def receive(self, *messages: Reply | ExecuteReply | Notification) -> bool:
        """Receive messages in the next call of `pump`; return the result of `step`."""

        def arrive() -> None:
            for message in messages:
                if isinstance(message, Notification):
                    self.transport.notifications.append(message)
                else:
                    self.transport.replies.append(message)

        self.transport.on_pump.append(arrive)
        return self.executor.step()


@pytest.fixture(name="session")
def _session() -> Session:
    return Session()


SUBSCRIBED = Reply(frames.SUBSCRIBE, 0)
NOTIFIED, CHANGE = Notification(b"a", b"1"), Change(b"a", b"1")


def test_blank_line_is_done_at_once(session: Session) -> None:
    session.start(Blank())
    assert session.executor.step()


def test_command_is_done_when_its_reply_is_shown(session: Session) -> None:
    session.start(Execute(b"SHOW"))
    assert not session.executor.step()
    assert session.receive(ExecuteReply(0, b"(a, 1)\n", b""))
    assert session.log.shown == [b"(a, 1)\n"]


def test_subscribe_is_shown_before_its_first_change(session: Session) -> None:
    session.start(Subscribe(b"a"))
    assert session.receive(SUBSCRIBED, NOTIFIED)
    assert session.log.shown == [SUBSCRIBED, CHANGE]


def test_changes_before_a_reply_are_shown_before_it(session: Session) -> None:
    session.start(Execute(b"WRITE [(a,1)]"))
    reply = ExecuteReply(0, b"output", b"")
    session.transport.on_pump = [
        lambda: session.transport.replies.append(reply),
        lambda: session.transport.notifications.append(NOTIFIED),
    ]
    assert session.executor.step()
    assert session.log.shown == [CHANGE, b"output"]


def test_errors_are_shown_at_the_typed_line(session: Session) -> None:
    session.start(Execute(b"foo"), b"foo")
    assert session.receive(ExecuteReply(1, b"", b"1:3: bad: x\nno column\n"))
    assert session.log.shown == [
        b"",
        (b"foo", 7, 3, "bad: x"),
        (b"foo", 7, 1, "no column"),
    ]


def test_unexpected_reply_ends_the_session_after_changes(session: Session) -> None:
    session.start(Subscribe(b"a"))
    with pytest.raises(SessionClosedError, match=UNEXPECTED_REPLY):
        session.receive(Reply(frames.UNSUBSCRIBE, 0), NOTIFIED)
    assert session.log.shown == [CHANGE]


def test_end_of_the_session_raises_after_the_last_changes(session: Session) -> None:
    session.start(Execute(b"WAIT 1"))
    session.transport.close_reason = "closed"
    with pytest.raises(SessionClosedError, match="closed"):
        session.receive(NOTIFIED)
    assert session.log.shown == [CHANGE]


def test_disconnect_waits_for_the_end_of_the_pipes(session: Session) -> None:
    session.start(Disconnect())
    assert not session.receive(Reply(frames.DISCONNECT, 0))
    assert session.transport.requests_are_closed
    assert not session.executor.is_over
    assert 0 < (session.executor.remaining_seconds() or 0) <= 2
    session.transport.close_reason = "closed"
    assert session.executor.step()
    assert session.executor.is_over


def test_delay_is_done_after_its_time(session: Session) -> None:
    session.start(Delay(3_600_000))
    assert not session.receive(NOTIFIED)
    assert session.log.shown == [CHANGE]
    assert 3599 < (session.executor.remaining_seconds() or 0) <= 3600
    session.start(Delay(0))
    assert session.executor.step()
    assert session.executor.remaining_seconds() is None
