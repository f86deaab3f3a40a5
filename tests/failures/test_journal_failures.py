"""Real full and failing disks: one line, exit status 1, and an intact store afterwards."""

import errno
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import kvs
from kvs import cli
from kvs.protocol.requests import Execute
from kvs.settings import DataSettings
from tests.cli.test_serve import serving
from tests.failures.conftest import Mount
from tests.helpers import (
    LONG_WAIT,
    SECONDS,
    Ended,
    Start,
    content,
    end,
    started,
    stderr_lines,
    until,
    write_jobs,
)
from tests.helpers import kvs as program
from tests.journal.fake_storage import Fault, install
from tests.server.raw_client import Client

pytestmark = pytest.mark.slow

FULL = "No space left on device"


EXTENT = re.compile(
    r"revisions up to (\d+) (?:were synced, later ones may be lost|are synced"
    r"(?:, up to (\d+) are written but may be lost in a power failure)?, later ones are lost); "
    r"fix the cause and restart"
)


def extent(data: Path, reason: str, ended: Ended) -> tuple[int, int]:
    """Check the message of a failed journal; return the last revisions synced and written."""
    start = f"{data}: cannot write the journal: {reason}; "
    [line] = [line for line in ended.lines if "cannot write the journal" in line]
    before, _, rest = line.partition(start)
    assert before.endswith(": ")
    match = EXTENT.fullmatch(rest)
    assert match, rest
    assert ended.status == 1
    return int(match[1]), int(match[2] or match[1])


def failed(data: Path, reason: str, ended: Ended) -> int:
    """Check the message of a failed journal; return the last revision written."""
    return extent(data, reason, ended)[1]


def numbered(count: int) -> str:
    return "".join(f"WRITE [(k{n},{'v' * 40})(last,{n + 1})]\nREAD [last]\n" for n in range(count))


def check_intact(data: Path, jobs: Path, min_revision: int) -> None:
    """Check that a restart has `min_revision` and every revision that was output."""
    output = content(jobs / "a.out")
    with kvs.Store(data) as store:
        revision = store.revision
        assert revision >= min_revision
        assert revision >= output.count(b"\n")
        assert store.read(["last"]) == ({b"last": b"%d" % revision} if revision else {})
    assert output == b"".join(b"[(last,%d)]\n" % (n + 1) for n in range(output.count(b"\n")))


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
def test_run_over_the_file_size_limit_can_be_resumed(tmp_path: Path, fsync: str) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": numbered(3000)})
    how = Start(limits={resource.RLIMIT_FSIZE: 100_000})
    ended = program("run", "--quiet", jobs, "--data", tmp_path / "d", "--fsync", fsync, how=how)
    synced, written = extent(tmp_path / "d", "File too large", ended)
    assert (
        ended.lines[1]
        == f"{jobs}/a.job: the journal failed, and its changes after revision {written} are lost"
    )
    assert len(ended.lines) == 3
    assert synced == written if fsync == "always" else synced <= written
    with kvs.Store(tmp_path / "d") as store:
        assert store.revision == written  # exactly, since only the process has ended
    check_intact(tmp_path / "d", jobs, written)
    output = content(jobs / "a.out")
    ended = program("run", "--quiet", jobs, "--data", tmp_path / "d", "--resume")
    assert ended.status == 0
    assert content(jobs / "a.out").startswith(output)
    check_intact(tmp_path / "d", jobs, 3000)


def test_run_on_a_full_disk_can_be_resumed(mount: Mount, tmp_path: Path) -> None:
    place = mount("size=300k,mode=755")
    jobs = write_jobs(tmp_path / "jobs", {"a": numbered(5000)})
    ended = program("run", "--quiet", jobs, "--data", place / "d")
    check_intact(place / "d", jobs, failed(place / "d", FULL, ended))
    again = program("run", "--quiet", jobs, "--data", place / "d", "--resume")
    failed(place / "d", FULL, again)
    subprocess.run(["mount", "-o", "remount,size=30m", place], check=True)
    again = program("run", "--quiet", jobs, "--data", place / "d", "--resume")
    assert again.status == 0
    check_intact(place / "d", jobs, 5000)


