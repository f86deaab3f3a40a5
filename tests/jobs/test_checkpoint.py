"""Jobs that are gone on with after a crash at any step, beside the uninterrupted run."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from kvs.engine.interface import DEFAULT_BUDGET_BYTES, ExecuteResult, JobCursor
from kvs.errors import KvsError
from kvs.jobs import job as job_module
from kvs.jobs.checkpoint import open_checkpoint
from kvs.jobs.report import Report, State
from kvs.jobs.run import JobRun
from kvs.journal import job_records
from kvs.journal.job_records import JobRegistry
from kvs.settings import DataSettings, Settings
from kvs.store.core import StoreCore
from tests.helpers import content, write_jobs
from tests.journal.crash_child import Acknowledge, Work, killed_at_every_step, reopened_as, victim
from tests.journal.fake_storage import put_in

pytestmark = pytest.mark.slow

EVERY_KIND = (
    b"WRITE [(a,1)(b,2)]\n"
    b"READ [a,nothing]\n"
    b"# a comment\n"
    b"\n"
    b"WRITE [(a,3)\n"
    b"DELETE [a,nothing]\n"
    b"SHOW\n"
    b"WAIT 1\n"
    b"BACKUP\n"
    b"HELP\r\n"
    b"WRITE [" + b"".join(b"(long%d,%d)" % (n, n) for n in range(100)) + b"]\n"
    b"READ [" + b",".join(b"long%d" % n for n in range(100)) + b"]\n"
    b"nonsense\n"
    b"BACKUP\n"
    b"DELETE [b]\n"
    b"SHOW\n"
    b"READ [b]"
)
LOST = "it was not finished when the process ended; it is lost"
NEVER = 10**9


@dataclass
class Outcome:
    """What came of a run."""

    report: Report
    told: list[str]
    items: list[tuple[bytes, bytes]]


class Patient(StoreCore):
    """A store in which each call and note is a group of its own on disk, before the next one."""

    def execute(
        self,
        script: bytes,
        start: int = 0,
        budget: int = DEFAULT_BUDGET_BYTES,
        mark: JobCursor | None = None,
    ) -> ExecuteResult:
        pause = super().execute(script, start, budget, mark)
        self.commit_point().wait()
        return pause

    def record_job(self, change: Callable[[JobRegistry], bytes]) -> None:
        super().record_job(change)
        self.commit_point().wait()


def run(
    data: Path,
    jobs: Path,
    *,
    resume: bool = True,
    settings: DataSettings | None = None,
    kind: type[StoreCore] = StoreCore,
) -> Outcome:
    """Run the jobs of a directory to their end, against what `data` keeps."""
    told: list[KvsError] = []
    with reopened_as(kind, data, settings) as store:
        with JobRun(store, jobs, Settings(2, 1, resume), told.append) as jobs_run:
            jobs_run.wait()
        return Outcome(jobs_run.report, [str(error) for error in told], store.items())


def running(
    data: Path, jobs: Path, settings: DataSettings | None = None, kind: type[StoreCore] = StoreCore
) -> Work:
    """Return what runs jobs, for a child that is killed."""

    def carry_out(_acknowledge: Acknowledge) -> None:
        run(data, jobs, settings=settings, kind=kind)

    return carry_out


def results(jobs: Path) -> dict[str, bytes]:
    """Return what jobs have written, by name."""
    return {
        path.name: path.read_bytes() for path in jobs.iterdir() if path.suffix in {".out", ".bck"}
    }


def check_against(
    whole: dict[str, bytes], before: dict[str, bytes], jobs: Path, outcome: Outcome
) -> None:
    """Compare with the uninterrupted run; `before` is what was seen of the first part."""
    after = results(jobs)
    for name, data in before.items():
        assert whole[name].startswith(data), name
    lost = {
        os.path.basename(snapshot.file)
        for job in outcome.report.jobs
        for snapshot in job.backups
        if snapshot.failed
    }
    assert {name: data for name, data in after.items() if name not in lost} == {
        name: data for name, data in whole.items() if name not in lost
    }
    for line in outcome.told:
        assert LOST in line or ".job:5:" in line or ".job:13:" in line, line


@pytest.fixture(name="whole")
def _whole(tmp_path: Path) -> dict[str, bytes]:
    """Return what the job gives that is not interrupted."""
    jobs = write_jobs(tmp_path / "whole", {"a": EVERY_KIND})
    outcome = run(tmp_path / "whole-data", jobs)
    assert outcome.report.jobs[0].state is State.DONE
    assert len(results(jobs)) == 3
    return results(jobs)


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.stress), 5])
@pytest.mark.parametrize("each_by_itself", [True, False])
def test_killed_at_any_step_it_comes_to_the_same(
    tmp_path: Path,
    whole: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    each_by_itself: bool,
    stride: int,
) -> None:
    """With a budget of 0, each command is a call of its own, and can be the last one."""
    settings, kind = DataSettings("never", compact_bytes=300, segment_bytes=300), StoreCore
    if each_by_itself:
        monkeypatch.setattr(job_module, "DEFAULT_BUDGET_BYTES", 0)
        settings, kind = DataSettings(), Patient
    offsets = set()

    def prepared(number: int) -> Work:
        place = tmp_path / f"{number}"
        place.mkdir()
        jobs = write_jobs(place / "jobs", {"a": EVERY_KIND})
        return running(place / "data", jobs, settings, kind)

    for number, _ in killed_at_every_step(prepared, stride):
        place = tmp_path / f"{number}"
        before = results(place / "jobs")
        offsets.add(came_to(place / "data", place / "jobs"))
        outcome = run(place / "data", place / "jobs")
        check_against(whole, before, place / "jobs", outcome)
        [job] = outcome.report.jobs
        assert job.state in {State.DONE, State.DONE_BEFORE}
        if job.state is State.DONE:
            assert (job.commands, job.invalid) == (13, 2)
        shutil.rmtree(place)
    commands = EVERY_KIND.count(b"\n") + 1
    assert len(offsets) >= (commands if each_by_itself else 6) // stride


def came_to(data: Path, jobs: Path) -> int:
    """Return how far the one job of a directory came, as the journal knows; -1 for not at all."""
    offsets = [-1]
    found = jobs.stat()

    def look(known: JobRegistry) -> bytes:
        offsets.extend(
            each.offset for each in known.in_directory(os.statvfs(jobs).f_fsid, found.st_ino)
        )
        return b""

    with reopened_as(StoreCore, data) as store:
        store.record_job(look)
    return offsets[-1]


def test_killed_again_and_again_it_comes_to_the_same(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "DEFAULT_BUDGET_BYTES", 0)
    for step in range(5, 30, 6):
        place = tmp_path / f"{step}"
        place.mkdir()
        jobs = write_jobs(place / "jobs", {"a": EVERY_KIND})
        seen: dict[str, bytes] = {}
        while victim(step, running(place / "data", jobs, kind=Patient))[0]:
            now = results(jobs)
            for name, data in now.items():
                assert whole[name].startswith(data)
            if seen.get("a.out") == now.get("a.out"):
                step += 1  # noqa: PLW2901  (recovery takes steps, too)
            seen = now
        assert run(place / "data", jobs).report.jobs[0].state is State.DONE_BEFORE
        after = results(jobs)
        assert after["a.out"] == whole["a.out"]
        assert after.items() <= whole.items()


def test_nothing_of_a_job_is_seen_before_the_journal_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no answer is given twice, and no snapshot is taken twice."""
    monkeypatch.setattr(job_module, "DEFAULT_BUDGET_BYTES", 0)
    text = b"WRITE [(a,1)]\nSHOW\nBACKUP\nWRITE [(b,1)]\nREAD [a]\nSHOW\nBACKUP\nSHOW\n"
    jobs = write_jobs(tmp_path / "jobs", {"a": text})
    found = jobs.stat()
    looks = []

    def look(name: str) -> None:
        if name == "within append":  # half of a note is no note
            return
        out, snapshots = content(jobs / "a.out"), len(list(jobs.glob("*.bck")))
        known = JobRegistry()
        for segment in (tmp_path / "data").glob("*.journal"):
            known.replay(segment.read_bytes())
        for job in known.in_directory(os.statvfs(jobs).f_fsid, found.st_ino):
            told = b"".join(job.output)
            backups = text[: job.offset].count(b"BACKUP\n")
            looks.append((out, told.startswith(out) or job.done, snapshots <= backups))

    put_in(monkeypatch, look)
    run(tmp_path / "data", jobs, kind=Patient)
    assert len({out for out, *_ in looks}) >= 3
    assert all(out_known and snapshots_known for _, out_known, snapshots_known in looks)


