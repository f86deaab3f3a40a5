"""SIGINT and SIGTERM in the middle: the first ends the run in good order, a second at once."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest

from tests.helpers import (
    BLOCKING_ERRORS,
    LONG_WAIT,
    SECONDS,
    Data,
    Start,
    alive,
    blocked_on_stderr,
    content,
    end,
    interrupt_until_gone,
    is_blocked_on,
    leftovers,
    pairs_job,
    pairs_listing,
    run_reporting,
    started,
    stopped_children,
    unread,
    until,
    write_jobs,
)

SIGNALS = [signal.SIGINT, signal.SIGTERM]
both_signals = pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)


def waiting(directory: Path, *names: str) -> bool:
    """Return whether each of the jobs executes a WAIT."""
    return all(b"Waiting...\n" in content(directory / f"{name}.out") for name in names)


def has_open(process: subprocess.Popen[bytes], path: Path) -> bool:
    """Return whether the program has the file open (proc(5))."""
    descriptors = f"/proc/{process.pid}/fd"
    for descriptor in os.listdir(descriptors):
        with suppress(FileNotFoundError):  # it has just been closed
            if os.readlink(f"{descriptors}/{descriptor}") == str(path):
                return True
    return False


def threads(process: subprocess.Popen[bytes]) -> int:
    """Return how many threads the program has (proc(5))."""
    return len(os.listdir(f"/proc/{process.pid}/task"))


def load(report: Path) -> dict[str, Data]:
    """Return the reports of the jobs, by name."""
    return {job["name"]: job for job in json.loads(report.read_text())["jobs"]}


@both_signals
def test_signal_stops_waiting_jobs_and_starts_no_more(
    tmp_path: Path, number: signal.Signals
) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": LONG_WAIT, "b": "HELP\n" + LONG_WAIT, "c": "HELP\n"})
    with started("run", jobs, "--threads", "2", "--report", tmp_path / "report") as process:
        until(lambda: waiting(jobs, "a", "b"))
        process.send_signal(number)
        ended = end(process)
    assert ended.status == 128 + number
    assert ended.lines == [f"kvs run: stopped by {number.name}; 3 of 3 jobs unfinished"]
    states = {
        name: (job["state"], job["commands"]) for name, job in load(tmp_path / "report").items()
    }
    assert states == {"a": ("stopped", 1), "b": ("stopped", 2), "c": ("not started", 0)}
    assert (jobs / "a.out").read_bytes() == b"Waiting...\n"
    assert not (jobs / "c.out").exists()
    assert leftovers(jobs) == []
    assert b"not started" in ended.stdout


def stream_output() -> Iterator[bytes]:
    """Yield the output of each command of `STREAM`, endlessly."""
    listing = pairs_listing(2_000)
    for number in range(1_000_000):
        yield b"[(k%06d,KVSERROR)]\n" % number
        yield listing


STREAM = pairs_job(2_000) + b"".join(b"READ [k%06d]\nSHOW\n" % number for number in range(20_000))
"""A job with some gigabytes of output, which never ends during a test."""


@both_signals
def test_signal_stops_a_job_between_two_commands(tmp_path: Path, number: signal.Signals) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": STREAM, "b": STREAM})
    with started("run", jobs, "--threads", "2", "--report", tmp_path / "report") as process:
        until(lambda: all(len(content(jobs / f"{name}.out")) > 1_000_000 for name in "ab"))
        process.send_signal(number)
        ended = end(process)
    assert ended.status == 128 + number
    assert leftovers(jobs) == []
    for name, job in load(tmp_path / "report").items():
        assert job["state"] == "stopped"
        expected = islice(stream_output(), job["commands"] - pairs_job(2_000).count(b"\n"))
        assert (jobs / f"{name}.out").read_bytes() == b"".join(expected)


@both_signals
def test_signal_stops_a_job_that_waits_to_fork_a_backup(
    tmp_path: Path, number: signal.Signals
) -> None:
    script = "WRITE [(k,v)]\nBACKUP\nREAD [k]\nBACKUP\nREAD [never]\n"
    jobs = write_jobs(tmp_path / "jobs", {"a": script})
    arguments = ("run", jobs, "--backups", "1", "--report", tmp_path / "report")
    with started(*arguments, how=Start(children_stop="birth")) as process:
        (child,) = stopped_children(process)
        until(lambda: content(jobs / "a.out"))
        process.send_signal(number)
        until(lambda: not has_open(process, jobs / "a.out"))  # before another backup may be forked
        os.kill(child, signal.SIGCONT)
        ended = end(process)
    job = load(tmp_path / "report")["a"]
    assert ended.status == 128 + number
    assert (job["state"], job["commands"], len(job["backups"])) == ("stopped", 3, 1)
    assert (jobs / "a.out").read_bytes() == b"[(k,v)]\n"
    assert (jobs / "a-1.bck").read_bytes() == b"(k, v)\n"
    assert sorted(os.listdir(jobs)) == ["a-1.bck", "a.job", "a.out"]


@both_signals
@pytest.mark.parametrize("point", ["birth", "sync"])
def test_backups_in_flight_are_finished(tmp_path: Path, number: signal.Signals, point: str) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"b": "BACKUP\n", "c": "BACKUP\n" + LONG_WAIT})
    write_jobs(jobs, {"a": pairs_job(3_000)})
    arguments = ("run", jobs, "--threads", "1", "--backups", "2")
    with started(*arguments, how=Start(children_stop=point)) as process:
        until(lambda: waiting(jobs, "c"))
        stopped = stopped_children(process, 2)
        process.send_signal(number)
        for child in stopped:
            os.kill(child, signal.SIGCONT)
        ended = end(process)
    assert ended.status == 128 + number
    for name in ("b-1.bck", "c-1.bck"):
        assert (jobs / name).read_bytes() == pairs_listing(3_000)
    assert leftovers(jobs) == []


@both_signals
def test_backup_is_complete_or_absent_after_a_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    """The child is not stopped here, and the signal is sent to the whole process group."""
    count = 100_000
    jobs = write_jobs(tmp_path / "jobs", {"a": pairs_job(count) + b"BACKUP\n" + LONG_WAIT.encode()})
    with started("run", jobs) as process:
        until(lambda: waiting(jobs, "a"))
        os.killpg(process.pid, number)
        ended = end(process)
        assert alive(process) == []
    assert ended.status == 128 + number
    assert content(jobs / "a-1.bck") in {b"", pairs_listing(count)}
    assert leftovers(jobs) == []


@both_signals
@pytest.mark.parametrize("point", ["birth", "sync"])
def test_second_signal_kills_the_backups(
    tmp_path: Path, number: signal.Signals, point: str
) -> None:
    script = pairs_job(3_000) + b"BACKUP\nBACKUP\nREAD [k]\n" + LONG_WAIT.encode()
    jobs = write_jobs(tmp_path / "jobs", {"a": script})
    (jobs / "a-2.bck").write_bytes(b"older\n")
    with started("run", jobs, how=Start(children_stop=point)) as process:
        until(lambda: waiting(jobs, "a"))
        stopped_children(process, 2)
        assert interrupt_until_gone(process, number) == 128 + number
        until(lambda: not alive(process))
    assert sorted(os.listdir(jobs)) == ["a-2.bck", "a.job", "a.out"]
    assert (jobs / "a.out").read_bytes() == b"[(k,KVSERROR)]\nWaiting...\n"
    assert (jobs / "a-2.bck").read_bytes() == b"older\n"


@both_signals
def test_exit_status_is_that_of_the_first_signal(tmp_path: Path, number: signal.Signals) -> None:
    jobs = write_jobs(
        tmp_path / "jobs", {"a": "BACKUP\n", "b": LONG_WAIT, "c": LONG_WAIT, "d": LONG_WAIT}
    )
    (other,) = set(SIGNALS) - {number}
    with started("run", jobs, "--threads", "4", how=Start(children_stop="birth")) as process:
        stopped_children(process)
        until(lambda: waiting(jobs, *"bcd"))
        before = threads(process)
        process.send_signal(number)
        until(lambda: threads(process) <= before - 2)  # jobs in WAIT have been stopped
        process.send_signal(other)
        assert process.wait(SECONDS) == 128 + number


def test_simultaneous_signals_are_both_handled(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "BACKUP\n"})
    with started("run", jobs, how=Start(children_stop="birth")) as process:
        stopped_children(process)
        for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
            process.send_signal(number)
        assert until(process.poll, seconds=20) in {130, 143}


@both_signals
def test_signal_delivered_to_another_thread_is_handled(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Python handles signals in the main thread alone, which must wake up for them.

    The same happens to a signal that arrives just before the main thread blocks. That kill(2)
    accepts the ID of a thread, to which it prefers to deliver, is specific to Linux.
    """
    jobs = write_jobs(tmp_path / "jobs", {"a": LONG_WAIT})
    with started("run", jobs) as process:
        until(lambda: waiting(jobs, "a"))
        others = {int(name) for name in os.listdir(f"/proc/{process.pid}/task")} - {process.pid}
        os.kill(others.pop(), number)
        assert until(process.poll, seconds=20) == 128 + number
    assert leftovers(jobs) == []


