"""A power loss at any step: unsynced bytes are lost, partly lost, or zeros.

The model: new bytes of a file reach the disk in order, and the missing ones may be zeros. Names
that were created or removed since the last sync of their directory are as before, except for a
prefix or a suffix of these changes. With ``fsync`` ``always``, every acknowledged revision must be
recovered.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from kvs.journal.storage import Storage
from kvs.library import Store
from kvs.settings import DataSettings
from kvs.store.persistence import Persistence
from tests.journal.builders import put
from tests.journal.crash_child import pairs_at, write
from tests.journal.power_loss_storage import Record, Recorder

pytestmark = pytest.mark.slow


@pytest.fixture(name="record")
def _record(monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    """Yield a record of every step of the stores that are opened later."""
    record = Record()
    record_steps(monkeypatch, record)
    yield record
    record.close()


def record_steps(monkeypatch: pytest.MonkeyPatch, record: Record) -> None:
    """Record every step of the stores that are opened later in `record`."""

    def storage(directory: int) -> Storage:
        return Storage(directory) if record.over else Recorder(directory, record)

    monkeypatch.setattr("kvs.store.persistence.Persistence", partial(Persistence, storage=storage))


def acknowledge(record: Record) -> Callable[[int], None]:
    """Return a function that records the acknowledgement of a revision."""

    def note(revision: int) -> None:
        record.acknowledged = revision

    return note


def check_every_moment(record: Record, place: Path, *, must_be_complete: bool = True) -> set[int]:
    """Open the directories that a power loss at each moment leaves; return their revisions."""
    record.over = True
    revisions = set()
    seen: set[tuple[int, str]] = set()
    for moment in record.moments:
        for left in moment.left():
            key = (moment.acknowledged, repr(sorted(left.items())))
            if key in seen:
                continue
            seen.add(key)
            with Store(put(place, left), DataSettings("never")) as store:
                revision = store.revision
                assert store.items() == pairs_at(revision)
                if must_be_complete:
                    assert revision >= moment.acknowledged, left
                revisions.add(revision)
    return revisions


def test_acknowledged_changes_outlast_a_power_loss(tmp_path: Path, record: Record) -> None:
    with Store(tmp_path / "d", DataSettings(segment_bytes=100)) as store:
        write(store, 8, acknowledge(record))
    assert check_every_moment(record, tmp_path / "left") == set(range(9))


def test_compaction_loses_nothing(tmp_path: Path, record: Record) -> None:
    with Store(tmp_path / "d", DataSettings(segment_bytes=100)) as store:
        for _ in range(3):
            write(store, 3, acknowledge(record))
            store.compact()
        write(store, 1, acknowledge(record))
    assert check_every_moment(record, tmp_path / "left") == set(range(11))


def test_compactions_beside_writes_lose_nothing(tmp_path: Path, record: Record) -> None:
    with Store(tmp_path / "d", DataSettings(compact_bytes=1, segment_bytes=150)) as store:
        write(store, 12, acknowledge(record))
    assert check_every_moment(record, tmp_path / "left") == set(range(13))


def test_recovery_of_a_torn_tail_loses_nothing(tmp_path: Path, record: Record) -> None:
    with Store(tmp_path / "d") as store:
        write(store, 3, acknowledge(record))
    [segment] = (tmp_path / "d").glob("*.journal")
    torn = segment.read_bytes() + b"# group 000"
    segment.write_bytes(torn)
    inode = segment.stat().st_ino
    record.durable[inode] = record.written[inode] = torn
    with Store(tmp_path / "d") as store:
        write(store, 3, acknowledge(record))
    assert check_every_moment(record, tmp_path / "left") == set(range(7))


@pytest.mark.parametrize("fsync", ["always", "never"])
def test_recovery_syncs_the_writes_of_a_killed_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: Record, fsync: str
) -> None:
    """A kill at any moment, a reopening with ``always``, and a power loss at any moment of that."""
    with Store(tmp_path / "d", DataSettings(fsync, segment_bytes=250)) as store:
        for count in (2, 3):
            write(store, count)
            store.compact()
    for number, moment in enumerate(record.moments):
        reopened = moment.killed(tmp_path / f"{number}")
        record_steps(monkeypatch, reopened)
        with Store(tmp_path / f"{number}", DataSettings(segment_bytes=250)) as store:
            acknowledge(reopened)(store.revision)
            write(store, 1, acknowledge(reopened))
        check_every_moment(reopened, tmp_path / "left")
        reopened.close()


@pytest.mark.parametrize("fsync", ["interval", "never"])
def test_lazy_fsync_leaves_a_prefix_of_the_changes(
    tmp_path: Path, record: Record, fsync: str
) -> None:
    with Store(tmp_path / "d", DataSettings(fsync, 3600, segment_bytes=200)) as store:
        write(store, 9, acknowledge(record))
        store.compact()
        write(store, 2, acknowledge(record))
    revisions = check_every_moment(record, tmp_path / "left", must_be_complete=False)
    assert {0, 11} <= revisions


def test_check_detects_a_missing_sync(tmp_path: Path, record: Record) -> None:
    """The check of these tests fails for a store that does not sync."""
    with Store(tmp_path / "d", DataSettings("never")) as store:
        write(store, 3, acknowledge(record))
    with pytest.raises(AssertionError):
        check_every_moment(record, tmp_path / "left")


def test_new_directory_is_durable_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    class ParentRecorder(Recorder):
        def sync_parent_directory(self) -> None:
            super().sync_parent_directory()
            synced.append(record.acknowledged)

    record = Record()
    storage: Callable[[int], Recorder] = lambda directory: ParentRecorder(directory, record)  # noqa: E731
    monkeypatch.setattr("kvs.store.persistence.Persistence", partial(Persistence, storage=storage))
    with Store(tmp_path / "d") as store:
        write(store, 1, acknowledge(record))
    assert synced == [0]
