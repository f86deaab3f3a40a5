"""The steps that change a journal's files: what they do, and what they sync."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvs.journal.storage import Storage


@pytest.fixture(name="disk")
def _disk(tmp_path: Path) -> Iterator[Storage]:
    (tmp_path / "d").mkdir()
    directory = os.open(tmp_path / "d", os.O_RDONLY)
    yield Storage(directory)
    os.close(directory)


@pytest.fixture(name="synced")
def _synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the inodes of what is synced, as they come."""
    inodes: list[int] = []
    for name in ("fsync", "fdatasync"):

        def sync(file: int) -> None:
            inodes.append(os.fstat(file).st_ino)

        monkeypatch.setattr(os, name, sync)
    return inodes


def test_a_new_file_is_durable_and_so_is_its_name(
    tmp_path: Path, disk: Storage, synced: list[int]
) -> None:
    file = disk.create(b"a", b"one")
    assert synced == [os.fstat(file).st_ino, (tmp_path / "d").stat().st_ino]
    disk.append(file, b"two")
    assert len(synced) == 2
    disk.sync(file)
    disk.truncate(file, 4)
    assert synced[2:] == [os.fstat(file).st_ino] * 2
    disk.close(file)
    assert (tmp_path / "d" / "a").read_bytes() == b"onet"
    file = disk.open(b"a")
    disk.append(file, b"!")
    disk.close(file)
    assert (tmp_path / "d" / "a").read_bytes() == b"onet!"


def test_the_directory_can_be_made_durable_under_its_own_name(
    tmp_path: Path, disk: Storage, synced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.sync_parent_directory()
    assert synced == [tmp_path.stat().st_ino]

    def refused(*_arguments: object, **_options: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    disk.sync_parent_directory()
    assert len(synced) == 1


def test_a_file_is_removed_once_and_nothing_is_left_of_one_that_failed(
    tmp_path: Path, disk: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.close(disk.create(b"a", b""))
    disk.remove(b"a")
    disk.remove(b"a")

    def broken(_file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        disk.create(b"a", b"one")
    assert list((tmp_path / "d").iterdir()) == []
