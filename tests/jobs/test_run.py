"""Runs of whole directories by the library."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs import InvalidCommandError, KvsError, Report, State, Store
from kvs.jobs.run import JobRun
from kvs.language.output_format import HELP
from kvs.settings import Settings
from kvs.snapshot import writer
from kvs.store.core import StoreCore
from tests.helpers import SECONDS, content, until
from tests.model import Model
from tests.strategies import scripts

pytestmark = pytest.mark.usefixtures("each_engine")


def make(directory: Path, **jobs: str) -> Path:
    directory.mkdir(exist_ok=True)
    for name, text in jobs.items():
        (directory / f"{name}.job").write_text(text)
    return directory


def run(directory: Path, **options: int) -> Report:
    return Store().run_jobs(directory, **options)  # type: ignore[arg-type]


def test_language_example_gives_its_documented_output(tmp_path: Path) -> None:
    make(
        tmp_path,
        one="READ [c1]\nWRITE [(c1,v1)(key2,some-value)]\nREAD [key2,c1]\n"
        "WRITE [(key2,other)(aKey,aValue)]\nBACKUP\nDELETE [c1,nothing]\nWAIT 10\nSHOW\n",
    )
    report = run(tmp_path)
    assert (tmp_path / "one.out").read_text() == (
        "[(c1,KVSERROR)]\n[(c1,v1)(key2,some-value)]\n[(nothing,KVSMISSING)]\nWaiting...\n"
        "(aKey, aValue)\n(key2, other)\n"
    )
    expected = "(aKey, aValue)\n(c1, v1)\n(key2, other)\n"
    assert (tmp_path / "one-1.bck").read_text() == expected
    assert sorted(os.listdir(tmp_path)) == ["one-1.bck", "one.job", "one.out"]
    [job] = report.jobs
    assert (job.state, job.commands, job.invalid, job.failed) == (State.DONE, 8, 0, False)
    [backup] = job.backups
    assert backup.info is not None
    assert (backup.info.revision, backup.info.pairs) == (2, 3)
    assert backup.info.blocked_seconds > 0
    assert not report.failed
    assert not report.stopped
    assert (report.commands, report.revision) == (8, 3)


@given(script=scripts(), block=st.sampled_from([3, 20, 1 << 18]))
def test_job_equals_the_model(
    tmp_path_factory: pytest.TempPathFactory, script: bytes, block: int
) -> None:
    directory = tmp_path_factory.mktemp("jobs")
    (directory / "a.job").write_bytes(script)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvs.jobs.input.BLOCK", block)
        report = run(directory)
    model = Model(HELP)
    model.run(script)
    [job] = report.jobs
    assert (directory / "a.out").read_bytes() == model.output
    assert [error.line for error in job.errors] == model.invalid
    assert (job.commands, job.invalid) == (model.commands, len(model.invalid))
    assert report.revision == model.revision
    for number, pairs in enumerate(model.backups, 1):
        expected = b"".join(b"(%b, %b)\n" % pair for pair in sorted(pairs.items()))
        assert (directory / f"a-{number}.bck").read_bytes() == expected


def test_jobs_share_one_store_and_run_in_order_of_name(tmp_path: Path) -> None:
    make(tmp_path, c="SHOW\n", a="WRITE [(from,a)]\n", b="READ [from]\nWRITE [(from,b)]\n")
    report = run(tmp_path, threads=1)
    assert [job.name for job in report.jobs] == [b"a", b"b", b"c"]
    assert (tmp_path / "b.out").read_text() == "[(from,a)]\n"
    assert (tmp_path / "c.out").read_text() == "(from, b)\n"


def test_empty_directory_has_an_empty_report(tmp_path: Path) -> None:
    report = run(tmp_path)
    assert (report.jobs, report.failed, os.listdir(tmp_path)) == ([], False, [])


def test_wait_pauses_only_its_job(tmp_path: Path) -> None:
    make(tmp_path, a="WAIT 9999999999\n", b="WRITE [(b,1)]\n")
    store = Store()
    with JobRun(store._core, tmp_path, Settings(2)) as jobs:
        until(lambda: jobs.progress().done == 1)
        assert store.read(["b"]) == {b"b": b"1"}
        until(lambda: content(tmp_path / "a.out") == b"Waiting...\n")
        assert jobs.progress().running == 1
        jobs.stop()
        assert jobs.wait(SECONDS)
    assert [job.state for job in jobs.report.jobs] == [State.STOPPED, State.DONE]
    assert jobs.report.stopped


def test_concurrent_jobs_are_limited_by_threads(tmp_path: Path) -> None:
    make(tmp_path, **{f"j{number}": "WAIT 9999999999\n" for number in range(5)})
    with JobRun(Store()._core, tmp_path, Settings(3)) as jobs:
        until(lambda: len(list(tmp_path.glob("*.out"))) == 3)
        until(lambda: jobs.progress().running == 3)
        jobs.stop()
    states = [job.state for job in jobs.report.jobs]
    assert states == [State.STOPPED] * 3 + [State.WAITING] * 2


def test_output_is_visible_up_to_a_backup_that_waits(
    tmp_path: Path, blocked_backups: Callable[[], None]
) -> None:
    make(tmp_path, a="WRITE [(a,1)]\nREAD [a]\nBACKUP\nREAD [b]\nBACKUP\nREAD [c]\n")
    with JobRun(Store()._core, tmp_path, Settings(1, 1)) as jobs:
        until(lambda: content(tmp_path / "a.out") == b"[(a,1)]\n[(b,KVSERROR)]\n")
        assert jobs.progress().backups == 1
        blocked_backups()
    assert (tmp_path / "a.out").read_text().endswith("[(c,KVSERROR)]\n")


@pytest.fixture
def blocked_backups(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], None]:
    """Block the child of every backup until the function returned is called."""
    gate = tmp_path_factory.mktemp("gate") / "pipe"
    os.mkfifo(gate)
    holder = os.open(gate, os.O_RDWR)
    real = writer._run_child

    def child(file: int, *rest: object) -> None:
        os.read(os.open(gate, os.O_RDONLY), 1)
        real(file, *rest)  # type: ignore[arg-type]

    patch = pytest.MonkeyPatch()
    patch.setattr(writer, "_run_child", child)

    def unblock() -> None:
        patch.undo()
        os.write(holder, b"x" * 1000)

    return unblock


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 3])
def test_concurrent_backups_are_limited_over_all_jobs(
    tmp_path: Path, blocked_backups: Callable[[], None], limit: int
) -> None:
    make(tmp_path, **{f"j{number}": "BACKUP\nBACKUP\n" for number in range(4)})
    with JobRun(Store()._core, tmp_path, Settings(4, limit)) as jobs:
        until(lambda: jobs.progress().backups == limit)
        assert len(list(tmp_path.glob(".kvs-*.tmp"))) == limit
        assert jobs.progress().done <= limit // 2
        blocked_backups()
    assert not jobs.report.failed
    assert len(list(tmp_path.glob("*.bck"))) == 8
    assert not list(tmp_path.glob(".kvs*"))


def test_stop_cancels_waiting_backups_and_finishes_others(
    tmp_path: Path, blocked_backups: Callable[[], None]
) -> None:
    make(tmp_path, a="BACKUP\nBACKUP\n")
    with JobRun(Store()._core, tmp_path, Settings(1, 1)) as jobs:
        until(lambda: jobs.progress().backups == 1)
        jobs.stop()
        until(lambda: jobs.report.jobs[0].state is State.STOPPED)
        blocked_backups()
    [job] = jobs.report.jobs
    assert (job.commands, len(job.backups)) == (1, 1)
    assert sorted(os.listdir(tmp_path)) == ["a-1.bck", "a.job", "a.out"]


def test_failing_job_does_not_affect_others(tmp_path: Path) -> None:
    make(tmp_path, a="WRITE [(a,1)]\n", b="SHOW\n", d="WRITE [(d,1)]\n")
    (tmp_path / "b.out").symlink_to("elsewhere")
    (tmp_path / "c.job").mkdir()
    errors: list[str] = []
    report = Store().run_jobs(tmp_path, on_error=lambda error: errors.append(str(error)))
    states = {job.name: job.state for job in report.jobs}
    assert states == {
        b"a": State.DONE,
        b"b": State.FAILED,
        b"c": State.FAILED,
        b"d": State.DONE,
    }
    assert report.failed
    assert sorted(errors) == [
        f"{tmp_path}/b.out: cannot open the output: it is a link; remove it",
        f"{tmp_path}/c.job: cannot open it: it is not a regular file",
    ]


def test_line_numbers_continue_over_blocks_waits_and_backups(tmp_path: Path) -> None:
    good = "WRITE [(key,value)]\n" * 20_000
    make(tmp_path, a=f"BAD\n{good}WAIT 1\nBAD\nBACKUP\n{good}\n# x\n  BAD\nBACKUP\nBAD")
    errors: list[KvsError] = []
    report = Store().run_jobs(tmp_path, on_error=errors.append)
    [job] = report.jobs
    assert [(error.line, error.column) for error in job.errors] == [
        (1, 1),
        (20_003, 1),
        (40_007, 3),
        (40_009, 1),
    ]
    assert errors == list(job.errors)
    assert [backup.line for backup in job.backups] == [20_004, 40_008]


def test_only_the_first_thousand_errors_are_reported(tmp_path: Path) -> None:
    make(tmp_path, a="nothing\n" * 2500 + "SHOW\n", b="nothing\n")
    errors: list[KvsError] = []
    report = Store().run_jobs(tmp_path, on_error=errors.append)
    [first, second] = report.jobs
    assert (first.invalid, len(first.errors), first.errors_omitted) == (2500, 1000, 1500)
    assert (second.invalid, second.errors_omitted) == (1, 0)
    assert len(errors) == 1001
    assert all(isinstance(error, InvalidCommandError) for error in errors)


def test_defect_in_a_worker_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(*_: object) -> None:
        raise ZeroDivisionError

    make(tmp_path, a="SHOW\n", b="SHOW\n")
    monkeypatch.setattr(StoreCore, "execute", execute)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path)
    assert sorted(os.listdir(tmp_path))[:2] == ["a.job", "a.out"]


def test_store_runs_several_directories_at_once(tmp_path: Path) -> None:
    store = Store()
    paths = [make(tmp_path / f"d{number}", a=f"WRITE [(k{number},1)]\n") for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert not any(report.failed for report in pool.map(store.run_jobs, paths))
    assert len(store) == 4


def test_exception_in_the_caller_stops_the_run(tmp_path: Path) -> None:
    make(tmp_path, a="WAIT 9999999999\n")
    jobs = JobRun(Store()._core, tmp_path, Settings(1))

    def wait_and_be_interrupted() -> None:
        with jobs:
            until(lambda: jobs.progress().running == 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wait_and_be_interrupted()
    assert jobs.report.jobs[0].state is State.STOPPED
    assert not (tmp_path / ".kvs.lock").exists()


def test_report_is_convertible_to_json_objects(tmp_path: Path) -> None:
    make(tmp_path, a="BAD\nBACKUP\n")
    data = run(tmp_path).to_dict()
    [job] = data["jobs"]
    assert (data["failed"], data["commands"], job["state"]) == (True, 1, "done")
    assert job["errors"] == [
        {
            "file": f"{tmp_path}/a.job",
            "line": 1,
            "column": 1,
            "reason": job["errors"][0]["reason"],
        }
    ]
    [backup] = job["backups"]
    assert backup["file"] == f"{tmp_path}/a-1.bck"
    assert backup["written"] is True
    assert backup["seconds"] >= backup["blocked_seconds"] > 0
