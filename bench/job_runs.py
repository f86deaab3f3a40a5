"""Run a single job in a store of this process, and time it."""

import os
import time

from kvs.jobs.report import State
from kvs.library import Store

_NAME = "only"


class FailedJobError(Exception):
    """A job failed, or had invalid lines."""


def write_job(directory: str, script: bytes) -> str:
    """Create `directory` with a job in it; return the path of its output."""
    os.mkdir(directory)
    path = os.path.join(directory, _NAME)
    with open(f"{path}.job", "wb") as file:
        file.write(script)
    return f"{path}.out"


def timed_job(store: Store, directory: str) -> float:
    """Run the job in `directory` until its changes are committed; return the seconds.

    Raises:
        FailedJobError: it failed, or had invalid lines.

    """
    start = time.perf_counter()
    report = store.run_jobs(directory, threads=1)
    store.commit_point().wait()
    seconds = time.perf_counter() - start
    [job] = report.jobs
    if job.state is not State.DONE or job.invalid:
        raise FailedJobError(f"{job.file}: {job.failure or job.errors[:1]}")
    return seconds
