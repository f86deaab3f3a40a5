"""A job's output, which is written when it is committed."""

import errno
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from kvs.errors import JobError, JournalWriteError
from kvs.jobs import output as output_module
from kvs.jobs.output import JobOutput
from kvs.library import Store
from tests.helpers import content
from tests.journal.fake_storage import Fault, Gate, install


@pytest.fixture(autouse=True)
def no_batching(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write committed output at once, without waiting for more."""
    monkeypatch.setattr(output_module, "FLUSH_INTERVAL_SECONDS", 0)


def opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def test_output_of_an_in_memory_store_is_written_at_once(tmp_path: Path) -> None:
    output = JobOutput(opened(tmp_path / "a.out"), "a.out", Store()._core)
    output.write(b"one\n")
    assert (content(tmp_path / "a.out"), output.size) == (b"one\n", 4)
    output.write(b"")
    output.sync()
    output.close()


def test_small_output_waits_for_more_for_a_limited_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "WRITE_THRESHOLD_BYTES", 10)
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(output_module, "FLUSH_INTERVAL_SECONDS", 1)
    output = JobOutput(opened(tmp_path / "a.out"), "a.out", Store()._core)
    expected = b""
    for seconds, text, written in (
        (0, b"one\n", True),
        (0.5, b"two\n", False),
        (0.4, b"three\n", True),
        (0.5, b"four\n", False),
        (0.5, b"five\n", True),
        (0.1, b"six\n", False),
    ):
        now += seconds
        output.write(text)
        expected += text
        assert (content(tmp_path / "a.out") == expected) is written
    output.close()
    assert content(tmp_path / "a.out") == expected


def test_output_is_not_written_before_it_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    install(monkeypatch, gate)
    with Store(tmp_path / "d") as store:
        output = JobOutput(opened(tmp_path / "a.out"), "a.out", store._core)
        store.execute(b"WRITE [(a,1)]\n")
        output.flush()
        output.write(b"one\n")
        assert content(tmp_path / "a.out") == b"one\n"
        with gate.shut():
            store.execute(b"WRITE [(a,2)]\n")
            output.write(b"two\n")
            gate.wait_until_held()
            output.write(b"three\n")
            assert (content(tmp_path / "a.out"), output.size) == (b"one\n", 4)
        output.flush()
        assert content(tmp_path / "a.out") == b"one\ntwo\nthree\n"
        output.close()


def test_buffered_output_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_module, "MAX_BUFFERED_BYTES", 10)
    with Store(tmp_path / "d") as store:
        output = JobOutput(opened(tmp_path / "a.out"), "a.out", store._core)
        for number in range(20):
            store.execute(b"WRITE [(a,%d)]\n" % number)
            output.write(b"%03d\n" % number)
            assert output.size >= 4 * (number + 1) - 12
        output.flush()
        assert output.size == 80
        output.close()


def test_output_is_not_written_after_the_journal_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault()
    install(monkeypatch, fault)
    store = Store(tmp_path / "d")
    output = JobOutput(opened(tmp_path / "a.out"), "a.out", store._core)
    fault.armed = True
    store.execute(b"WRITE [(a,1)]\n")
    with suppress(JournalWriteError):  # detected by now, or not yet
        output.write(b"one\n")
    with pytest.raises(JournalWriteError):
        output.flush()
    output.close()
    assert content(tmp_path / "a.out") == b""
    with pytest.raises(JournalWriteError):
        store.close()


def test_failed_write_is_reported_and_its_part_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = JobOutput(opened(tmp_path / "a.out"), "a.out", Store()._core)
    output.write(b"one\n")

    def half(file: int, *pieces: bytes) -> None:
        os.write(file, b"".join(pieces)[:2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(output_module, "write_all", half)
    with pytest.raises(JobError) as raised:
        output.write(b"two\n")
    assert str(raised.value) == "a.out: cannot write the output: No space left on device"
    assert (content(tmp_path / "a.out"), output.size) == (b"one\n", 4)
    output.close()
    with pytest.raises(JobError, match="cannot write the output: Bad file descriptor"):
        output.sync()
    with pytest.raises(JobError, match="cannot write the output: Bad file descriptor"):
        output.close()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), MemoryError()])
def test_no_output_is_written_after_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    gate = Gate()
    install(monkeypatch, gate)
    with Store(tmp_path / "d") as store:
        output = JobOutput(opened(tmp_path / "a.out"), "a.out", store._core)
        output.write(b"one\n")
        output.flush()
        with gate.shut():
            store.execute(b"WRITE [(a,1)]\n")
            output.write(b"two\n")
        store.commit_point().wait()

        def fail(file: int, *pieces: bytes) -> None:
            os.write(file, pieces[0][:2])
            raise error

        with gate.shut(), monkeypatch.context() as patched:
            patched.setattr(output_module, "write_all", fail)
            store.execute(b"WRITE [(a,2)]\n")
            with pytest.raises(JobError if isinstance(error, OSError) else MemoryError):
                output.write(b"three\n")
        store.commit_point().wait()
        output.close()
    assert content(tmp_path / "a.out") == b"one\n"
