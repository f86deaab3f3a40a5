"""Jobs killed at any step: after they resume, the results are those of an uninterrupted run."""

import os
import shutil
from pathlib import Path

import pytest

from kvs.jobs import job as job_module
from kvs.jobs.report import State
from kvs.journal.job_records import JobRegistry
from kvs.settings import DataSettings
from kvs.store.core import StoreCore
from tests.helpers import content, write_jobs
from tests.jobs.durable_runs import EVERY_KIND, LOST, GroupPerCall, Outcome, results, run, running
from tests.journal.crash_child import Work, killed_at_every_step, reopened_as, victim
from tests.journal.fake_storage import install

pytestmark = pytest.mark.slow


def check_against(
    whole: dict[str, bytes], before: dict[str, bytes], jobs: Path, outcome: Outcome
) -> None:
    """Compare with the results `whole` of the uninterrupted run, and `before` of the first part."""
    after = results(jobs)
    for name, data in before.items():
        assert whole[name].startswith(data), name
    lost = {
        os.path.basename(backup.file)
        for job in outcome.report.jobs
        for backup in job.backups
        if backup.failed
    }
    assert {name: data for name, data in after.items() if name not in lost} == {
        name: data for name, data in whole.items() if name not in lost
    }
    for line in outcome.errors:
        assert LOST in line or ".job:5:" in line or ".job:13:" in line, line


@pytest.fixture(name="whole")
def _whole(tmp_path: Path) -> dict[str, bytes]:
    """Return the results of the uninterrupted run."""
    jobs = write_jobs(tmp_path / "whole", {"a": EVERY_KIND})
    outcome = run(tmp_path / "whole-data", jobs)
    assert outcome.report.jobs[0].state is State.DONE
    assert len(results(jobs)) == 3
    return results(jobs)


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.stress), 5])
@pytest.mark.parametrize("group_per_call", [True, False])
def test_job_killed_at_any_step_gives_the_same_results(
    tmp_path: Path,
    whole: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    group_per_call: bool,
    stride: int,
) -> None:
    """With a budget of 0, each command is a call of its own, and can be the last one."""
    settings, kind = DataSettings("never", compact_bytes=300, segment_bytes=300), StoreCore
    if group_per_call:
        monkeypatch.setattr(job_module, "DEFAULT_BUDGET_BYTES", 0)
        settings, kind = DataSettings(), GroupPerCall
    offsets = set()

    def prepare(number: int) -> Work:
        place = tmp_path / f"{number}"
        place.mkdir()
        jobs = write_jobs(place / "jobs", {"a": EVERY_KIND})
        return running(place / "data", jobs, settings, kind)

    for number, _ in killed_at_every_step(prepare, stride):
        place = tmp_path / f"{number}"
        before = results(place / "jobs")
        offsets.add(executed_bytes(place / "data", place / "jobs"))
        outcome = run(place / "data", place / "jobs")
        check_against(whole, before, place / "jobs", outcome)
        [job] = outcome.report.jobs
        assert job.state in {State.DONE, State.DONE_BEFORE}
        if job.state is State.DONE:
            assert (job.commands, job.invalid) == (13, 2)
        shutil.rmtree(place)
    commands = EVERY_KIND.count(b"\n") + 1
    assert len(offsets) >= (commands if group_per_call else 6) // stride


def executed_bytes(data: Path, jobs: Path) -> int:
    """Return how much of the one job of a directory the journal has; -1 if it has no record."""
    offsets = [-1]
    status = jobs.stat()

    def look(registry: JobRegistry) -> bytes:
        records = registry.in_directory(os.statvfs(jobs).f_fsid, status.st_ino)
        offsets.extend(record.offset for record in records)
        return b""

    with reopened_as(StoreCore, data) as store:
        store.record_job(look)
    return offsets[-1]


def test_job_killed_repeatedly_gives_the_same_results(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "DEFAULT_BUDGET_BYTES", 0)
    for step in range(5, 30, 6):
        place = tmp_path / f"{step}"
        place.mkdir()
        jobs = write_jobs(place / "jobs", {"a": EVERY_KIND})
        seen: dict[str, bytes] = {}
        while victim(step, running(place / "data", jobs, kind=GroupPerCall))[0]:
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


def test_results_are_not_visible_before_the_journal_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So no output is written twice, and no backup is made twice."""
    monkeypatch.setattr(job_module, "DEFAULT_BUDGET_BYTES", 0)
    text = b"WRITE [(a,1)]\nSHOW\nBACKUP\nWRITE [(b,1)]\nREAD [a]\nSHOW\nBACKUP\nSHOW\n"
    jobs = write_jobs(tmp_path / "jobs", {"a": text})
    status = jobs.stat()
    looks = []

    def look(name: str) -> None:
        if name == "within append":  # half a record is not a record
            return
        output, backups = content(jobs / "a.out"), len(list(jobs.glob("*.bck")))
        registry = JobRegistry()
        for segment in (tmp_path / "data").glob("*.journal"):
            registry.replay(segment.read_bytes())
        for record in registry.in_directory(os.statvfs(jobs).f_fsid, status.st_ino):
            recorded = b"".join(record.output)
            recorded_backups = text[: record.offset].count(b"BACKUP\n")
            is_recorded = recorded.startswith(output) or record.done
            looks.append((output, is_recorded, backups <= recorded_backups))

    install(monkeypatch, look)
    run(tmp_path / "data", jobs, kind=GroupPerCall)
    assert len({output for output, *_ in looks}) >= 3
    assert all(
        output_recorded and backups_recorded for _, output_recorded, backups_recorded in looks
    )


def test_jobs_that_share_keys_resume_each_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written output stays; no command is executed twice, or skipped."""
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
        if not victim(number, running(place / "data", jobs, kind=GroupPerCall))[0]:
            break
        rounds += 1
        before = results(jobs)
        victim(number, running(place / "data", jobs, kind=GroupPerCall))
        between = results(jobs)
        outcome = run(place / "data", jobs)
        after = results(jobs)
        assert outcome.errors == []
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
