"""``python -m bench``: measure, and write docs/benchmarks.json and docs/benchmarks.md."""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType

from bench import machine, page, results
from bench.results import Section
from bench.scale import FULL, QUICK, Scale
from bench.suites import SECTIONS


def main() -> int:
    """Measure the sections that the arguments name; return the exit status."""
    options = _options()
    # SIGTERM raises SystemExit, so that servers are stopped and directories removed.
    signal.signal(signal.SIGTERM, _exit)
    template = page.TEMPLATE.read_text(encoding="utf-8")
    names = [] if options.render else options.section or list(SECTIONS)
    if options.quick:
        print(page.render(template, dict(_measure(names, QUICK))), end="")
        return 0
    stored = dict(results.read())
    for name, section in _measure(names, FULL):
        stored[name] = section
        # After each section, so that an interruption loses one section only.
        results.write({each: stored[each] for each in SECTIONS if each in stored})
    page.PATH.write_text(page.render(template, results.read()), encoding="utf-8")
    return 0


def _measure(names: list[str], scale: Scale) -> Iterator[tuple[str, Section]]:
    for name in names:
        suites = SECTIONS[name]
        outcomes = {}
        for number, (suite, measure) in enumerate(suites.items(), 1):
            _log(f"{name}: {suite} ({number} of {len(suites)})")
            start = time.perf_counter()
            with tempfile.TemporaryDirectory(prefix=f"kvs-bench-{suite}-") as directory:
                outcome = measure(scale, directory)
            _log(f"{name}: {suite}: {time.perf_counter() - start:.0f} s")
            # Goals are limits at full scale.
            outcomes[suite] = replace(outcome, goals=()) if scale is QUICK else outcome
        yield name, Section(machine.description(), outcomes)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure kvs, and write docs/benchmarks.json and docs/benchmarks.md.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--section", nargs="+", metavar="NAME", choices=SECTIONS,
        help=f"measure these sections only: {', '.join(SECTIONS)}",
    )  # fmt: skip
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--quick", action="store_true",
        help="check that everything works: measure little, print the page, write no file",
    )  # fmt: skip
    mode.add_argument(
        "--render", action="store_true", help="write the page from the JSON; measure nothing"
    )
    return parser.parse_args()


def _exit(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
