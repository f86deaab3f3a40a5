"""Permissions of a user that is not root; root may do everything."""

import os
import signal
from pathlib import Path

import pytest

from tests.helpers import (
    LONG_WAIT,
    NOBODY_UID,
    Start,
    content,
    end,
    failing_job_error,
    kvs,
    leftovers,
    only_line,
    run_reporting,
    started,
    until,
    write_jobs,
)

AS_NOBODY = Start(uid=NOBODY_UID)

OUTPUT = b"[(k,KVSERROR)]\n"


def test_run_succeeds_in_the_users_own_directory(ground: Path) -> None:
    write_jobs(ground, {"b": "BACKUP\n"})
    ended = kvs("run", ground, how=AS_NOBODY)
    assert (ended.status, ended.stderr) == (0, b"")
    for name in ("a.out", "b-1.bck"):
        assert (ground / name).stat().st_uid == NOBODY_UID
        assert (ground / name).stat().st_mode & 0o777 == 0o600


def test_unreadable_job_fails_alone(ground: Path) -> None:
    write_jobs(ground, {"x": "READ [k]\n"})
    (ground / "x.job").chmod(0o600)
    error = failing_job_error(ground, "x", how=AS_NOBODY)
    assert error == f"{ground}/x.job: cannot open it: Permission denied"
    assert not (ground / "x.out").exists()
    assert (ground / "a.out").read_bytes() == (ground / "z.out").read_bytes() == OUTPUT


def test_unreadable_job_is_reported_by_lint(ground: Path) -> None:
    (ground / "a.job").chmod(0o600)
    ended = kvs("lint", ground, how=AS_NOBODY)
    assert ended.status == 1
    assert ended.lines == [f"{ground}/a.job: cannot open it: Permission denied"]
    assert b"z.job: 1 line, 1 command, all valid" in ended.stdout


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666])
def test_output_of_another_user_fails_only_its_job(ground: Path, mode: int) -> None:
    write_jobs(ground, {"x": "READ [k]\n"})
    (ground / "x.out").write_text("precious")
    (ground / "x.out").chmod(mode)
    error = failing_job_error(ground, "x", how=AS_NOBODY)
    reason = "it belongs to another user; remove it" if mode == 0o666 else "Permission denied"
    assert error == f"{ground}/x.out: cannot open the output: {reason}"
    assert (ground / "x.out").read_text() == "precious"


def test_own_unwritable_output_fails_only_its_job(ground: Path) -> None:
    write_jobs(ground, {"x": "READ [k]\n"})
    (ground / "x.out").touch(mode=0o400)
    os.chown(ground / "x.out", NOBODY_UID, NOBODY_UID)
    error = failing_job_error(ground, "x", how=AS_NOBODY)
    assert error == f"{ground}/x.out: cannot open the output: Permission denied"


def test_backup_of_another_user_is_replaced(ground: Path) -> None:
    """rename(2) needs permissions of the directory only."""
    write_jobs(ground, {"x": "BACKUP\n"})
    (ground / "x-1.bck").write_text("old")
    assert kvs("run", ground, how=AS_NOBODY).status == 0
    assert (ground / "x-1.bck").read_bytes() == b""


def test_every_job_fails_in_a_read_only_directory(ground: Path) -> None:
    ground.chmod(0o555)
    ended, report = run_reporting(ground, "--threads", "1", how=AS_NOBODY)
    assert ended.status == 1
    assert ended.lines == [
        f"{ground}/{name}.out: cannot open the output: Permission denied" for name in "az"
    ]
    assert [job["state"] for job in report["jobs"]] == ["failed", "failed"]
    assert sorted(os.listdir(ground)) == ["a.job", "z.job"]


def test_backup_in_a_read_only_directory_fails_alone(ground: Path) -> None:
    """The output exists and is writable: only the backup cannot be created."""
    write_jobs(ground, {"a": "BACKUP\nREAD [k]\n"})
    (ground / "a.out").touch()
    os.chown(ground / "a.out", NOBODY_UID, NOBODY_UID)
    (ground / "z.job").unlink()
    ground.chmod(0o555)
    ended = kvs("run", ground, "--quiet", how=AS_NOBODY)
    assert ended.status == 1
    assert "Permission denied" in only_line(ended)
    assert sorted(os.listdir(ground)) == ["a.job", "a.out"]


