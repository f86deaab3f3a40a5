"""Maintenance of a data directory: check, load, and repair of every damage."""

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
from tests.journal.builders import Files, JournalBuilder, contents, files, put, read
from tests.journal.crash_child import killed_at_every_step, pairs_at, write
from tests.journal.fake_storage import Fault, Gate, Kill, stepping
from tests.journal.power_loss_storage import Record, Recorder


def made() -> tuple[JournalBuilder, JournalBuilder, JournalBuilder]:
    """Return three segments, each with pairs of its own."""
    first = JournalBuilder().group(b"WRITE [(a,1)]\n", 1).group(b"WRITE [(b,2)]\n", 1)
    second = first.next().group(b"WRITE [(c,3)]\n", 1)
    return first, second, second.next().group(b"WRITE [(d,4)]\n", 1)


def flipped(data: bytes, at: int) -> bytes:
    """Return `data` with one bit changed at the offset `at`."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_check_returns_the_state_and_changes_nothing(tmp_path: Path) -> None:
    put(tmp_path / "d", {**files(*made()), "mine": b"", ".kvs-0123456789abcdef.tmp": b"x"})
    before = contents(tmp_path / "d")
    state = maintenance.check(tmp_path / "d")
    assert (state.revision, state.pairs, state.segments) == (4, 4, [1, 2, 3])
    assert state == read(tmp_path / "d")[0]
    assert contents(tmp_path / "d") == before


def test_size_is_that_of_snapshots_and_segments(tmp_path: Path) -> None:
    with Store(tmp_path / "d") as store:
        for command in (lambda: store.write({"a": "1"}), store.compact):
            command()
            files = [*(tmp_path / "d").glob("*.journal"), *(tmp_path / "d").glob("*.snapshot")]
            expected = sum(file.stat().st_size for file in files)
            assert maintenance.size_bytes(tmp_path / "d") == expected


def test_loaded_engine_has_pairs_and_revision(tmp_path: Path) -> None:
    with Store(tmp_path / "d") as store:
        store.write({"b": "2", "a": "1", "c": "3"})
        store.compact()
        store.delete(["c"])
        assert store.items()
        with pytest.raises(DirectoryLockedError):
            maintenance.check(tmp_path / "d")
        with pytest.raises(DirectoryLockedError):
            maintenance.load(tmp_path / "d")
    before = contents(tmp_path / "d")
    engine = maintenance.load(tmp_path / "d")
    assert engine.items() == [(b"a", b"1"), (b"b", b"2")]
    assert engine.revision == 2
    assert contents(tmp_path / "d") == before


@pytest.mark.parametrize("read_only", [maintenance.check, maintenance.load])
def test_change_during_a_check_is_not_taken_for_damage(
    tmp_path: Path, read_only: Callable[[Path, Callable[[int, int], None]], object]
) -> None:
    put(tmp_path / "d", files(*made()))
    with DataDirectory(tmp_path / "d") as directory:

        def compact(_done: int, _all: int) -> None:
            second = tmp_path / "d" / made()[1].name
            if second.exists():
                directory.lock()
                second.unlink()

        with pytest.raises(DirectoryLockedError):
            read_only(tmp_path / "d", compact)


@pytest.mark.parametrize(
    "act",
    [
        maintenance.check,
        maintenance.repair,
        maintenance.size_bytes,
        maintenance.load,
    ],
)
def test_directory_without_a_journal_is_refused(
    tmp_path: Path, act: Callable[[Path], object]
) -> None:
    put(tmp_path / "empty", {})
    with pytest.raises(DataDirectoryError) as caught:
        act(tmp_path / "empty")
    assert str(caught.value) == f"{tmp_path}/empty: not a data directory: it has no journal"
    put(tmp_path / "other", {"file": b"mine"})
    with pytest.raises(DataDirectoryError) as caught:
        act(tmp_path / "other")
    assert caught.value.reason == "not a data directory: it has no journal"
    with pytest.raises(DataDirectoryError) as caught:
        act(tmp_path / "none")
    assert caught.value.reason == "cannot open the data directory: No such file or directory"
    assert contents(tmp_path / "other") == {"file": b"mine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "other"]


def test_check_and_load_of_damage_change_nothing(tmp_path: Path) -> None:
    first, *others = made()
    put(tmp_path / "d", {**files(*others), first.name: flipped(first.data, first.ends[1] + 3)})
    before = contents(tmp_path / "d")
    for read_only in (maintenance.check, maintenance.load):
        with pytest.raises(CorruptionError) as caught:
            read_only(tmp_path / "d")
        assert caught.value.offset == first.ends[1]
    assert contents(tmp_path / "d") == before


def test_repair_of_an_intact_or_torn_journal_changes_nothing(tmp_path: Path) -> None:
    *others, last = made()
    for data in (last.data, last.data + b"# group", last.data[:-1]):
        put(tmp_path / "d", {**files(*others), last.name: data})
        before = contents(tmp_path / "d")
        assert maintenance.repair(tmp_path / "d") is None
        assert contents(tmp_path / "d") == before


def test_interrupted_repair_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = made()
    put(tmp_path / "d", {**files(*others), first.name: flipped(first.data, first.ends[1] + 3)})
    before = contents(tmp_path / "d")

    def interrupt(_file: int, *_pieces: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(maintenance, "write_all", interrupt)
    with pytest.raises(KeyboardInterrupt):
        maintenance.repair(tmp_path / "d")
    assert [name for name in os.listdir(tmp_path / "d") if name.startswith(".kvs-")] == []
    assert contents(tmp_path / "d") == before


def test_repair_cuts_at_the_first_damage_and_saves_the_rest(tmp_path: Path) -> None:
    first, second, third = made()
    at = first.ends[1]
    damaged = flipped(first.data, at + 110)
    put(tmp_path / "d", {**files(second, third), first.name: damaged})
    result = maintenance.repair(tmp_path / "d")
    assert result is not None
    assert (result.file, result.offset) == (f"{tmp_path}/d/{first.name}", at)
    assert result.reason == "a group does not match its checksum"
    assert (result.revision, result.lost_up_to) == (1, 4)
    assert result.bytes == len(damaged) - at + len(second.data) + len(third.data)
    assert result.saved_files == [
        f"{tmp_path}/d/{each.name}.cut" for each in (first, second, third)
    ]
    left = contents(tmp_path / "d")
    state, _ = read(tmp_path / "d")
    assert state.mark is not None
    assert state.mark.mark not in {b"", state.store_id}
    following = JournalBuilder(number=2, revision=1, previous=int(damaged[at - 23 : at - 15], 16))
    assert left.pop(second.name).startswith(following.data)
    assert left == {
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


def test_repair_never_overwrites_a_saved_file(tmp_path: Path) -> None:
    first, second, third = made()
    names = {f"{third.name}.cut": b"old", f"{third.name}.cut2": b"older"}
    put(tmp_path / "d", {**files(first, second), third.name: third.data[:-1] + b"x", **names})
    result = maintenance.repair(tmp_path / "d")
    assert result is not None
    assert result.saved_files == [f"{tmp_path}/d/{third.name}.cut3"]
    assert contents(tmp_path / "d").items() >= names.items()


def check_repair(directory: Path, contents_of_it: Files, revision: int) -> None:
    """Check that a repair leaves a store that is intact at `revision` and can be written."""
    put(directory, contents_of_it)
    result = maintenance.repair(directory)
    assert result is not None
    assert result.revision == revision
    keys = [b"a", b"b", b"c", b"d"][:revision]
    with Store(directory) as store:
        assert [key for key, _ in store.items()] == keys
        assert store.write({"z": "9"}) == revision + 1
    with Store(directory) as store:
        assert [key for key, _ in store.items()] == [*keys, b"z"]


def test_repair_cuts_any_kind_of_damage(tmp_path: Path) -> None:
    first, second, third = made()
    everything = files(first, second, third)
    directory = tmp_path / "d"
    for damage in (
        flipped(second.data, 3),
        b"",
        b"\x7fELF",
        first.data,
        second.data[: second.ends[0]],
        JournalBuilder(number=2, revision=2, store=b"f" * 16, previous=first.chain).data,
    ):
        is_clean = damage == second.data[: second.ends[0]]
        check_repair(directory, {**everything, second.name: damage}, 2)
        saved = contents(directory).get(f"{second.name}.cut")
        assert saved == (None if is_clean else damage)
        assert contents(directory)[f"{third.name}.cut"] == third.data
    check_repair(directory, files(first, third), 2)
    check_repair(directory, {**everything, first.name: b"nonsense"}, 0)
    check_repair(directory, {**everything, first.name: first.data + b"nonsense"}, 2)


def test_damaged_snapshot_alone_is_not_repaired(tmp_path: Path) -> None:
    snapshot = JournalBuilder("snapshot", 3, 4).group(b"WRITE [(a,1)]\n", 0).group(b"# end 1\n", 0)
    data = flipped(snapshot.data, snapshot.ends[0] + 1)
    put(tmp_path / "d", {snapshot.name: data, **files(JournalBuilder(number=3, revision=4))})
    before = contents(tmp_path / "d")
    with pytest.raises(CorruptionError) as caught:
        maintenance.repair(tmp_path / "d")
    assert str(caught.value) == (
        f"{tmp_path}/d/{snapshot.name}: at byte {snapshot.ends[0]}: expected a group header "
        "('# group ...'); nothing was loaded or changed (no repair is possible without it: "
        "begin a new data directory with 'kvs restore' from a backup)"
    )
    assert contents(tmp_path / "d") == before


def test_damaged_snapshot_is_set_aside_for_older_files(tmp_path: Path) -> None:
    first, second, third = made()
    older = (
        JournalBuilder("snapshot", 2, 2).group(b"WRITE [(a,1)(b,2)]\n", 0).group(b"# end 2\n", 0)
    )
    snapshot = JournalBuilder("snapshot", 3, 3).group(b"WRITE [(a,1)(b,2)(c,3)]\n", 0)
    damaged = {snapshot.name: snapshot.data}
    for others in (files(first, second, third), files(older, second, third)):
        put(tmp_path / "d", {**damaged, **others})
        result = maintenance.repair(tmp_path / "d")
        assert result is not None
        assert (result.revision, result.lost_up_to, result.bytes) == (4, None, len(snapshot.data))
        assert result.saved_files == [f"{tmp_path}/d/{snapshot.name}.cut"]
        assert contents(tmp_path / "d") == {f"{snapshot.name}.cut": snapshot.data, **others}
        with Store(tmp_path / "d") as store:
            assert [key for key, _ in store.items()] == [b"a", b"b", b"c", b"d"]
    put(tmp_path / "d", {**damaged, **files(second, third)})
    before = contents(tmp_path / "d")
    with pytest.raises(CorruptionError) as caught:
        maintenance.repair(tmp_path / "d")
    assert caught.value.path == f"{tmp_path}/d/{snapshot.name}"
    assert contents(tmp_path / "d") == before


@pytest.mark.parametrize("segment", [2, 3])
def test_journal_without_its_first_file_is_not_cut(tmp_path: Path, segment: int) -> None:
    """Its snapshot was removed, for example: with the snapshot, all files are intact again."""
    put(tmp_path / "d", files(*made()[segment - 1 :]))
    before = contents(tmp_path / "d")
    with pytest.raises(CorruptionError) as caught:
        maintenance.repair(tmp_path / "d")
    assert f"missing, or else 000000000{segment}.snapshot" in str(caught.value)
    assert contents(tmp_path / "d") == before


@pytest.mark.slow
def test_lost_revision_comes_from_valid_headers(tmp_path: Path) -> None:
    first, second, third = made()

    def lost_up_to(damaged: Files) -> int | None:
        result = maintenance.repair(put(tmp_path / "d", damaged))
        assert result is not None
        return result.lost_up_to

    assert lost_up_to(files(first, second.next())) == 3  # from a file header alone
    wrong = second.data.replace(b"003 000000000014", b"903 000000000014")
    assert wrong != second.data
    assert lost_up_to({**files(first), second.name: wrong}) == 2
    assert lost_up_to({**files(first, third), second.name: wrong}) == 4
    long = (
        JournalBuilder()
        .group(b"WRITE [(a,1)]\n", 1)
        .group(b"#" + b"x" * (maintenance.BLOCK - 200) + b"\n", 0)
    )
    long.group(b"WRITE [(b,1)]\n", 1)
    at = long.ends[0] + 83
    assert lost_up_to({long.name: flipped(long.data, at)}) == 2  # a header across two blocks


def test_repair_of_an_open_store_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path / "d"), pytest.raises(DirectoryLockedError):
        maintenance.repair(tmp_path / "d")


def test_repair_on_a_full_disk_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = made()
    put(tmp_path / "d", {**files(first, third), second.name: b"x"})

    def fail(_file: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kvs.store.maintenance.write_all", fail)
    before = contents(tmp_path / "d")
    with pytest.raises(DataDirectoryError) as caught:
        maintenance.repair(tmp_path / "d")
    assert str(caught.value) == f"{tmp_path}/d: cannot repair it: No space left on device"
    assert contents(tmp_path / "d") == before


@pytest.mark.slow
def test_repair_killed_at_any_step_can_be_repeated(tmp_path: Path) -> None:
    with Store(tmp_path / "intact", DataSettings(segment_bytes=100)) as store:
        write(store, 12)
    names = sorted(path.name for path in (tmp_path / "intact").glob("*.journal"))
    assert len(names) > 2
    damaged = tmp_path / "intact" / names[1]
    damaged.write_bytes(flipped(damaged.read_bytes(), damaged.stat().st_size - 3))
    everything = {os.path.basename(name): data for name, data in contents(damaged.parent).items()}

    def prepared(number: int) -> Callable[[object], None]:
        directory = shutil.copytree(damaged.parent, tmp_path / f"{number}")

        def repair(_acknowledge: object) -> None:
            maintenance.repair(directory, storage=stepping(Kill(number)))

        return repair

    revision = read(put(tmp_path / "first", {names[0]: everything[names[0]]}))[0].revision
    for number, _ in killed_at_every_step(prepared):
        directory = tmp_path / f"{number}"
        maintenance.repair(directory)
        with Store(directory) as store:
            assert revision <= store.revision < 12
            assert store.items() == pairs_at(store.revision)
        saved = b"".join(data for name, data in contents(directory).items() if ".cut" in name)
        for name in names[2:]:
            assert everything[name] in saved


@pytest.mark.parametrize("damaged", ["0000000002.journal", "0000000003.snapshot"])
def test_repair_outlasts_a_power_loss(tmp_path: Path, damaged: str) -> None:
    first, second, third = made()
    snapshot = JournalBuilder("snapshot", 3, 3).group(b"WRITE [(a,1)(b,2)(c,3)]\n", 0)
    contents_of_it = files(first, second, third)
    contents_of_it[damaged] = {second.name: second.data[:-1], snapshot.name: snapshot.data}[damaged]
    put(tmp_path / "d", contents_of_it)
    record = Record()
    for path in (tmp_path / "d").iterdir():
        inode = path.stat().st_ino
        record.names[path.name.encode()] = inode
        record.written[inode] = record.durable[inode] = path.read_bytes()
    repaired = maintenance.repair(
        tmp_path / "d", storage=lambda directory: Recorder(directory, record)
    )
    assert repaired is not None
    record.close()
    assert record.changes == []
    assert sorted(name.decode() for name in record.names) == sorted(contents(tmp_path / "d"))


@pytest.mark.parametrize("number", [b"0000000002.snapshot", b"0000000002.journal"])
def test_file_that_cannot_be_opened_is_not_cut(tmp_path: Path, number: bytes) -> None:
    """A symbolic link in its place, for example: without the link, all files are intact."""
    directory = tmp_path / "d"
    with Store(directory) as store:
        store.write({"a": "1"})
        store.compact()
        store.write({"b": "2"})
    name = directory / number.decode()
    name.rename(tmp_path / "elsewhere")
    name.symlink_to(tmp_path / "elsewhere")
    before = sorted(directory.iterdir())
    with pytest.raises(DataDirectoryError, match="cannot open it"):
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
INTERRUPTED = "a restore into it was interrupted; restore again, or remove the directory"


def test_restore_makes_one_change_of_a_new_store(tmp_path: Path) -> None:
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


def test_restore_of_no_pairs_makes_an_empty_store(tmp_path: Path) -> None:
    assert maintenance.restore(tmp_path / "d", {}) == 0
    assert (maintenance.check(tmp_path / "d").revision, len(contents(tmp_path / "d"))) == (0, 1)


def test_restore_leaves_a_store_and_other_files_alone(tmp_path: Path) -> None:
    with Store(tmp_path / "d"), pytest.raises(DirectoryLockedError):
        maintenance.restore(tmp_path / "d", PAIRS)
    before = contents(tmp_path / "d")
    assert maintenance.restore(tmp_path / "d", PAIRS) is None
    assert contents(tmp_path / "d") == before
    put(tmp_path / "other", {"file": b"mine"})
    with pytest.raises(DataDirectoryError, match="it is not empty and has no journal"):
        maintenance.restore(tmp_path / "other", PAIRS)
    assert contents(tmp_path / "other") == {"file": b"mine"}


def test_interrupted_restore_is_refused_and_can_be_repeated(tmp_path: Path) -> None:
    files_left = {
        "restore.unfinished": b"",
        ".kvs-0123456789abcdef.tmp": b"# kvs jour",
        ".kvs.lock": b"",
    }
    openers: list[Callable[[Path], object]] = [Store, maintenance.check, maintenance.repair]
    for opener in openers:
        put(tmp_path / "d", files_left)
        with pytest.raises(DataDirectoryError) as caught:
            opener(tmp_path / "d")
        assert caught.value.reason == INTERRUPTED
    put(tmp_path / "d", files_left)
    assert maintenance.restore(tmp_path / "d", PAIRS) == 1
    assert list(contents(tmp_path / "d")) == ["0000000001.journal"]


def test_mark_of_a_finished_restore_is_removed_by_open(tmp_path: Path) -> None:
    maintenance.restore(tmp_path / "d", PAIRS)
    (tmp_path / "d" / "restore.unfinished").touch()
    assert maintenance.check(tmp_path / "d").revision == 1
    with Store(tmp_path / "d") as store:
        assert store.revision == 1
    assert "restore.unfinished" not in contents(tmp_path / "d")


def check_unfinished_restore(directory: Path) -> bool:
    """Check what a restore left that did not finish; return whether it left all pairs."""
    refusal = None
    try:
        maintenance.check(directory)
    except DataDirectoryError as refused:
        refusal = refused.reason
        assert maintenance.restore(directory, PAIRS) == 1
    assert refusal in {None, INTERRUPTED, "not a data directory: it has no journal"}
    with Store(directory) as store:
        assert (store.revision, store.items()) == (1, sorted(PAIRS.items()))
    return refusal is None


@pytest.mark.slow
def test_restore_killed_at_any_step_is_all_or_nothing(tmp_path: Path) -> None:
    def prepared(number: int) -> Callable[[object], None]:
        def restore(_acknowledge: object) -> None:
            maintenance.restore(tmp_path / f"{number}", PAIRS, storage=stepping(Kill(number)))

        return restore

    results = [
        check_unfinished_restore(tmp_path / f"{number}")
        for number, _ in killed_at_every_step(prepared)
    ]
    assert results == sorted(results)
    assert set(results) == {False, True}


@pytest.mark.slow
def test_restore_after_a_power_loss_is_all_or_nothing(tmp_path: Path) -> None:
    record = Record()
    maintenance.restore(
        tmp_path / "d", PAIRS, storage=lambda directory: Recorder(directory, record)
    )
    record.close()
    left = [files for moment in record.moments for files in moment.left()]
    assert left[-1].keys() == {"0000000001.journal"}
    assert {check_unfinished_restore(put(tmp_path / "left", files)) for files in left} == {
        False,
        True,
    }


@pytest.mark.parametrize("step", ["before mark", "within append", "before sync", "after commit"])
def test_failed_restore_leaves_nothing(tmp_path: Path, step: str) -> None:
    fault = Fault(step, errno.ENOSPC)
    fault.armed = True
    with pytest.raises(DataDirectoryError) as caught:
        maintenance.restore(tmp_path / "d", PAIRS, storage=stepping(fault))
    assert caught.value.reason == "cannot create the journal: No space left on device"
    assert contents(tmp_path / "d") == {}
    fault.armed = False
    assert maintenance.restore(tmp_path / "d", PAIRS) == 1


def test_directory_is_locked_during_a_restore(tmp_path: Path) -> None:
    gate = Gate("before commit")
    with ThreadPoolExecutor(1) as pool, gate.shut():
        restored = pool.submit(maintenance.restore, tmp_path / "d", PAIRS, storage=stepping(gate))
        gate.wait_until_held()
        for opener in (Store, maintenance.check, lambda path: maintenance.restore(path, PAIRS)):
            with pytest.raises(DirectoryLockedError):
                opener(tmp_path / "d")
        gate.open()
        assert restored.result(SECONDS) == 1
    assert maintenance.check(tmp_path / "d").pairs == 2
