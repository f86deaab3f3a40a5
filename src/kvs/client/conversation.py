"""The client's side of the protocol: requests out, replies and changes in. No I/O, no clock.

The library's session (`kvs.client.multiplexer`) and the command line (`kvs.cli.executor`) are thin
shells around `Conversation`: they move the bytes, wait, and do what its methods return.
"""

import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from kvs.concurrency.atomic import Step, atomically
from kvs.concurrency.resources import NonCopyable
from kvs.protocol import frames
from kvs.protocol.replies import ExecuteReply, Notification, Reply
from kvs.protocol.requests import Disconnect, Execute, Subscribe, Unsubscribe
from kvs.store.watch import Change

DISCONNECT_TIMEOUT_SECONDS = 2.0
"""Maximum seconds that a client which disconnects waits for the server to close the pipes."""

UNEXPECTED_REPLY = "the server sent a reply that does not match the request"

Request = Subscribe | Unsubscribe | Disconnect | Execute

SendCallback = Callable[[bytes, Step], bool]
"""Called with the frame of a request and a step to call when the frame is accepted, in the same
atomic step; returns False if no more requests are accepted (`Transport.send`)."""


@dataclass(eq=False, slots=True)
class PendingRequest:
    """A request that has been sent, and its reply once the reply has arrived."""

    operation: int
    replies: list[Reply | ExecuteReply] = field(default_factory=list)
    """At most one reply: a list, because it is filled in an atomic step."""

    @property
    def reply(self) -> Reply | ExecuteReply | None:
        """The reply; None until it arrives."""
        return self.replies[0] if self.replies else None


class Conversation(NonCopyable):
    """The pending requests of a session, and the messages that the server has sent.

    Threads: any thread, signal handler or finalizer may call any method at any time, also within
    another call of the same thread, and an exception at any instruction leaves the conversation
    usable. There is no lock: each change is one atomic step (`kvs.concurrency.atomic`), which is
    computed again if another call was faster.

    Invariants:

    - Replies must arrive in the order of the requests. A reply that does not match its request ends
      the session, because no later reply could be assigned either.
    - A request whose caller was interrupted stays pending, so that the next request gets its own
      reply.
    """

    def __init__(
        self, replies: deque[Reply | ExecuteReply], notifications: deque[Notification]
    ) -> None:
        """Consume `replies` and `notifications`, to which the transport appends in order."""
        self._replies = replies
        self._notifications = notifications
        self._pending: deque[PendingRequest] = deque()

    @property
    def is_idle(self) -> bool:
        """Whether no request is pending."""
        return not self._pending

    @property
    def has_changes(self) -> bool:
        """Whether `take_change` would return a change."""
        return bool(self._notifications)

    def send(self, request: Request, send: SendCallback) -> PendingRequest | None:
        """Send a request with `send`; return it as pending, None if `send` does not accept it."""
        frame = request.encode()
        pending = PendingRequest(frame[0])
        return pending if send(frame, partial(self._pending.append, pending)) else None

    def assign_replies(self) -> str | None:
        """Give each reply to its request; return the reason for which the session must end.

        The reason is None while every reply matches. Otherwise the caller must end the session with
        the reason; the reply stays, so that the next call returns the reason again, until
        `discard_replies`.
        """
        replies, pending = self._replies, self._pending
        while replies:
            with contextlib.suppress(IndexError, ValueError):  # another call did it
                reply = replies[0]
                request = pending[0] if pending else None
                if request is not None and request.operation == _operation(reply):
                    atomically(
                        partial(pending.index, request, 0, 1),
                        pending.popleft,
                        replies.popleft,
                        partial(request.replies.append, reply),
                    )
                elif replies[0] is reply:  # `request` was the first while `reply` was
                    return UNEXPECTED_REPLY
        return None

    def discard_replies(self) -> None:
        """Drop the replies that were not assigned, after the end of the session."""
        self._replies.clear()

    def take_change(self) -> Change | None:
        """Remove and return the oldest change; None if there is none."""
        with contextlib.suppress(IndexError):
            return decode_change(self._notifications.popleft())
        return None

    def abort(self) -> None:
        """Free the memory in a forked child; the parent continues to use the session."""
        self._pending.clear()


def decode_change(notification: Notification) -> Change:
    """Return the change in a notification.

    The protocol encodes the removal of a key and the value ``DELETED`` in the same bytes: both
    become a change without a value. A value that does not fit a notification becomes ``CHANGED``.
    A client that stores such values must read the key.
    """
    value = notification.value
    return Change(notification.key, None if value == frames.DELETED else value)


def _operation(reply: Reply | ExecuteReply) -> int:
    return frames.EXECUTE if isinstance(reply, ExecuteReply) else reply.operation
