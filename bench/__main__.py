"""``python -m bench``: measure, and write docs/benchmarks.md."""

import argparse
import os
import signal
import sys
import tempfile
import time
from dataclasses import replace
from types import FrameType

from bench import machine, report
from bench.results import Outcome
from bench.scale import FULL, QUICK, Scale
from bench.suites import MEASURES


def main() -> int:
    """Measure what was asked for; return the exit status."""
    options = _options()
    # A plain kill leaves by an exception too, so that no server or directory stays behind.
    signal.signal(signal.SIGTERM, _leave)
    # Read first, so that a page without a place for them does not cost minutes of figures.
    the_page = None if options.quick or options.rows else report.Page()
    names = [name for name in MEASURES if not options.rows or name in options.rows]
    outcomes = _measured(names, QUICK if options.quick else FULL)
    if options.quick:
        # So little says nothing about goals.
        outcomes = {name: replace(outcome, goals=()) for name, outcome in outcomes.items()}
    figures = f"{machine.described()}\n\n{report.written(outcomes)}"
    if the_page is None:
        print(figures, end="")
    else:
        the_page.put(figures)
    return 0


def _measured(names: list[str], scale: Scale) -> dict[str, Outcome]:
    outcomes = {}
    for name in names:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix=f"kvs-bench-{name}-") as directory:
            outcomes[name] = MEASURES[name](scale, directory)
        print(f"{name}: took {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return outcomes


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure kvs and write the figures into "
        f"{os.path.relpath(report.PATH)}; with an option, show them only.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--rows", nargs="+", metavar="NAME", choices=MEASURES,
        help=f"measure these alone: {', '.join(MEASURES)}",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="measure little, to see that everything works"
    )
    return parser.parse_args()


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
