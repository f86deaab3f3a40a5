"""A power loss at any step: what was not synced is gone, or half there, or zeros.

A file's new bytes reach the disk from the first on, and what is missing of them may be zeros. Names
that were made or removed since their directory was synced may be as before, in any first or last
part of their order. Who acknowledges under `always` must find all of it again.
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
    """Yield what takes down every step of the stores that are opened from now on."""
    record = Record()
    taken_down(monkeypatch, record)
    yield record
    record.close()


def taken_down(monkeypatch: pytest.MonkeyPatch, record: Record) -> None:
    """Have every step of the stores that are opened from now on taken down in `record`."""

    def storage(directory: int) -> Storage:
        return Storage(directory) if record.over else Recorder(directory, record)

    monkeypatch.setattr("kvs.store.persistence.Persistence", partial(Persistence, storage=storage))


def acknowledge(record: Record) -> Callable[[int], None]:
    """Return what takes down that a revision was acknowledged."""

    def took(revision: int) -> None:
        record.acknowledged = revision

    return took


def check_every_moment(record: Record, place: Path, *, all_is_there: bool = True) -> set[int]:
    """Open what each moment leaves; return the revisions found."""
    record.over = True
    found = set()
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
                if all_is_there:
                    assert revision >= moment.acknowledged, left
                found.add(revision)
    return found


def test_of_what_was_acknowledged_under_always_nothing_is_lost(
    tmp_path: Path, record: Record
) -> None:
    with Store(tmp_path / "d", DataSettings(segment_bytes=100)) as store:
        write(store, 8, acknowledge(record))
    assert check_every_moment(record, tmp_path / "left") == set(range(9))


def test_nothing_is_lost_in_a_compaction(tmp_path: Path, record: Record) -> None:
    with Store(tmp_path / "d", DataSettings(segment_bytes=100)) as store:
        for _ in range(3):
            write(store, 3, acknowledge(record))
            store.compact()
        write(store, 1, acknowledge(record))
    assert check_every_moment(record, tmp_path / "left") == set(range(11))


def test_nothing_is_lost_in_compactions_beside_writes(tmp_path: Path, record: Record) -> None:
    with Store(tmp_path / "d", DataSettings(compact_bytes=1, segment_bytes=150)) as store:
        write(store, 12, acknowledge(record))
    assert check_every_moment(record, tmp_path / "left") == set(range(13))


def test_nothing_is_lost_when_a_torn_end_is_cut(tmp_path: Path, record: Record) -> None:
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
def test_what_a_killed_process_left_with_the_kernel_is_durable_before_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: Record, fsync: str
) -> None:
    """Killed at any moment, gone on with under `always`, and at any moment of that a power loss."""
    with Store(tmp_path / "d", DataSettings(fsync, segment_bytes=250)) as store:
        for count in (2, 3):
            write(store, count)
            store.compact()
    for number, moment in enumerate(record.moments):
        going_on = moment.killed(tmp_path / f"{number}")
        taken_down(monkeypatch, going_on)
        with Store(tmp_path / f"{number}", DataSettings(segment_bytes=250)) as store:
            acknowledge(going_on)(store.revision)
            write(store, 1, acknowledge(going_on))
        check_every_moment(going_on, tmp_path / "left")
        going_on.close()


@pytest.mark.parametrize("fsync", ["interval", "never"])
def test_without_a_sync_for_each_there_is_a_whole_past(
    tmp_path: Path, record: Record, fsync: str
) -> None:
    with Store(tmp_path / "d", DataSettings(fsync, 3600, segment_bytes=200)) as store:
        write(store, 9, acknowledge(record))
        store.compact()
        write(store, 2, acknowledge(record))
    found = check_every_moment(record, tmp_path / "left", all_is_there=False)
    assert {0, 11} <= found


def test_a_disk_that_does_not_sync_is_found_out(tmp_path: Path, record: Record) -> None:
    """The same check, of a store that does not keep the promise: it can fail."""
    with Store(tmp_path / "d", DataSettings("never")) as store:
        write(store, 3, acknowledge(record))
    with pytest.raises(AssertionError):
        check_every_moment(record, tmp_path / "left")


def test_a_new_directory_is_durable_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    class Parental(Recorder):
        def sync_parent_directory(self) -> None:
            super().sync_parent_directory()
            synced.append(record.acknowledged)

    record = Record()
    storage: Callable[[int], Recorder] = lambda directory: Parental(directory, record)  # noqa: E731
    monkeypatch.setattr("kvs.store.persistence.Persistence", partial(Persistence, storage=storage))
    with Store(tmp_path / "d") as store:
        write(store, 1, acknowledge(record))
    assert synced == [0]
