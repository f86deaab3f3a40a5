"""``kvs run`` with a journal, beside memory only, Redis, SQLite and LMDB on the same commands.

All figures are per command: the systems that sync each change execute fewer commands.
"""

import os
import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from tempfile import TemporaryDirectory

from bench import redis, results
from bench.embedded import LMDB, SQLite, execute
from bench.make_jobs import make_jobs
from bench.processes import KVS, timed
from bench.results import Goal, Outcome, Workload, times
from bench.rounds import Rounds, Subject
from bench.scale import Scale
from bench.suites.run import (
    WrongOutputError,
    feed,
    final_key_count,
    job_stems,
    write_requests,
)
from kvs import Store
from kvs.settings import FSYNC_MODES
from kvs.store import maintenance

GOAL = 1.5
"""Maximum time of `kvs run` with ``--fsync always``, as a multiple of its time in memory."""

_MEMORY = "memory"
_ALWAYS = "always"
_EACH = "kvs each"
"""The name of the figure of `kvs.Store` that commits each command by itself."""
_APPENDFSYNC = {"never": "no", "interval": "everysec", "always": "always"}
"""The `appendfsync` of Redis that promises what an `--fsync` of kvs does."""
_DATABASES: Mapping[str, tuple[type[SQLite] | type[LMDB], str]] = {
    results.SQLITE: (SQLite, "WAL, `synchronous = FULL`"),
    results.LMDB: (LMDB, "default options"),
}


def journal(scale: Scale, directory: str) -> Outcome:
    """Measure the same jobs in memory and with a journal, and the same commands in the others."""
    jobs = os.path.join(directory, "jobs")
    make_jobs(jobs, files=scale.files, commands=scale.commands)
    key_count = final_key_count(jobs)
    first = _FirstCommands(jobs, scale.synced_commands)
    subjects: list[Subject] = [partial(_run, scale, jobs, mode) for mode in (_MEMORY, *FSYNC_MODES)]
    subjects += [partial(first.in_kvs, directory)]
    subjects += [
        partial(first.in_database, directory, name, database)
        for name, (database, _) in _DATABASES.items()
    ]
    why_no_redis = redis.missing()
    if why_no_redis is None:
        requests = write_requests(jobs)
        subjects += [
            partial(_in_redis, scale, directory, mode, requests, key_count) for mode in _APPENDFSYNC
        ]
    rounds = Rounds(subjects, scale.rounds)
    remarks = [why_no_redis] if why_no_redis else []
    return Outcome(list(_workloads(rounds, scale)), list(_goals(rounds)), remarks)


def _run(scale: Scale, jobs: str, mode: str) -> Mapping[str, float]:
    """Run the jobs, in a new data directory unless `mode` is memory; return seconds per command."""
    commands = scale.files * scale.commands
    if mode == _MEMORY:
        return {mode: timed([KVS, "run", "--quiet", jobs])[0] / commands}
    with TemporaryDirectory(dir=os.path.dirname(jobs)) as data:
        options = ["--quiet", "--data", data, "--fsync", mode]
        seconds = timed([KVS, "run", *options, jobs])[0]
        state = maintenance.check(data)
    if state.torn is not None or not commands / 3 < state.revision < commands:
        raise WrongOutputError(f"of {commands} commands, {state.revision} are in the journal")
    return {mode: seconds / commands}


def _in_redis(
    scale: Scale, directory: str, mode: str, requests: str, key_count: int
) -> Mapping[str, float]:
    commands = scale.files * scale.commands
    with (
        TemporaryDirectory(dir=directory) as data,
        redis.running(data, _APPENDFSYNC[mode]) as server,
    ):
        return {f"redis {mode}": feed(server, requests, commands, key_count) / commands}


class _FirstCommands:
    """The first commands of the jobs, for the systems that sync each change."""

    def __init__(self, jobs: str, commands: int) -> None:
        with open(job_stems(jobs)[0] + ".job", "rb") as file:
            self._lines = list(islice(file, commands))
        self._output, self._keys = _execute_each(Store(), self._lines)

    def in_kvs(self, directory: str) -> Mapping[str, float]:
        with TemporaryDirectory(dir=directory) as data, Store(data) as store:
            start = time.perf_counter()
            output, keys = _execute_each(store, self._lines)
            seconds = time.perf_counter() - start
        return {_EACH: self._per_command("kvs", seconds, output, keys)}

    def in_database(
        self, directory: str, name: str, create: type[SQLite] | type[LMDB]
    ) -> Mapping[str, float]:
        with TemporaryDirectory(dir=directory) as data:
            database = create(data)
            try:
                start = time.perf_counter()
                output = execute(b"".join(self._lines), database)
                seconds = time.perf_counter() - start
                keys = len(database)
            finally:
                database.close()
        return {name: self._per_command(name, seconds, output, keys)}

    def _per_command(self, name: str, seconds: float, output: bytes, keys: int) -> float:
        if (output, keys) != (self._output, self._keys):
            raise WrongOutputError(f"the results of {name} and of kvs in memory differ")
        return seconds / len(self._lines)


def _execute_each(store: Store, lines: list[bytes]) -> tuple[bytes, int]:
    """Execute `lines`, each committed before the next; return the output and the number of keys."""
    output = []
    for line in lines:
        output.append(store.execute(line).output)
        store.commit_point().wait()
    return b"".join(output), len(store)


def _workloads(rounds: Rounds, scale: Scale) -> Iterator[Workload]:
    commands = f"a command of {scale.files * scale.commands:,} in {scale.files} files"
    yield rounds.workload(_MEMORY, f"{commands}, in memory", {results.KVS: _MEMORY})
    for mode in reversed(FSYNC_MODES):
        yield rounds.workload(
            mode,
            f"{commands}, `--fsync {mode}` (Redis: `appendfsync {_APPENDFSYNC[mode]}`)",
            {results.KVS: mode, results.REDIS: f"redis {mode}"},
        )
    databases = ", ".join(f"{database.version}: {how}" for database, how in _DATABASES.values())
    yield rounds.workload(
        "each",
        f"one of {scale.synced_commands:,} commands, on disk before the next ({databases})",
        {results.KVS: _EACH, **{name: name for name in _DATABASES}},
    )


def _goals(rounds: Rounds) -> Iterator[Goal]:
    ratio = rounds.ratio(_ALWAYS, _MEMORY)
    yield Goal(
        f"`kvs run --fsync always` takes at most {GOAL} times as long as in memory",
        times(ratio),
        ratio <= GOAL,
    )
    others = {
        f"redis {mode}": f"Redis with `appendfsync {appendfsync}`"
        for mode, appendfsync in _APPENDFSYNC.items()
        if f"redis {mode}" in rounds.figures
    }
    others |= {name: f"{database.version}, {how}" for name, (database, how) in _DATABASES.items()}
    for name, label in others.items():
        ratio = rounds.ratio(_ALWAYS, name)
        promise = f"a command of `kvs run --fsync always` takes less time than in {label}"
        yield Goal(promise, times(ratio), ratio < 1)
