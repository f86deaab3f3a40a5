"""The log of refusals: the first of a kind at once, repeats as numbers, in a bounded number."""

from collections.abc import Iterator

import pytest

from kvs.server.refusals import EXCERPT_BYTES, MAX_KINDS, REPEAT_SECONDS, RefusalLog, excerpt
from tests.server.fake_loop import FakeLoop


@pytest.fixture(name="loop")
def _loop(caplog: pytest.LogCaptureFixture) -> Iterator[FakeLoop]:
    caplog.set_level("INFO", "kvs.server")
    loop = FakeLoop()
    yield loop
    loop.close()


def test_repeats_are_logged_as_a_number(loop: FakeLoop, caplog: pytest.LogCaptureFixture) -> None:
    refusals = RefusalLog(loop)
    for data in (b"a", b"b", b"a", b"a"):
        refusals.add("refused", data)
    first = ["refused: 1 byte: a", "refused: 1 byte: b"]
    assert caplog.messages == first
    loop.pass_time(REPEAT_SECONDS)
    assert caplog.messages == [*first, "refused: 1 byte: a: 2 more"]


def test_kind_is_logged_again_after_its_numbers(
    loop: FakeLoop, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = RefusalLog(loop)
    for _ in range(2):
        refusals.add("refused", b"a")
        loop.pass_time(REPEAT_SECONDS)
    assert caplog.messages == ["refused: 1 byte: a"] * 2
    assert loop.waiting == 0


def test_kinds_beyond_the_limit_are_only_counted(
    loop: FakeLoop, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = RefusalLog(loop)
    for number in range(MAX_KINDS + 3):
        refusals.add(f"{number}", b"")
    assert len(caplog.messages) == MAX_KINDS
    refusals.report()
    assert caplog.messages[MAX_KINDS:] == ["others refused: 3 more"]
    assert loop.waiting == 0


def test_excerpt_is_printable_and_bounded() -> None:
    assert excerpt(b"\x01/a\n\0\0\0\0b") == r"9 bytes: \x01/a\n\x00b"
    assert excerpt(b"") == "0 bytes: "
    long = excerpt(b"x" * 5000)
    assert long.startswith("5000 bytes: " + "x" * EXCERPT_BYTES)
    assert len(long) < EXCERPT_BYTES + 30
