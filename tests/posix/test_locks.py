"""Lock files: locked by one process at a time, and removed only by that process."""

import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from kvs.posix.locks import FileLockedError, LockableDirectory, LockFile, NotExclusiveError
from tests.opcodes import Interrupted, at_opcode, raise_interrupted

SOURCES = ("/kvs/",)


def lock_file(path: Path, mode: int | None = None) -> LockFile:
    return LockFile(os.fsencode(path), mode=mode)


def in_child(action: Callable[[], bool]) -> bool:
    """Return the result of `action` in a forked child."""
    child = os.fork()
    if not child:
        status = 2
        try:
            status = int(not action())
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in {0, 1}
    return not status


def test_locked_file_contains_the_pid_and_a_note(tmp_path: Path) -> None:
    first, second = lock_file(tmp_path / "a"), lock_file(tmp_path / "a")
    assert first.acquire(b"note") == b""
    assert first.is_held
    assert (tmp_path / "a").read_bytes() == b"%d\nnote" % os.getpid()
    for attempt in (second.acquire, second.check_unlocked):
        with pytest.raises(FileLockedError) as raised:
            attempt()
        assert raised.value.pid == os.getpid()
    assert not second.is_held
    second.release()
    assert (tmp_path / "a").exists()
    first.release()
    first.release()
    assert os.listdir(tmp_path) == []
    first.check_unlocked()


def test_note_of_a_process_that_did_not_release_is_returned(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1234567\nold note")
    lock = lock_file(tmp_path / "a")
    lock.check_unlocked()
    assert lock.acquire() == b"old note"
    assert (tmp_path / "a").read_bytes() == b"%d\n" % os.getpid()
    lock.release()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_mode_is_exact_only_if_given(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        locks = [lock_file(tmp_path / "a", 0o644), lock_file(tmp_path / "b")]
        for lock in locks:
            lock.acquire()
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"]
    assert modes == [0o644, 0o644 & ~umask]
    for lock in locks:
        lock.release()


def test_file_with_another_name_is_rejected_and_stays(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "a").hardlink_to(tmp_path / "precious")
    with pytest.raises(NotExclusiveError):
        lock_file(tmp_path / "a").acquire()
    assert (tmp_path / "a").read_text() == "precious"


def test_replaced_file_is_not_removed(tmp_path: Path) -> None:
    lock = lock_file(tmp_path / "a")
    lock.acquire()
    (tmp_path / "b").touch()
    (tmp_path / "b").rename(tmp_path / "a")
    assert not lock.is_held
    lock.release()
    assert os.listdir(tmp_path) == ["a"]


def test_child_does_not_have_the_lock_of_its_parent(tmp_path: Path) -> None:
    lock = lock_file(tmp_path / "a")
    lock.acquire()

    def use() -> bool:
        is_held = lock.is_held
        lock.release()
        return is_held

    assert not in_child(use)
    assert lock.is_held
    lock.release()


@pytest.mark.slow
@pytest.mark.parametrize("action", ["acquire", "release"])
def test_release_completes_after_an_exception_at_any_bytecode(tmp_path: Path, action: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in itertools.count():
        lock = lock_file(tmp_path / "a")
        if action == "release":
            lock.acquire()
        try:
            is_reached = at_opcode(number, raise_interrupted, getattr(lock, action), SOURCES)
        except Interrupted:
            is_reached = True
        lock.release()
        assert os.listdir(tmp_path) == []
        assert len(os.listdir("/proc/self/fd")) == before
        if not is_reached:
            break
    assert number > 20


def test_lockable_directory_is_open_from_enter_to_exit(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with LockableDirectory(tmp_path) as directory:
        assert os.path.samestat(os.fstat(directory.descriptor), tmp_path.stat())
        assert directory.display_path_of(b"a") == f"{tmp_path}/a"
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(FileNotFoundError), LockableDirectory(tmp_path / "none"):
        pass