def test_two_jobs_that_share_keys_are_gone_on_with_each_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered stays; nothing is carried out twice, or left out."""
    monkeypatch.setattr(job_module, "DEFAULT_BUDGET_BYTES", 0)
    count = 12
    texts = {
        name: "".join(
            f"WRITE [({name},{n})(both,{name}{n})({name}-{n},x)]\nREAD [{other},{name},both]\n"
            f"DELETE [{name}-{n}]\n" + ("SHOW\n" if n % 4 == 3 else "")
            for n in range(count)
        )
        for name, other in ("ab", "ba")
    }
    rounds = 0
    for number in range(4, 150, 7):
        place = tmp_path / f"{number}"
        place.mkdir()
        jobs = write_jobs(place / "jobs", texts)
        if not victim(number, running(place / "data", jobs, kind=Patient))[0]:
            break
        rounds += 1
        before = results(jobs)
        victim(number, running(place / "data", jobs, kind=Patient))
        between = results(jobs)
        outcome = run(place / "data", jobs)
        after = results(jobs)
        assert outcome.told == []
        for name in "ab":
            out = f"{name}.out"
            assert after[out].startswith(before.get(out, b""))
            assert after[out].startswith(between.get(out, b""))
            lines = [line for line in after[out].split(b"\n") if line.startswith(b"[")]
            assert len(lines) == count
            for n, line in enumerate(lines):
                assert f"({name},{n})".encode() in line
            assert b"KVSMISSING" not in after[out]
        assert {key for key, _ in outcome.items} == {b"a", b"b", b"both"}
        assert outcome.report.revision == 4 * count
    assert rounds > 5


def test_a_job_that_is_done_is_left_alone(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": EVERY_KIND})
    first = run(tmp_path / "data", jobs)
    (jobs / "a.out").write_bytes(b"mine now")
    again = run(tmp_path / "data", jobs)
    [job] = again.report.jobs
    assert (job.state, job.commands, len(again.told)) == (State.DONE_BEFORE, 0, 1)
    assert content(jobs / "a.out") == b"mine now"
    assert again.report.revision == first.report.revision
    assert not again.report.failed
    over = run(tmp_path / "data", jobs, resume=False)
    assert over.report.jobs[0].state is State.DONE
    assert over.report.revision > first.report.revision


@pytest.mark.parametrize("text", ["WRITE [(a,1)]\n", "WRITE [(a,1)]\nREAD [a]\n"])
def test_an_output_and_its_name_are_on_disk_before_its_job_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": text})
    (jobs / "a.out").write_bytes(b"of an earlier run")
    noted: list[object] = []
    fsync, done = os.fsync, job_records.encode_done

    def synced(file: int) -> None:
        fsync(file)
        noted.append(os.fstat(file).st_ino)

    def is_done(number: int) -> bytes:
        noted.append("done")
        return done(number)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(job_records, "encode_done", is_done)
    run(tmp_path / "data", jobs)
    assert noted[-3:] == [(jobs / "a.out").stat().st_ino, jobs.stat().st_ino, "done"]


TO_RUN_IT_AGAIN = (
    "; its job was done before, and is left alone: to have it run again, touch it before the start"
)


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize(
    ("left", "told"),
    [
        (None, "it is gone"),
        (b"", "it has 0 bytes, and had 15 when it was written"),
        (b"[(a,1)]\n(a, 1)\nx", "it has 16 bytes, and had 15 when it was written"),
        (b"[(b,1)]\n(b, 1)\n", None),
    ],
)
def test_an_output_that_is_not_what_a_done_job_left_is_told(
    tmp_path: Path, left: bytes | None, told: str | None, compacted: bool
) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "WRITE [(a,1)]\nREAD [a]\nWAIT 0\nHELPS\nSHOW\n"})
    data = tmp_path / "data"
    run(data, jobs)
    length = len(content(jobs / "a.out"))
    assert length == 15
    if compacted:
        with StoreCore(data) as store:
            store.compact()
    (jobs / "a.out").unlink()
    if left is not None:
        (jobs / "a.out").write_bytes(left)
    again = run(data, jobs)
    assert again.report.jobs[0].state is State.DONE_BEFORE
    assert not again.report.failed
    assert again.told == ([] if told is None else [f"{jobs}/a.out: {told}{TO_RUN_IT_AGAIN}"])
    (jobs / "a.job").touch()
    assert [job.state for job in run(data, jobs).report.jobs] == [State.DONE]


def test_a_done_job_that_was_changed_is_run_again(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "WRITE [(a,1)]\n", "b": "WRITE [(b,1)]\n"})
    run(tmp_path / "data", jobs)
    write_jobs(jobs, {"a": "WRITE [(a,22)]\n"})
    outcome = run(tmp_path / "data", jobs)
    assert [job.state for job in outcome.report.jobs] == [State.DONE, State.DONE_BEFORE]
    assert (outcome.items, outcome.told) == ([(b"a", b"22"), (b"b", b"1")], [])


def half_done(
    tmp_path: Path,
    text: str = "WRITE [(a,1)]\nREAD [a]\nSHOW\nWAIT 3600000\nREAD [a]\n",
    waits: int = 1,
    *,
    compacted: bool = False,
) -> tuple[Path, Path]:
    """Return data and jobs of a run that was stopped in its last WAIT."""
    jobs = write_jobs(tmp_path / "jobs", {"a": text})
    with StoreCore(tmp_path / "data") as store:
        with JobRun(store, jobs, Settings(1, 1, resume=True)) as going:
            while content(jobs / "a.out").count(b"Waiting") < waits:
                assert not going.wait(0.001)
            if compacted:  # what was synced is no more in the journal
                store.compact()
            going.stop()
        assert going.report.jobs[0].state is State.STOPPED
    return tmp_path / "data", jobs


def hurry(jobs: Path) -> None:
    """Let the rest of a job take no time, unseen: its size and times stay."""
    path = jobs / "a.job"
    found = path.stat()
    path.write_bytes(path.read_bytes().replace(b"3600000", b"0000001"))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def test_a_job_is_known_when_its_device_has_another_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a restart of the machine, on some filesystems."""
    jobs = write_jobs(tmp_path / "jobs", {"a": "WRITE [(a,1)]\n", "b": "WRITE [(b,1)]\n"})
    run(tmp_path / "data", jobs)

    class Moved:
        def __init__(self, found: os.stat_result) -> None:
            self.found = found
            self.st_dev = found.st_dev + 1

        def __getattr__(self, name: str) -> int:
            return int(getattr(self.found, name))

    moved = SimpleNamespace(fstat=lambda file: Moved(os.fstat(file)), fstatvfs=os.fstatvfs)
    monkeypatch.setattr("kvs.jobs.checkpoint.os", moved)
    states = [job.state for job in run(tmp_path / "data", jobs).report.jobs]
    assert states == [State.DONE_BEFORE, State.DONE_BEFORE]


