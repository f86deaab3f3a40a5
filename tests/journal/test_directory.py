"""The data directory: who may have it, and what may stand in it."""

import os
import re
import stat
from pathlib import Path

import pytest

from kvs.concurrency import forks
from kvs.errors import DataDirectoryError, DirectoryLockedError
from kvs.journal.directory import DataDirectory
from kvs.journal.format import FileKind
from kvs.journal.storage import Storage
from kvs.posix.locks import LOCK_FILE_NAME
from tests.helpers import NOBODY
from tests.journal.builders import STORE, Made, contents, files, put


def refusal(path: Path) -> str:
    """Return why a directory is refused; nothing changes in it."""
    before = contents(path) if path.is_dir() else {}
    with pytest.raises(DataDirectoryError) as told, DataDirectory(path) as folder:
        folder.list_files()
    if path.is_dir():
        assert contents(path) == before
    assert str(told.value) == f"{told.value.directory}: {told.value.reason}"
    assert told.value.directory == str(path)
    return told.value.reason


def test_a_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    with DataDirectory.make(tmp_path / "d") as folder:
        assert folder.list_files() == {FileKind.JOURNAL: [], FileKind.SNAPSHOT: []}
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o700
    with DataDirectory.make(tmp_path / "d"):
        pass


def test_one_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataDirectoryError) as told:
        DataDirectory.make(tmp_path / "no" / "d")
    assert str(told.value) == f"{tmp_path}/no/d: cannot make it: No such file or directory"


def test_what_is_no_directory_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert refusal(tmp_path / "file") == "Not a directory"
    assert refusal(tmp_path / "none") == "No such file or directory"


def test_where_nobody_is_any_more_nothing_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for path in ("d", "."):
        with pytest.raises(DataDirectoryError) as told, DataDirectory(path):
            pass
        assert told.value.reason == "No such file or directory"


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_one_in_which_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    put(tmp_path / "d", files(Made()))
    (tmp_path / "d").chmod(mode)
    assert refusal(tmp_path / "d") == ("others may write there; take that away with 'chmod go-w'")


def test_one_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    os.chown(put(tmp_path / "d", files(Made())), NOBODY, NOBODY)
    assert refusal(tmp_path / "d") == "it belongs to another user"


def test_other_files_are_let_be_beside_a_journal_and_refused_without_one(tmp_path: Path) -> None:
    put(tmp_path / "d", {"notes.txt": b"mine"})
    assert refusal(tmp_path / "d") == (
        "it is not empty, and holds no journal; name another directory"
    )
    made = files(Made(), Made("snapshot", 12), Made(number=3))
    put(tmp_path / "d", {**made, "notes.txt": b"mine", "0000000003.journal.cut": b""})
    with DataDirectory(tmp_path / "d") as folder:
        assert folder.list_files() == {FileKind.JOURNAL: [1, 3], FileKind.SNAPSHOT: [12]}


def test_a_second_owner_is_refused_with_the_number_of_the_first(tmp_path: Path) -> None:
    with DataDirectory.make(tmp_path / "d") as first:
        first.lock()
        with DataDirectory(tmp_path / "d") as second:
            for refused in (second.lock, second.check_unlocked):
                with pytest.raises(DirectoryLockedError) as told:
                    refused()
                assert str(told.value) == (
                    f"{tmp_path}/d: this very process is at work in this directory; close the "
                    "store or end the run that has it first"
                )
        first.unlock()
        with DataDirectory(tmp_path / "d") as second:
            second.check_unlocked()
            second.lock()
    assert contents(tmp_path / "d") == {}


def test_the_lock_clears_away_what_a_crash_left_half_made(tmp_path: Path) -> None:
    put(tmp_path / "d", {**files(Made()), ".kvs-0123456789abcdef.tmp": b"half"})
    with DataDirectory(tmp_path / "d") as folder:
        folder.lock()
        assert set(contents(tmp_path / "d")) == {LOCK_FILE_NAME.decode(), "0000000001.journal"}


def test_a_directory_that_cannot_be_locked_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "d", {})
    (tmp_path / "d" / LOCK_FILE_NAME.decode()).mkdir()
    with DataDirectory(tmp_path / "d") as folder, pytest.raises(DataDirectoryError) as told:
        folder.lock()
    assert re.fullmatch(f"{tmp_path}/d: cannot lock it with .kvs.lock: .+", str(told.value)), (
        told.value
    )


def test_what_is_called_as_a_segment_but_is_no_file_cannot_be_opened(tmp_path: Path) -> None:
    (put(tmp_path / "d", {}) / "0000000001.journal").mkdir()
    with DataDirectory(tmp_path / "d") as folder, pytest.raises(DataDirectoryError) as told:
        folder.open_file(FileKind.JOURNAL, 1)
    assert told.value.reason == "it cannot be opened: it is no regular file"
    (tmp_path / "d" / "0000000001.journal").rmdir()
    (tmp_path / "elsewhere").write_bytes(Made().data)
    (tmp_path / "d" / "0000000001.journal").symlink_to(tmp_path / "elsewhere")
    with DataDirectory(tmp_path / "d") as folder, pytest.raises(DataDirectoryError) as told:
        folder.open_file(FileKind.JOURNAL, 1)
    assert told.value.reason == "it cannot be opened: Too many levels of symbolic links"


def test_a_new_journal_begins_with_a_head_and_nothing_else(tmp_path: Path) -> None:
    with DataDirectory.make(tmp_path / "d") as folder:
        segment = folder.create_first_segment(Storage(folder.descriptor), STORE)
        os.write(segment.file, b"more")
        forks.close(segment.file)
    assert (segment.number, segment.size, segment.last_checksum) == (
        1,
        len(Made().data),
        Made().chain,
    )
    [path] = (tmp_path / "d").iterdir()
    assert (path.name, path.read_bytes()) == (Made().name, Made().data + b"more")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_is_gone_on_with_where_what_is_proved_ends(tmp_path: Path) -> None:
    made = Made().group(b"WRITE [(a,1)]\n", 1)
    put(tmp_path / "d", {made.name: made.data + b"# gro"})
    with DataDirectory(tmp_path / "d") as folder:
        segment = folder.resume_segment(Storage(folder.descriptor), 1, made.chain, len(made.data))
        os.write(segment.file, b"more")
        forks.close(segment.file)
        assert contents(tmp_path / "d") == {made.name: made.data + b"more"}
        (tmp_path / "d" / made.name).unlink()
        with pytest.raises(DataDirectoryError) as told:
            folder.resume_segment(Storage(folder.descriptor), 1, made.chain, len(made.data))
    assert str(told.value) == (
        f"{tmp_path}/d/{made.name}: cannot go on in it: No such file or directory"
    )


def test_what_a_snapshot_has_made_needless_is_removed_and_nothing_else(tmp_path: Path) -> None:
    made = [Made(kind, number) for kind in ("journal", "snapshot") for number in (2, 3, 4)]
    put(tmp_path / "d", {**files(*made), "mine": b""})
    with DataDirectory(tmp_path / "d") as folder:
        folder.remove_older(Storage(folder.descriptor), 3)
    assert sorted(contents(tmp_path / "d")) == [
        "0000000003.journal", "0000000003.snapshot", "0000000004.journal", "0000000004.snapshot",
        "mine",
    ]  # fmt: skip
