"""Taking turns: what is compared runs one after the other, again and again.

A machine that is busy with something else is so for all of a turn or for none of it, mostly. So
the quotient of two figures of one turn says more than that of two figures of different turns, and
the median over the turns is not moved by the few that were disturbed half-way.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from bench.results import duration

Subject = Callable[[], Mapping[str, float]]
"""Something to measure: does its work once and returns what it found, by name."""


class Turns:
    """The figures of all turns, by name; the same turn has the same index in each list."""

    def __init__(self, subjects: Sequence[Subject], turns: int) -> None:
        """Run every subject once in each of `turns` turns, each turn beginning with another."""
        self.figures: dict[str, list[float]] = defaultdict(list)
        for turn in range(turns):
            first = turn % len(subjects)
            for subject in (*subjects[first:], *subjects[:first]):
                for name, figure in subject().items():
                    self.figures[name].append(figure)

    def median(self, name: str) -> float:
        """Return the median of the figures called `name`."""
        return median(self.figures[name])

    def ratio(self, name: str, base: str) -> float:
        """Return the median, over the turns, of the figure `name` divided by the figure `base`."""
        pairs = zip(self.figures[name], self.figures[base], strict=True)
        return median(figure / other for figure, other in pairs)

    def duration(self, name: str, per: int = 1) -> str:
        """Write the median of the seconds called `name`, divided by `per`, with the extremes."""
        figures = [figure / per for figure in self.figures[name]]
        least, most = duration(min(figures)), duration(max(figures))
        return f"{duration(median(figures))} ({least} to {most})"

    def rate(self, name: str, count: float) -> str:
        """Write the median of so many things in each of the seconds called `name`, a second."""
        rates = [count / figure for figure in self.figures[name]]
        return f"{median(rates):,.0f} a second ({min(rates):,.0f} to {max(rates):,.0f})"
