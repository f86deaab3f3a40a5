"""The data directory: its owner, its lock, and the files that it may have."""

import os
import re
import stat
from pathlib import Path

import pytest

from kvs.concurrency import forks
from kvs.errors import DataDirectoryError, DirectoryLockedError
from kvs.journal.directory import DataDirectory, replay_starts
from kvs.journal.format import FileKind
from kvs.journal.storage import Storage
from kvs.posix.locks import LOCK_FILE_NAME
from tests.helpers import NOBODY_UID
from tests.journal.builders import STORE, JournalBuilder, contents, files, put


def refusal(path: Path) -> str:
    """Return why a directory is refused; check that no file is changed."""
    before = contents(path) if path.is_dir() else {}
    with pytest.raises(DataDirectoryError) as caught, DataDirectory(path) as directory:
        directory.list_files()
    if path.is_dir():
        assert contents(path) == before
    assert str(caught.value) == f"{caught.value.path}: {caught.value.reason}"
    assert caught.value.path == str(path)
    return caught.value.reason


def test_make_creates_a_private_directory(tmp_path: Path) -> None:
    with DataDirectory.make(tmp_path / "d") as directory:
        assert directory.list_files() == {FileKind.JOURNAL: [], FileKind.SNAPSHOT: []}
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o700
    with DataDirectory.make(tmp_path / "d"):
        pass


def test_make_without_parent_directory_raises(tmp_path: Path) -> None:
    for path in (f"{tmp_path}/no/x/d", f"{tmp_path}/no/x/d/"):
        with pytest.raises(DataDirectoryError) as caught:
            DataDirectory.make(path)
        assert str(caught.value) == (
            f"{path}: cannot create the data directory: "
            f"the directory {tmp_path}/no/x does not exist; create it first"
        )


def test_make_where_no_directory_can_be_names_no_missing_parent() -> None:
    with pytest.raises(DataDirectoryError) as caught:
        DataDirectory.make("/proc/kvs")
    assert str(caught.value) == (
        "/proc/kvs: cannot create the data directory: No such file or directory"
    )


def test_missing_directory_or_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert refusal(tmp_path / "file") == "cannot open the data directory: Not a directory"
    missing = "cannot open the data directory: No such file or directory"
    assert refusal(tmp_path / "none") == missing


def test_removed_working_directory_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for path in ("d", "."):
        with pytest.raises(DataDirectoryError) as caught, DataDirectory(path):
            pass
        assert caught.value.reason == "cannot open the data directory: No such file or directory"
    with pytest.raises(DataDirectoryError) as caught:
        DataDirectory.make("d")
    assert caught.value.reason == "cannot create the data directory: No such file or directory"


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_directory_writable_by_others_is_refused(tmp_path: Path, mode: int) -> None:
    put(tmp_path / "d", files(JournalBuilder()))
    (tmp_path / "d").chmod(mode)
    advice = f"run 'chmod go-w {tmp_path}/d'"
    assert refusal(tmp_path / "d") == f"is writable by other users; {advice}"


def test_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    os.chown(put(tmp_path / "d", files(JournalBuilder())), NOBODY_UID, NOBODY_UID)
    assert refusal(tmp_path / "d") == (
        f"belongs to user ID {NOBODY_UID}, not to 0; run kvs as its owner, or run "
        f"'chown -R 0 {tmp_path}/d'"
    )


def test_other_files_are_ignored_only_beside_a_journal(tmp_path: Path) -> None:
    put(tmp_path / "d", {"notes.txt": b"mine"})
    assert refusal(tmp_path / "d") == (
        "it is not empty and has no journal; choose another directory"
    )
    made = files(JournalBuilder(), JournalBuilder("snapshot", 12), JournalBuilder(number=3))
    put(tmp_path / "d", {**made, "notes.txt": b"mine", "0000000003.journal.cut": b""})
    with DataDirectory(tmp_path / "d") as directory:
        assert directory.list_files() == {FileKind.JOURNAL: [1, 3], FileKind.SNAPSHOT: [12]}


def test_locked_directory_names_its_process(tmp_path: Path) -> None:
    with DataDirectory.make(tmp_path / "d") as first:
        first.lock()
        with DataDirectory(tmp_path / "d") as second:
            for refused in (second.lock, second.check_unlocked):
                with pytest.raises(DirectoryLockedError) as caught:
                    refused()
                assert str(caught.value) == (
                    f"{tmp_path}/d: in use by this process; close the "
                    "store or end the run that uses it first"
                )
        first.unlock()
        with DataDirectory(tmp_path / "d") as second:
            second.check_unlocked()
            second.lock()
    assert contents(tmp_path / "d") == {}


def test_lock_removes_temporary_files_of_a_crash(tmp_path: Path) -> None:
    put(tmp_path / "d", {**files(JournalBuilder()), ".kvs-0123456789abcdef.tmp": b"half"})
    with DataDirectory(tmp_path / "d") as directory:
        directory.lock()
        assert set(contents(tmp_path / "d")) == {LOCK_FILE_NAME.decode(), "0000000001.journal"}


