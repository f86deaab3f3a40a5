"""docs/benchmarks.md: what stands between two markers is written here, all else by hand."""

from collections.abc import Mapping
from pathlib import Path

from bench.results import Goal, Outcome

PATH = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN = "<!-- begin: written by python -m bench -->"
END = "<!-- end: written by python -m bench -->"


class MarkersMissing(Exception):
    """The page has no place for the figures."""


def written(outcomes: Mapping[str, Outcome]) -> str:
    """Return the figures as Markdown: the table, the goals, the remarks."""
    parts = [_table(outcomes)]
    goals = [goal for outcome in outcomes.values() for goal in outcome.goals]
    if goals:
        parts.append("Goals:\n\n" + "\n".join(map(_goal, goals)))
    remarks = (remark for outcome in outcomes.values() for remark in outcome.remarks)
    parts += dict.fromkeys(remarks)  # several may say the same
    return "\n\n".join(parts) + "\n"


class Page:
    """The page as it stands, ready to take new figures."""

    def __init__(self, path: Path = PATH) -> None:
        """Read the page.

        Raises:
            OSError: it cannot be read.
            MarkersMissing: the markers are not there, once each and in order.

        """
        self._path = path
        self._before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        _, end, self._after = rest.partition(END)
        if not begin or not end or BEGIN in rest or END in self._before + self._after:
            raise MarkersMissing(f"{path} needs the lines {BEGIN} and {END}, once each")

    def put(self, figures: str) -> None:
        """Write the page with `figures` between its markers."""
        text = f"{self._before}{BEGIN}\n\n{figures}\n{END}{self._after}"
        self._path.write_text(text, encoding="utf-8")


def _table(outcomes: Mapping[str, Outcome]) -> str:
    lines = ["| what | figure | ratio | again |", "| --- | --- | --- | --- |"]
    for name, outcome in outcomes.items():
        command = f"`.venv/bin/python -m bench --rows {name}`"
        lines += (
            f"| {row.what} | {row.figure} | {row.ratio} | {command} |" for row in outcome.rows
        )
    return "\n".join(lines)


def _goal(goal: Goal) -> str:
    return f"- {goal.promise}: {'**met**' if goal.met else '**missed**'}, {goal.found}."