def test_directory_on_a_full_disk_is_not_created(mount: Mount, tmp_path: Path) -> None:
    place = mount("size=64k,mode=755")
    free = os.statvfs(place)
    (place / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize))
    ended = program("run", write_jobs(tmp_path / "jobs", {}), "--data", place / "d")
    assert ended.status == 2
    [line] = ended.lines
    assert line == f"kvs run: {place}/d: cannot create the journal: {FULL}"


def test_compaction_without_space_fails_alone(mount: Mount, tmp_path: Path) -> None:
    place = mount("size=4m,mode=755")
    with kvs.Store(place / "d") as store:
        store.write({f"key{number}": "x" * 40 for number in range(30_000)})
        free = os.statvfs(place)
        (place / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize))
        with pytest.raises(kvs.SnapshotError) as error:
            store.compact()
        assert re.fullmatch(
            r"it may take \d+ bytes more than are free; free disk space", error.value.reason
        )
        (place / "filler").unlink()
        assert store.compact() is not None
        assert store.write({"more": "1"}) == 2
    with kvs.Store(place / "d") as store:
        assert len(store) == 30_001
        assert not list((place / "d").glob(".kvs-*"))


def test_server_over_the_file_size_limit_exits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # see `tests.helpers.without_files`
    data = tmp_path / "d"
    with serving("--data", str(data), "--log-level", "error", a="WAIT 3600000\n") as server:
        writer, watcher = (Client(server, name).connected() for name in "wx")
        watcher.subscribe(b"k")
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
        acknowledged = 0
        script = b"".join(b"WRITE [(k,1)(%s,x)]\n" % (b"y" * 40) for _ in range(20))
        while True:
            try:
                writer.send(Execute(script).encode())
                assert writer.executed() == (0, b"", b"")
            except (AssertionError, BrokenPipeError):
                break
            acknowledged += 20
        watcher.drain("not")
        assert watcher.at_end("resp")
        _, log = server.process.communicate(timeout=SECONDS)
        assert server.process.returncode == 1
        lines = stderr_lines(log)
        assert len([line for line in lines if line.startswith("kvs serve: ")]) == 1
        ended = Ended(
            1, b"", b"".join(line.encode() + b"\n" for line in lines if "kvs serve: " in line)
        )
        written = failed(data, "File too large", ended)
        # A script is executed in slices, and some of the last may have been written.
        assert 0 < acknowledged <= written < acknowledged + 20
        assert not server.path.exists()
    with kvs.Store(data) as store:
        assert store.revision >= acknowledged


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (errno.EIO, "before sync"),
        (errno.EIO, "after sync"),
        (errno.ENOSPC, "within append"),
    ],
)
def test_run_with_a_failing_disk_fails_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    number: int,
    step: str,
) -> None:
    fault = Fault(step, number, spared=int("sync" in step))  # the open syncs once
    install(monkeypatch, fault)
    data = tmp_path / "d"
    jobs = write_jobs(tmp_path / "jobs", {"a": numbered(10) + "WAIT 1\n" + numbered(10)})
    with kvs.Store(data):
        pass
    fault.armed = True
    status = cli.main(["run", "--quiet", str(jobs), "--data", str(data)])
    out, err = capfd.readouterr()
    assert out == ""
    assert failed(data, os.strerror(number), Ended(status, b"", err.encode())) == 0
    assert content(jobs / "a.out") == b""
    fault.armed = False
    assert cli.main(["run", "--quiet", str(jobs), "--data", str(data), "--resume"]) == 0
    assert fault.failed == (2 if number == errno.ENOSPC else 1)  # retried once with the reserve


