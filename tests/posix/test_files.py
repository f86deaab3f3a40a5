"""Files are replaced whole or not at all, and only stale temporary files are removed."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.posix.files import (
    AtomicFile,
    DirectorySyncError,
    NotARegularFileError,
    check_can_replace,
    open_directory,
    open_regular,
    remove_stale_temp_files,
    write_all,
)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    descriptor = open_directory(os.fsencode(tmp_path))
    yield descriptor
    os.close(descriptor)


def test_atomic_file_has_its_name_only_after_commit(directory: int, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    new = AtomicFile(directory, b"x")
    os.write(new.file, b"new")
    assert (tmp_path / "x").read_text() == "old"
    new.commit()
    assert (tmp_path / "x").read_text() == "new"
    assert os.listdir(tmp_path) == ["x"]


@given(
    pieces=st.lists(st.binary(max_size=9), max_size=20),
    copies=st.sampled_from([1, 200]),
    limit=st.integers(1, 50),
)
def test_all_pieces_are_written_in_order_despite_short_writes(
    pieces: list[bytes], copies: int, limit: int
) -> None:
    written = bytearray()

    def take_some(_file: int, buffers: list[memoryview]) -> int:
        assert len(buffers) <= 1024
        taken = b"".join(buffers)[:limit]
        written.extend(taken)
        return len(taken)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "writev", take_some)
        write_all(-1, *pieces * copies)
    assert written == b"".join(pieces * copies)


def test_discarded_atomic_file_leaves_nothing(directory: int, tmp_path: Path) -> None:
    new = AtomicFile(directory, b"x")
    assert len(os.listdir(tmp_path)) == 1
    new.discard()
    assert os.listdir(tmp_path) == []


def test_failed_commit_leaves_nothing(directory: int, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError, match="directory"):
        AtomicFile(directory, b"x").commit()
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_exception_before_commit_leaves_nothing(
    directory: int, tmp_path: Path, error: type[BaseException]
) -> None:
    descriptors = os.listdir("/proc/self/fd")
    with suppress(error), AtomicFile(directory, b"x") as new:
        os.write(new.file, b"half")
        raise error
    assert os.listdir(tmp_path) == []
    assert os.listdir("/proc/self/fd") == descriptors


def test_exception_after_commit_leaves_the_file(directory: int, tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), AtomicFile(directory, b"x") as new:
        new.commit()
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["x"]


def test_failed_close_is_no_failure_of_the_rename(
    directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = AtomicFile(directory, b"x")
    real = os.close

    def close(file: int) -> None:
        real(file)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "close", close)
    with pytest.raises(DirectorySyncError, match="Input/output error"):
        new.commit()
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_filesystem_without_locks_leaves_nothing(
    directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_file: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    descriptors = os.listdir("/proc/self/fd")
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        AtomicFile(directory, b"x")
    assert os.listdir(tmp_path) == []
    assert os.listdir("/proc/self/fd") == descriptors


def test_file_that_a_cleanup_has_locked_is_given_up(
    directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock
    refused: list[int] = []

    def lock(file: int, operation: int) -> None:
        if not refused:
            refused.append(file)
            raise BlockingIOError
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock)
    with AtomicFile(directory, b"x") as new:
        assert refused
        new.commit()
    (first,) = set(os.listdir(tmp_path)) - {"x"}
    remove_stale_temp_files(directory)
    assert first not in os.listdir(tmp_path)


def test_only_stale_temporary_files_are_removed(directory: int, tmp_path: Path) -> None:
    in_use = AtomicFile(directory, b"x")
    stale = ".kvs-0123456789abcdef.tmp"
    others = [".kvs-.tmp", "kvs-0123456789abcdef.tmp", ".kvs-0123456789abcdef.tmp.bak", "x.job"]
    for name in (stale, *others):
        (tmp_path / name).touch()
    (tmp_path / ".kvs-1111111111111111.tmp").mkdir()
    (tmp_path / ".kvs-2222222222222222.tmp").symlink_to("x.job")
    before = set(os.listdir(tmp_path))
    remove_stale_temp_files(directory)
    assert set(os.listdir(tmp_path)) == before - {stale}
    in_use.discard()


def test_only_regular_files_are_opened_without_blocking(directory: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in (b"pipe", b"folder"):
        with pytest.raises(NotARegularFileError):
            open_regular(name, os.O_RDONLY, directory)
    with pytest.raises(FileNotFoundError):
        open_regular(b"none", os.O_RDONLY, directory)


@pytest.mark.parametrize("target", ["pipe", "folder", "/dev/null", "/proc/self/fd/9"])
def test_link_to_an_irregular_file_is_not_replaceable(
    directory: int, tmp_path: Path, target: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(target)
    for name, at in ((b"link", directory), (os.fsencode(tmp_path / "link"), None)):
        with pytest.raises(NotARegularFileError):
            check_can_replace(name, at)


def test_link_to_an_open_descriptor_is_not_replaceable(directory: int, tmp_path: Path) -> None:
    """With a shell's ``> file``, ``/dev/stdout`` is a link to a regular file."""
    with (tmp_path / "open").open("w") as file:
        (tmp_path / "link").symlink_to(f"/proc/self/fd/{file.fileno()}")
        with pytest.raises(NotARegularFileError):
            check_can_replace(b"link", directory)


@pytest.mark.parametrize("target", ["file", "nowhere"])
def test_any_other_link_is_replaceable(directory: int, tmp_path: Path, target: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(target)
    check_can_replace(b"link", directory)
