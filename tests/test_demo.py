"""`examples/demo` prints the right output, cleans up, and reports failures."""

import subprocess
from pathlib import Path

import pytest

from tests.helpers import SECONDS, until

DEMO = Path(__file__).parent.parent / "examples" / "demo"


def run_demo(program: Path) -> "subprocess.CompletedProcess[str]":
    """Run the demo with `program`, in a session of its own and without a terminal."""
    done = subprocess.run(
        [DEMO, program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        start_new_session=True,
        check=False,
    )
    assert not directory_of(done.stdout).exists()
    return done


def directory_of(output: str) -> Path:
    """Return the directory that the demo uses, according to its output."""
    return Path(output.partition("\n")[0].removeprefix("$ cd "))


def test_demo_prints_the_output_of_each_client_in_order(kvs: Path) -> None:
    done = run_demo(kvs)
    assert (done.returncode, done.stderr) == (0, "")
    printed = [line for line in done.stdout.splitlines() if line.startswith("    ")]
    assert printed == [
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failing", "message"),
    [
        ("serve drop", "the server has ended"),
        ("client other", "the other client ended with status 3"),
    ],
)
def test_failing_program_is_reported(kvs: Path, tmp_path: Path, failing: str, message: str) -> None:
    broken = tmp_path / "broken"
    broken.write_text(f'#!/bin/sh\n[ "$1 $2" = "{failing}" ] && exit 3\nexec "{kvs}" "$@"\n')
    broken.chmod(0o700)
    done = run_demo(broken)
    assert done.returncode == 1
    assert done.stderr.startswith(f"demo: {message}; ")


@pytest.mark.slow
def test_stopped_demo_leaves_no_directory(kvs: Path, tmp_path: Path) -> None:
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
    assert not directory_of((tmp_path / "out").read_text()).exists()
