"""The pipes of a client: location, permissions, names, and removal."""

import os
import secrets
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvs.client import pipes as pipes_module
from kvs.client.pipes import ClientPipes, create_pipes, is_shared, validate_client_id
from kvs.errors import ClientIdInUseError, InvalidClientIdError, PipeDirectoryError
from kvs.posix import fifos
from tests.helpers import SECONDS


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def paths_of(pipes: ClientPipes) -> list[Path]:
    return [Path(os.fsdecode(path)) for path in pipes.connect.paths]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777])
def test_pipes_and_directory_are_private(runtime: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        pipes = create_pipes("a-_9")
    finally:
        os.umask(before)
    assert mode(runtime) == 0o700
    for path in paths_of(pipes):
        assert path.is_fifo()
        assert mode(path) == 0o600
        assert path.parent == runtime
    assert mode(runtime / "a-_9.lock") == 0o600
    pipes.remove()
    pipes.remove()
    assert list(runtime.iterdir()) == []


def test_paths_have_at_most_40_bytes(runtime: Path) -> None:
    pipes = create_pipes("x" * 15)
    assert max(map(len, pipes.connect.paths)) <= 40
    pipes.remove()


@pytest.mark.parametrize(
    "given", ["", "x" * 16, "a b", "a.b", "a/b", "..", "ä", "a\n", "+1.0", "a\0"]
)
def test_invalid_id_is_refused(given: str) -> None:
    with pytest.raises(InvalidClientIdError) as refused:
        validate_client_id(given)
    assert str(refused.value).isprintable()


def test_id_in_use_is_refused_until_it_is_released(runtime: Path) -> None:
    pipes = create_pipes("me")
    with pytest.raises(ClientIdInUseError) as refused:
        create_pipes("me")
    assert (refused.value.id, refused.value.pid) == ("me", os.getpid())
    assert all(path.is_fifo() for path in paths_of(pipes))
    other = create_pipes("me2")
    pipes.remove()
    create_pipes("me").remove()
    other.remove()


def test_clients_without_an_id_get_different_pipes(runtime: Path) -> None:
    clients = [create_pipes(None) for _ in range(20)]
    assert len({path for pipes in clients for path in pipes.connect.paths}) == 60
    for pipes in clients:
        pipes.remove()


def test_pipes_of_a_crashed_process_are_replaced(runtime: Path) -> None:
    program = (
        "from kvs.client.pipes import create_pipes; import os\n"
        "p = create_pipes('me'); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program], timeout=SECONDS, check=False)
    assert {path.name for path in runtime.iterdir()} == {"me.lock", "me.req", "me.res", "me.not"}
    (runtime / "me.req").unlink()
    (runtime / "me.req").write_text("something else")
    pipes = create_pipes("me")
    assert all(path.is_fifo() for path in paths_of(pipes))
    pipes.remove()


@pytest.mark.parametrize(
    "end",
    ["", "raise SystemExit(3)", "1 / 0", "del pipes", "import os\nif os.fork(): os.wait()"],
    ids=["end", "exit", "error", "dropped", "forked child exits first"],
)
def test_pipes_are_removed_when_the_process_exits(runtime: Path, end: str) -> None:
    program = f"from kvs.client.pipes import create_pipes\nplace = create_pipes('me')\n{end}\n"
    subprocess.run(
        [sys.executable, "-c", program], timeout=SECONDS, check=False, stderr=subprocess.DEVNULL
    )
    assert list(runtime.iterdir()) == []


def test_child_does_not_remove_the_pipes_of_its_parent(runtime: Path) -> None:
    pipes = create_pipes("me")
    child = os.fork()
    if not child:
        pipes.remove()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert all(path.is_fifo() for path in paths_of(pipes))
    pipes.remove()


def test_directory_open_to_other_users_is_refused(runtime: Path) -> None:
    runtime.mkdir()
    runtime.chmod(0o770)
    with pytest.raises(PipeDirectoryError, match="its mode is 770, it must be 700"):
        create_pipes("me")
    runtime.chmod(0o700)


def test_symbolic_link_as_the_directory_is_refused(runtime: Path, tmp_path: Path) -> None:
    runtime.symlink_to(tmp_path)
    with pytest.raises(PipeDirectoryError, match="it is not a directory"):
        create_pipes("me")
    assert list(tmp_path.iterdir()) == []
    runtime.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_directory_of_another_user_is_refused(runtime: Path) -> None:
    runtime.mkdir(0o700)
    os.chown(runtime, 65534, 65534)
    with pytest.raises(PipeDirectoryError, match="belongs to user 65534; set XDG_RUNTIME_DIR to"):
        create_pipes("me")


@pytest.mark.parametrize("unfit", ["", "relative", "/tmp", "/" + "x" * 30, "/nowhere/at"])
def test_pipes_are_in_tmp_without_a_usable_runtime_directory(
    monkeypatch: pytest.MonkeyPatch, unfit: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", unfit)
    pipes = create_pipes(None)
    parent = paths_of(pipes)[0].parent
    assert parent == Path(f"/tmp/kvs-{os.geteuid()}")
    assert mode(parent) == 0o700
    pipes.remove()


@pytest.fixture(name="shared_directory")
def _shared_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory for pipes that other users can open, with a path of the maximum length."""
    directory = Path(f"/tmp/kvs-{secrets.randbelow(10**10):010}-x")
    monkeypatch.setattr(pipes_module, "_shared_directory", lambda: os.fsencode(directory))
    yield directory
    if directory.exists():
        directory.rmdir()  # it must be empty


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777])
def test_shared_pipes_have_secret_names(runtime: Path, shared_directory: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        first, second = create_pipes("me", shared=True), create_pipes("me2", shared=True)
    finally:
        os.umask(before)
    assert mode(shared_directory) == 0o711  # they can be opened, but not listed
    assert mode(runtime) == 0o700
    for path in paths_of(first):
        assert path.is_fifo()
        assert mode(path) == 0o666
        assert path.parent == shared_directory
        assert len(os.fsencode(path)) <= 40
    names = {path.stem for path in (*paths_of(first), *paths_of(second))}
    assert len(names) == 2  # 96 random bits each
    assert all(len(name) == 16 for name in names)
    assert sorted(os.listdir(runtime)) == ["me.lock", "me2.lock"]
    first.remove()
    second.remove()
    assert list(runtime.iterdir()) == list(shared_directory.iterdir()) == []


def test_id_is_unique_among_private_and_shared_pipes(runtime: Path, shared_directory: Path) -> None:
    for first, second in ((True, False), (False, True), (True, True)):
        pipes = create_pipes("me", shared=first)
        with pytest.raises(ClientIdInUseError) as refused:
            create_pipes("me", shared=second)
        assert (refused.value.id, refused.value.pid) == ("me", os.getpid())
        assert all(path.is_fifo() for path in paths_of(pipes))
        pipes.remove()


@pytest.mark.parametrize("shared", [False, True])
def test_shared_pipes_of_a_crashed_process_are_removed(
    runtime: Path, shared_directory: Path, shared: bool
) -> None:
    program = (
        "from kvs.client import pipes; import os\n"
        f"pipes._shared_directory = lambda: {os.fsencode(shared_directory)!r}\n"
        "p = pipes.create_pipes('me', shared=True); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program], timeout=SECONDS, check=False)
    orphans = set(shared_directory.iterdir())
    assert len(orphans) == 3
    pipes = create_pipes("me", shared=shared)
    assert not orphans & set(shared_directory.iterdir())
    assert len(list(shared_directory.iterdir())) == (3 if shared else 0)
    pipes.remove()


@pytest.mark.parametrize("text", ["", "1", "1\n", "1\n../../../../etc/x", "x\n" + "y" * 99, "\n\n"])
def test_lock_file_with_any_content_is_reused(runtime: Path, text: str) -> None:
    create_pipes("me").remove()
    (runtime / "me.lock").write_text(text)
    create_pipes("me").remove()


def test_shared_directory_that_others_can_list_is_refused(
    runtime: Path, shared_directory: Path
) -> None:
    shared_directory.mkdir()
    shared_directory.chmod(0o755)
    with pytest.raises(PipeDirectoryError, match="its mode is 755, it must be 711"):
        create_pipes("me", shared=True)
    assert list(runtime.iterdir()) == []


@pytest.mark.parametrize("shared_mode", [0o600, 0o620, 0o602, 0o622])
def test_registration_pipe_writable_by_others_is_shared(tmp_path: Path, shared_mode: int) -> None:
    path = tmp_path / "reg"
    fifos.make(os.fsencode(path), shared_mode)
    assert is_shared(path.stat()) == (shared_mode != 0o600)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
        assert is_shared(path.stat())


def test_lock_file_with_a_second_name_is_refused(runtime: Path) -> None:
    create_pipes("me").remove()
    (runtime / "other").touch()
    (runtime / "me.lock").hardlink_to(runtime / "other")
    with pytest.raises(PipeDirectoryError, match=r"/me\.lock: .*a hard link; remove it"):
        create_pipes("me")
    for path in runtime.iterdir():
        path.unlink()