def test_a_wait_that_was_cut_short_starts_again(tmp_path: Path) -> None:
    data, jobs = half_done(tmp_path)
    (jobs / "a.out").unlink()
    with StoreCore(data) as store, JobRun(store, jobs, Settings(1, 1, resume=True)) as going:
        while b"Waiting" not in content(jobs / "a.out"):
            assert not going.wait(0.001)
        assert not going.wait(0)
        going.stop()
    assert content(jobs / "a.out") == b"[(a,1)]\n(a, 1)\nWaiting...\n"
    hurry(jobs)
    assert run(data, jobs).report.jobs[0].state is State.DONE
    assert content(jobs / "a.out") == b"[(a,1)]\n(a, 1)\nWaiting...\n[(a,1)]\n"


def test_an_unfinished_job_whose_file_has_changed_starts_over_and_that_is_said(
    tmp_path: Path,
) -> None:
    data, jobs = half_done(tmp_path)
    write_jobs(jobs, {"a": "READ [a]\nWRITE [(a,2)]\n"})
    outcome = run(data, jobs)
    assert outcome.told == [
        f"{jobs}/a.job: it has changed since it was last worked at: it starts over"
    ]
    assert content(jobs / "a.out") == b"[(a,1)]\n"
    assert (outcome.report.jobs[0].state, outcome.items) == (State.DONE, [(b"a", b"2")])


