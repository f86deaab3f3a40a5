"""Another user can make a server open only pipes that this user could open."""

import errno
import os
import struct
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvs.client.session import connect
from kvs.protocol import frames
from kvs.protocol.frames import Connect
from kvs.settings import ServerSettings
from tests.helpers import NOBODY_UID, Start, content, end, started, until
from tests.helpers import kvs as kvs_program
from tests.server.raw_client import (
    SECONDS,
    Client,
    Place,
    Served,
    compiled,
    send,
    serving,
    stop_soon,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

GROUP = 54321
"""A group that no user of the machine belongs to."""

WHICH = ("req", "resp", "not")


def as_nobody(call: Callable[[], object], group: int = NOBODY_UID, user: int = NOBODY_UID) -> None:
    """Run `call` in a process of another user and one group; fail if the call fails."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(group, group, group)
            os.setresuid(user, user, user)
            call()
            status = 0
        except BaseException:  # noqa: BLE001  (reported by the status)
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


@contextmanager
def shared(mode: int = 0o622) -> Iterator[Served]:
    """Run a server of root in a directory that others can search and that belongs to `GROUP`."""
    with serving(ServerSettings(fifo_mode=mode)) as served:
        served.folder.chmod(0o711)
        os.chown(served.path, 0, GROUP)
        yield served


def named_by_nobody(served: Served, pipes: Connect, group: int = NOBODY_UID) -> bool:
    """Send a connect for `pipes` as another user; return whether the server opened them."""
    reader = os.open(pipes.responses, os.O_RDONLY | os.O_NONBLOCK)
    as_nobody(lambda: send(served, pipes.encode()), group)
    # Connects are taken in order: once this one is answered the other has been judged.
    witness = Client(served, "witness").connected(0o666)
    begun = served.server.sessions - 1
    witness.close()
    witness.remove()
    if not begun:
        assert os.read(reader, 1) == b""  # not opened by the server
        with pytest.raises(OSError, match="No such device or address") as refused:
            os.open(pipes.requests, os.O_WRONLY | os.O_NONBLOCK)
        assert refused.value.errno == errno.ENXIO
    os.close(reader)
    until(lambda: served.server.sessions == 0)
    return bool(begun)


def made(folder: Path, mode: int, owner: tuple[int, int] = (0, 0)) -> Connect:
    """Return three pipes, made in `folder`."""
    client = Client(Place(folder, folder), "c").make(mode)
    for which in WHICH:
        os.chown(client.path(which), *owner)
        client.path(which).chmod(mode)
    return connect_to(folder)


def connect_to(folder: Path) -> Connect:
    return Connect(*(os.fsencode(folder / f"c.{which}") for which in WHICH))


@pytest.fixture(autouse=True)
def quick_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the unblocking of clients that never open their pipes."""
    stop_soon(monkeypatch, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("folder_mode", [0o700, 0o710, 0o744, 0o711, 0o755])
@pytest.mark.parametrize("mode", [0o600, 0o622, 0o644, 0o660, 0o662, 0o664, 0o606, 0o066, 0o666])
def test_other_user_may_name_roots_pipes_open_to_everyone(folder_mode: int, mode: int) -> None:
    with shared() as served:
        folder = served.folder / "r"
        folder.mkdir()
        pipes = made(folder, mode)
        folder.chmod(folder_mode)
        open_to_all = mode == 0o666 and folder_mode in {0o711, 0o755}
        assert named_by_nobody(served, pipes) == open_to_all


@pytest.mark.parametrize("mode", [0o600, 0o622])
def test_roots_private_pipes_are_not_opened(mode: int) -> None:
    """The attack that was reported: another user begins a session over root's pipes."""
    with shared() as served:
        served.folder.joinpath("r").mkdir(mode=0o700)
        pipes = made(served.folder / "r", mode)
        assert not named_by_nobody(served, pipes)


def test_pipes_behind_links_are_not_opened(tmp_path: Path) -> None:
    with shared() as served:
        private = served.folder / "r"
        private.mkdir(mode=0o755)
        made(private, 0o666)
        (served.folder / "l").symlink_to(private)
        assert not named_by_nobody(served, connect_to(served.folder / "l"))
        assert not named_by_nobody(served, connect_to(served.folder / "l/../r/../l"))
        links = served.folder / "s"
        links.mkdir(mode=0o755)
        for which in WHICH:
            (links / f"c.{which}").symlink_to(private / f"c.{which}")
        assert not named_by_nobody(served, connect_to(links))
        assert named_by_nobody(served, connect_to(private))


def test_pipes_behind_links_of_proc_are_not_opened() -> None:
    with shared() as served:
        private = served.folder / "r"
        private.mkdir(mode=0o700)
        pipes = made(private, 0o666)
        here = os.open(private, os.O_PATH)
        held = [os.open(path, os.O_PATH) for path in pipes.paths]
        proc = f"/proc/{os.getpid()}"
        paths = [os.fsencode(f"{proc}/fd/{handle}") for handle in held]
        assert not named_by_nobody(served, Connect(*paths))
        assert not named_by_nobody(served, connect_to(Path(f"{proc}/fd/{here}")))
        assert not named_by_nobody(served, connect_to(Path(f"/proc/self/fd/{here}")))
        rooted = connect_to(Path(f"{proc}/root{private}"))
        if max(map(len, rooted.paths)) <= frames.MAX_PATH_BYTES:
            assert not named_by_nobody(served, rooted)
        for handle in (here, *held):
            os.close(handle)


def test_dots_bypass_no_unsearchable_directory() -> None:
    with shared() as served:
        for name, mode in (("p", 0o700), ("o", 0o755)):
            served.folder.joinpath(name).mkdir(mode=mode)
        made(served.folder / "o", 0o666)
        assert not named_by_nobody(served, connect_to(served.folder / "p/../o"))
        assert named_by_nobody(served, connect_to(served.folder / "o/.././/o"))


def test_relative_path_is_not_resolved_for_other_users(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with shared() as served:
        monkeypatch.chdir(served.folder)
        made(served.folder, 0o666)
        assert not named_by_nobody(served, connect_to(Path()))
        assert named_by_nobody(served, connect_to(served.folder))


def test_registration_pipe_of_another_server_is_not_read(tmp_path: Path) -> None:
    """Other users may write to the pipe, as clients do, but only the server may read it."""
    with shared() as served, shared() as other:
        _, *rest = made(served.folder, 0o666).paths
        wrong = Connect(os.fsencode(other.path), *rest)
        as_nobody(lambda: send(served, wrong.encode()))
        Client(served, "witness").connected(0o666)
        assert served.server.sessions == 1
        for number in range(5):
            client = Client(other, f"{number}").connected(0o666)
            client.close()


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return an access control list of entries tag, permissions, ID (xattr of acl(5))."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


@pytest.mark.parametrize("where", ["folder", "pipe"])
def test_pipe_with_an_access_control_list_is_not_opened(where: str) -> None:
    """The list may deny one user what the mode allows to all."""
    none = 0xFFFFFFFF
    with shared() as served:
        folder = served.folder / "r"
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
        pipes = made(folder, 0o666)
        target, most = (folder, 7) if where == "folder" else (folder / "c.req", 6)
        value = acl((1, most, none), (2, 0, NOBODY_UID), (4, most, none), (16, most, none))
        try:
            os.setxattr(target, "system.posix_acl_access", value + acl((32, most, none))[4:])
        except OSError as error:
            pytest.skip(f"no access control lists here: {error}")
        assert target.stat().st_mode & 0o777 in {0o777, 0o666}
        assert not named_by_nobody(served, pipes)
        os.removexattr(target, "system.posix_acl_access")
        assert named_by_nobody(served, pipes)


@pytest.mark.parametrize(
    ("mode", "group", "accepted"),
    [
        (0o660, GROUP, True),
        (0o666, GROUP, True),
        (0o666, 0, True),
        (0o660, 0, False),
        (0o606, GROUP, False),
        (0o620, GROUP, False),
        (0o600, GROUP, False),
        (0o060, GROUP, False),
    ],
)
def test_group_member_may_name_pipes_open_to_the_group(
    mode: int, group: int, accepted: bool
) -> None:
    with shared(0o620) as served:
        pipes = made(served.folder, mode, (0, group))
        assert named_by_nobody(served, pipes, GROUP) == accepted


@pytest.mark.parametrize(("mode", "accepted"), [(0o710, True), (0o701, False), (0o700, False)])
def test_directory_open_to_the_group_is_searched(mode: int, accepted: bool) -> None:
    with shared(0o620) as served:
        folder = served.folder / "r"
        folder.mkdir()
        pipes = made(folder, 0o666)
        os.chown(folder, 0, GROUP)
        folder.chmod(mode)
        assert named_by_nobody(served, pipes, GROUP) == accepted


@pytest.mark.parametrize("mode", [0o602, 0o622])
def test_group_permissions_are_not_enough_if_others_may_write(mode: int) -> None:
    with shared(mode) as served:
        pipes = made(served.folder, 0o660, (0, GROUP))
        assert not named_by_nobody(served, pipes, NOBODY_UID)


def test_later_chmod_of_the_registration_pipe_opens_no_more() -> None:
    with shared(0o600) as served:
        with pytest.raises(AssertionError):
            as_nobody(lambda: send(served, b"x"))
        served.path.chmod(0o622)
        pipes = made(served.folder, 0o600)
        assert not named_by_nobody(served, pipes)


def test_only_the_server_can_read_the_registration_pipe() -> None:
    for mode in (0o620, 0o602, 0o622):
        with shared(mode) as served:
            for group in (NOBODY_UID, GROUP):

                def read() -> None:
                    with pytest.raises(PermissionError):
                        os.open(served.path, os.O_RDONLY | os.O_NONBLOCK)

                as_nobody(read, group)


def test_other_user_is_served_over_their_own_pipes(tmp_path: Path) -> None:
    with shared() as served:
        mine = served.folder / "n"
        mine.mkdir()
        os.chown(mine, NOBODY_UID, NOBODY_UID)
        mine.chmod(0o711)

        def session() -> None:
            os.umask(0)
            client = Client(Place(served.path, mine), "c").connected(0o666)
            assert client.subscribe(b"k") == 0
            assert client.execute(b"WRITE [(k,v)]\n") == (0, b"", b"")
            assert client.change() == (b"k", b"v")

        as_nobody(session)
        assert served.store.items() == [(b"k", b"v")]


@pytest.mark.parametrize(
    ("mode", "group"), [(0o620, GROUP), (0o602, NOBODY_UID), (0o622, NOBODY_UID)]
)
def test_python_client_of_another_user_is_served(mode: int, group: int) -> None:
    with shared(mode) as served:

        def session() -> None:
            with connect(served.path, id="me") as session:
                session.write({"k": "v"})
                assert session.subscribe("k")

        as_nobody(session, group)
        assert served.store.items() == [(b"k", b"v")]
        until(lambda: served.server.sessions == 0)


def test_client_of_the_servers_user_is_served_by_shared_server() -> None:
    with shared() as served, connect(served.path) as session:
        session.write({"k": "v"})
        assert served.store.items() == [(b"k", b"v")]


def test_server_of_another_user_serves_root() -> None:
    """Any user may have sent the connects; the server opens pipes that every user can."""
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as name:
        folder = Path(name)
        os.chown(folder, NOBODY_UID, NOBODY_UID)
        folder.chmod(0o711)
        (folder / "jobs").mkdir()
        os.chown(folder / "jobs", NOBODY_UID, NOBODY_UID)
        path = folder / "reg"
        arguments = ("serve", folder / "jobs", "1", "1", path, "--once", "--fifo-mode=622")
        with started(*arguments, how=Start(uid=NOBODY_UID)) as process:
            assert process.stderr is not None
            assert b"serving at" in process.stderr.readline()
            with connect(path) as session:
                session.write({"k": "v"})
                assert session.read(["k"]) == {b"k": b"v"}
            process.terminate()
            assert end(process).status == 0


def test_clients_pipes_are_hidden_from_a_third_user(tmp_path: Path) -> None:
    place = Path(f"/tmp/kvs-{NOBODY_UID}-x")
    with shared() as served:
        lines = served.folder / "lines"
        os.mkfifo(lines)
        out = served.folder / "out"
        how = Start(uid=NOBODY_UID, redirections=f"< {lines} > {out}")
        with started("client", "me", served.path, how=how) as process:
            with lines.open("w") as typed:
                until(lambda: b"connect" in content(out) or process.poll() is not None)
                assert len(list(place.iterdir())) == 3

                def look() -> None:
                    with pytest.raises(PermissionError):
                        os.listdir(place)

                as_nobody(look, user=NOBODY_UID - 1)
                second = kvs_program("client", "me", served.path, how=Start(uid=NOBODY_UID))
                assert second.status == 1
                assert b"the ID 'me' is in use" in second.stderr
                typed.write("WRITE [(k,v)]\nREAD [k]\n")
            assert end(process).status == 0
        assert b"\n[(k,v)]\n" in content(out)
        assert list(place.iterdir()) == []


@pytest.mark.parametrize("dialect", ["", "-DDIGITS"])
def test_c_client_of_another_user_with_open_pipes_is_served(dialect: str) -> None:
    with shared() as served:
        program = compiled(served.folder, *filter(None, [dialect]))
        folder = served.folder / "n"
        folder.mkdir()
        os.chown(folder, NOBODY_UID, NOBODY_UID)
        pipes = [str(folder / which) for which in WHICH]
        command = [str(program), "rcqn", str(served.path), *pipes, "key", "0"]
        ended = subprocess.run(
            command,
            user=NOBODY_UID,
            group=NOBODY_UID,
            extra_groups=[],
            umask=0,
            check=False,
            capture_output=True,
            timeout=SECONDS,
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.endswith(b"end\n")
