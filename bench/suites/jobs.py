"""Many jobs of one line: the cost of a job without its commands."""

import os

from bench import baseline
from bench.folders import IN_MEMORY, memory_is_usable, short_folder
from bench.processes import KVS as KVS_PROGRAM
from bench.processes import PYTHON, timed, timing
from bench.results import KVS, KVS_ONE_THREAD, PYTHON_BASELINE, Outcome, Workload
from bench.rounds import Rounds
from bench.scale import Scale


def small_jobs(scale: Scale, directory: str) -> Outcome:
    """Measure ``kvs run`` on many jobs of one line, beside the Python baseline on the same jobs.

    The files are in memory, if possible: the time of a disk for so many small files differs by ten
    times from round to round, and would hide the time of the programs.
    """
    if memory_is_usable():
        with short_folder() as in_memory:
            return Outcome([_measure(scale, in_memory, "on files in memory")])
    remark = f"Small jobs were measured on disk: {IN_MEMORY} cannot be used."
    return Outcome([_measure(scale, directory, "on files on disk")], remarks=[remark])


def _measure(scale: Scale, directory: str, place: str) -> Workload:
    for number in range(scale.small_jobs):
        with open(os.path.join(directory, f"job{number:05}.job"), "wb") as file:
            file.write(b"READ [key%d]\n" % number)
    commands = {
        KVS: [KVS_PROGRAM, "run", directory],
        KVS_ONE_THREAD: [KVS_PROGRAM, "run", "--threads", "1", directory],
        PYTHON_BASELINE: [PYTHON, baseline.__file__, directory],
    }
    # Outputs are created once and then replaced, never removed: ext4 creates files slowly for
    # minutes after as many were removed, as it skips the freed inodes (`recently_deleted`).
    for command in commands.values():
        timed(command)
    rounds = Rounds([timing(name, command) for name, command in commands.items()], scale.rounds)
    return rounds.workload(
        "job",
        f"one of {scale.small_jobs:,} jobs of one line, {place}",
        {name: name for name in commands},
        count=scale.small_jobs,
    )
