"""Sessions of a user whose pipe budget is exhausted (pipe-user-pages-soft, pipe(7))."""

import os
import subprocess
import sys

import pytest

from tests.helpers import without_files
from tests.server.raw_client import SECONDS


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs a user whose budget may be used up")
def test_small_pipes_change_nothing_and_are_logged_once() -> None:
    uid = 20_000 + os.getpid() % 40_000  # others may run this at the same time
    done = subprocess.run(
        [sys.executable, "-m", "tests.server.small_pipes", str(uid)],
        env=without_files(),
        capture_output=True,
        text=True,
        timeout=10 * SECONDS,
        check=False,
    )
    if done.stdout == "no budget\n":
        pytest.skip("there is no budget for pipes here")
    assert (done.stdout, done.stderr, done.returncode) == ("all well\n", "", 0)
