"""The three pipes of a session."""

import os
from pathlib import Path

import pytest

from kvs.posix.fifos import Fifo
from kvs.server.pipes import ConnectedPipes


@pytest.fixture(name="pipes")
def _pipes(tmp_path: Path) -> ConnectedPipes:
    opened = []
    for name in (b"a\n.req", b"a.resp", b"a.not"):
        path = os.path.join(os.fsencode(tmp_path), name)
        os.mkfifo(path)
        opened.append(Fifo.open_path(path))
    return ConnectedPipes(*opened)


def test_pipes_are_in_the_order_of_the_frame(pipes: ConnectedPipes) -> None:
    assert pipes.all == (pipes.requests, pipes.responses, pipes.notifications)
    pipes.close()


def test_name_is_the_printable_path_of_requests(pipes: ConnectedPipes, tmp_path: Path) -> None:
    assert pipes.name == rf"{tmp_path}/a\n.req"
    pipes.close()


def test_close_leaves_opened_ends_open(pipes: ConnectedPipes) -> None:
    reader = pipes.requests.open_for_reading()
    handles = [pipe.handle for pipe in pipes.all]
    pipes.close()
    for handle in handles:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(handle)
    os.fstat(reader)
    os.close(reader)
