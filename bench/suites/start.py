"""The cost of starting and ending: a run without jobs."""

from bench.processes import KVS as KVS_PROGRAM
from bench.processes import PYTHON, timing
from bench.results import KVS, PYTHON_BASELINE, Goal, Outcome, duration
from bench.rounds import Rounds
from bench.scale import Scale

GOAL_S = 0.15
"""Maximum seconds of ``kvs run`` on an empty directory."""


def start(scale: Scale, directory: str) -> Outcome:
    """Measure ``kvs run`` on an empty directory beside an interpreter without work."""
    rounds = Rounds(
        [
            timing("kvs", [KVS_PROGRAM, "run", directory]),
            timing("python", [PYTHON, "-c", "pass"]),
        ],
        scale.short_rounds,
    )
    workload = rounds.workload(
        "empty",
        "an empty directory (baseline: `python -c pass`)",
        {KVS: "kvs", PYTHON_BASELINE: "python"},
    )
    seconds = rounds.median("kvs")
    goal = Goal(
        f"`kvs run` on an empty directory takes less than {duration(GOAL_S)}",
        duration(seconds),
        seconds < GOAL_S,
    )
    return Outcome([workload], [goal])
