"""The snapshot writer: the child's state, its failures, and the files that remain."""

import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvs.engine.python_table import Table, ordered
from kvs.errors import SnapshotError
from kvs.language import output_format
from kvs.posix.files import open_directory
from kvs.snapshot.writer import SnapshotWriter

pytestmark = pytest.mark.usefixtures("each_engine")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    descriptor = open_directory(os.fsencode(tmp_path))
    yield descriptor
    os.close(descriptor)


def do_nothing() -> None:
    """Wait for no commit."""


def test_snapshot_has_the_pairs_at_the_fork(directory: int, tmp_path: Path) -> None:
    table = Table({b"a": b"1"})
    snapshot = SnapshotWriter(directory, b"x.bck", "x.bck")
    snapshot.fork(7, len(table), lambda: output_format.format_listing(ordered(table)))
    table[b"b"] = b"2"
    info = snapshot.finish(do_nothing)
    assert (info.revision, info.pairs, info.bytes) == (7, 1, 7)
    assert (tmp_path / "x.bck").read_bytes() == b"(a, 1)\n"
    assert stat.S_IMODE((tmp_path / "x.bck").stat().st_mode) == 0o600


def test_child_has_only_its_file_and_ignores_signals(directory: int, tmp_path: Path) -> None:
    reader, writer = os.pipe()

    def blocks() -> Iterator[bytes]:
        # In the child: write its descriptors and signals to the snapshot.
        descriptors = len(os.listdir("/proc/self/fd")) - 1
        ignored = Path("/proc/self/status").read_text().split("SigIgn:\t")[1].split()[0]
        blocked = Path("/proc/self/status").read_text().split("SigBlk:\t")[1].split()[0]
        yield f"{descriptors} {ignored} {blocked}\n".encode()
        yield b"(a, 1)\n"

    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        snapshot = SnapshotWriter(directory, b"x.bck", "x.bck")
        snapshot.fork(1, 1, blocks)
        snapshot.finish(do_nothing)
    finally:
        signal.signal(signal.SIGTERM, before)
        for descriptor in (reader, writer):
            os.close(descriptor)
    first, rest = (tmp_path / "x.bck").read_bytes().split(b"\n", 1)
    descriptors, ignored, blocked = first.split()
    assert rest == b"(a, 1)\n"
    assert int(descriptors) == 1
    for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        assert int(ignored, 16) >> (number - 1) & 1
    assert not int(ignored, 16) >> (signal.SIGTERM - 1) & 1
    assert int(blocked, 16) == 0


def test_child_closes_the_pipes_of_the_parent_first(
    directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registration pipe of a killed server must have no reader, or a connect would be lost."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    snapshot = SnapshotWriter(directory, b"x.bck", "x.bck")

    def record_state() -> None:
        state = "open" if reader in map(int, os.listdir("/proc/self/fd")) else "closed"
        (tmp_path / "state").write_text(state)

    monkeypatch.setattr("kvs.snapshot.writer.gc.disable", record_state)
    snapshot.fork(1, 1, list)
    monkeypatch.undo()
    os.close(reader)
    snapshot.finish(do_nothing)
    assert (tmp_path / "state").read_text() == "closed"


def test_child_syncs_after_every_sync_bytes(
    directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvs.snapshot.writer.SYNC_BYTES", 1000)

    def recording(name: str, real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(file: int) -> None:
            with open(tmp_path / "syncs", "a") as syncs:
                syncs.write(f"{name} {os.fstat(file).st_size} ")
            real(file)

        return sync

    for name in ("fdatasync", "fsync"):
        monkeypatch.setattr(os, name, recording(name, getattr(os, name)))
    snapshot = SnapshotWriter(directory, b"x.bck", "x.bck")
    snapshot.fork(1, 1, lambda: [b"x" * 400] * 7)
    assert snapshot.finish(do_nothing, commit=lambda _: None).bytes == 2800
    assert (tmp_path / "syncs").read_text() == "fdatasync 1200 fdatasync 2400 fsync 2800 "


def test_killed_child_is_reported_and_leaves_no_file(directory: int, tmp_path: Path) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"half"
        os.kill(os.getpid(), signal.SIGKILL)

    snapshot = SnapshotWriter(directory, b"x.bck", "jobs/x.bck")
    snapshot.fork(1, 0, blocks)
    with pytest.raises(SnapshotError) as caught:
        snapshot.finish(do_nothing)
    assert str(caught.value) == ("jobs/x.bck: not written: its process was killed by SIGKILL")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "full"), "No space left on device"),
        (MemoryError(), "Cannot allocate memory"),
        (RuntimeError("a defect"), "its process failed for an unknown reason"),
    ],
)
def test_failed_child_reports_its_error_number(
    directory: int, tmp_path: Path, error: Exception, reason: str
) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"half"
        raise error

    snapshot = SnapshotWriter(directory, b"x.bck", "x.bck")
    snapshot.fork(1, 0, blocks)
    with pytest.raises(SnapshotError, match=reason):
        snapshot.finish(do_nothing)
    assert os.listdir(tmp_path) == []


def test_child_reaped_by_other_code_is_a_failure(directory: int, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        snapshot = SnapshotWriter(directory, b"x.bck", "x.bck")
        snapshot.fork(1, 0, list)
        with pytest.raises(SnapshotError, match="SIGCHLD"):
            snapshot.finish(do_nothing)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert os.listdir(tmp_path) == []


def test_kill_child_leaves_no_file(directory: int, tmp_path: Path) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"half"
        signal.pause()

    snapshot = SnapshotWriter(directory, b"x.bck", "x.bck")
    snapshot.fork(1, 0, blocks)
    snapshot.kill_child()
    assert os.listdir(tmp_path) == []
    with pytest.raises(SnapshotError, match="SIGKILL"):
        snapshot.finish(do_nothing)


def test_cancel_leaves_no_file_and_no_descriptor(directory: int, tmp_path: Path) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"half"
        signal.pause()

    other = subprocess.Popen(["sleep", "60"])
    try:
        before = os.listdir("/proc/self/fd")
        for forked in (False, True):
            snapshot = SnapshotWriter(directory, b"x.bck", "x.bck")
            if forked:
                snapshot.fork(1, 0, blocks)
            for _ in range(2):
                snapshot.cancel()  # waits for its own child only
            assert os.listdir(tmp_path) == []
            assert os.listdir("/proc/self/fd") == before
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_cancel_after_finish_leaves_the_file(directory: int, tmp_path: Path) -> None:
    snapshot = SnapshotWriter(directory, b"x.bck", "x.bck")
    snapshot.fork(1, 0, list)
    snapshot.finish(do_nothing)
    snapshot.cancel()
    assert os.listdir(tmp_path) == ["x.bck"]


def test_fork_restores_the_signal_mask(directory: int) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    snapshot = SnapshotWriter(directory, b"x.bck", "x.bck")
    snapshot.fork(1, 0, list)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    snapshot.finish(do_nothing)
