"""Many clients, each with one outstanding request, driven by this process."""

import os
import select
import time
from collections.abc import Sequence
from typing import NamedTuple

from bench.session import TIMEOUT_S, NoReplyError


class Client(NamedTuple):
    """The two descriptors of a connection to a server; both may be the same."""

    requests: int
    replies: int


def run_clients(clients: Sequence[Client], request: bytes, reply: bytes, count: int) -> float:
    """Return the seconds of `count` requests; each client sends its next one after its reply.

    Requests and replies must be so short that write(2) and read(2) transfer them whole.

    Raises:
        NoReplyError: a reply is wrong, or does not come.

    """
    requests = {client.replies: client.requests for client in clients}
    unsent, unanswered = count, count
    with select.epoll() as poll:
        for descriptor in requests:
            poll.register(descriptor, select.EPOLLIN)
        start = time.perf_counter()
        for client in clients[:unsent]:
            os.write(client.requests, request)
        unsent -= len(clients[:unsent])
        while unanswered:
            ready = poll.poll(TIMEOUT_S)
            if not ready:
                raise NoReplyError(
                    f"{unanswered} of {count} requests have no reply after {TIMEOUT_S} s"
                )
            for descriptor, _ in ready:
                answer = os.read(descriptor, len(reply) + 1)
                if answer != reply:
                    raise NoReplyError(f"the server replied {answer!r}, expected {reply!r}")
                unanswered -= 1
                if unsent:
                    os.write(requests[descriptor], request)
                    unsent -= 1
        return time.perf_counter() - start
