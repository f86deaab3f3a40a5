"""Looking after a data directory: check, dump, and repair at every damage."""

import errno
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kvs import Store
from kvs.errors import CorruptionError, DataDirectoryError, DirectoryLockedError
from kvs.journal.directory import DataDirectory
from kvs.settings import DataSettings
from kvs.store import maintenance
from tests.helpers import SECONDS
from tests.journal.builders import Files, Made, contents, files, put, read
from tests.journal.crash_child import killed_at_every_step, pairs_at, write
from tests.journal.fake_storage import Fault, Gate, Kill, Stepping
from tests.journal.power_loss_storage import Record, Recorder


def made() -> tuple[Made, Made, Made]:
    """Return three segments, each with a pair of its own."""
    first = Made().group(b"WRITE [(a,1)]\n", 1).group(b"WRITE [(b,2)]\n", 1)
    second = first.next().group(b"WRITE [(c,3)]\n", 1)
    return first, second, second.next().group(b"WRITE [(d,4)]\n", 1)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_check_tells_what_is_there_and_changes_nothing(tmp_path: Path) -> None:
    put(tmp_path / "d", {**files(*made()), "mine": b"", ".kvs-0123456789abcdef.tmp": b"x"})
    before = contents(tmp_path / "d")
    found = maintenance.check(tmp_path / "d")
    assert (found.revision, found.pairs, found.segments) == (4, 4, [1, 2, 3])
    assert found == read(tmp_path / "d")[0]
    assert contents(tmp_path / "d") == before


def test_dump_writes_the_pairs_as_show_does(tmp_path: Path) -> None:
    with Store(tmp_path / "d") as store:
        store.write({"b": "2", "a": "1", "c": "3"})
        store.compact()
        store.delete(["c"])
        assert store.items()
        with pytest.raises(DirectoryLockedError):
            maintenance.check(tmp_path / "d")
        with pytest.raises(DirectoryLockedError):
            list(maintenance.dump(tmp_path / "d"))
    before = contents(tmp_path / "d")
    assert b"".join(maintenance.dump(tmp_path / "d")) == b"(a, 1)\n(b, 2)\n"
    assert contents(tmp_path / "d") == before


@pytest.mark.parametrize("look", [maintenance.check, lambda *args: list(maintenance.dump(*args))])
def test_who_comes_to_work_there_during_a_look_is_told_and_not_taken_for_damage(
    tmp_path: Path, look: Callable[[Path, Callable[[int, int], None]], object]
) -> None:
    put(tmp_path / "d", files(*made()))
    with DataDirectory(tmp_path / "d") as folder:

        def compacted(_done: int, _all: int) -> None:
            second = tmp_path / "d" / made()[1].name
            if second.exists():
                folder.lock()
                second.unlink()

        with pytest.raises(DirectoryLockedError):
            look(tmp_path / "d", compacted)


