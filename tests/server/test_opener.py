"""The opener of a client's pipes: retries, progress, failures and the deadline."""

import errno
from collections.abc import Iterator
from typing import cast

import pytest

from kvs.server.handshake import OPEN_TIMEOUT_SECONDS, Handshake
from kvs.server.opener import PipeOpener
from tests.server.fake_loop import FakeLoop


class FakeHandshake:
    """A handshake without pipes: a test says what the next attempt finds."""

    def __init__(self, pipes: int = 3) -> None:
        self.unopened = pipes
        self.opening = 0
        """Number of pipes that the client has opened and no attempt has found."""
        self.error: OSError | None = None
        self.attempts = 0
        self.missing = "requests"

    @property
    def is_complete(self) -> bool:
        return not self.unopened

    def attempt(self) -> bool:
        self.attempts += 1
        if self.error is not None:
            raise self.error
        found, self.opening = self.opening, 0
        self.unopened -= found
        return found > 0


class Opening:
    """An opener, and what it reported: "progress", or a reason for failure."""

    def __init__(self, loop: FakeLoop) -> None:
        self.handshake = FakeHandshake()
        self.reported: list[str] = []
        self.opener = PipeOpener(
            cast("Handshake", self.handshake), loop, self._on_progress, self._on_failure
        )
        self.opener.start()

    def _on_progress(self) -> None:
        self.reported.append("progress")

    def _on_failure(self, reason: str) -> None:
        self.reported.append(reason)
        self.opener.cancel()


@pytest.fixture(name="loop")
def _loop() -> Iterator[FakeLoop]:
    loop = FakeLoop()
    yield loop
    loop.close()


def test_each_opened_pipe_is_reported_until_all_are_open(loop: FakeLoop) -> None:
    opening = Opening(loop)
    for opened in range(1, 4):
        opening.handshake.opening = 1
        loop.pass_time(0.001)
        assert opening.reported == ["progress"] * (1 + opened)
    assert loop.waiting == 0


def test_attempts_become_rarer_without_progress(loop: FakeLoop) -> None:
    opening = Opening(loop)
    counts = []
    for _ in range(3):
        before = opening.handshake.attempts
        loop.pass_time(1)
        counts.append(opening.handshake.attempts - before)
    assert counts[0] > counts[1] == pytest.approx(counts[2], abs=1)
    assert 45 <= counts[2] <= 51


def test_progress_makes_attempts_frequent_and_prolongs_the_deadline(loop: FakeLoop) -> None:
    opening = Opening(loop)
    loop.pass_time(OPEN_TIMEOUT_SECONDS - 0.5)
    opening.handshake.opening = 1
    loop.pass_time(0.02)
    assert opening.reported == ["progress", "progress"]
    before = opening.handshake.attempts
    loop.pass_time(0.02)
    assert opening.handshake.attempts - before >= 10
    loop.pass_time(OPEN_TIMEOUT_SECONDS - 0.5)
    assert opening.reported == ["progress", "progress"]


def test_missing_pipes_are_reported_at_the_deadline(loop: FakeLoop) -> None:
    opening = Opening(loop)
    loop.pass_time(2 * OPEN_TIMEOUT_SECONDS)
    assert opening.reported == ["progress", "the client did not open requests within 5 s"]
    assert loop.waiting == 0


def test_unusable_pipe_is_reported_at_once(loop: FakeLoop) -> None:
    opening = Opening(loop)
    opening.handshake.error = PermissionError(errno.EACCES, "Permission denied")
    loop.pass_time(0.001)
    assert opening.reported[1:] == ["cannot open the client's pipes: Permission denied"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_lack_of_descriptors_is_retried(loop: FakeLoop, number: int) -> None:
    opening = Opening(loop)
    opening.handshake.error = OSError(number, "no descriptor")
    loop.pass_time(1)
    assert opening.reported == ["progress"]
    opening.handshake.error, opening.handshake.opening = None, 3
    loop.pass_time(1)
    assert opening.reported == ["progress", "progress"]


def test_cancelled_opener_makes_no_attempt(loop: FakeLoop) -> None:
    opening = Opening(loop)
    opening.opener.cancel()
    loop.pass_time(2 * OPEN_TIMEOUT_SECONDS)
    assert (opening.handshake.attempts, opening.reported) == (0, ["progress"])
