"""Long values: written, read and backed up in memory, and written with a journal.

The goals are those of values of every size.
"""

import filecmp
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from tempfile import TemporaryDirectory

from bench import redis, results
from bench.embedded import LMDB, SQLite
from bench.folders import short_folder
from bench.goals import as_fast_as
from bench.job_runs import timed_job, write_job
from bench.processes import in_fresh_process
from bench.results import KVS, PER_SECOND, REDIS, Goal, Outcome, Workload
from bench.rounds import Rounds, Subject
from bench.scale import Scale
from bench.suites.run import WrongOutputError
from bench.values import Values, size_label
from kvs import Store
from kvs.settings import DataSettings

_IN_MEMORY = {
    "write": "WRITEs of {} in a job",
    "again": "WRITEs of {} in a job, over the values written before",
    "read": "READs of {} in a job",
    "backup": "values of {} in a backup, until it is on disk (Redis: BGSAVE)",
}
"""The labels of the rows in memory, in order; each row is one for each size."""

_APPENDFSYNC = {"always": "always", "interval": "everysec"}
"""The `appendfsync` of Redis that promises what an `--fsync` of kvs does."""
_ON_DISK = {
    "always": "WRITEs of {} in a job, all on disk at the end (Redis: `appendfsync always`)",
    "each": "WRITEs of {}, each on disk before the next (SQLite: `synchronous = FULL`; LMDB: "
    "default options)",
    "interval": "WRITEs of {}, one after the other, `--fsync interval` (Redis: `appendfsync "
    "everysec`; SQLite: `synchronous = NORMAL`; LMDB: `sync=False`)",
}
"""The labels of the rows with a journal."""


def values(scale: Scale, directory: str) -> Outcome:
    """Measure values of each size in memory, beside Redis."""
    why_no_redis = redis.missing()
    of_sizes = {}
    for size in scale.value_sizes:
        of_size = Values(size, scale.values.count(size))
        with short_folder() as folder:
            _write_files(folder, of_size)
            subjects: list[Subject] = [partial(in_fresh_process, _in_kvs, folder, directory)]
            if why_no_redis is None:
                subjects.append(partial(_in_redis, folder, directory, of_size))
            of_sizes[of_size] = Rounds(subjects, scale.long_rounds)
    return _outcome(_IN_MEMORY, dict.fromkeys(_IN_MEMORY, of_sizes), [KVS, REDIS], why_no_redis)


def _write_files(folder: str, of_size: Values) -> None:
    write_job(os.path.join(folder, "write"), of_size.writes())
    write_job(os.path.join(folder, "read"), of_size.reads())
    for name, content in (
        ("expected", of_size.output), ("write.resp", of_size.sets), ("read.resp", of_size.gets),
    ):  # fmt: skip
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content())


def _in_kvs(folder: str, directory: str) -> Mapping[str, float]:
    write, read = (os.path.join(folder, name) for name in ("write", "read"))
    output = os.path.join(read, "only.out")
    backup = os.path.join(directory, "values.bck")
    store = Store()
    figures = {
        "write": timed_job(store, write),
        "again": timed_job(store, write),
        "read": timed_job(store, read),
        "backup": store.backup(backup).seconds,
    }
    if not filecmp.cmp(output, os.path.join(folder, "expected"), shallow=False):
        raise WrongOutputError(f"{output}: a value is not the one that was written")
    os.unlink(output)
    os.unlink(backup)
    return {f"{KVS} {name}": seconds for name, seconds in figures.items()}


def _in_redis(folder: str, directory: str, of_size: Values) -> Mapping[str, float]:
    """Measure in a new server, whose memory is unused as that of a new process."""
    write, read = (os.path.join(folder, name) for name in ("write.resp", "read.resp"))
    with TemporaryDirectory(dir=directory) as data, redis.running(data) as server:
        with redis.Connection(server.socket) as connection:
            figures = {
                "write": connection.stream(write, of_size.set_reply_bytes),
                "again": connection.stream(write, of_size.set_reply_bytes),
                "read": connection.stream(read, of_size.get_reply_bytes),
                "backup": connection.save()[0],
            }
        _check_count(REDIS, server.keys(), of_size.count)
    return {f"{REDIS} {name}": seconds for name, seconds in figures.items()}


