"""Where a client's pipes lie, who may have them, and that they are gone."""

import os
import secrets
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvs.client import pipes as places
from kvs.client.pipes import ClientPipes, create_pipes, is_shared, validate_client_id
from kvs.errors import ClientIdInUseError, InvalidClientIdError, PipeDirectoryError
from kvs.posix import fifos
from tests.helpers import SECONDS


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def made(place: ClientPipes) -> list[Path]:
    return [Path(os.fsdecode(path)) for path in place.connect.paths]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777])
def test_pipes_and_directory_are_private(runtime: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        place = create_pipes("a-_9")
    finally:
        os.umask(before)
    assert mode(runtime) == 0o700
    for path in made(place):
        assert path.is_fifo()
        assert mode(path) == 0o600
        assert path.parent == runtime
    assert mode(runtime / "a-_9.lock") == 0o600
    place.remove()
    place.remove()
    assert list(runtime.iterdir()) == []


def test_paths_have_at_most_40_bytes(runtime: Path) -> None:
    place = create_pipes("x" * 15)
    assert max(map(len, place.connect.paths)) <= 40
    place.remove()


@pytest.mark.parametrize(
    "given", ["", "x" * 16, "a b", "a.b", "a/b", "..", "ä", "a\n", "+1.0", "a\0"]
)
def test_invalid_id_is_refused(given: str) -> None:
    with pytest.raises(InvalidClientIdError) as refused:
        validate_client_id(given)
    assert str(refused.value).isprintable()


def test_id_in_use_is_refused_until_it_is_released(runtime: Path) -> None:
    place = create_pipes("me")
    with pytest.raises(ClientIdInUseError) as refused:
        create_pipes("me")
    assert (refused.value.id, refused.value.pid) == ("me", os.getpid())
    assert all(path.is_fifo() for path in made(place))
    other = create_pipes("me2")
    place.remove()
    create_pipes("me").remove()
    other.remove()


def test_clients_without_an_id_get_different_pipes(runtime: Path) -> None:
    places = [create_pipes(None) for _ in range(20)]
    assert len({path for place in places for path in place.connect.paths}) == 60
    for place in places:
        place.remove()


def test_pipes_of_a_crashed_process_are_replaced(runtime: Path) -> None:
    claims = (
        "from kvs.client.pipes import create_pipes; import os\n"
        "p = create_pipes('me'); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", claims], timeout=SECONDS, check=False)
    left = {path.name: path.lstat().st_ino for path in runtime.iterdir()}
    assert set(left) == {"me.lock", "me.req", "me.res", "me.not"}
    (runtime / "me.req").unlink()
    (runtime / "me.req").write_text("something else")
    place = create_pipes("me")
    assert all(path.is_fifo() for path in made(place))
    place.remove()


@pytest.mark.parametrize(
    "end",
    ["", "raise SystemExit(3)", "1 / 0", "del place", "import os\nif os.fork(): os.wait()"],
    ids=["the end", "exit", "an error", "forgotten", "a forked child ends first"],
)
def test_pipes_are_removed_when_the_process_exits(runtime: Path, end: str) -> None:
    program = f"from kvs.client.pipes import create_pipes\nplace = create_pipes('me')\n{end}\n"
    subprocess.run(
        [sys.executable, "-c", program], timeout=SECONDS, check=False, stderr=subprocess.DEVNULL
    )
    assert list(runtime.iterdir()) == []


def test_child_does_not_remove_the_pipes_of_its_parent(runtime: Path) -> None:
    place = create_pipes("me")
    child = os.fork()
    if not child:
        place.remove()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert all(path.is_fifo() for path in made(place))
    place.remove()


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
    place = create_pipes(None)
    parent = made(place)[0].parent
    assert parent == Path(f"/tmp/kvs-{os.geteuid()}")
    assert mode(parent) == 0o700
    place.remove()


@pytest.fixture(name="open_place")
def _open_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory for pipes that other users can open, with a path as long as any."""
    place = Path(f"/tmp/kvs-{secrets.randbelow(10**10):010}-x")
    monkeypatch.setattr(places, "_shared_directory", lambda: os.fsencode(place))
    yield place
    if place.exists():
        place.rmdir()  # it must be empty


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777])
def test_shared_pipes_have_secret_names(runtime: Path, open_place: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        ones, others = create_pipes("me", shared=True), create_pipes("me2", shared=True)
    finally:
        os.umask(before)
    assert mode(open_place) == 0o711  # they can be opened, but not listed
    assert mode(runtime) == 0o700
    for path in made(ones):
        assert path.is_fifo()
        assert mode(path) == 0o666
        assert path.parent == open_place
        assert len(os.fsencode(path)) <= 40
    names = {path.stem for path in (*made(ones), *made(others))}
    assert len(names) == 2  # 96 random bits each
    assert all(len(name) == 16 for name in names)
    assert sorted(os.listdir(runtime)) == ["me.lock", "me2.lock"]
    ones.remove()
    others.remove()
    assert list(runtime.iterdir()) == list(open_place.iterdir()) == []


def test_id_is_unique_among_private_and_shared_pipes(runtime: Path, open_place: Path) -> None:
    for first, second in ((True, False), (False, True), (True, True)):
        place = create_pipes("me", shared=first)
        with pytest.raises(ClientIdInUseError) as refused:
            create_pipes("me", shared=second)
        assert (refused.value.id, refused.value.pid) == ("me", os.getpid())
        assert all(path.is_fifo() for path in made(place))
        place.remove()


@pytest.mark.parametrize("shared", [False, True])
def test_shared_pipes_of_a_crashed_process_are_removed(
    runtime: Path, open_place: Path, shared: bool
) -> None:
    claims = (
        "from kvs.client import pipes; import os\n"
        f"pipes._shared_directory = lambda: {os.fsencode(open_place)!r}\n"
        "p = pipes.create_pipes('me', shared=True); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", claims], timeout=SECONDS, check=False)
    left = set(open_place.iterdir())
    assert len(left) == 3
    place = create_pipes("me", shared=shared)
    assert not left & set(open_place.iterdir())
    assert len(list(open_place.iterdir())) == (3 if shared else 0)
    place.remove()


@pytest.mark.parametrize("text", ["", "1", "1\n", "1\n../../../../etc/x", "x\n" + "y" * 99, "\n\n"])
def test_lock_file_with_any_content_is_reused(runtime: Path, text: str) -> None:
    create_pipes("me").remove()
    (runtime / "me.lock").write_text(text)
    create_pipes("me").remove()


def test_shared_directory_that_others_can_list_is_refused(runtime: Path, open_place: Path) -> None:
    open_place.mkdir()
    open_place.chmod(0o755)
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
