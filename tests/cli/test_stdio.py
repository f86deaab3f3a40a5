"""Writing to stdout and stderr that are closed, full or without a reader."""

import io
import os
import sys
from collections.abc import Callable
from typing import TextIO

import pytest

from kvs.cli.stdio import (
    StdoutClosed,
    StdoutError,
    flush_at_exit,
    print_error,
    print_result,
    write_result,
)

WRITERS: list[Callable[[], None]] = [lambda: print_result("x"), lambda: write_result(b"x\n")]


def full() -> TextIO:
    """Return a stream that cannot be written."""
    return open("/dev/full", "w")


def closed_pipe() -> TextIO:
    """Return a stream whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


@pytest.mark.parametrize("write", WRITERS)
def test_missing_stdout_is_an_error(
    monkeypatch: pytest.MonkeyPatch, write: Callable[[], None]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(StdoutError, match="stdout is closed: the results cannot be written"):
        write()


@pytest.mark.parametrize("write", WRITERS)
def test_full_stdout_is_an_error_with_its_cause(
    monkeypatch: pytest.MonkeyPatch, write: Callable[[], None]
) -> None:
    with full() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(StdoutError, match="cannot write the results: No space left") as caught:
            write()
        assert not isinstance(caught.value, StdoutClosed)


@pytest.mark.parametrize("write", WRITERS)
def test_stdout_without_a_reader_is_an_error_of_its_own(
    monkeypatch: pytest.MonkeyPatch, write: Callable[[], None]
) -> None:
    with closed_pipe() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(StdoutClosed):
            write()


def test_result_is_encoded_as_stdout_is(capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.TextIOWrapper(
        os.fdopen(os.dup(1), "wb"), encoding="ascii", errors="backslashreplace"
    )
    with pytest.MonkeyPatch.context() as patch, stream:
        patch.setattr(sys, "stdout", stream)
        print_result("é")
    assert capfd.readouterr() == ("\\xe9\n", "")


def test_lost_stderr_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    print_error("nobody reads this")
    stream = full()
    monkeypatch.setattr(sys, "stderr", stream)
    print_error("nor this")
    flush_at_exit()
    stream.close()


def test_exit_discards_what_cannot_be_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout, stderr = full(), closed_pipe()
    for stream in (stdout, stderr):
        stream.write("buffered")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    flush_at_exit()
    for stream in (stdout, stderr):
        assert os.readlink(f"/proc/self/fd/{stream.fileno()}") == os.devnull
        stream.close()
    flush_at_exit()
