"""Named pipes get exactly their mode, and the file checked is the file used."""

import os
import stat
from pathlib import Path

import pytest

from kvs.posix import fifos
from kvs.posix.fifos import Fifo, NotAFifo


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o177, 0o777])
@pytest.mark.parametrize("mode", [0o600, 0o622, 0o666])
def test_pipe_has_exactly_its_mode(tmp_path: Path, umask: int, mode: int) -> None:
    path = tmp_path / "pipe"
    before = os.umask(umask)
    try:
        fifos.make(os.fsencode(path), mode)
    finally:
        os.umask(before)
    assert stat.S_ISFIFO(path.lstat().st_mode)
    assert stat.S_IMODE(path.lstat().st_mode) == mode


def test_existing_file_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    path.chmod(0o640)
    with pytest.raises(FileExistsError):
        fifos.make(os.fsencode(path))
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("precious", 0o640)


@pytest.mark.parametrize("kind", ["file", "directory", "device", "link"])
def test_other_kinds_of_file_are_rejected(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    os.mkfifo(tmp_path / "pipe")
    match kind:
        case "file":
            path.touch()
        case "directory":
            path.mkdir()
        case "device":
            path = Path("/dev/null")
        case _:
            path.symlink_to("pipe")
    with pytest.raises(NotAFifo):
        Fifo.open_path(os.fsencode(path))


def test_opened_pipe_is_used_after_its_path_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    fifo = Fifo.open_path(os.fsencode(path))
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    path.unlink()
    path.write_text("precious")
    writer = fifo.open_for_writing()
    assert writer is not None
    assert fifos.write(writer, b"to the pipe") == 11
    assert fifos.read(reader) == b"to the pipe"
    assert path.read_text() == "precious"
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        fifos.write(writer, b"without a reader")
    assert fifo.open_for_writing() is None
    fifos.close(writer)
    fifo.close()


def test_pipe_is_at_its_path_only_until_it_is_replaced(tmp_path: Path) -> None:
    path, link = (os.fsencode(tmp_path / name) for name in ("p", "link"))
    fifos.make(path)
    os.symlink(path, link)
    fifo = Fifo.open_path(path)
    directory = os.open(tmp_path, os.O_PATH)
    assert fifos.is_at(path, fifo.identity)
    assert fifos.is_at(b"p", fifo.identity, directory)
    assert not fifos.is_at(link, fifo.identity)
    os.unlink(path)
    assert not fifos.is_at(path, fifo.identity)
    fifos.make(path)  # another inode, since `fifo` refers to the first
    assert not fifos.is_at(path, fifo.identity)
    os.close(directory)
    fifo.close()