def test_one_in_another_directory_or_under_another_name_is_another_job(tmp_path: Path) -> None:
    data, jobs = half_done(tmp_path)
    other = write_jobs(tmp_path / "other", {"a": "READ [a]\n"})
    assert run(data, other).report.jobs[0].state is State.DONE
    assert content(other / "a.out") == b"[(a,1)]\n"
    (jobs / "a.job").rename(jobs / "b.job")
    hurried = (jobs / "b.job").read_bytes().replace(b"3600000", b"1")
    (jobs / "b.job").write_bytes(hurried)
    assert run(data, jobs).report.jobs[0].commands == 5
    assert content(jobs / "b.out").count(b"Waiting") == 1


def test_an_output_that_somebody_made_longer_or_removed_is_made_what_it_was(
    tmp_path: Path,
) -> None:
    data, jobs = half_done(tmp_path)
    hurry(jobs)
    with open(jobs / "a.out", "ab") as file:
        file.write(b"what does not belong here")
    shutil.copytree(data, tmp_path / "copy")
    run(data, jobs)
    assert content(jobs / "a.out") == b"[(a,1)]\n(a, 1)\nWaiting...\n[(a,1)]\n"
    (jobs / "a.out").unlink()
    (tmp_path / "copy").chmod(0o700)
    run(tmp_path / "copy", jobs)
    assert content(jobs / "a.out") == b"[(a,1)]\n(a, 1)\nWaiting...\n[(a,1)]\n"


