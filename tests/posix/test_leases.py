"""Whether a file is open for writing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvs.posix.leases import has_writer
from tests.helpers import NOBODY_UID


def is_written(path: Path) -> bool:
    file = os.open(path, os.O_RDONLY)
    try:
        return has_writer(file)
    finally:
        os.close(file)


def test_file_has_a_writer_until_the_last_one_closes_it(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("w"):
        with path.open("a"), path.open():
            assert is_written(path)
        assert is_written(path)
        (tmp_path / "link").symlink_to("a")
        os.link(path, tmp_path / "second")
        assert is_written(tmp_path / "link")
        assert is_written(tmp_path / "second")
    with path.open():
        assert not is_written(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_writers_of_another_users_file_are_unknown() -> None:
    program = f"""
import os
from kvs.posix.leases import LeasesUnsupportedError, has_writer
os.setuid({NOBODY_UID})
try:
    has_writer(os.open("/etc/passwd", os.O_RDONLY))
except LeasesUnsupportedError as error:
    print(error.strerror)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert ended.stdout == b"Permission denied\n"


def test_no_signal_kills_a_process_whose_lease_is_broken(tmp_path: Path) -> None:
    """The lease is kept until a writer is blocked by it."""
    (tmp_path / "a").touch()
    program = f"""
import fcntl, os, signal, subprocess, sys
from kvs.posix import leases
before = fcntl.fcntl
waiting = []
def slow(file, command, *rest):
    result = before(file, command, *rest)
    if (command, rest) == (fcntl.F_SETLEASE, (fcntl.F_RDLCK,)):
        writer = subprocess.Popen(["sh", "-c", "echo x >> '{tmp_path}/a'"])
        while before(file, fcntl.F_GETLEASE) == fcntl.F_RDLCK:
            pass  # a lease that is being broken is reported as its target type
        waiting.append(writer)
    return result
leases.fcntl.fcntl = slow
print(leases.has_writer(os.open("{tmp_path}/a", os.O_RDONLY)))
print(waiting[0].wait(20))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "False\n0\n", "")
    assert (tmp_path / "a").read_text() == "x\n"
