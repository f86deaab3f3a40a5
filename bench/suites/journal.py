"""``kvs run`` with a journal, beside memory alone, Redis, SQLite and LMDB on the same commands.

All figures are of one command, so that those can be compared which each sync for every change, and
are given fewer of them.
"""

import os
import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from tempfile import TemporaryDirectory

from bench import redis
from bench.embedded import LMDB, SQLite, carry_out
from bench.make_jobs import make_jobs
from bench.processes import KVS, timed
from bench.results import Goal, Outcome, Row, times
from bench.rounds import Subject, Turns
from bench.scale import Scale
from bench.suites.run import WrongOutput, fed, keys_left, paths, requests_of
from kvs import Store
from kvs.settings import FSYNC_MODES
from kvs.store import maintenance

GOAL = 1.5
"""How many times as long as in memory alone `kvs run` may take with ``--fsync always``."""

_MEMORY = "memory"
_ALWAYS = "always"
_ALONE = "kvs alone"
_DATABASES = (SQLite, LMDB)
_APPENDFSYNC = ("no", "everysec", "always")


def journal(scale: Scale, directory: str) -> Outcome:
    """Measure the same jobs in memory and with a journal, and the same commands in the others."""
    jobs = os.path.join(directory, "jobs")
    make_jobs(jobs, files=scale.files, commands=scale.commands)
    keys = keys_left(jobs)
    some = _Some(jobs, scale.synced_commands)
    subjects: list[Subject] = [partial(_ran, scale, jobs, mode) for mode in (_MEMORY, *FSYNC_MODES)]
    subjects += [partial(some.in_kvs, directory)]
    subjects += [partial(some.in_database, directory, database) for database in _DATABASES]
    why_no_redis = redis.missing()
    if why_no_redis is None:
        requests = requests_of(jobs)
        subjects += [
            partial(_in_redis, scale, directory, fsync, requests, keys) for fsync in _APPENDFSYNC
        ]
    turns = Turns(subjects, scale.turns)
    rivals = _rivals(turns)
    remarks = [why_no_redis] if why_no_redis else []
    return Outcome(list(_rows(turns, scale, rivals)), list(_goals(turns, rivals)), remarks)


def _ran(scale: Scale, jobs: str, mode: str) -> Mapping[str, float]:
    """Run the jobs, with `mode` for a journal if there is to be one, in a new data directory."""
    commands = scale.files * scale.commands
    if mode == _MEMORY:
        return {mode: timed([KVS, "run", "--quiet", jobs])[0] / commands}
    with TemporaryDirectory(dir=os.path.dirname(jobs)) as data:
        options = ["--quiet", "--data", data, "--fsync", mode]
        seconds = timed([KVS, "run", *options, jobs])[0]
        found = maintenance.check(data)
    if found.torn is not None or not commands / 3 < found.revision < commands:
        raise WrongOutput(f"of {commands} commands, {found.revision} are in the journal")
    return {mode: seconds / commands}


def _in_redis(
    scale: Scale, directory: str, fsync: str, requests: str, keys: int
) -> Mapping[str, float]:
    with TemporaryDirectory(dir=directory) as data, redis.running(data, fsync) as server:
        seconds = fed(server, requests, scale.files * scale.commands, keys)
    return {f"redis {fsync}": seconds / (scale.files * scale.commands)}


class _Some:
    """The first commands of the jobs, for those that sync each that changes something."""

    def __init__(self, jobs: str, commands: int) -> None:
        with open(paths(jobs)[0] + ".job", "rb") as file:
            self._lines = list(islice(file, commands))
        self._output, self._keys = _waited_for(Store(), self._lines)

    def in_kvs(self, directory: str) -> Mapping[str, float]:
        with TemporaryDirectory(dir=directory) as data, Store(data) as store:
            began = time.perf_counter()
            output, keys = _waited_for(store, self._lines)
            seconds = time.perf_counter() - began
        return {_ALONE: self._per_command("kvs", seconds, output, keys)}

    def in_database(self, directory: str, make: type[SQLite] | type[LMDB]) -> Mapping[str, float]:
        with TemporaryDirectory(dir=directory) as data:
            database = make(data)
            try:
                began = time.perf_counter()
                output = carry_out(b"".join(self._lines), database)
                seconds = time.perf_counter() - began
                keys = len(database)
            finally:
                database.close()
        return {make.version: self._per_command(make.version, seconds, output, keys)}

    def _per_command(self, name: str, seconds: float, output: bytes, keys: int) -> float:
        if (output, keys) != (self._output, self._keys):
            raise WrongOutput(f"{name} differs from kvs in memory")
        return seconds / len(self._lines)


def _waited_for(store: Store, lines: list[bytes]) -> tuple[bytes, int]:
    """Carry out `lines`, each by itself, on disk before the next; return output and keys left."""
    output = []
    for line in lines:
        output.append(store.execute(line).output)
        store.commit_point().wait()
    return b"".join(output), len(store)


def _rivals(turns: Turns) -> dict[str, str]:
    """Return by what names the others' figures go, and what the table calls them."""
    rivals = {
        f"redis {fsync}": f"Redis {redis.version()}, `appendonly yes`, `appendfsync {fsync}`"
        for fsync in _APPENDFSYNC
        if f"redis {fsync}" in turns.figures
    }
    for database, how in ((SQLite, "WAL, `synchronous = FULL`"), (LMDB, "as it comes")):
        rivals[database.version] = f"{database.version}, {how}"
    return rivals


def _rows(turns: Turns, scale: Scale, rivals: Mapping[str, str]) -> Iterator[Row]:
    def row(what: str, name: str, **bases: str) -> Row:
        ratios = ", ".join(f"{times(turns.ratio(name, base))} {bases[base]}" for base in bases)
        return Row(what, turns.duration(name), ratios)

    commands = f"{scale.files * scale.commands:,} commands in {scale.files} files"
    yield row(f"a command of `kvs run` in memory alone, {commands}", _MEMORY)
    for mode in FSYNC_MODES:
        yield row(f"the same with `--data`, `--fsync {mode}`", mode, memory="memory alone")
    always = {_ALWAYS: "`--fsync always`"}
    some = f"{scale.synced_commands:,} of them, each a transaction and synced if it changed"
    yield row(f"{some}: `kvs.Store`", _ALONE, **always)
    for name, called in rivals.items():
        if name.startswith("redis"):
            yield row(f"all of them by `redis-cli --pipe`: {called}", name, **always)
        else:
            ratios = always | {_ALONE: "`kvs.Store`"}
            yield row(f"{some}: {called}", name, **ratios)


def _goals(turns: Turns, rivals: Mapping[str, str]) -> Iterator[Goal]:
    ratio = turns.ratio(_ALWAYS, _MEMORY)
    yield Goal(
        f"`kvs run --fsync always` takes at most {GOAL} times as long as in memory alone",
        times(ratio),
        ratio <= GOAL,
    )
    for name, called in rivals.items():
        ratio = turns.ratio(_ALWAYS, name)
        promise = f"a command of `kvs run --fsync always` takes less time than in {called}"
        yield Goal(promise, times(ratio), ratio < 1)
