"""The sizes of the measurements: full, or small and quick to check that everything works."""

from dataclasses import dataclass

from bench import make_jobs


@dataclass(frozen=True)
class Amount:
    """How many values of a size are written, by whichever limit is reached first."""

    most: int
    """Maximum number."""
    total_bytes: int
    """Maximum bytes of all together."""

    def count(self, size: int) -> int:
        """Return the number of values of `size` bytes, 1 or more."""
        return max(1, min(self.most, self.total_bytes // size))


@dataclass(frozen=True)
class Scale:
    """The sizes of all suites."""

    rounds: int
    """Rounds where one measurement takes about a second."""
    short_rounds: int
    """Rounds where one measurement takes about a tenth of a second."""
    long_rounds: int
    """Rounds where one measurement takes about ten seconds."""
    engine_rounds: int
    """Rounds of the suites `engines-few` and `engines-many`."""
    files: int
    """Job files."""
    commands: int
    """Commands per file."""
    few_keys: int
    """The `--keys` of `bench.make_jobs`, which uses 26 times as many names."""
    few_keys_commands: int
    """Commands per file, so many that start-up is a small part of a run."""
    many_keys: int
    many_keys_commands: int
    table_sizes: tuple[int, ...]
    """Keys of each table."""
    largest_table: int
    """Keys of one more table, measured in one round."""
    table_commands: int
    """Commands executed on a table of each size."""
    growth_pairs: tuple[int, int]
    """Pairs inserted into an empty table: with every engine; with the compiled engine only."""
    pairs: int
    """Pairs of a table for SHOW, BACKUP, recovery and compaction."""
    small_jobs: int
    pings: int
    """Messages per round, each sent after the one before was read."""
    subscribers: tuple[int, ...]
    """Numbers of sessions that are notified."""
    changes: int
    """Notifications per subscriber."""
    many_sessions: int
    many_changes: int
    """Notifications per session, with `many_sessions` sessions."""
    requests: int
    """Requests of one session per round."""
    connects: int
    """Connects per round."""
    busy_rounds: int
    busy_requests: int
    """Requests of one session while jobs run, per round."""
    synced_commands: int
    """Commands of which each is a transaction, on disk before the next."""
    writers: tuple[int, ...]
    """Numbers of sessions that write at the same time."""
    writes: int
    """WRITEs of all sessions together, per round."""
    value_sizes: tuple[int, ...]
    """Bytes of long values."""
    values: Amount
    """Values written and read in memory, of each size."""
    journaled_values: Amount
    """Values written with a journal, many to a sync."""
    synced_values: Amount
    """Values written with a journal, each before the next."""
    conditions: int
    """Conditional writes, and additions, in one job."""
    single_conditions: int
    """Conditional writes, and additions, each sent after the one before was answered."""
    prefixes: int
    """Prefixes with equally many of the keys."""
    listings: int
    """Listings of one prefix per round."""
    expiry_rounds: int
    """Rounds in which all pairs expire."""
    expiry_s: float
    """Seconds from the start of writing the pairs until they expire; more if it takes longer."""


FULL = Scale(
    rounds=7,
    short_rounds=21,
    long_rounds=5,
    engine_rounds=3,
    files=make_jobs.FILES,
    commands=make_jobs.COMMANDS,
    few_keys=1_000,
    few_keys_commands=800_000,
    many_keys=100_000,
    many_keys_commands=500_000,
    table_sizes=(1_000, 10_000, 100_000, 1_000_000),
    largest_table=4_000_000,
    table_commands=50_000,
    growth_pairs=(1_000_000, 10_000_000),
    pairs=1_000_000,
    small_jobs=5_000,
    pings=500,
    subscribers=(1, 10, 100),
    changes=20_000,
    many_sessions=1_000,
    many_changes=1_000,
    requests=5_000,
    connects=300,
    busy_rounds=5,
    busy_requests=400,
    synced_commands=1_000,
    writers=(1, 10, 100),
    writes=3_000,
    value_sizes=(100, 1_000, 100_000, 1 << 20),
    values=Amount(200_000, 60_000_000),
    journaled_values=Amount(100_000, 20_000_000),
    synced_values=Amount(100, 10_000_000),
    conditions=200_000,
    single_conditions=5_000,
    prefixes=100,
    listings=10,
    expiry_rounds=3,
    expiry_s=6.0,
)

QUICK = Scale(
    rounds=1,
    short_rounds=1,
    long_rounds=1,
    engine_rounds=2,
    files=2,
    commands=500,
    few_keys=10,
    few_keys_commands=500,
    many_keys=100,
    many_keys_commands=500,
    table_sizes=(100, 1_000),
    largest_table=2_000,
    table_commands=500,
    growth_pairs=(2_000, 5_000),
    pairs=20_000,
    small_jobs=50,
    pings=20,
    subscribers=(1, 3),
    changes=200,
    many_sessions=20,
    many_changes=50,
    requests=100,
    connects=5,
    busy_rounds=1,
    busy_requests=5,
    synced_commands=30,
    writers=(1, 3),
    writes=60,
    value_sizes=(100, 1_000, 100_000, 1 << 20),
    values=Amount(300, 3_000_000),
    journaled_values=Amount(100, 3_000_000),
    synced_values=Amount(10, 3_000_000),
    conditions=500,
    single_conditions=20,
    prefixes=100,
    listings=2,
    expiry_rounds=1,
    expiry_s=1.0,
)
