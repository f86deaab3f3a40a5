"""How much is measured: all of it, or little and fast to see that everything works."""

from dataclasses import dataclass

from bench import make_jobs


@dataclass(frozen=True)
class Scale:
    """The sizes of all measures."""

    turns: int
    """How many times each thing is measured where one time takes about a second."""
    short_turns: int
    """The same where it takes a tenth of that."""
    long_turns: int
    """The same where it takes ten times that."""
    files: int
    commands: int
    """Commands in each file."""
    table_sizes: tuple[int, ...]
    table_commands: int
    """Commands carried out on a table of each size."""
    pairs: int
    """Pairs in a table that is shown or backed up."""
    small_jobs: int
    engine_keys: tuple[int, ...]
    """Of `make_jobs`, which draws from 26 times as many."""
    engine_commands: int
    """Commands in each file for the engines: so many that start-up is little of a run."""
    growth_pairs: int
    growth_turns: int


FULL = Scale(
    turns=7,
    short_turns=21,
    long_turns=5,
    files=make_jobs.FILES,
    commands=make_jobs.COMMANDS,
    table_sizes=(1_000, 10_000, 100_000, 1_000_000),
    table_commands=50_000,
    pairs=1_000_000,
    small_jobs=10_000,
    engine_keys=(1_000, 100_000),
    engine_commands=250_000,
    growth_pairs=10_000_000,
    growth_turns=2,
)

QUICK = Scale(
    turns=1,
    short_turns=1,
    long_turns=1,
    files=2,
    commands=500,
    table_sizes=(100, 1_000),
    table_commands=500,
    pairs=20_000,
    small_jobs=50,
    engine_keys=(10,),
    engine_commands=500,
    growth_pairs=5_000,
    growth_turns=1,
)