def values_on_disk(scale: Scale, directory: str) -> Outcome:
    """Measure writing values of each size with a journal, beside Redis, SQLite and LMDB."""
    why_no_redis = redis.missing()
    many: dict[Values, Rounds] = {}
    single: dict[Values, Rounds] = {}
    for size in scale.value_sizes:
        journaled = Values(size, scale.journaled_values.count(size))
        with short_folder() as folder:
            _write_files(folder, journaled)
            subjects: list[Subject] = [
                partial(in_fresh_process, _journaled_in_kvs, folder, directory)
            ]
            if why_no_redis is None:
                subjects.append(partial(_journaled_in_redis, folder, directory, journaled))
            many[journaled] = Rounds(subjects, scale.long_rounds)
        synced = Values(size, scale.synced_values.count(size))
        single[synced] = Rounds(
            _single_subjects(directory, synced, with_redis=why_no_redis is None), scale.long_rounds
        )
    of_rows = {"always": many, "each": single, "interval": single}
    return _outcome(_ON_DISK, of_rows, [KVS, REDIS, results.SQLITE, results.LMDB], why_no_redis)


def _journaled_in_kvs(folder: str, directory: str) -> Mapping[str, float]:
    with TemporaryDirectory(dir=directory) as data, Store(data, DataSettings("always")) as store:
        return {f"{KVS} always": timed_job(store, os.path.join(folder, "write"))}


def _journaled_in_redis(folder: str, directory: str, of_size: Values) -> Mapping[str, float]:
    requests = os.path.join(folder, "write.resp")
    with (
        TemporaryDirectory(dir=directory) as data,
        redis.running(data, "always") as server,
        redis.Connection(server.socket) as connection,
    ):
        return {f"{REDIS} always": connection.stream(requests, of_size.set_reply_bytes)}


def _single_subjects(directory: str, of_size: Values, *, with_redis: bool) -> list[Subject]:
    """Return a subject for each system and for each of the two promises."""
    pairs = list(of_size.pairs())
    subjects: list[Subject] = []
    for name, fsync in (("each", "always"), ("interval", "interval")):
        subjects.append(partial(_singly_in_kvs, f"{KVS} {name}", directory, pairs, fsync))
        for system, database in ((results.SQLITE, SQLite), (results.LMDB, LMDB)):
            create = partial(database, synced=fsync == "always")
            figure = f"{system} {name}"
            subjects.append(partial(_singly_in_database, figure, directory, pairs, create))
        if with_redis:
            subjects.append(partial(_singly_in_redis, f"{REDIS} {name}", directory, pairs, fsync))
    return subjects


_Pairs = Sequence[tuple[bytes, bytes]]


def _singly_in_kvs(name: str, directory: str, pairs: _Pairs, fsync: str) -> Mapping[str, float]:
    with TemporaryDirectory(dir=directory) as data, Store(data, DataSettings(fsync)) as store:
        start = time.perf_counter()
        for pair in pairs:
            store.write([pair])
        seconds = time.perf_counter() - start
        _check_count(name, len(store), len(pairs))
    return {name: seconds}


def _singly_in_database(
    name: str, directory: str, pairs: _Pairs, create: Callable[[str], SQLite | LMDB]
) -> Mapping[str, float]:
    with TemporaryDirectory(dir=directory) as data:
        database = create(data)
        try:
            start = time.perf_counter()
            for pair in pairs:
                with database:
                    database.update([pair])
            seconds = time.perf_counter() - start
            _check_count(name, len(database), len(pairs))
        finally:
            database.close()
    return {name: seconds}


def _singly_in_redis(name: str, directory: str, pairs: _Pairs, fsync: str) -> Mapping[str, float]:
    with (
        TemporaryDirectory(dir=directory) as data,
        redis.running(data, _APPENDFSYNC[fsync]) as server,
        redis.Connection(server.socket) as connection,
    ):
        start = time.perf_counter()
        for pair in pairs:
            connection.ask(b"SET", *pair, reply=b"+OK\r\n")
        return {name: time.perf_counter() - start}


def _check_count(name: str, count: int, expected: int) -> None:
    if count != expected:
        raise WrongOutputError(f"{name}: {count} pairs were written, not {expected}")


def _outcome(
    labels: Mapping[str, str],
    of_rows: Mapping[str, Mapping[Values, Rounds]],
    systems: Sequence[str],
    why_no_redis: str | None,
) -> Outcome:
    """Return a row for each label and size, and a goal beside each row with Redis."""
    workloads: list[Workload] = []
    goals: list[Goal] = []
    for name, label in labels.items():
        for of_size, rounds in of_rows[name].items():
            what = label.format(size_label(of_size.size))
            workloads.append(_workload(rounds, name, what, of_size, systems))
            goals += as_fast_as(rounds, what.partition(" (")[0], f"{KVS} {name}", f"{REDIS} {name}")
    return Outcome(workloads, goals, [why_no_redis] if why_no_redis else [])


def _workload(
    rounds: Rounds, name: str, label: str, of_size: Values, systems: Iterable[str]
) -> Workload:
    return rounds.workload(
        f"{name}-{of_size.size}",
        label,
        {system: f"{system} {name}" for system in systems},
        unit=PER_SECOND,
        count=of_size.count,
    )
