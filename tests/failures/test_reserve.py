"""A real full disk: the journal continues with its reserve, and can be compacted."""

import logging
import os
from pathlib import Path

import pytest

import kvs
from kvs.journal.reserve import RESERVE, RESERVE_BYTES
from kvs.settings import DataSettings
from tests.failures.conftest import Mount
from tests.helpers import kvs as program
from tests.helpers import until, write_jobs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("each_engine")]

FULL = "No space left on device"
MANY = 60_000


@pytest.fixture(name="place")
def _place(mount: Mount) -> Path:
    return mount("size=8m,mode=755")


def fill(place: Path) -> None:
    """Fill the filesystem to the last byte."""
    free = os.statvfs(place)
    with (place / "filler").open("ab") as filler:
        filler.write(bytes(free.f_bavail * free.f_frsize))
    assert os.statvfs(place).f_bavail == 0


def reserve(data: Path) -> int:
    """Return the size of the reserve in bytes."""
    path = data / RESERVE.decode()
    return path.stat().st_blocks * 512 if path.exists() else 0


def overwrite(store: kvs.Store, count: int) -> None:
    """Make a long journal of few pairs."""
    script = b"".join(b"WRITE [(k%d,%d)]\n" % (n % 9, n) for n in range(count))
    assert store.execute(script, budget=len(script)).offset == len(script)


def write_for_ever(store: kvs.Store) -> None:
    """Write the same pairs for ever, and wait for each commit."""
    while True:
        store.execute(b"".join(b"WRITE [(key%d,y)]\n" % n for n in range(99)))
        store.commit_point().wait()


def test_compaction_needs_space_for_the_pairs_only(place: Path) -> None:
    with kvs.Store(place / "d") as store:
        overwrite(store, MANY)
        info = store.compact()
        assert info is not None
        overwrite(store, MANY)
        store.write({"last": "1"})
        size = sum(path.stat().st_size for path in (place / "d").glob("*.journal"))
        assert size > 1_000_000
        fill(place)
        os.truncate(place / "filler", (place / "filler").stat().st_size - 80_000)
        info = store.compact()
        assert info is not None
        assert info.bytes < 500
        assert reserve(place / "d") == RESERVE_BYTES  # not used
        assert len(store) == 10


