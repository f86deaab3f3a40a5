"""``make demo`` shows what it should, clears up, and fails loudly."""

import subprocess
from pathlib import Path

import pytest

from tests.helpers import SECONDS, until

DEMO = Path(__file__).parent.parent / "examples" / "demo"


def play(program: Path) -> "subprocess.CompletedProcess[str]":
    """Play the demo with `program`, in a session of its own and without a terminal."""
    done = subprocess.run(
        [DEMO, program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        start_new_session=True,
        check=False,
    )
    assert not folder(done.stdout).exists()
    return done


def folder(shown: str) -> Path:
    """Return the folder of which the demo says that it works there."""
    return Path(shown.partition("\n")[0].removeprefix("$ cd "))


def test_the_demo_shows_what_each_sees_in_order(kvs: Path) -> None:
    done = play(kvs)
    assert (done.returncode, done.stderr) == (0, "")
    seen = [line for line in done.stdout.splitlines() if line.startswith("    ")]
    assert seen == [
        "    watcher: Server returned 0 for operation: connect",
        "    watcher: Server returned 0 for operation: subscribe",
        "    watcher: (pump,9)",
        "    other: Server returned 0 for operation: connect",
        "    other: (valve, 100)",
        "    other: Server returned 0 for operation: disconnect",
        "    watcher: (pump,DELETED)",
        "    watcher: Server returned 0 for operation: disconnect",
    ]
    assert "order.job: done, 1 command, " in done.stdout
    assert done.stdout.endswith("INFO stopped\n")


@pytest.mark.parametrize(
    ("failing", "told"),
    [
        ("serve drop", "the server has ended"),
        ("client other", "the other client ended with status 3"),
    ],
)
def test_a_program_that_fails_is_told(kvs: Path, tmp_path: Path, failing: str, told: str) -> None:
    broken = tmp_path / "broken"
    broken.write_text(f'#!/bin/sh\n[ "$1 $2" = "{failing}" ] && exit 3\nexec "{kvs}" "$@"\n')
    broken.chmod(0o700)
    done = play(broken)
    assert done.returncode == 1
    assert done.stderr.startswith(f"demo: {told}; ")


def test_one_that_is_stopped_leaves_nothing(kvs: Path, tmp_path: Path) -> None:
    stuck = tmp_path / "stuck"
    stuck.write_text(f'#!/bin/sh\n[ "$1" = serve ] && exec "{kvs}" "$@"\nexec sleep 60\n')
    stuck.chmod(0o700)
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen([DEMO, stuck], stdin=subprocess.DEVNULL, stdout=out)
    try:
        until(lambda: "SUBSCRIBE" in (tmp_path / "out").read_text())
        process.terminate()
        assert process.wait(SECONDS) == 143
    finally:
        process.kill()
    assert not folder((tmp_path / "out").read_text()).exists()