def test_an_output_that_is_shorter_than_what_the_journal_gave_up_fails_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "SYNC_INTERVAL_BYTES", 10)
    text = "WRITE [(a,1)]\nREAD [a]\nSHOW\nWAIT 1\nSHOW\nWAIT 3600000\n"
    data, jobs = half_done(tmp_path, text, waits=2, compacted=True)
    (jobs / "a.out").write_bytes(b"[(a")
    outcome = run(data, jobs)
    assert outcome.told == [
        f"{jobs}/a.out: cannot open the output: it is shorter than it was; "
        "to start the job over, touch it"
    ]
    assert content(jobs / "a.out") == b"[(a"
    os.utime(jobs / "a.job")
    hurry_on = (jobs / "a.job").read_bytes().replace(b"3600000", b"1")
    (jobs / "a.job").write_bytes(hurry_on)
    assert run(data, jobs).report.jobs[0].state is State.DONE
    assert content(jobs / "a.out").startswith(b"[(a,1)]\n(a, 1)\n")


@pytest.mark.parametrize("synced", [10, 4 << 20])
def test_a_compaction_keeps_what_going_on_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: int
) -> None:
    monkeypatch.setattr(job_module, "SYNC_INTERVAL_BYTES", synced)
    text = (
        "BACKUP\nWRITE [(a,1)]\nREAD [a]\nbad\nSHOW\nWAIT 1\nSHOW\nWAIT 3600000\nBACKUP\nREAD [a]\n"
    )
    data, jobs = half_done(tmp_path, text, waits=2, compacted=True)
    write_jobs(tmp_path / "done", {"d": "READ [a]\n"})
    run(data, tmp_path / "done")
    for _ in range(2):
        with StoreCore(data) as store:
            store.compact()
    hurry(jobs)
    outcome = run(data, jobs)
    assert outcome.told == []
    [job] = outcome.report.jobs
    assert (job.state, job.commands, job.invalid) == (State.DONE, 9, 1)
    assert [snapshot.failed for snapshot in job.backups] == [False, False]
    assert job.backups[0].written_before
    assert content(jobs / "a.out") == (
        b"[(a,1)]\n(a, 1)\nWaiting...\n(a, 1)\nWaiting...\n[(a,1)]\n"
    )
    again = run(data, tmp_path / "done").report.jobs[0]
    assert again.state is State.DONE_BEFORE


