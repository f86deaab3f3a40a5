"""Places for failures to be made in."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import NOBODY, write_jobs


@pytest.fixture(name="ground")
def _ground() -> Iterator[Path]:
    """Return a directory of jobs "a" and "z" that belongs to `NOBODY`, who can get there."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    place = Path(tempfile.mkdtemp(prefix="kvs-tests-"))
    try:
        place.chmod(0o755)
        jobs = write_jobs(place / "jobs", {"a": "READ [k]\n", "z": "READ [k]\n"})
        os.chown(jobs, NOBODY, NOBODY)
        yield jobs
    finally:
        shutil.rmtree(place)


Mount = Callable[[str], Path]


@pytest.fixture(name="mount")
def _mount(tmp_path: Path) -> Iterator[Mount]:
    """Return what makes a small filesystem, in memory, with options of tmpfs(5)."""
    place = tmp_path / "small"

    def mount(options: str) -> Path:
        place.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "kvs-tests", place],
            check=False,
            capture_output=True,
            text=True,
        )
        if made.returncode != 0:
            pytest.skip(f"no filesystem can be mounted here: {made.stderr.strip()}")
        return place

    try:
        yield mount
    finally:
        if place.is_mount():
            subprocess.run(["umount", place], check=True)
