"""The first moments of the program: what ends it then ends it in silence."""

import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.tools import SECONDS, write_jobs

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
    "module", ["kvs.cli", "argparse", "kvs.engine.choice", "kvs.cli.run", "kvs.store", "kvs.jobs"]
)
def test_ctrl_c_before_all_is_loaded_ends_it_in_silence(tmp_path: Path, module: str) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "HELP\n"})
    command = [sys.executable, "-c", INTERRUPTED_AT, module, "run", str(jobs)]
    ended = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, b"", b"")
    assert sorted(jobs.iterdir()) == [jobs / "a.job"]


def test_the_package_loads_nothing_before_it_is_used() -> None:
    script = (
        "import sys; before = {*sys.modules}; import kvs; print(sorted({*sys.modules} - before));"
        "[getattr(kvs, name) for name in kvs.__all__]; print({*kvs.__all__} <= {*dir(kvs)})"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)
    assert ended.stdout == b"['kvs', 'kvs.version']\nTrue\n"


def test_the_console_script_is_the_module() -> None:
    (script,) = entry_points(group="console_scripts", name="kvs")
    assert script.value == "kvs.__main__:main"
