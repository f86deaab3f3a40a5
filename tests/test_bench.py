"""The bench works; what it measures here means nothing."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from bench import redis
from bench.listeners import listening

from kvs.engine.selection import COMPILED, engine_name

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent

LIMIT_SECONDS = 900.0
"""Seconds after which a bench has hung.

All rows take 20 s on two idle cores. They are many processes that wait for one another, and busy
cores make each wait longer: 70 s at a load of 9, 420 s at one of 14.
"""


def test_every_row_can_be_measured() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=True,
    )
    for row in (
        "`kvs run`",
        "the floor",
        "compiled engine" if engine_name() == COMPILED else "python engine",
        "the longest WRITE",
        "1,000 keys",
        "SHOW",
        "BACKUP",
        "empty directory",
        "jobs of",
        "from a WRITE to its notification",
        "through a bare named pipe",
        "notifications to 1 session",
        "notifications to 20 sessions at once",
        "connects: ",
        "subscribes of one session",
        "beside no session",
        "beside 100 idle sessions",
        "while 2 jobs run flat out",
        "`kvs run` in memory alone",
        "`--fsync always` |",
        "`--fsync interval` |",
        "`--fsync never` |",
        "each a transaction and synced if it changed: `kvs.Store`",
        "each a transaction and synced if it changed: SQLite",
        "each a transaction and synced if it changed: LMDB",
        "WRITEs of 1 session",
        "WRITEs of 3 sessions at once",
        "appended to a bare file and synced",
        "from the journal alone",
        "from a snapshot",
        "another thread that writes single pairs",
        "with the store in memory alone",
    ):
        assert row in done.stdout
    assert "Goals" not in done.stdout
    if redis.missing() is None:
        assert "`appendonly yes`, `appendfsync everysec` |" in done.stdout
        assert "x Redis with `appendfsync always` |" in done.stdout


def test_rows_beside_redis_do_without_it(tmp_path: Path) -> None:
    rows = ["run", "journal", "acknowledged"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--rows", *rows],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=True,
    )
    for row in ("the floor", "each a transaction", "WRITEs of 3 sessions"):
        assert row in done.stdout
    assert done.stdout.count("Redis") == 1
    assert "Redis was not measured" in done.stdout


def test_the_workload_is_the_same_for_the_same_arguments(tmp_path: Path) -> None:
    for name in ("one", "other"):
        arguments = [str(tmp_path / name), "--files", "2", "--commands", "50", "--seed", "7"]
        subprocess.run(
            [sys.executable, "-m", "bench.make_jobs", *arguments],
            cwd=ROOT,
            timeout=LIMIT_SECONDS,
            check=True,
        )
    one, other = (sorted((tmp_path / name).iterdir()) for name in ("one", "other"))
    assert [path.name for path in one] == [path.name for path in other]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert one[0].read_bytes() != one[1].read_bytes()
    assert one[0].read_bytes().count(b"\n") == 50


def test_a_byte_that_is_missing_twice_or_out_of_order_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)

    def heard(data: bytes) -> None:
        pipe = os.open(path, os.O_RDWR)  # so that neither side waits for the other to open it
        try:
            with listening(partial(opened, path)) as listen:
                assert listen(b"one two three", lambda: os.write(pipe, data)) > 0
        finally:
            os.close(pipe)

    heard(b"one two three")
    for wrong in (b"one three", b"one two two", b"two one three"):
        with pytest.raises(EOFError):
            heard(wrong)


def opened(path: Path) -> list[int]:
    """Return what the listening process listens to."""
    return [os.open(path, os.O_RDONLY)]
