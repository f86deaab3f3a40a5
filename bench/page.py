"""docs/benchmarks.md, rendered from the results and from the template beside this module.

The template holds the prose. A directive in double braces stands for what comes from the results:

    {{bars SUITE.WORKLOAD}}                     a bar to a system
    {{table SUITE ...}}                         a row to a workload, a column to a system
    {{median SUITE.WORKLOAD | SYSTEM}}          a figure in a sentence
    {{ratio SUITE.WORKLOAD | SYSTEM | BASE}}    by how much two figures differ
    {{goals}}  {{remarks}}  {{machines}}        lists over all sections
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from bench.results import SYSTEMS, Figure, Goal, Outcome, Results, Workload, formatted, times

PATH = Path(__file__).parent.parent / "docs" / "benchmarks.md"
TEMPLATE = Path(__file__).with_name("template.md")

NOT_MEASURED = "not measured"

_DIRECTIVE = re.compile(r"\{\{(\w+)(?: ([^{}]+))?\}\}")
_BAR_WIDTH = 40
"""Characters of the longest bar."""
_PARTS = " ▏▎▍▌▋▊▉█"
"""A character of a bar, from empty to full in eighths."""


class TemplateError(Exception):
    """The template has a directive that does not exist."""


def render(template: str, results: Results) -> str:
    """Return the page.

    Raises:
        TemplateError: a directive does not exist.

    """
    page = _Page(results)

    def replaced(match: re.Match[str]) -> str:
        directive = page.directives.get(match[1])
        if directive is None:
            raise TemplateError(f"{TEMPLATE.name}: {match[0]} is not a directive")
        return directive(match[2] or "")

    return _DIRECTIVE.sub(replaced, template)


class _Page:
    """The directives of the template, each a function of its arguments."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._suites: Mapping[str, Outcome] = {
            name: outcome
            for section in results.values()
            for name, outcome in section.suites.items()
        }
        self.directives: Mapping[str, Callable[[str], str]] = {
            "bars": self._bars,
            "table": self._table,
            "median": self._median,
            "ratio": self._ratio,
            "goals": self._goals,
            "remarks": self._remarks,
            "machines": self._machines,
        }

    def _workload(self, reference: str) -> Workload | None:
        suite, _, identifier = reference.partition(".")
        outcome = self._suites.get(suite, Outcome([]))
        return next((each for each in outcome.workloads if each.id == identifier), None)

    def _figure(self, reference: str, system: str) -> tuple[Figure, str] | None:
        workload = self._workload(reference)
        if workload is None or system not in workload.systems:
            return None
        return workload.systems[system], workload.unit

    def _bars(self, reference: str) -> str:
        workload = self._workload(reference)
        return NOT_MEASURED if workload is None else "\n".join(["```", *bars(workload), "```"])

    def _table(self, suites: str) -> str:
        return table(
            [
                workload
                for name in suites.split()
                for workload in self._suites.get(name, Outcome([])).workloads
            ]
        )

    def _median(self, arguments: str) -> str:
        figure = self._figure(*_split(arguments))
        return NOT_MEASURED if figure is None else formatted(figure[0].median, figure[1])

    def _ratio(self, arguments: str) -> str:
        reference, system, base = _split(arguments)
        figure = self._figure(reference, system)
        if figure is None or base not in figure[0].ratios:
            return NOT_MEASURED
        return times(figure[0].ratios[base])

    def _goals(self, _: str) -> str:
        rows = [_goal_row(goal) for outcome in self._suites.values() for goal in outcome.goals]
        return "\n".join(["| goal | measured | |", "| --- | --- | --- |", *rows])

    def _remarks(self, _: str) -> str:
        remarks = (remark for outcome in self._suites.values() for remark in outcome.remarks)
        return "\n\n".join(dict.fromkeys(remarks))  # several suites may have the same remark

    def _machines(self, _: str) -> str:
        sections: dict[str, list[str]] = {}
        for name, section in self._results.items():
            sections.setdefault(section.machine, []).append(name)
        if len(sections) == 1:
            return next(iter(sections))
        return "\n".join(f"- {machine} ({', '.join(of)})" for machine, of in sections.items())


def in_order(systems: Iterable[str]) -> list[str]:
    """Return each system once, in the order of `SYSTEMS`; others follow in order of appearance."""
    names = dict.fromkeys(systems)
    return [name for name in SYSTEMS if name in names] + [
        name for name in names if name not in SYSTEMS
    ]


def bars(workload: Workload) -> Iterator[str]:
    """Yield a line to a system: its name, a bar as long as its median, and the median."""
    longest = max(figure.median for figure in workload.systems.values())
    width = max(map(len, workload.systems))
    for name in in_order(workload.systems):
        figure = workload.systems[name]
        bar = _bar(figure.median / longest)
        yield f"{name:{width}}  {bar:{_BAR_WIDTH}}  {formatted(figure.median, workload.unit)}"


def _bar(share: float) -> str:
    eighths = max(1, round(share * _BAR_WIDTH * 8))
    return _PARTS[8] * (eighths // 8) + _PARTS[eighths % 8].strip()


def table(workloads: list[Workload]) -> str:
    """Return a table with a row to a workload and a column to a system."""
    systems = in_order(name for workload in workloads for name in workload.systems)
    if not systems:
        return f"({NOT_MEASURED})"
    lines = [f"| | {' | '.join(systems)} |", f"| --- |{' ---: |' * len(systems)}"]
    for workload in workloads:
        cells = [_cell(workload.systems.get(name), workload.unit) for name in systems]
        lines.append(f"| {workload.label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(figure: Figure | None, unit: str) -> str:
    if figure is None:
        return ""
    text = formatted(figure.median, unit)
    if figure.low == figure.high:
        return text
    low, high = formatted(figure.low, unit), formatted(figure.high, unit)
    return f"{text} ({_without_unit(low, high)} to {high})"


def _without_unit(text: str, other: str) -> str:
    """Return `text` without its unit, if that of `other` is the same."""
    number, _, unit = text.partition(" ")
    return number if unit == other.partition(" ")[2] else text


def _goal_row(goal: Goal) -> str:
    return f"| {goal.promise} | {goal.measured} | {'met' if goal.met else '**missed**'} |"


def _split(arguments: str) -> list[str]:
    return [argument.strip() for argument in arguments.split("|")]