def test_read_only_directory_has_one_process_at_a_time(ground: Path) -> None:
    """Its outputs exist and are writable, so its jobs could run."""
    write_jobs(ground, {"a": LONG_WAIT})
    for name in "az":
        (ground / f"{name}.out").touch()
        os.chown(ground / f"{name}.out", NOBODY_UID, NOBODY_UID)
    ground.chmod(0o555)
    with started("run", ground, how=AS_NOBODY) as first:
        until(lambda: content(ground / "a.out") or first.poll() is not None)
        if first.poll() is not None:  # every job of a read-only directory failed: right, too
            return
        with started("run", ground, how=AS_NOBODY) as second:
            assert until(second.poll, seconds=20) == 1


def test_unlistable_directory_is_a_usage_error(ground: Path) -> None:
    ground.chmod(0o333)
    for command in ("run", "lint"):
        ended = kvs(command, ground, how=AS_NOBODY)
        assert ended.status == 2
        reason = "cannot open the jobs directory: Permission denied"
        assert only_line(ended) == f"kvs {command}: {ground}: {reason}"


def test_unsearchable_directory_is_a_failure(ground: Path) -> None:
    """The directory may be listed, but no file in it may be opened."""
    ground.chmod(0o644)
    ended = kvs("run", ground, "--quiet", how=AS_NOBODY)
    assert ended.status in {1, 2}
    assert all("Permission denied" in line for line in ended.lines)
    assert ended.lines


LOCKS = {
    0o600: "Permission denied",
    0o644: "it belongs to another user, and no run holds it; remove it",
    0o666: "it belongs to another user, and no run holds it; remove it",
}


@pytest.mark.parametrize(("mode", "reason"), LOCKS.items(), ids=map(oct, LOCKS))
def test_lock_file_of_another_user_is_rejected(ground: Path, mode: int, reason: str) -> None:
    lock = ground / ".kvs.lock"
    lock.write_text("123\n")
    lock.chmod(mode)
    ended = kvs("run", ground, how=AS_NOBODY)
    assert ended.status == 2
    assert only_line(ended) == f"kvs run: {ground}: cannot lock it with .kvs.lock: {reason}"
    assert lock.read_text() == "123\n"
    assert not (ground / "a.out").exists()


def test_temporary_file_of_another_user_stays(ground: Path) -> None:
    temporary = ground / ".kvs-0123456789abcdef.tmp"
    temporary.touch(mode=0o600)
    assert kvs("run", ground, how=AS_NOBODY).status == 0
    assert leftovers(ground) == [temporary.name]


def test_report_in_an_unwritable_directory_is_a_usage_error(ground: Path) -> None:
    ended = kvs("run", ground, "--report", ground.parent / "report.json", how=AS_NOBODY)
    assert ended.status == 2
    assert "is not writable" in only_line(ended)
    assert not (ground / "a.out").exists()


def test_unreadable_backup_to_restore_is_a_usage_error(ground: Path) -> None:
    backup = ground.parent / "old.bck"
    backup.touch(mode=0o600)
    ended = kvs("run", ground, "--restore", backup, how=AS_NOBODY)
    assert ended.status == 2
    assert only_line(ended).endswith(f"{backup}: cannot read the backup: Permission denied")
    assert not (ground / "a.out").exists()


def test_lock_of_another_user_is_reported_with_its_pid(ground: Path) -> None:
    write_jobs(ground, {"a": LONG_WAIT})
    with started("run", ground) as first:
        until(lambda: content(ground / "a.out"))
        ended = kvs("run", ground, how=AS_NOBODY)
        assert ended.status == 1
        assert f"in use by process {first.pid}" in only_line(ended)
        first.send_signal(signal.SIGTERM)
        assert end(first).status == 143
