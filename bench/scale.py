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
    largest_table: int
    """The size of one more, for fewer turns."""
    table_commands: int
    """Commands carried out on a table of each size."""
    pairs: int
    """Pairs in a table that is shown or backed up."""
    small_jobs: int
    pings: int
    """Messages sent one after the other, in each turn."""
    subscribers: tuple[int, ...]
    changes: int
    """Changes told to each of the subscribers."""
    many_sessions: int
    many_changes: int
    """Changes told to each of so many sessions."""
    requests: int
    """Requests of one session, in each turn."""
    connects: int
    busy_requests: int
    """Requests of one session while jobs run."""
    synced_commands: int
    """Commands of which each is a transaction of its own, on disk before the next."""
    writers: tuple[int, ...]
    """Sessions that write at the same time."""
    writes: int
    """Of all of them together, in each turn."""
    engine_keys: tuple[int, ...]
    """Of `make_jobs`, which draws from 26 times as many."""
    engine_commands: int
    """Commands in each file for the engines: so many that start-up is little of a run."""
    engine_turns: int
    growth_pairs: int
    growth_turns: int


FULL = Scale(
    turns=7,
    short_turns=21,
    long_turns=5,
    files=make_jobs.FILES,
    commands=make_jobs.COMMANDS,
    table_sizes=(1_000, 10_000, 100_000, 1_000_000),
    largest_table=10_000_000,
    table_commands=50_000,
    pairs=1_000_000,
    small_jobs=10_000,
    pings=500,
    subscribers=(1, 10, 100),
    changes=20_000,
    many_sessions=1_000,
    many_changes=1_000,
    requests=5_000,
    connects=300,
    busy_requests=400,
    synced_commands=1_000,
    writers=(1, 10, 100),
    writes=3_000,
    engine_keys=(1_000, 100_000),
    engine_commands=1_000_000,
    engine_turns=5,
    growth_pairs=10_000_000,
    growth_turns=1,
)

QUICK = Scale(
    turns=1,
    short_turns=1,
    long_turns=1,
    files=2,
    commands=500,
    table_sizes=(100, 1_000),
    largest_table=2_000,
    table_commands=500,
    pairs=20_000,
    small_jobs=50,
    pings=20,
    subscribers=(1, 3),
    changes=200,
    many_sessions=20,
    many_changes=50,
    requests=100,
    connects=5,
    busy_requests=5,
    synced_commands=30,
    writers=(1, 3),
    writes=60,
    engine_keys=(10,),
    engine_commands=500,
    engine_turns=2,
    growth_pairs=5_000,
    growth_turns=1,
)
