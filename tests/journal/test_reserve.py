"""The reserve: made where there is room, halved for the writer, all of it for a compaction."""

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


def test_it_is_allocated_for_its_owner_alone_and_made_once(
    tmp_path: Path, reserve: Reserve
) -> None:
    reserve.renew()
    [path] = tmp_path.iterdir()
    made = path.stat()
    assert (path.name, made.st_size, made.st_mode & 0o777) == ("kvs.reserve", RESERVE_BYTES, 0o600)
    assert made.st_blocks * 512 >= RESERVE_BYTES
    reserve.renew()
    assert path.stat() == made
    assert reserve.size() == RESERVE_BYTES


def test_the_writer_gets_half_once_until_it_is_renewed(reserve: Reserve) -> None:
    assert not reserve.release_half()
    reserve.renew()
    assert reserve.release_half()
    assert reserve.size() == RESERVE_BYTES // 2
    assert not reserve.release_half()
    reserve.renew()
    assert reserve.size() == RESERVE_BYTES
    assert reserve.release_half()


def test_each_start_gets_half_of_what_is_left_and_the_last_one_all(
    tmp_path: Path, reserve: Reserve
) -> None:
    reserve.renew()
    directory = os.open(tmp_path, os.O_RDONLY)
    left = RESERVE_BYTES
    while left:
        assert Reserve(directory).release_half()
        left = left // 2 if left >= 2 * MIN_RESERVE_BYTES else 0
        assert reserve.size() == left
    os.close(directory)
    assert list(tmp_path.iterdir()) == []


def test_a_compaction_gets_all_of_it_and_it_is_renewed_only_afterwards(reserve: Reserve) -> None:
    reserve.renew()
    with reserve.lent():
        assert reserve.release()
        assert not reserve.release()
        reserve.renew()
        assert reserve.size() == 0
    assert reserve.size() == RESERVE_BYTES


@pytest.fixture(name="free")
def _free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many bytes are free, and may be changed: what all of it takes is taken off."""
    free = [0]
    found = os.statvfs("/")

    def statvfs(directory: int) -> os.statvfs_result:
        held = Reserve(directory).size()
        return os.statvfs_result((1, 1, *found[2:4], free[0] - held, *found[5:]))

    monkeypatch.setattr(os, "fstatvfs", statvfs)
    return free


def test_it_is_never_larger_than_what_stays_free(reserve: Reserve, free: list[int]) -> None:
    for room, size in [
        (2 * MIN_RESERVE_BYTES - 1, 0),
        (2 * MIN_RESERVE_BYTES, MIN_RESERVE_BYTES),
        (4 * MIN_RESERVE_BYTES - 2, MIN_RESERVE_BYTES),  # it grows in steps
        (4 * MIN_RESERVE_BYTES, 2 * MIN_RESERVE_BYTES),
        (2 * RESERVE_BYTES - 2, RESERVE_BYTES - 1),
        (2 * RESERVE_BYTES, RESERVE_BYTES),
        (9 * RESERVE_BYTES, RESERVE_BYTES),
    ]:
        free[0] = room
        reserve.renew()
        assert reserve.size() == size


def test_the_writer_gets_half_again_only_after_it_has_grown_to_half(
    reserve: Reserve, free: list[int]
) -> None:
    free[0] = RESERVE_BYTES
    reserve.renew()
    assert reserve.release_half()
    free[0] = RESERVE_BYTES - 2
    reserve.renew()
    assert not reserve.release_half()
    reserve.release()
    free[0] = RESERVE_BYTES
    reserve.renew()
    assert reserve.size() == RESERVE_BYTES // 2
    assert reserve.release_half()


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EFBIG, errno.ENOSPC])
def test_what_a_quota_forbids_is_left_out(
    reserve: Reserve, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    reserve.renew()
    assert reserve.release_half()

    def refused(file: int, _offset: int, _length: int) -> None:
        os.ftruncate(file, RESERVE_BYTES - 1)  # as far as it came
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refused)
    reserve.renew()
    assert reserve.size() == RESERVE_BYTES // 2
    reserve.release()
    reserve.renew()
    assert reserve.size() == 0


def test_what_is_not_a_file_of_its_own_is_let_be(tmp_path: Path, reserve: Reserve) -> None:
    (tmp_path / "precious").write_bytes(b"x")
    (tmp_path / "kvs.reserve").symlink_to("precious")
    reserve.renew()
    assert not reserve.release_half()
    assert not reserve.release()
    (tmp_path / "kvs.reserve").unlink()
    (tmp_path / "kvs.reserve").mkdir()
    reserve.renew()
    assert not reserve.release()
    assert (tmp_path / "precious").read_bytes() == b"x"