def test_full_disk_is_compacted_while_writes_continue(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with kvs.Store(place / "d") as store:
        overwrite(store, MANY)
        store.write({"before": "1"})
        fill(place)
        with caplog.at_level(logging.WARNING, "kvs.store"):
            for number in range(3000):
                store.write({"more": str(number)})
        assert [record.getMessage() for record in caplog.records] == [
            f"{place}/d: {FULL}; using the reserve and compacting the journal; free disk space"
        ]
        assert list((place / "d").glob("*.snapshot"))
        until(lambda: reserve(place / "d") == RESERVE_BYTES or os.statvfs(place).f_bavail < 512)
    with kvs.Store(place / "d") as store:
        assert store.read(["before", "more"]) == {b"before": b"1", b"more": b"2999"}


def test_small_disk_filled_by_the_journal_is_compacted(
    mount: Mount, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk never has the 2 MiB free that a reserve of full size needs."""
    place = mount("size=2m,mode=755")
    pairs = {f"key{number}": "x" * 40 for number in range(9)}
    with caplog.at_level(logging.WARNING, "kvs.store"), kvs.Store(place / "d") as store:
        compactions: set[str] = set()
        while len(compactions) < 5:
            store.write(pairs)
            compactions.update(path.name for path in (place / "d").glob("*.snapshot"))
        revision = store.revision
    assert len(caplog.records) == 1
    with kvs.Store(place / "d") as store:
        assert store.revision == revision


def test_full_disk_costs_what_is_kept_for_the_history(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = kvs.DataSettings(keep_segments=9)
    with kvs.Store(place / "d", settings) as store:
        for number in range(2):
            overwrite(store, 1000)
            store.write({"before": str(number)})
            store.compact()
        assert len(list((place / "d").glob("*.journal"))) == 3
        fill(place)
        with caplog.at_level(logging.WARNING, "kvs.store"):
            for number in range(3000):
                store.write({"more": str(number)})
        messages = [record.getMessage() for record in caplog.records]
        assert messages[:2] == [
            f"{place}/d: {FULL}; using the reserve and compacting the journal; free disk space",
            f"{place}/d: the disk is full; removing the segments that are kept for the history",
        ]
        until(lambda: len(list((place / "d").glob("*.journal"))) == 1)
    with kvs.Store(place / "d") as store:
        assert store.read(["before", "more"]) == {b"before": b"1", b"more": b"2999"}


def test_kvs_compact_works_on_a_full_disk(place: Path) -> None:
    with kvs.Store(place / "d") as store:
        overwrite(store, MANY)
        store.write({"last": "1"})
    fill(place)
    ended = program("compact", place / "d")
    assert (ended.status, ended.stderr) == (0, b"")
    assert b"10 pairs at revision 60001" in ended.stdout
    assert reserve(place / "d") == RESERVE_BYTES  # in the space that the journal took
    (place / "filler").unlink()
    with kvs.Store(place / "d") as store:
        assert (len(store), store.revision) == (10, 60001)
        assert reserve(place / "d") == RESERVE_BYTES


def test_run_on_a_full_disk_can_delete(place: Path, tmp_path: Path) -> None:
    with kvs.Store(place / "d") as store:
        store.write({f"key{number}": "x" * 40 for number in range(MANY)})
    fill(place)
    lines = "".join(f"DELETE [key{n}]\n" for n in range(1000))
    jobs = write_jobs(tmp_path / "jobs", {"a": lines})
    ended = program("run", "--quiet", jobs, "--data", place / "d")
    assert ended.status == 0
    assert FULL in ended.stderr.decode()
    assert reserve(place / "d") >= RESERVE_BYTES // 2
    with kvs.Store(place / "d") as store:
        assert len(store) == MANY - 1000


def test_each_start_on_a_full_disk_uses_half_of_the_reserve(place: Path) -> None:
    data = place / "d"
    with kvs.Store(data) as store:
        store.write({f"key{number}": "x" * 40 for number in range(MANY)})
    fill(place)
    remaining, revision = RESERVE_BYTES, 1
    while remaining:
        store = kvs.Store(data, DataSettings("never"))
        with pytest.raises(kvs.JournalWriteError) as failed:
            write_for_ever(store)
        assert failed.value.reason == FULL
        assert failed.value.written is not None
        assert failed.value.written > revision
        revision = failed.value.written
        with pytest.raises(kvs.JournalWriteError):
            store.close()
        assert reserve(data) in {remaining // 2, 0}
        remaining = reserve(data)
    with kvs.Store(data) as store:
        assert store.revision == revision
    (place / "filler").unlink()
    with kvs.Store(data) as store:
        assert store.write({"more": "x"}) >= revision
        assert reserve(data) == RESERVE_BYTES


def test_reserve_is_renewed_once_space_is_free(place: Path) -> None:
    with kvs.Store(place / "d") as store:
        store.write({f"key{number}": "x" * 40 for number in range(MANY)})
        fill(place)
        store.write({"a": "1"} | {f"key{number}": "y" for number in range(1000)})
        assert reserve(place / "d") < RESERVE_BYTES
        (place / "filler").unlink()
        until(lambda: reserve(place / "d") == RESERVE_BYTES)
        fill(place)
        store.write({"a": "2"} | {f"key{number}": "z" for number in range(1000)})
        assert reserve(place / "d") < RESERVE_BYTES
    with kvs.Store(place / "d") as store:
        assert store.read(["a"]) == {b"a": b"2"}


def test_lock_file_may_take_the_inode_of_the_reserve(mount: Mount) -> None:
    place = mount("size=8m,nr_inodes=6,mode=755")
    with kvs.Store(place / "d") as store:
        store.write({"a": "1"})
    while os.statvfs(place).f_favail:
        (place / f"filler{os.statvfs(place).f_favail}").touch()
    with kvs.Store(place / "d") as store:
        assert store.write({"a": "2"}) == 2
        assert not (place / "d" / RESERVE.decode()).exists()
