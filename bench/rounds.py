"""Interleaved rounds: the systems that are compared run one after the other, again and again.

A machine that is busy with other work mostly is so for all of a round or for none of it. So the
quotient of two figures of one round says more than that of two figures of different rounds, and the
median over the rounds is not moved by the few that were disturbed half-way.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from bench.results import PER_SECOND, SECONDS, Figure, Workload

Subject = Callable[[], Mapping[str, float]]
"""Does the work to measure once, and returns its figures by name."""


class Rounds:
    """The figures of all rounds, by name; the same round has the same index in each list."""

    def __init__(self, subjects: Sequence[Subject], count: int) -> None:
        """Run every subject once in each of `count` rounds; each round begins with another one."""
        self.figures: dict[str, list[float]] = defaultdict(list)
        for number in range(count):
            print(f"  round {number + 1} of {count}", file=sys.stderr, flush=True)
            first = number % len(subjects)
            for subject in (*subjects[first:], *subjects[:first]):
                for name, figure in subject().items():
                    self.figures[name].append(figure)

    def median(self, name: str) -> float:
        """Return the median of the figures called `name`."""
        return median(self.figures[name])

    def ratio(self, name: str, base: str) -> float:
        """Return the median, over the rounds, of the figure `name` divided by the figure `base`."""
        return _ratio(self.figures[name], self.figures[base])

    def workload(
        self,
        id: str,  # noqa: A002
        label: str,
        systems: Mapping[str, str],
        *,
        unit: str = SECONDS,
        count: float = 1,
    ) -> Workload:
        """Return a row of a table.

        Args:
            id: The identifier of the workload.
            label: Its description.
            systems: The names of figures by system. A system without figures is left out.
            unit: With `PER_SECOND`, figures are seconds of `count` operations, to be made a rate.
            count: The number of operations that a figure is of: the row shows one operation.

        """
        values = {
            system: [
                count / value if unit == PER_SECOND else value / count
                for value in self.figures[name]
            ]
            for system, name in systems.items()
            if name in self.figures
        }
        figures = {
            system: Figure(
                median=median(rounds),
                low=min(rounds),
                high=max(rounds),
                ratios={
                    base: _ratio(rounds, others)
                    for base, others in values.items()
                    if base != system and all(others)  # a figure in bytes may be 0
                },
                rounds=rounds,
            )
            for system, rounds in values.items()
        }
        return Workload(id, label, unit, figures)


def joined(*workloads: Workload) -> Workload:
    """Return the first of several workloads with the systems of all."""
    first, *_ = workloads
    systems = {name: figure for each in workloads for name, figure in each.systems.items()}
    return Workload(first.id, first.label, first.unit, systems)


def _ratio(rounds: Sequence[float], bases: Sequence[float]) -> float:
    return median(figure / base for figure, base in zip(rounds, bases, strict=True))
