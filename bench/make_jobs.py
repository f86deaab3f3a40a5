"""Write a directory of job files; equal arguments give equal bytes: make_jobs.py DIR.

Half of the commands are WRITE, four in ten READ, one in ten DELETE. Each names 1 to --pairs keys,
uniformly distributed over 26 x --keys names.
"""

import argparse
import os
import random
import string
from collections.abc import Callable, Iterator

FILES = 4
COMMANDS = 50_000
KEYS = 1_000
PAIRS = 8

_WRITES = 0.5
_WRITES_AND_READS = 0.9
_VALUES = 10**6


def lines(rng: random.Random, commands: int, name: Callable[[], str], pairs: int) -> Iterator[str]:
    """Yield `commands` command lines, each with 1 to `pairs` random keys that `name` returns."""
    for _ in range(commands):
        kind = rng.random()
        names = [name() for _ in range(rng.randint(1, pairs))]
        if kind < _WRITES:
            body = "".join(f"({key},value{rng.randrange(_VALUES)})" for key in names)
            yield f"WRITE [{body}]\n"
        else:
            command = "READ" if kind < _WRITES_AND_READS else "DELETE"
            yield f"{command} [{','.join(names)}]\n"


def make_jobs(
    directory: str,
    *,
    files: int = FILES,
    commands: int = COMMANDS,
    keys: int = KEYS,
    pairs: int = PAIRS,
    seed: int = 0,
) -> None:
    """Write `files` job files of `commands` lines each into `directory`, created if missing."""
    os.makedirs(directory, exist_ok=True)
    for number in range(files):
        rng = random.Random(f"{seed}/{number}")

        def name(rng: random.Random = rng) -> str:
            return f"{rng.choice(string.ascii_lowercase)}key{rng.randrange(keys)}"

        path = os.path.join(directory, f"job{number:03}.job")
        with open(path, "w", encoding="ascii", newline="\n") as file:
            file.writelines(lines(rng, commands, name, pairs))


def main() -> None:
    """Write the files that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--files", type=int, default=FILES, help="default: %(default)s")
    parser.add_argument("--commands", type=int, default=COMMANDS, help="default: %(default)s")
    parser.add_argument("--keys", type=int, default=KEYS, help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    make_jobs(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
