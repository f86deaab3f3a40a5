"""Goals of the kind that kvs is at least as fast as other systems."""

from collections.abc import Iterator

from bench.results import REDIS, Goal, times
from bench.rounds import Rounds


def as_fast_as(
    rounds: Rounds, what: str, figure: str, base: str, system: str = REDIS
) -> Iterator[Goal]:
    """Yield the goal for figures in seconds of kvs and of another system, if that was measured."""
    if base in rounds.figures:
        ratio = rounds.ratio(base, figure)
        yield Goal(f"{what}: at least as fast as {system}", times(ratio), ratio >= 1)
