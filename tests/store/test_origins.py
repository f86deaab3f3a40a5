"""Origins of changes in the journal: which, and where."""

import os
import re
from pathlib import Path

from kvs.engine.interface import EXPIRY_ORIGIN
from kvs.jobs.run import JobRun
from kvs.settings import Settings
from kvs.store.core import StoreCore
from kvs.store.origins import MAX_NAME_BYTES, MAX_REMOVED, Origins, encode_origin
from tests.helpers import content, until, write_jobs
from tests.journal.fake_storage import Gate
from tests.store.background import in_background

LIBRARY = b"# origin library %d" % os.getpid()


def lines(directory: Path) -> list[bytes]:
    """Return the lines of the first segment, its headers replaced by dashes."""
    data = (directory / "0000000001.journal").read_bytes()
    return re.sub(rb"(?m)^# (?:kvs|group) .*$", b"-", data).split(b"\n")[1:-1]


def test_change_of_the_library_has_its_process(tmp_path: Path) -> None:
    with StoreCore(tmp_path / "d") as store:
        for number in range(2):
            store.after_commit(store.execute(b"WRITE [(a,%d)]\n" % number))
    assert lines(tmp_path / "d") == [
        b"-", LIBRARY, b"WRITE [(a,0)]", b"-", LIBRARY, b"WRITE [(a,1)]",
    ]  # fmt: skip


def test_group_names_an_origin_where_it_changes(tmp_path: Path, gate: Gate) -> None:
    with StoreCore(tmp_path / "d") as store:
        one, two = (store.add_origin(b"session", name) for name in (b"/tmp/c one", b"/tmp/\xff"))
        with (
            gate.shut(),
            in_background(lambda: store.after_commit(store.execute(b"WRITE [(a,0)]\n"))),
        ):
            gate.wait_until_held()
            for number, origin in enumerate((one, one, two, 0, one)):
                store.execute(b"WRITE [(b,%d)]\n" % number, origin=origin)
            store.remove_origin(one)
            gate.open()
        store.commit_point().wait()
    assert lines(tmp_path / "d")[3:] == [
        b"-",
        b'# origin session "/tmp/c one"', b"WRITE [(b,0)]", b"WRITE [(b,1)]",
        b"# origin session /tmp/\xff", b"WRITE [(b,2)]",
        LIBRARY, b"WRITE [(b,3)]",
        b'# origin session "/tmp/c one"', b"WRITE [(b,4)]",
    ]  # fmt: skip


def test_job_is_named_before_its_changes_only(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    write_jobs(jobs, {"stock": b"WRITE [(a,1)]\n", "reader": b"READ [a]\n"})
    with StoreCore(tmp_path / "d") as store, JobRun(store, jobs, Settings(1)) as run:
        run.wait()
    written = [line for line in lines(tmp_path / "d") if line != b"-"]
    at = written.index(b"WRITE [(a,1)]")
    assert written[at - 1 : at + 2] == [
        b"# origin job stock", b"WRITE [(a,1)]", b"# job 2 at 14 0",
    ]  # fmt: skip
    assert sum(line.startswith(b"# origin") for line in written) == 1


def test_job_is_named_with_the_first_line_of_its_call(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    write_jobs(jobs, {"stock": b"WRITE [(a,1)]\n# b\nSHOW\nREAD [a]\nWRITE [(b,1)]\n"})
    with StoreCore(tmp_path / "d") as store, JobRun(store, jobs, Settings(1)) as run:
        run.wait()
    written = lines(tmp_path / "d")
    assert written[written.index(b"WRITE [(a,1)]") - 1] == b"# origin job stock"
    assert written[written.index(b"WRITE [(b,1)]") - 1] == b"# origin job stock 4"


def test_resumed_job_is_named_with_the_line_of_the_file(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    write_jobs(jobs, {"stock": b"WRITE [(a,1)]\nWAIT 600000\n\nWRITE [(b,1)]\n"})
    with StoreCore(tmp_path / "d") as store, JobRun(store, jobs, Settings(1)) as run:
        until(lambda: content(jobs / "stock.out"))
        run.stop()
        run.wait()
    job = jobs / "stock.job"
    status = job.stat()
    job.write_bytes(b"WRITE [(a,1)]\nWAIT 0     \n\nWRITE [(b,1)]\n")
    os.utime(job, ns=(status.st_atime_ns, status.st_mtime_ns))
    with (
        StoreCore(tmp_path / "d") as store,
        JobRun(store, jobs, Settings(1, resume=True)) as run,
    ):
        run.wait()
    assert b"# origin job stock 2\nWRITE [(b,1)]" in b"\n".join(lines(tmp_path / "d"))


def test_origin_is_one_line_of_bounded_length() -> None:
    line = encode_origin(b"session", b"a\nb\r" + b"x" * 1000)
    assert (line.count(b"\n"), b"\r" in line) == (1, False)
    assert len(line) < 2 * MAX_NAME_BYTES + 40


def test_removed_origins_are_forgotten_in_order() -> None:
    origins = Origins()
    numbers = [origins.add(b"session", b"%d" % number) for number in range(MAX_REMOVED + 2)]
    assert len(set(numbers)) == len(numbers)
    assert min(numbers) > EXPIRY_ORIGIN
    for number in numbers[:-1]:
        origins.remove(number)
    assert origins[numbers[0]] == origins[0] == LIBRARY + b"\n"
    assert origins[numbers[1]] == b"# origin session 1\n"
    assert origins[EXPIRY_ORIGIN] == b"# origin expiry\n"
