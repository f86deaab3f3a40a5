"""The reserve: its size, half of it for the writer thread, all of it for a compaction."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvs.journal.reserve import MIN_RESERVE_BYTES, RESERVE_BYTES, Reserve


@pytest.fixture(name="reserve")
def _reserve(tmp_path: Path) -> Iterator[Reserve]:
    directory = os.open(tmp_path, os.O_RDONLY)
    yield Reserve(directory)
    os.close(directory)


def test_renew_allocates_a_private_file_once(tmp_path: Path, reserve: Reserve) -> None:
    reserve.renew()
    [path] = tmp_path.iterdir()
    made = path.stat()
    assert (path.name, made.st_size, made.st_mode & 0o777) == ("kvs.reserve", RESERVE_BYTES, 0o600)
    assert made.st_blocks * 512 >= RESERVE_BYTES
    reserve.renew()
    assert path.stat() == made
    assert reserve.size() == RESERVE_BYTES


def test_half_is_released_once_until_renewed(reserve: Reserve) -> None:
    assert not reserve.free_half()
    reserve.renew()
    assert reserve.free_half()
    assert reserve.size() == RESERVE_BYTES // 2
    assert not reserve.free_half()
    reserve.renew()
    assert reserve.size() == RESERVE_BYTES
    assert reserve.free_half()


def test_each_start_releases_half_until_none_is_left(tmp_path: Path, reserve: Reserve) -> None:
    reserve.renew()
    directory = os.open(tmp_path, os.O_RDONLY)
    remaining = RESERVE_BYTES
    while remaining:
        assert Reserve(directory).free_half()
        remaining = remaining // 2 if remaining >= 2 * MIN_RESERVE_BYTES else 0
        assert reserve.size() == remaining
    os.close(directory)
    assert list(tmp_path.iterdir()) == []


def test_lent_reserve_is_renewed_only_afterwards(reserve: Reserve) -> None:
    reserve.renew()
    with reserve.without_renewal():
        assert reserve.free()
        assert not reserve.free()
        reserve.renew()
        assert reserve.size() == 0
    assert reserve.size() == RESERVE_BYTES


@pytest.fixture(name="free")
def _free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list with the number of free bytes, the reserve included; a test may change it."""
    free = [0]
    real = os.statvfs("/")

    def statvfs(directory: int) -> os.statvfs_result:
        reserved = Reserve(directory).size()
        return os.statvfs_result((1, 1, *real[2:4], free[0] - reserved, *real[5:]))

    monkeypatch.setattr(os, "fstatvfs", statvfs)
    return free


def test_reserve_never_exceeds_the_space_left_free(reserve: Reserve, free: list[int]) -> None:
    for free_bytes, size in [
        (2 * MIN_RESERVE_BYTES - 1, 0),
        (2 * MIN_RESERVE_BYTES, MIN_RESERVE_BYTES),
        (4 * MIN_RESERVE_BYTES - 2, MIN_RESERVE_BYTES),  # it grows in steps
        (4 * MIN_RESERVE_BYTES, 2 * MIN_RESERVE_BYTES),
        (2 * RESERVE_BYTES - 2, RESERVE_BYTES - 1),
        (2 * RESERVE_BYTES, RESERVE_BYTES),
        (9 * RESERVE_BYTES, RESERVE_BYTES),
    ]:
        free[0] = free_bytes
        reserve.renew()
        assert reserve.size() == size


def test_half_is_released_again_after_growth_to_half(reserve: Reserve, free: list[int]) -> None:
    free[0] = RESERVE_BYTES
    reserve.renew()
    assert reserve.free_half()
    free[0] = RESERVE_BYTES - 2
    reserve.renew()
    assert not reserve.free_half()
    reserve.free()
    free[0] = RESERVE_BYTES
    reserve.renew()
    assert reserve.size() == RESERVE_BYTES // 2
    assert reserve.free_half()


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EFBIG, errno.ENOSPC])
def test_quota_limits_the_reserve(
    reserve: Reserve, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    reserve.renew()
    assert reserve.free_half()

    def refuse(file: int, _offset: int, _length: int) -> None:
        os.ftruncate(file, RESERVE_BYTES - 1)  # allocated in part
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    reserve.renew()
    assert reserve.size() == RESERVE_BYTES // 2
    reserve.free()
    reserve.renew()
    assert reserve.size() == 0


def test_link_or_directory_in_its_place_is_ignored(tmp_path: Path, reserve: Reserve) -> None:
    (tmp_path / "precious").write_bytes(b"x")
    (tmp_path / "kvs.reserve").symlink_to("precious")
    reserve.renew()
    assert not reserve.free_half()
    assert not reserve.free()
    (tmp_path / "kvs.reserve").unlink()
    (tmp_path / "kvs.reserve").mkdir()
    reserve.renew()
    assert not reserve.free()
    assert (tmp_path / "precious").read_bytes() == b"x"
