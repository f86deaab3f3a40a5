"""Many clients, each with one request on its way, driven by this process."""

import os
import select
import time
from collections.abc import Sequence
from typing import NamedTuple

from bench.session import ANSWER_SECONDS, NoAnswer


class Client(NamedTuple):
    """Two descriptors that lead to a server, which may be the same."""

    requests: int
    replies: int


def flown(clients: Sequence[Client], request: bytes, reply: bytes, count: int) -> float:
    """Have `count` requests answered, each client sending its next one when it has its reply.

    Requests and replies are so short that they are written, and come, whole. Returns the seconds.

    Raises:
        ConnectTimeoutError: a reply is another, or does not come.

    """
    of_replies = {client.replies: client.requests for client in clients}
    to_send, to_come = count, count
    with select.epoll() as poll:
        for descriptor in of_replies:
            poll.register(descriptor, select.EPOLLIN)
        began = time.perf_counter()
        for client in clients[:to_send]:
            os.write(client.requests, request)
        to_send -= len(clients[:to_send])
        while to_come:
            ready = poll.poll(ANSWER_SECONDS)
            if not ready:
                raise NoAnswer(f"{to_come} of {count} requests were not answered")
            for descriptor, _ in ready:
                found = os.read(descriptor, len(reply) + 1)
                if found != reply:
                    raise NoAnswer(f"the server answered {found!r}, not {reply!r}")
                to_come -= 1
                if to_send:
                    os.write(of_replies[descriptor], request)
                    to_send -= 1
        return time.perf_counter() - began
