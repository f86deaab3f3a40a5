"""Directories and filesystems in which tests cause failures."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import NOBODY_UID, write_jobs


@pytest.fixture(name="ground")
def _ground() -> Iterator[Path]:
    """Return a directory of jobs "a" and "z" that belongs to the user `NOBODY`."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    parent = Path(tempfile.mkdtemp(prefix="kvs-tests-"))
    try:
        parent.chmod(0o755)
        jobs = write_jobs(parent / "jobs", {"a": "READ [k]\n", "z": "READ [k]\n"})
        os.chown(jobs, NOBODY_UID, NOBODY_UID)
        yield jobs
    finally:
        shutil.rmtree(parent)


Mount = Callable[[str], Path]


@pytest.fixture(name="mount")
def _mount(tmp_path: Path) -> Iterator[Mount]:
    """Return a function that mounts a small filesystem in memory, with options of tmpfs(5)."""
    path = tmp_path / "small"

    def mount(options: str) -> Path:
        path.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "kvs-tests", path],
            check=False,
            capture_output=True,
            text=True,
        )
        if mounted.returncode != 0:
            pytest.skip(f"no filesystem can be mounted here: {mounted.stderr.strip()}")
        return path

    try:
        yield mount
    finally:
        if path.is_mount():
            subprocess.run(["umount", path], check=True)