@pytest.mark.slow
def test_second_signal_exits_despite_a_large_backup(tmp_path: Path) -> None:
    jobs = write_jobs(
        tmp_path / "jobs", {"a": pairs_job(200_000) + b"BACKUP\n" + LONG_WAIT.encode()}
    )
    with started("run", jobs) as process:
        until(lambda: waiting(jobs, "a"))
        # The second signal kills it if the snapshot, and so the run, has just been finished.
        assert interrupt_until_gone(process) in {130, -signal.SIGINT}
        until(lambda: not alive(process))
    assert content(jobs / "a-1.bck") in {b"", pairs_listing(200_000)}
    assert leftovers(jobs) == []


def test_second_signal_during_fork_leaves_no_file(
    tmp_path: Path,
) -> None:
    """fork(2) of a process with much memory is slow, and signals can arrive meanwhile."""
    jobs = write_jobs(tmp_path / "jobs", {"a": "BACKUP\n"})
    with started("run", jobs, how=Start(children_stop="fork")) as process:
        stopped_children(process)
        assert interrupt_until_gone(process) == 130
    assert sorted(os.listdir(jobs)) == ["a.job", "a.out"]


def test_second_signal_exits_despite_unread_errors(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": BLOCKING_ERRORS})
    with blocked_on_stderr(jobs) as process:
        until(lambda: is_blocked_on(process, descriptor=2))
        assert interrupt_until_gone(process) == 130
    assert leftovers(jobs) == []


# The exit status is that of the signal, also after other failures.


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", "2>&-", ">&- 2>&-"])
def test_signal_status_survives_unwritable_streams(tmp_path: Path, redirection: str) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": LONG_WAIT})
    with started("run", jobs, how=Start(redirections=redirection)) as process:
        until(lambda: waiting(jobs, "a"))
        process.send_signal(signal.SIGTERM)
        assert end(process).status == 143
    assert leftovers(jobs) == []


def test_signal_status_survives_a_closed_pipe(tmp_path: Path) -> None:
    """As after Ctrl-C in a pipeline, which also ends the reader."""
    jobs = write_jobs(tmp_path / "jobs", {"a": LONG_WAIT})
    with started("run", jobs) as process:
        until(lambda: waiting(jobs, "a"))
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        process.send_signal(signal.SIGINT)
        assert end(process).status == 130


def test_signal_status_survives_a_failed_report(
    tmp_path: Path,
) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": LONG_WAIT})
    place = tmp_path / "place"
    place.mkdir()
    with started("run", jobs, "--report", place / "report.json") as process:
        until(lambda: waiting(jobs, "a"))
        place.rmdir()
        process.send_signal(signal.SIGTERM)
        ended = end(process)
    assert any("cannot write the report" in line for line in ended.lines)
    assert any("stopped by SIGTERM" in line for line in ended.lines)
    assert ended.status == 143


@both_signals
def test_signal_status_survives_failed_jobs_and_backups(
    tmp_path: Path, number: signal.Signals
) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "foo\n", "b": "BACKUP\n", "z": LONG_WAIT})
    (jobs / "c.job").mkdir()
    (jobs / "b-1.bck").mkdir()
    with started("run", jobs, "--threads", "1") as process:
        until(lambda: waiting(jobs, "z"))
        process.send_signal(number)
        ended = end(process)
    assert ended.status == 128 + number
    assert [line for line in ended.lines if "stopped by" in line] == [
        f"kvs run: stopped by {number.name}; 2 of 4 jobs unfinished"
    ]
    assert len(ended.lines) == 4
    assert leftovers(jobs) == []


