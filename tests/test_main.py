"""The start of the program: Ctrl-C during imports, lazy imports, other systems."""

import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.helpers import SECONDS, write_jobs

INTERRUPTED_AT = """
import os, signal, sys

module = sys.argv.pop(1)

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from kvs.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    "module",
    ["kvs.cli", "argparse", "kvs.engine.selection", "kvs.cli.run", "kvs.store.core", "kvs.jobs"],
)
def test_ctrl_c_during_imports_exits_without_a_traceback(tmp_path: Path, module: str) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "HELP\n"})
    command = [sys.executable, "-c", INTERRUPTED_AT, module, "run", str(jobs)]
    ended = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, b"", b"")
    assert sorted(jobs.iterdir()) == [jobs / "a.job"]


def test_package_imports_nothing_before_use() -> None:
    script = (
        "import sys; before = {*sys.modules}; import kvs; print(sorted({*sys.modules} - before));"
        "[getattr(kvs, name) for name in kvs.__all__]; print({*kvs.__all__} <= {*dir(kvs)})"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)
    assert ended.stdout == b"['kvs', 'kvs._version']\nTrue\n"


ELSEWHERE = (
    "import sys; sys.platform = 'darwin'; sys.argv = ['kvs', 'run', '.', '--data', 'data']; "
)


@pytest.mark.parametrize("use", ["kvs.Store()", "kvs.connect('fifo')", "from kvs import Session"])
def test_library_says_that_it_needs_linux(use: str) -> None:
    script = f"{ELSEWHERE}import kvs\ntry:\n {use}\nexcept ImportError as error: print(error)"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=SECONDS, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout == b"kvs needs Linux; this system is darwin\n"


def test_program_says_that_it_needs_linux(tmp_path: Path) -> None:
    script = f"{ELSEWHERE}from kvs.__main__ import main; sys.exit(main())"
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert ended.stderr == b"kvs needs Linux; this system is darwin\n"
    assert not [*tmp_path.iterdir()]


def test_console_script_is_the_module() -> None:
    (script,) = entry_points(group="console_scripts", name="kvs")
    assert script.value == "kvs.__main__:main"