def test_lock_failure_raises(tmp_path: Path) -> None:
    put(tmp_path / "d", {})
    (tmp_path / "d" / LOCK_FILE_NAME.decode()).mkdir()
    with DataDirectory(tmp_path / "d") as directory, pytest.raises(DataDirectoryError) as caught:
        directory.lock()
    assert re.fullmatch(f"{tmp_path}/d: cannot lock it with .kvs.lock: .+", str(caught.value)), (
        caught.value
    )


def test_segment_name_of_a_directory_or_link_is_refused(tmp_path: Path) -> None:
    (put(tmp_path / "d", {}) / "0000000001.journal").mkdir()
    with DataDirectory(tmp_path / "d") as directory, pytest.raises(DataDirectoryError) as caught:
        directory.open_file(FileKind.JOURNAL, 1)
    assert caught.value.reason == "cannot open it: it is not a regular file"
    (tmp_path / "d" / "0000000001.journal").rmdir()
    (tmp_path / "elsewhere").write_bytes(JournalBuilder().data)
    (tmp_path / "d" / "0000000001.journal").symlink_to(tmp_path / "elsewhere")
    with DataDirectory(tmp_path / "d") as directory, pytest.raises(DataDirectoryError) as caught:
        directory.open_file(FileKind.JOURNAL, 1)
    assert caught.value.reason == "cannot open it: Too many levels of symbolic links"


def test_first_segment_is_a_file_header_alone(tmp_path: Path) -> None:
    with DataDirectory.make(tmp_path / "d") as directory:
        segment = directory.create_first_segment(Storage(directory.descriptor), STORE)
        os.write(segment.file, b"more")
        forks.close(segment.file)
    assert (segment.number, segment.size, segment.last_checksum) == (
        1,
        len(JournalBuilder().data),
        JournalBuilder().chain,
    )
    [path] = (tmp_path / "d").iterdir()
    assert (path.name, path.read_bytes()) == (
        JournalBuilder().name,
        JournalBuilder().data + b"more",
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_resumed_segment_is_truncated_to_its_valid_bytes(tmp_path: Path) -> None:
    made = JournalBuilder().group(b"WRITE [(a,1)]\n", 1)
    put(tmp_path / "d", {made.name: made.data + b"# gro"})
    with DataDirectory(tmp_path / "d") as directory:
        segment = directory.resume_segment(
            Storage(directory.descriptor), 1, made.chain, len(made.data)
        )
        os.write(segment.file, b"more")
        forks.close(segment.file)
        assert contents(tmp_path / "d") == {made.name: made.data + b"more"}
        (tmp_path / "d" / made.name).unlink()
        with pytest.raises(DataDirectoryError) as caught:
            directory.resume_segment(Storage(directory.descriptor), 1, made.chain, len(made.data))
    assert str(caught.value) == (
        f"{tmp_path}/d/{made.name}: cannot resume it: No such file or directory"
    )


def test_remove_older_removes_only_replaced_files(tmp_path: Path) -> None:
    made = [
        JournalBuilder(kind, number) for kind in ("journal", "snapshot") for number in (2, 3, 4)
    ]
    put(tmp_path / "d", {**files(*made), "mine": b""})
    with DataDirectory(tmp_path / "d") as directory:
        directory.remove_older(Storage(directory.descriptor), 3)
    assert sorted(contents(tmp_path / "d")) == [
        "0000000003.journal", "0000000003.snapshot", "0000000004.journal", "0000000004.snapshot",
        "mine",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("keep", "oldest"), [(0, 9), (1, 7), (2, 7), (3, 4), (5, 4), (6, 1), (8, 1), (99, 1)]
)
def test_remove_older_keeps_segments_and_their_snapshot(
    tmp_path: Path, keep: int, oldest: int
) -> None:
    made = [JournalBuilder(number=number) for number in range(1, 11)]
    made += [JournalBuilder("snapshot", number) for number in (4, 7, 9)]
    put(tmp_path / "d", files(*made))
    with DataDirectory(tmp_path / "d") as directory:
        directory.remove_older(Storage(directory.descriptor), 9, keep)
    assert set(contents(tmp_path / "d")) == {file.name for file in made if file.number >= oldest}


@pytest.mark.parametrize(
    ("snapshots", "segments", "starts"),
    [
        ([], [1, 2, 3], [1]),
        ([3], [1, 2, 3], [1, 3]),
        ([3], [2, 3, 4], [3]),
        ([2, 3], [2, 3, 4], [2, 3]),
        ([2, 4], [2, 4], [4]),
        ([2], [1, 3], [2]),
        ([], [2], [1]),
        ([], [], [1]),
    ],
)
def test_replay_begins_where_no_later_segment_is_missing(
    snapshots: list[int], segments: list[int], starts: list[int]
) -> None:
    numbers = {FileKind.SNAPSHOT: snapshots, FileKind.JOURNAL: segments}
    assert replay_starts(numbers) == starts
