"""The child: its own instant, nothing of the parent's, and failures that say why."""

import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvs.engine.python import Table, ordered
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


def test_the_snapshot_is_of_the_instant_of_the_fork(directory: int, tmp_path: Path) -> None:
    table = Table({b"a": b"1"})
    draft = SnapshotWriter(directory, b"x.bck", "x.bck")
    draft.fork(7, len(table), lambda: output_format.format_listing(ordered(table)))
    table[b"b"] = b"2"
    written = draft.finish()
    assert (written.revision, written.pairs, written.bytes) == (7, 1, 7)
    assert (tmp_path / "x.bck").read_bytes() == b"(a, 1)\n"
    assert stat.S_IMODE((tmp_path / "x.bck").stat().st_mode) == 0o600


def test_a_child_has_no_descriptor_but_its_files_and_ignores_the_parents_signals(
    directory: int, tmp_path: Path
) -> None:
    reader, writer = os.pipe()

    def blocks() -> Iterator[bytes]:
        # In the child: tell of its descriptors and signals through the snapshot itself.
        descriptors = len(os.listdir("/proc/self/fd")) - 1
        ignored = Path("/proc/self/status").read_text().split("SigIgn:\t")[1].split()[0]
        blocked = Path("/proc/self/status").read_text().split("SigBlk:\t")[1].split()[0]
        yield f"{descriptors} {ignored} {blocked}\n".encode()
        yield b"(a, 1)\n"

    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        draft = SnapshotWriter(directory, b"x.bck", "x.bck")
        draft.fork(1, 1, blocks)
        draft.finish()
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


def test_a_child_closes_the_parents_pipes_before_anything_else(
    directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed server's registration pipe must have no reader any more, so no connect is lost."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    draft = SnapshotWriter(directory, b"x.bck", "x.bck")

    def look() -> None:
        still = "open" if reader in map(int, os.listdir("/proc/self/fd")) else "closed"
        (tmp_path / "state").write_text(still)

    monkeypatch.setattr("kvs.snapshot.writer.gc.disable", look)
    draft.fork(1, 1, list)
    monkeypatch.undo()
    os.close(reader)
    draft.finish()
    assert (tmp_path / "state").read_text() == "closed"


def test_a_child_syncs_as_it_goes_so_that_nobody_waits_long_for_its_data(
    directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvs.snapshot.writer.SYNC_BYTES", 1000)

    def told(name: str, real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(file: int) -> None:
            with open(tmp_path / "told", "a") as told:
                told.write(f"{name} {os.fstat(file).st_size} ")
            real(file)

        return sync

    for name in ("fdatasync", "fsync"):
        monkeypatch.setattr(os, name, told(name, getattr(os, name)))
    draft = SnapshotWriter(directory, b"x.bck", "x.bck")
    draft.fork(1, 1, lambda: [b"x" * 400] * 7)
    assert draft.finish(commit=lambda _: None).bytes == 2800
    assert (tmp_path / "told").read_text() == "fdatasync 1200 fdatasync 2400 fsync 2800 "


def test_a_child_that_is_killed_is_reported_and_leaves_nothing(
    directory: int, tmp_path: Path
) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"half"
        os.kill(os.getpid(), signal.SIGKILL)

    draft = SnapshotWriter(directory, b"x.bck", "jobs/x.bck")
    draft.fork(1, 0, blocks)
    with pytest.raises(SnapshotError) as caught:
        draft.finish()
    assert str(caught.value) == (
        "jobs/x.bck: no snapshot was written: its process was killed by SIGKILL"
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "full"), "No space left on device"),
        (MemoryError(), "Cannot allocate memory"),
        (RuntimeError("a defect"), "its process failed for an unknown reason"),
    ],
)
def test_a_child_that_fails_says_why_by_its_exit_status(
    directory: int, tmp_path: Path, error: Exception, reason: str
) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"half"
        raise error

    draft = SnapshotWriter(directory, b"x.bck", "x.bck")
    draft.fork(1, 0, blocks)
    with pytest.raises(SnapshotError, match=reason):
        draft.finish()
    assert os.listdir(tmp_path) == []


def test_a_child_reaped_by_somebody_else_is_a_failure(directory: int, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        draft = SnapshotWriter(directory, b"x.bck", "x.bck")
        draft.fork(1, 0, list)
        with pytest.raises(SnapshotError, match="SIGCHLD"):
            draft.finish()
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert os.listdir(tmp_path) == []


def test_an_abandoned_draft_leaves_nothing(directory: int, tmp_path: Path) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"half"
        signal.pause()

    draft = SnapshotWriter(directory, b"x.bck", "x.bck")
    draft.fork(1, 0, blocks)
    draft.kill_child()
    assert os.listdir(tmp_path) == []
    with pytest.raises(SnapshotError, match="SIGKILL"):
        draft.finish()


def test_a_draft_that_is_cancelled_leaves_nothing(directory: int, tmp_path: Path) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"half"
        signal.pause()

    other = subprocess.Popen(["sleep", "60"])
    try:
        before = os.listdir("/proc/self/fd")
        for forked in (False, True):
            draft = SnapshotWriter(directory, b"x.bck", "x.bck")
            if forked:
                draft.fork(1, 0, blocks)
            for _ in range(2):
                draft.cancel()  # waits for no other child of this process
            assert os.listdir(tmp_path) == []
            assert os.listdir("/proc/self/fd") == before
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_draft_that_is_cancelled_after_its_end_stays_finished(
    directory: int, tmp_path: Path
) -> None:
    draft = SnapshotWriter(directory, b"x.bck", "x.bck")
    draft.fork(1, 0, list)
    draft.finish()
    draft.cancel()
    assert os.listdir(tmp_path) == ["x.bck"]


def test_the_parents_signal_mask_is_as_before(directory: int) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    draft = SnapshotWriter(directory, b"x.bck", "x.bck")
    draft.fork(1, 0, list)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    draft.finish()
