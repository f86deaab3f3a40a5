"""Killed at random moments, for hundreds of rounds, against a record of what was acknowledged."""

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

import kvs
from kvs.errors import DirectoryLockedError
from kvs.store import maintenance
from tests.helpers import SECONDS, content, until

pytestmark = pytest.mark.stress

ROUNDS = 300

PROGRAM = """
import sys
from kvs import settings
settings.DataSettings.__init__.__defaults__ = ("always", 1.0, {compact}, {segment}, 0)
from kvs.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""The program, with a journal that is compacted, and goes on in a new segment, all the time."""


def start(*arguments: object, compact: int, segment: int) -> "subprocess.Popen[bytes]":
    program = PROGRAM.format(compact=compact, segment=segment)
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)


def killed(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Kill a program after so long; return whether it had not ended before."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    _, errors = process.communicate(timeout=SECONDS)
    assert b"Traceback" not in errors, errors.decode()
    assert process.returncode in {0, 1, -9}, errors.decode()
    return process.returncode == -9


def whole(data: Path) -> int:
    """Check a directory that a child of a killed program may hold for a moment more."""

    def checked() -> list[int]:
        with contextlib.suppress(DirectoryLockedError):
            return [maintenance.check(data).revision]
        return []

    return until(checked)[0]


def make_jobs(directory: Path, rng: random.Random) -> None:
    """Write jobs whose outputs do not depend on each other, though they share a key."""
    directory.mkdir()
    for name in "abc":
        lines = []
        for number in range(6000):
            key = f"{name}{rng.randrange(50)}"
            kind = rng.random()
            if kind < 0.5:
                lines.append(
                    f"WRITE [({key},{number})({key}-again,{number})(shared,{name}{number})]"
                )
            elif kind < 0.9:
                lines.append(f"READ [{key},{key}-again]")
            elif kind < 0.98:
                lines.append(f"DELETE [{key},{name}-never]")
            elif kind < 0.99:
                lines.append("WAIT 1")
            elif kind < 0.995:
                lines.append("BACKUP")
            else:
                lines.append("nonsense")
        (directory / f"{name}.job").write_text("\n".join(lines) + "\n")


def test_killed_and_resumed_runs_give_the_same_result(tmp_path: Path) -> None:
    rng = random.Random(7)
    rounds = kills = 0
    while rounds < ROUNDS:
        place = tmp_path / f"{rounds}"
        place.mkdir()
        seed = rng.random()
        make_jobs(place / "whole", random.Random(seed))
        make_jobs(place / "jobs", random.Random(seed))
        with kvs.Store() as memory:
            memory.run_jobs(place / "whole")
            expected = [pair for pair in memory.items() if pair[0] != b"shared"]
        outputs = {name: content(place / "whole" / f"{name}.out") for name in "abc"}
        revision = 0
        limits = {"compact": rng.choice([1, 5000, 10**9]), "segment": rng.choice([1, 3000, 10**9])}
        going = True
        while going:
            rounds += 1
            arguments = ("run", "--quiet", place / "jobs", "--data", place / "data", "--resume")
            going = killed(start(*arguments, **limits), rng.uniform(0.1, 0.5))
            kills += going
            for name, output in outputs.items():
                assert output.startswith(content(place / "jobs" / f"{name}.out"))
            if (place / "data").exists() and any((place / "data").glob("*.journal")):
                before, revision = revision, whole(place / "data")
                assert revision >= before
        assert {name: content(place / "jobs" / f"{name}.out") for name in "abc"} == outputs
        with kvs.Store(place / "data") as store:
            assert [pair for pair in store.items() if pair[0] != b"shared"] == expected
        for snapshot in (place / "jobs").glob("*.bck"):
            lines = snapshot.read_bytes().splitlines()
            pairs = dict(line[1:-1].split(b", ") for line in lines)
            own = snapshot.name[:1].encode()
            for key, value in pairs.items():
                if key.startswith(own) and key + b"-again" in pairs:
                    assert int(pairs[key + b"-again"]) >= int(value)
    assert kills > ROUNDS // 3


class Writers:
    """Sessions that write, each its own key, and remember what was acknowledged."""

    def __init__(self) -> None:
        self.acknowledged = [0] * 4
        self.tried = [0] * 4

    def write(self, which: int, path: Path) -> None:
        """Write until the server is gone."""
        with contextlib.suppress(kvs.KvsError), kvs.connect(path) as session:
            while True:
                self.tried[which] += 1
                number = self.tried[which]
                script = b"WRITE [(s%d,%d)]\nREAD [s%d]\n" % (which, number, which)
                answer = session.execute(script)
                assert answer.output == b"[(s%d,%d)]\n" % (which, number)
                self.acknowledged[which] = number

    def check(self, data: Path) -> None:
        """Check what is kept against what was acknowledged."""
        whole(data)
        with kvs.Store(data) as store:
            for which, acknowledged in enumerate(self.acknowledged):
                value = int(store.read([f"s{which}"]).get(b"s%d" % which, b"0"))
                assert acknowledged <= value <= self.tried[which]
                self.tried[which] = value


def test_killed_server_recovers_acknowledged_changes() -> None:
    rng = random.Random(8)
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as name:
        folder, writers = Path(name), Writers()
        jobs = folder / "jobs"
        jobs.mkdir()
        text = "".join(f"WRITE [(job,{n})]\nREAD [job]\n" for n in range(20_000))
        (jobs / "a.job").write_text(text)
        output = "".join(f"[(job,{n})]\n" for n in range(20_000)).encode()
        for _ in range(ROUNDS // 2):
            limits = {"compact": rng.choice([1, 50_000]), "segment": rng.choice([500, 10**9])}
            arguments = (jobs, 2, 2, folder / "reg", "--data", folder / "data")
            process = start("serve", *arguments, "--log-level", "error", **limits)
            until(lambda: (folder / "reg").exists() or process.poll() is not None)  # noqa: B023
            threads = [
                threading.Thread(target=writers.write, args=(which, folder / "reg"))
                for which in range(4)
            ]
            for thread in threads:
                thread.start()
            assert killed(process, rng.uniform(0, 0.5))
            for thread in threads:
                thread.join(SECONDS)
                assert not thread.is_alive()
            (folder / "reg").unlink()
            assert output.startswith(content(jobs / "a.out"))
            writers.check(folder / "data")
        assert min(writers.acknowledged) > ROUNDS
        assert os.listdir(jobs).count("a.out") == 1
