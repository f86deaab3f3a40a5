"""Access checks on pipes of a client whose user is unknown, and the users it may be."""

import errno
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvs.posix import fifos
from kvs.posix.fifos import NotAFifo
from kvs.protocol.frames import Connect
from kvs.protocol.registration import Refused
from kvs.server import access
from kvs.server.access import NoAccess, Senders
from kvs.server.registration import open_client_pipes

ANYONE = Senders(0o622, None)
ANYONE_MAY = "with --fifo-mode 622 any user may have named it"


@pytest.fixture(name="folder")
def _folder() -> Iterator[Path]:
    """A directory that every user can search, like all directories above it."""
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def pipe(folder: Path, mode: int = 0o666, name: str = "pipe") -> Path:
    path = folder / name
    fifos.make(os.fsencode(path), mode)
    return path


def reason(path: Path | str, senders: Senders = ANYONE) -> str:
    with pytest.raises(NoAccess) as refused:
        access.fifo_at(os.fsencode(path), senders)
    assert refused.value.strerror is None  # so `cause` gives the text
    return str(refused.value)


def test_fifo_at_returns_a_pipe_that_every_sender_could_open(folder: Path) -> None:
    path = pipe(folder)
    fifo = access.fifo_at(os.fsencode(path), ANYONE)
    assert fifo.identity == (path.stat().st_dev, path.stat().st_ino)
    assert (fifo.path, fifo.owner) == (os.fsencode(path), os.geteuid())
    fifo.close()


def test_missing_permissions_are_named_in_the_error(folder: Path) -> None:
    path = pipe(folder, 0o640)
    assert reason(path) == f"has mode 640, and {ANYONE_MAY}; mode 666 would do"
    group = Senders(0o620, path.stat().st_gid)
    assert reason(path, group) == (
        "has mode 640, and with --fifo-mode 620 any member of group "
        f"{path.stat().st_gid} may have named it; mode 660 would do"
    )
    other = Senders(0o620, path.stat().st_gid + 1)
    assert "mode 666 would do" in reason(path, other)
    path.chmod(0o666)
    folder.chmod(0o700)
    assert reason(path) == f"{folder} has mode 700, and {ANYONE_MAY}; mode 711 would do"
    folder.chmod(0o711)


def test_links_and_relative_paths_are_refused_by_name(folder: Path) -> None:
    path = pipe(folder)
    (folder / "link").symlink_to(path)
    (folder / "way").symlink_to(folder)
    with pytest.raises(NotAFifo):
        access.fifo_at(os.fsencode(folder / "link"), ANYONE)
    assert reason(folder / "way" / "pipe") == f"{folder}/way is a symbolic link, and {ANYONE_MAY}"
    assert reason("pipe") == f"is not an absolute path, and {ANYONE_MAY}"
    assert reason("\n") == reason("pipe")


def test_refusal_names_the_path(folder: Path) -> None:
    paths = [pipe(folder, mode, str(mode)) for mode in (0o666, 0o622, 0o644)]
    with pytest.raises(Refused) as refused:
        open_client_pipes(Connect(*map(os.fsencode, paths)), None, ANYONE)
    assert refused.value.reason == (
        f"{paths[1]}: has mode 622, and {ANYONE_MAY}; mode 666 would do"
    )


@pytest.mark.parametrize("path", ["", "/.", "/..", "/pipe/", "/pipe/x", "/none", "/none/x", "/"])
def test_path_without_a_pipe_raises_its_own_error(folder: Path, path: str) -> None:
    pipe(folder)
    with pytest.raises(OSError, match=r"not a named pipe|No such file|Not a directory") as error:
        access.fifo_at(os.fsencode(f"{folder}{path}"), ANYONE)
    assert isinstance(error.value, NotAFifo) or error.value.errno in {errno.ENOENT, errno.ENOTDIR}


def test_failed_checks_leak_no_descriptor(folder: Path) -> None:
    path = pipe(folder)
    (folder / "link").symlink_to(path)
    before = len(os.listdir("/proc/self/fd"))
    for one in (path, folder / "link", folder / "none", folder / "link" / "x", folder, Path("x")):
        try:
            access.fifo_at(os.fsencode(one), ANYONE).close()
        except OSError:
            assert one != path
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("mode", [0o600, 0o620, 0o602, 0o622, 0o666, 0o640])
@pytest.mark.parametrize("made_with", [0o600, 0o622])
def test_senders_count_present_and_original_permissions(
    folder: Path, mode: int, made_with: int
) -> None:
    descriptor = os.open(pipe(folder, mode), os.O_RDONLY | os.O_NONBLOCK)
    wider = mode | made_with
    if not wider & 0o022:
        assert access.senders(descriptor, made_with) is None
    else:
        group = None if wider & 0o002 else os.fstat(descriptor).st_gid
        assert access.senders(descriptor, made_with) == Senders(wider, group)
    os.close(descriptor)


def test_access_control_list_makes_any_user_a_sender(folder: Path) -> None:
    path = pipe(folder, 0o620)
    entries = [(1, 6, -1), (2, 2, 1234), (4, 2, -1), (16, 2, -1), (32, 0, -1)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", value)
    except OSError as error:
        pytest.skip(f"no access control lists here: {error}")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert access.senders(descriptor, 0o620) == Senders(0o620, None)
    os.close(descriptor)