@pytest.mark.parametrize(
    "act", [maintenance.check, maintenance.repair, lambda path: list(maintenance.dump(path))]
)
def test_what_holds_no_journal_is_refused(tmp_path: Path, act: Callable[[Path], object]) -> None:
    put(tmp_path / "empty", {})
    with pytest.raises(DataDirectoryError) as told:
        act(tmp_path / "empty")
    assert str(told.value) == f"{tmp_path}/empty: it holds no journal"
    put(tmp_path / "other", {"file": b"mine"})
    with pytest.raises(DataDirectoryError) as told:
        act(tmp_path / "other")
    assert told.value.reason == "it is not empty, and holds no journal; name another directory"
    with pytest.raises(DataDirectoryError) as told:
        act(tmp_path / "none")
    assert told.value.reason == "No such file or directory"
    assert contents(tmp_path / "other") == {"file": b"mine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "other"]


def test_what_is_damaged_is_not_dumped_and_not_repaired_by_a_check(tmp_path: Path) -> None:
    first, *others = made()
    put(tmp_path / "d", {**files(*others), first.name: flipped(first.data, first.ends[1] + 3)})
    before = contents(tmp_path / "d")
    for look in (maintenance.check, lambda path: list(maintenance.dump(path))):
        with pytest.raises(CorruptionError) as told:
            look(tmp_path / "d")
        assert told.value.offset == first.ends[1]
    assert contents(tmp_path / "d") == before


def test_a_repair_of_what_is_whole_or_only_torn_changes_nothing(tmp_path: Path) -> None:
    *others, last = made()
    for data in (last.data, last.data + b"# group", last.data[:-1]):
        put(tmp_path / "d", {**files(*others), last.name: data})
        before = contents(tmp_path / "d")
        assert maintenance.repair(tmp_path / "d") is None
        assert contents(tmp_path / "d") == before


def test_a_repair_cuts_at_the_first_damage_and_keeps_what_it_cuts_off(tmp_path: Path) -> None:
    first, second, third = made()
    at = first.ends[1]
    damaged = flipped(first.data, at + 90)
    put(tmp_path / "d", {**files(second, third), first.name: damaged})
    cut = maintenance.repair(tmp_path / "d")
    assert cut is not None
    assert (cut.file, cut.offset) == (f"{tmp_path}/d/{first.name}", at)
    assert cut.reason == "a group does not match its checksum"
    assert (cut.revision, cut.lost_up_to) == (1, 4)
    assert cut.bytes == len(damaged) - at + len(second.data) + len(third.data)
    assert cut.saved_files == [f"{tmp_path}/d/{each.name}.cut" for each in (first, second, third)]
    assert contents(tmp_path / "d") == {
        first.name: damaged[:at],
        f"{first.name}.cut": damaged[at:],
        f"{second.name}.cut": second.data,
        f"{third.name}.cut": third.data,
    }
    with Store(tmp_path / "d") as store:
        assert (store.items(), store.revision) == ([(b"a", b"1")], 1)
        store.write({"b": "3"})
    with Store(tmp_path / "d") as store:
        assert store.items() == [(b"a", b"1"), (b"b", b"3")]


def test_what_was_kept_before_is_not_replaced(tmp_path: Path) -> None:
    first, second, third = made()
    names = {f"{third.name}.cut": b"old", f"{third.name}.cut2": b"older"}
    put(tmp_path / "d", {**files(first, second), third.name: third.data[:-1] + b"x", **names})
    cut = maintenance.repair(tmp_path / "d")
    assert cut is not None
    assert cut.saved_files == [f"{tmp_path}/d/{third.name}.cut3"]
    assert contents(tmp_path / "d").items() >= names.items()


def repaired(directory: Path, contents_of_it: Files, revision: int) -> None:
    """Check that a repair leaves a store that is whole at `revision`, and goes on."""
    put(directory, contents_of_it)
    cut = maintenance.repair(directory)
    assert cut is not None
    assert cut.revision == revision
    keys = [b"a", b"b", b"c", b"d"][:revision]
    with Store(directory) as store:
        assert [key for key, _ in store.items()] == keys
        assert store.write({"z": "9"}) == revision + 1
    with Store(directory) as store:
        assert [key for key, _ in store.items()] == [*keys, b"z"]


def test_whatever_is_wrong_with_a_segment_it_is_cut_there(tmp_path: Path) -> None:
    first, second, third = made()
    everything = files(first, second, third)
    directory = tmp_path / "d"
    for damage in (
        flipped(second.data, 3),
        b"",
        b"\x7fELF",
        first.data,
        second.data[: second.ends[0]],
        Made(number=2, revision=2, store=b"f" * 16, previous=first.chain).data,
    ):
        lost = damage == second.data[: second.ends[0]]
        repaired(directory, {**everything, second.name: damage}, 2)
        kept = contents(directory).get(f"{second.name}.cut")
        assert kept == (None if lost else damage)
        assert contents(directory)[f"{third.name}.cut"] == third.data
    repaired(directory, files(first, third), 2)
    repaired(directory, {**everything, first.name: b"nonsense"}, 0)
    repaired(directory, {**everything, first.name: first.data + b"nonsense"}, 2)


def test_a_damaged_snapshot_cannot_be_repaired(tmp_path: Path) -> None:
    snapshot = Made("snapshot", 3, 4).group(b"WRITE [(a,1)]\n", 0).group(b"# end 1\n", 0)
    data = flipped(snapshot.data, snapshot.ends[0] + 1)
    put(tmp_path / "d", {snapshot.name: data, **files(Made(number=3, revision=4))})
    before = contents(tmp_path / "d")
    with pytest.raises(CorruptionError) as told:
        maintenance.repair(tmp_path / "d")
    assert str(told.value) == (
        f"{tmp_path}/d/{snapshot.name}: at byte {snapshot.ends[0]}: a line that begins with "
        "'# group' should stand there; nothing was loaded or changed (nothing goes on without it: "
        "begin a new data directory with 'kvs restore' from a backup)"
    )
    assert contents(tmp_path / "d") == before


def test_a_damaged_snapshot_is_put_aside_if_what_is_older_is_whole(tmp_path: Path) -> None:
    first, second, third = made()
    older = Made("snapshot", 2, 2).group(b"WRITE [(a,1)(b,2)]\n", 0).group(b"# end 2\n", 0)
    snapshot = Made("snapshot", 3, 3).group(b"WRITE [(a,1)(b,2)(c,3)]\n", 0)
    damaged = {snapshot.name: snapshot.data}
    for others in (files(first, second, third), files(older, second, third)):
        put(tmp_path / "d", {**damaged, **others})
        cut = maintenance.repair(tmp_path / "d")
        assert cut is not None
        assert (cut.revision, cut.lost_up_to, cut.bytes) == (4, None, len(snapshot.data))
        assert cut.saved_files == [f"{tmp_path}/d/{snapshot.name}.cut"]
        assert contents(tmp_path / "d") == {f"{snapshot.name}.cut": snapshot.data, **others}
        with Store(tmp_path / "d") as store:
            assert [key for key, _ in store.items()] == [b"a", b"b", b"c", b"d"]
    put(tmp_path / "d", {**damaged, **files(second, third)})
    before = contents(tmp_path / "d")
    with pytest.raises(CorruptionError) as told:
        maintenance.repair(tmp_path / "d")
    assert told.value.file == f"{tmp_path}/d/{snapshot.name}"
    assert contents(tmp_path / "d") == before


@pytest.mark.parametrize("segment", [2, 3])
def test_what_lacks_its_beginning_is_not_cut(tmp_path: Path, segment: int) -> None:
    """The snapshot from which it goes on was removed, say: put back, it makes all whole."""
    put(tmp_path / "d", files(*made()[segment - 1 :]))
    before = contents(tmp_path / "d")
    with pytest.raises(CorruptionError) as told:
        maintenance.repair(tmp_path / "d")
    assert f"missing, or else 000000000{segment}.snapshot" in str(told.value)
    assert contents(tmp_path / "d") == before


@pytest.mark.slow
def test_what_was_lost_is_told_from_what_proves_itself(tmp_path: Path) -> None:
    first, second, third = made()

    def lost_up_to(damaged: Files) -> int | None:
        cut = maintenance.repair(put(tmp_path / "d", damaged))
        assert cut is not None
        return cut.lost_up_to

    assert lost_up_to(files(first, second.next())) == 3  # from a head alone
    wrong = second.data.replace(b"003 000000000014", b"903 000000000014")
    assert wrong != second.data
    assert lost_up_to({**files(first), second.name: wrong}) == 2
    assert lost_up_to({**files(first, third), second.name: wrong}) == 4
    long = (
        Made()
        .group(b"WRITE [(a,1)]\n", 1)
        .group(b"#" + b"x" * (maintenance.BLOCK - 200) + b"\n", 0)
    )
    long.group(b"WRITE [(b,1)]\n", 1)
    at = long.ends[0] + 83
    assert lost_up_to({long.name: flipped(long.data, at)}) == 2  # a header across two blocks


def test_no_repair_while_a_store_is_open(tmp_path: Path) -> None:
    with Store(tmp_path / "d"), pytest.raises(DirectoryLockedError):
        maintenance.repair(tmp_path / "d")


def test_a_repair_that_cannot_write_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = made()
    put(tmp_path / "d", {**files(first, third), second.name: b"x"})

    def full(_file: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kvs.store.maintenance.write_all", full)
    before = contents(tmp_path / "d")
    with pytest.raises(DataDirectoryError) as told:
        maintenance.repair(tmp_path / "d")
    assert str(told.value) == f"{tmp_path}/d: cannot repair it: No space left on device"
    assert contents(tmp_path / "d") == before


@pytest.mark.slow
def test_a_repair_that_is_killed_at_any_step_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path / "whole", DataSettings(segment_bytes=100)) as store:
        write(store, 12)
    names = sorted(path.name for path in (tmp_path / "whole").glob("*.journal"))
    assert len(names) > 2
    damaged = tmp_path / "whole" / names[1]
    damaged.write_bytes(flipped(damaged.read_bytes(), damaged.stat().st_size - 3))
    everything = {os.path.basename(name): data for name, data in contents(damaged.parent).items()}

    def prepared(number: int) -> Callable[[object], None]:
        directory = shutil.copytree(damaged.parent, tmp_path / f"{number}")

        def repair(_acknowledge: object) -> None:
            kill = Kill(number)
            monkeypatch.setattr(
                "kvs.store.maintenance.Storage", lambda opened: Stepping(opened, kill)
            )
            maintenance.repair(directory)

        return repair

    revision = read(put(tmp_path / "first", {names[0]: everything[names[0]]}))[0].revision
    for number, _ in killed_at_every_step(prepared):
        directory = tmp_path / f"{number}"
        maintenance.repair(directory)
        with Store(directory) as store:
            assert revision <= store.revision < 12
            assert store.items() == pairs_at(store.revision)
        kept = b"".join(data for name, data in contents(directory).items() if ".cut" in name)
        for name in names[2:]:
            assert everything[name] in kept


@pytest.mark.parametrize("damaged", ["0000000002.journal", "0000000003.snapshot"])
def test_what_a_repair_takes_away_does_not_come_back_after_a_power_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    first, second, third = made()
    snapshot = Made("snapshot", 3, 3).group(b"WRITE [(a,1)(b,2)(c,3)]\n", 0)
    contents_of_it = files(first, second, third)
    contents_of_it[damaged] = {second.name: second.data[:-1], snapshot.name: snapshot.data}[damaged]
    put(tmp_path / "d", contents_of_it)
    record = Record()
    for path in (tmp_path / "d").iterdir():
        inode = path.stat().st_ino
        record.names[path.name.encode()] = inode
        record.written[inode] = record.durable[inode] = path.read_bytes()
    monkeypatch.setattr("kvs.store.maintenance.Storage", lambda opened: Recorder(opened, record))
    assert maintenance.repair(tmp_path / "d") is not None
    record.close()
    assert record.changes == []
    assert sorted(name.decode() for name in record.names) == sorted(contents(tmp_path / "d"))


@pytest.mark.parametrize("number", [b"0000000002.snapshot", b"0000000002.journal"])
def test_what_cannot_be_opened_is_no_damage_and_is_not_cut(tmp_path: Path, number: bytes) -> None:
    """A link in its place, say: when that is mended, everything is there."""
    directory = tmp_path / "d"
    with Store(directory) as store:
        store.write({"a": "1"})
        store.compact()
        store.write({"b": "2"})
    name = directory / number.decode()
    name.rename(tmp_path / "elsewhere")
    name.symlink_to(tmp_path / "elsewhere")
    before = sorted(directory.iterdir())
    with pytest.raises(DataDirectoryError, match="cannot be opened"):
        maintenance.repair(directory)
    assert sorted(directory.iterdir()) == before
    name.unlink()
    (tmp_path / "elsewhere").rename(name)
    assert maintenance.repair(directory) is None
    with Store(directory) as store:
        assert store.items() == [(b"a", b"1"), (b"b", b"2")]


# Restore.

PAIRS = {b"a": b"1", b"b": b"2"}
LINE = b"WRITE [(a,1)(b,2)]\n"
INTERRUPTED = "a restore into it was interrupted; restore again or remove the directory"


def test_a_restore_makes_one_change_of_a_new_store(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o750)
    for name in ("new", "empty"):
        assert maintenance.restore(tmp_path / name, PAIRS) == 1
        [(file, data)] = contents(tmp_path / name).items()
        assert file == "0000000001.journal"
        assert data.endswith(b"\n" + LINE)
        with Store(tmp_path / name) as store:
            assert (store.revision, store.items()) == (1, sorted(PAIRS.items()))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o750


def test_a_restore_of_no_pairs_makes_an_empty_store(tmp_path: Path) -> None:
    assert maintenance.restore(tmp_path / "d", {}) == 0
    assert (maintenance.check(tmp_path / "d").revision, len(contents(tmp_path / "d"))) == (0, 1)


def test_a_restore_leaves_a_store_and_other_files_alone(tmp_path: Path) -> None:
    with Store(tmp_path / "d"), pytest.raises(DirectoryLockedError):
        maintenance.restore(tmp_path / "d", PAIRS)
    before = contents(tmp_path / "d")
    assert maintenance.restore(tmp_path / "d", PAIRS) is None
    assert contents(tmp_path / "d") == before
    put(tmp_path / "other", {"file": b"mine"})
    with pytest.raises(DataDirectoryError, match="it is not empty, and holds no journal"):
        maintenance.restore(tmp_path / "other", PAIRS)
    assert contents(tmp_path / "other") == {"file": b"mine"}


def test_an_interrupted_restore_is_refused_and_can_be_repeated(tmp_path: Path) -> None:
    left = {"restore.unfinished": b"", ".kvs-0123456789abcdef.tmp": b"# kvs jour", ".kvs.lock": b""}
    openers: list[Callable[[Path], object]] = [Store, maintenance.check, maintenance.repair]
    for opener in openers:
        put(tmp_path / "d", left)
        with pytest.raises(DataDirectoryError) as told:
            opener(tmp_path / "d")
        assert told.value.reason == INTERRUPTED
    put(tmp_path / "d", left)
    assert maintenance.restore(tmp_path / "d", PAIRS) == 1
    assert list(contents(tmp_path / "d")) == ["0000000001.journal"]


def test_a_mark_that_a_finished_restore_left_is_removed_by_the_next_start(tmp_path: Path) -> None:
    maintenance.restore(tmp_path / "d", PAIRS)
    (tmp_path / "d" / "restore.unfinished").touch()
    assert maintenance.check(tmp_path / "d").revision == 1
    with Store(tmp_path / "d") as store:
        assert store.revision == 1
    assert "restore.unfinished" not in contents(tmp_path / "d")


def whole_or_not_at_all(directory: Path) -> bool:
    """Check what a restore left that did not end; return whether everything is there."""
    refusal = None
    try:
        maintenance.check(directory)
    except DataDirectoryError as refused:
        refusal = refused.reason
        assert maintenance.restore(directory, PAIRS) == 1
    assert refusal in {None, INTERRUPTED, "it holds no journal"}
    with Store(directory) as store:
        assert (store.revision, store.items()) == (1, sorted(PAIRS.items()))
    return refusal is None


def test_a_restore_that_is_killed_at_any_step_leaves_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared(number: int) -> Callable[[object], None]:
        def restore(_acknowledge: object) -> None:
            kill = Kill(number)
            monkeypatch.setattr(
                "kvs.store.maintenance.Storage", lambda opened: Stepping(opened, kill)
            )
            maintenance.restore(tmp_path / f"{number}", PAIRS)

        return restore

    whole = [
        whole_or_not_at_all(tmp_path / f"{number}") for number, _ in killed_at_every_step(prepared)
    ]
    assert whole == sorted(whole)
    assert set(whole) == {False, True}


def test_a_restore_leaves_all_or_nothing_after_a_power_loss_at_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record()
    with monkeypatch.context() as recorded:
        recorded.setattr("kvs.store.maintenance.Storage", lambda opened: Recorder(opened, record))
        maintenance.restore(tmp_path / "d", PAIRS)
    record.close()
    left = [files for moment in record.moments for files in moment.left()]
    assert left[-1].keys() == {"0000000001.journal"}
    assert {whole_or_not_at_all(put(tmp_path / "left", files)) for files in left} == {False, True}


@pytest.mark.parametrize("step", ["before mark", "within append", "before sync", "after commit"])
def test_a_restore_that_cannot_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    fault = Fault(step, errno.ENOSPC)
    fault.armed = True
    monkeypatch.setattr("kvs.store.maintenance.Storage", lambda opened: Stepping(opened, fault))
    with pytest.raises(DataDirectoryError) as told:
        maintenance.restore(tmp_path / "d", PAIRS)
    assert told.value.reason == "cannot make the journal: No space left on device"
    assert contents(tmp_path / "d") == {}
    fault.armed = False
    assert maintenance.restore(tmp_path / "d", PAIRS) == 1


def test_nobody_opens_a_directory_into_which_a_restore_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate("before commit")
    monkeypatch.setattr("kvs.store.maintenance.Storage", lambda opened: Stepping(opened, gate))
    with ThreadPoolExecutor(1) as pool, gate.shut():
        restored = pool.submit(maintenance.restore, tmp_path / "d", PAIRS)
        gate.wait_until_held()
        for opener in (Store, maintenance.check, lambda path: maintenance.restore(path, PAIRS)):
            with pytest.raises(DirectoryLockedError):
                opener(tmp_path / "d")
        gate.open()
        assert restored.result(SECONDS) == 1
    assert maintenance.check(tmp_path / "d").pairs == 2