def test_a_snapshot_that_was_not_finished_is_reported_lost_and_numbering_goes_on(
    tmp_path: Path,
) -> None:
    text = "WRITE [(a,1)]\nBACKUP\nWRITE [(a,2)]\nREAD [a]\nWAIT 3600000\nBACKUP\n"
    jobs = write_jobs(tmp_path / "jobs", {"a": text})

    def until_waiting(_acknowledge: Acknowledge) -> None:
        stop_children()
        with (
            StoreCore(tmp_path / "data") as store,
            JobRun(store, jobs, Settings(1, 2, resume=True)) as going,
        ):
            while b"Waiting" not in content(jobs / "a.out"):
                assert not going.wait(0.001)
            os.kill(os.getpid(), 9)

    assert victim(NEVER, until_waiting)[0]
    hurry(jobs)
    outcome = run(tmp_path / "data", jobs)
    assert outcome.told == [f"{jobs}/a.job:2: snapshot 1 failed: {LOST}"]
    [job] = outcome.report.jobs
    assert [snapshot.failed for snapshot in job.backups] == [True, False]
    assert outcome.report.failed
    assert content(jobs / "a-2.bck") == b"(a, 2)\n"
    assert not (jobs / "a-1.bck").exists()
    assert run(tmp_path / "data", jobs).report.jobs[0].state is State.DONE_BEFORE


def stop_children() -> None:
    """Let the children of this process end before they have written anything."""
    fork: Callable[[], int] = os.fork

    def forked() -> int:
        pid = fork()
        if not pid:
            os.closerange(0, 1000)
            os.kill(os.getpid(), 9)
        return pid

    waitpid = os.waitpid

    def never(pid: int, flags: int) -> tuple[int, int]:
        waitpid(pid, flags)
        import threading

        threading.Event().wait()
        raise AssertionError

    os.fork = forked
    os.waitpid = never


def test_what_is_known_of_jobs_that_are_gone_is_forgotten(tmp_path: Path) -> None:
    data, jobs = half_done(tmp_path)
    (jobs / "a.job").unlink()
    run(data, write_jobs(jobs, {"b": "READ [a]\n"}))
    with StoreCore(data) as store:
        store.compact()
    journal = b"".join(path.read_bytes() for path in data.iterdir())
    known = [line.split()[3:5] for line in journal.split(b"\n") if line.startswith(b"# job")]
    assert [words[1] for words in known if words[0] == b"is"] == [b"62"]


def test_a_snapshot_that_ends_after_its_job_has_begun_anew_is_no_concern(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "BACKUP\n"})
    folder, file = os.open(jobs, os.O_RDONLY), os.open(jobs / "a.job", os.O_RDONLY)
    with StoreCore(tmp_path / "data") as store:
        first = open_checkpoint(store, folder, b"a", file, resume=True)
        assert first is not None
        first.began()
        first.done()
        second = open_checkpoint(store, folder, b"a", file, resume=True)
        assert second is not None
        first.ended(1, written=True)
        second.done()
    os.close(folder)
    os.close(file)
    [job] = run(tmp_path / "data", jobs).report.jobs
    assert (job.state, job.backups) == (State.DONE_BEFORE, [])