def test_failed_sync_at_the_end_of_a_run_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fault = Fault(spared=2)  # of what was recovered, and that the store is open
    install(monkeypatch, fault)
    data = tmp_path / "d"
    jobs = write_jobs(tmp_path / "jobs", {"a": numbered(3)})
    with kvs.Store(data):
        pass
    fault.armed = True
    lazy = ("--fsync", "interval", "--fsync-interval", "3600")
    status = cli.main(["run", "--quiet", str(jobs), "--data", str(data), *lazy])
    _, err = capfd.readouterr()
    assert len(err.splitlines()) == 1
    assert failed(data, "Input/output error", Ended(status, b"", err.encode())) == 0


SEGMENT = "0000000001.journal"


def _replaced(data: Path) -> None:
    data.rename(data.with_name("elsewhere"))
    shutil.copytree(data.with_name("elsewhere"), data)


def _segment_replaced(data: Path) -> None:
    shutil.copy(data / SEGMENT, data / "copy")
    (data / "copy").rename(data / SEGMENT)


def _grown(data: Path) -> None:
    with open(data / SEGMENT, "ab") as file:
        file.write(b"WRITE [(mine,1)]\n")


REPLACED = "was removed, renamed or replaced"
LENGTH = f"{SEGMENT} was truncated or extended by another process"
TAMPERING: list[tuple[Callable[[Path], object], str]] = [
    (shutil.rmtree, f"the directory {REPLACED}"),
    (lambda data: data.rename(data.with_name("elsewhere")), f"the directory {REPLACED}"),
    (_replaced, f"the directory {REPLACED}"),
    (lambda data: (data / SEGMENT).unlink(), f"{SEGMENT} {REPLACED}"),
    (_segment_replaced, f"{SEGMENT} {REPLACED}"),
    (_grown, LENGTH),
    (lambda data: os.truncate(data / SEGMENT, 100), LENGTH),
]


@pytest.mark.parametrize(("tamper", "reason"), TAMPERING)
@pytest.mark.parametrize("fsync", ["always", "never"])
def test_tampering_ends_the_journal(
    tmp_path: Path, tamper: Callable[[Path], object], reason: str, fsync: str
) -> None:
    """In an idle store, and in one that is closed before the next check."""
    for idle in (True, False):
        data = tmp_path / f"{idle}"
        store = kvs.Store(data, DataSettings(fsync))
        store.write({"a": "1"})
        tamper(data)
        if idle:
            until(lambda: store.failure)  # noqa: B023
            with pytest.raises(kvs.JournalWriteError):
                store.write({"a": "2"})
        with pytest.raises(kvs.JournalWriteError) as failed:
            store.close()
        assert failed.value.reason == reason
        shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)


def test_change_of_working_directory_is_not_tampering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with kvs.Store("d") as store:
        store.write({"a": "1"})
        monkeypatch.chdir("/")


def test_run_stops_when_its_data_directory_is_removed(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "WRITE [(a,1)]\nREAD [a]\n" + LONG_WAIT})
    data = tmp_path / "d"
    with started("run", "--quiet", jobs, "--data", data) as process:
        until(lambda: content(jobs / "a.out").startswith(b"[(a,1)]\n"))
        shutil.rmtree(data)
        failed(data, "the directory was removed, renamed or replaced", end(process))


def test_server_exits_when_its_data_directory_is_removed(tmp_path: Path) -> None:
    data = tmp_path / "d"
    with serving("--data", str(data), "--log-level", "error") as server:
        watcher = Client(server, "w").connected()
        watcher.subscribe(b"k")
        shutil.rmtree(data)
        _, log = server.process.communicate(timeout=SECONDS)
        ended = Ended(server.process.returncode, b"", log)
        assert failed(data, "the directory was removed, renamed or replaced", ended) == 0
        assert watcher.at_end("resp")
        assert len(ended.lines) == 1