# Early signals, and inherited signal dispositions.


@pytest.mark.slow
def test_signal_during_restore_stops_the_run(tmp_path: Path) -> None:
    """The signal arrives while the backup is read; the jobs are stopped soon after their start."""
    snapshot = tmp_path / "old.bck"
    snapshot.write_bytes(pairs_listing(300_000))
    jobs = write_jobs(tmp_path / "jobs", {"a": LONG_WAIT})
    with started("run", jobs, "--restore", snapshot) as process:
        until(lambda: has_open(process, snapshot) or waiting(jobs, "a"))
        process.send_signal(signal.SIGTERM)
        assert end(process).status == 143
    assert leftovers(jobs) == []


def test_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """As a shell makes background programs ignore the Ctrl-C for the foreground."""
    jobs = write_jobs(tmp_path / "jobs", {"a": LONG_WAIT})
    with started("run", jobs, how=Start(ignored=[signal.SIGINT])) as process:
        until(lambda: waiting(jobs, "a"))
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        ended = end(process)
    assert ended.status == 143
    assert ended.lines == ["kvs run: stopped by SIGTERM; 1 of 1 job unfinished"]


def test_backups_succeed_with_sigchld_ignored(
    tmp_path: Path,
) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "WRITE [(k,v)]\nBACKUP\nBACKUP\n"})
    ended, report = run_reporting(jobs, how=Start(ignored=[signal.SIGCHLD]))
    assert (ended.status, ended.stderr) == (0, b"")
    assert [snapshot["written"] for snapshot in report["jobs"][0]["backups"]] == [True, True]


@pytest.mark.slow
def test_lint_exits_at_ctrl_c(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"a": "x\n" * 200_000})
    with started("lint", tmp_path) as process:
        until(lambda: unread(process.stdout) > 3000 and is_blocked_on(process, descriptor=1))
        process.send_signal(signal.SIGINT)
        ended = end(process)
    assert ended.status == 130
    assert ended.stderr == b""
