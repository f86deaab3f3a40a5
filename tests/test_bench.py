"""The bench works; what it measures here means nothing."""

import subprocess
import sys
from pathlib import Path

from kvs.engine.choice import COMPILED, engine_name

ROOT = Path(__file__).parent.parent


def test_every_row_can_be_measured() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
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
    ):
        assert row in done.stdout
    assert "Goals" not in done.stdout


def test_the_workload_is_the_same_for_the_same_arguments(tmp_path: Path) -> None:
    for name in ("one", "other"):
        arguments = [str(tmp_path / name), "--files", "2", "--commands", "50", "--seed", "7"]
        subprocess.run(
            [sys.executable, "-m", "bench.make_jobs", *arguments], cwd=ROOT, timeout=60, check=True
        )
    one, other = (sorted((tmp_path / name).iterdir()) for name in ("one", "other"))
    assert [path.name for path in one] == [path.name for path in other]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert one[0].read_bytes() != one[1].read_bytes()
    assert one[0].read_bytes().count(b"\n") == 50
