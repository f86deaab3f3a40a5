"""Many jobs of one line: what a job costs beside its commands."""

import os

from bench import baseline
from bench.folders import IN_MEMORY, memory_is_usable, short_folder
from bench.processes import KVS, PYTHON, timed, timing
from bench.results import Outcome, Row, duration, times
from bench.rounds import Turns
from bench.scale import Scale


def small_jobs(scale: Scale, directory: str) -> Outcome:
    """Measure ``kvs run`` on many jobs of one line, beside the floor on the same.

    In memory where that can be: how long a disk takes for so many small files differs by ten
    times from turn to turn, and hides what the programs take.
    """
    if memory_is_usable():
        with short_folder() as in_memory:
            return Outcome(_rows(scale, in_memory, "on files in memory"))
    remark = f"Small jobs were measured on disk: {IN_MEMORY} cannot be used."
    return Outcome(_rows(scale, directory, "on files on disk"), remarks=[remark])


def _rows(scale: Scale, directory: str, where: str) -> list[Row]:
    for number in range(scale.small_jobs):
        with open(os.path.join(directory, f"job{number:05}.job"), "wb") as file:
            file.write(b"READ [key%d]\n" % number)
    commands = {
        "kvs": [KVS, "run", directory],
        "kvs 1": [KVS, "run", "--threads", "1", directory],
        "floor": [PYTHON, baseline.__file__, directory],
    }
    # Outputs are made once and then replaced, never removed: ext4 makes files slowly for minutes
    # after as many were removed, in passing over the freed inodes (`recently_deleted`).
    for command in commands.values():
        timed(command)
    turns = Turns([timing(name, command) for name, command in commands.items()], scale.turns)

    def row(what: str, name: str) -> Row:
        a_job = duration(turns.median(name) / scale.small_jobs)
        ratio = "" if name == "floor" else f"{times(turns.ratio(name, 'floor'))} the floor"
        return Row(what, f"{turns.duration(name)}, {a_job} a job", ratio)

    jobs = f"{scale.small_jobs:,} jobs of one line, {where}"
    return [
        row(f"`kvs run`, {jobs}", "kvs"),
        row("`kvs run --threads 1`, the same", "kvs 1"),
        row("the floor, the same", "floor"),
    ]
