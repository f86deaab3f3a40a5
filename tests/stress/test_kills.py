"""Runs that end at any moment: killed, or stopped; what they leave behind is whole."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvs.snapshot.reader import load
from tests.helpers import leftovers, until

pytestmark = pytest.mark.stress

ROUNDS = 150
JOBS = 3


def make_jobs(directory: Path, seed: int) -> None:
    """Write jobs whose outputs do not depend on each other, with snapshots in between."""
    directory.mkdir()
    for number in range(JOBS):
        rng = random.Random(seed * JOBS + number)
        lines = []
        for index in range(3000):
            key = f"{number}-{rng.randrange(400)}"
            if index % 500 == 499:
                lines.append("BACKUP")
            elif rng.random() < 0.5:
                lines.append(f"WRITE [({key},{index})({key}-again,{index})]")
            else:
                lines.append(f"READ [{key},{key}-again]")
        (directory / f"j{number}.job").write_text("\n".join(lines) + "\n")


def start(directory: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "kvs", "run", "--quiet", "--backups", "3", str(directory)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def outputs(directory: Path) -> list[bytes]:
    files = [directory / f"j{number}.out" for number in range(JOBS)]
    return [file.read_bytes() if file.exists() else b"" for file in files]


def check_what_is_left(directory: Path, whole: list[bytes]) -> None:
    for part, full in zip(outputs(directory), whole, strict=True):
        assert full.startswith(part)
    for snapshot in directory.glob("*.bck"):
        pairs = load(os.fsencode(snapshot)).pairs
        for key, value in pairs.items():
            if not key.endswith(b"-again"):
                assert pairs[key + b"-again"] == value, "half a command in a snapshot"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_run_leaves_complete_files_only(tmp_path: Path, number: signal.Signals) -> None:
    rng = random.Random(number)
    make_jobs(tmp_path / "whole", 1)
    began = time.monotonic()
    assert start(tmp_path / "whole").wait(60) == 0
    seconds = time.monotonic() - began
    whole = outputs(tmp_path / "whole")
    for index in range(ROUNDS):
        directory = tmp_path / f"round{index}"
        make_jobs(directory, 1)
        process = start(directory)
        try:
            process.wait(rng.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        status = process.wait(60)
        check_what_is_left(directory, whole)
        if number is signal.SIGKILL:
            # Its children may be at work for a moment more, and what they write is left alone.
            until(lambda: start(directory).wait(60) == 0 and not leftovers(directory))  # noqa: B023
            assert outputs(directory) == whole
        else:
            # Before its handlers stand, a signal ends the process as it ends any other.
            assert status in {0, 128 + number, -number, 1}
        left = {path.suffix for path in directory.iterdir()}
        assert left <= {".job", ".out", ".bck"}, left
