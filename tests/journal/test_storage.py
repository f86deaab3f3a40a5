"""The storage: what each call changes, and what it syncs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvs.journal.storage import Storage


@pytest.fixture(name="storage")
def _storage(tmp_path: Path) -> Iterator[Storage]:
    (tmp_path / "d").mkdir()
    directory = os.open(tmp_path / "d", os.O_RDONLY)
    yield Storage(directory)
    os.close(directory)


@pytest.fixture(name="synced")
def _synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that receives the inode of each sync."""
    inodes: list[int] = []
    for name in ("fsync", "fdatasync"):

        def sync(file: int) -> None:
            inodes.append(os.fstat(file).st_ino)

        monkeypatch.setattr(os, name, sync)
    return inodes


def test_new_file_and_its_name_are_synced(
    tmp_path: Path, storage: Storage, synced: list[int]
) -> None:
    file = storage.create(b"a", b"one")
    assert synced == [os.fstat(file).st_ino, (tmp_path / "d").stat().st_ino]
    storage.append(file, b"two")
    assert len(synced) == 2
    storage.sync(file)
    storage.truncate(file, 4)
    assert synced[2:] == [os.fstat(file).st_ino] * 2
    storage.close(file)
    assert (tmp_path / "d" / "a").read_bytes() == b"onet"
    file = storage.open(b"a")
    storage.append(file, b"!")
    storage.close(file)
    assert (tmp_path / "d" / "a").read_bytes() == b"onet!"


def test_parent_directory_is_synced_if_it_can_be_read(
    tmp_path: Path, storage: Storage, synced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.sync_parent_directory()
    assert synced == [tmp_path.stat().st_ino]

    def refuse(*_arguments: object, **_options: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    storage.sync_parent_directory()
    assert len(synced) == 1


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError()])
def test_remove_is_idempotent_and_failed_create_cleans_up(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    storage.close(storage.create(b"a", b""))
    storage.remove(b"a")
    storage.remove(b"a")

    def fail(_file: int) -> None:
        raise error

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(type(error)) as caught:
        storage.create(b"a", b"one")
    assert caught.value is error
    assert list((tmp_path / "d").iterdir()) == []
