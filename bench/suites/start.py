"""A run that has nothing to do: what starting and ending cost."""

from bench.processes import KVS, PYTHON, timing
from bench.results import Goal, Outcome, Row, duration, times
from bench.rounds import Turns
from bench.scale import Scale

GOAL_SECONDS = 0.15


def start(scale: Scale, directory: str) -> Outcome:
    """Measure ``kvs run`` on an empty directory beside an interpreter with nothing to do."""
    turns = Turns(
        [
            timing("kvs", [KVS, "run", directory]),
            timing("python", [PYTHON, "-c", "pass"]),
        ],
        scale.short_turns,
    )
    row = Row(
        "`kvs run` on an empty directory, from start to end",
        turns.duration("kvs"),
        f"{times(turns.ratio('kvs', 'python'))} `python -c pass`",
    )
    seconds = turns.median("kvs")
    goal = Goal(
        f"`kvs run` on an empty directory takes less than {duration(GOAL_SECONDS)}",
        duration(seconds),
        seconds < GOAL_SECONDS,
    )
    return Outcome([row], [goal])
