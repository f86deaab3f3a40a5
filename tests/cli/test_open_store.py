"""The store of a run or a server: what options ask for, and what is reported of it."""

import argparse
import os
from pathlib import Path

import pytest

from kvs.cli import open_store as module
from kvs.cli.open_store import describe_torn_tail, open_store, progress_bar
from kvs.cli.stdio import UsageError
from kvs.journal.recovery import TornTail
from kvs.settings import ignore_progress
from tests.helpers import write_jobs


def options(folder: Path, **given: object) -> argparse.Namespace:
    """Return the options of a run; `given` ones replace the defaults."""
    names = ("data", "restore", "fsync", "fsync_interval", "keep_segments")
    defaults = dict.fromkeys(names)
    directory = str(write_jobs(folder / "jobs", {}))
    return argparse.Namespace(**{"directory": directory, "resume": False, **defaults, **given})


def refusal(folder: Path, **given: object) -> str:
    """Return why the options are refused."""
    with pytest.raises(UsageError) as caught:
        open_store(options(folder, **given), lambda _: None)
    return str(caught.value)


def test_store_is_in_memory_without_data(tmp_path: Path) -> None:
    lines: list[str] = []
    with open_store(options(tmp_path), lines.append) as store:
        assert (store.is_persistent, store.revision, lines) == (False, 0, [])


def test_recovered_state_is_reported(tmp_path: Path) -> None:
    data, lines = str(tmp_path / "data"), list[str]()
    for number in range(2):
        with open_store(options(tmp_path, data=data), lines.append) as store:
            assert (store.is_persistent, store.revision) == (True, number)
            store.execute(b"WRITE [(k,v)]\n")
    assert lines[0] == f"{data}: a new data directory"
    assert lines[1].startswith(f"{data}: at revision 1, 1 pair; replayed 1 command of the journal")


@pytest.mark.parametrize("data", [None, "data"])
def test_restored_pairs_are_in_the_store(tmp_path: Path, data: str | None) -> None:
    (tmp_path / "x.bck").write_bytes(b"(k, v)\n(l, w)\n")
    given = {"data": data and str(tmp_path / data), "restore": str(tmp_path / "x.bck")}
    with open_store(options(tmp_path, **given), lambda _: None) as store:
        assert (store.revision, store.items()) == (1, [(b"k", b"v"), (b"l", b"w")])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"fsync": "always"}, "--fsync needs --data"),
        ({"fsync_interval": 2.0}, "--fsync-interval needs --data and --fsync interval"),
        ({"resume": True}, "--resume needs --data"),
        ({"data": "new", "fsync_interval": 2.0}, "--fsync-interval needs --fsync interval"),
    ],
)
def test_contradicting_options_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, object], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(tmp_path, **given) == reason
    assert os.listdir(tmp_path) == ["jobs"]


def test_refused_store_leaves_no_data_directory(tmp_path: Path) -> None:
    data, no = str(tmp_path / "data"), str(tmp_path / "no")
    reason = "cannot open the jobs directory: No such file or directory"
    assert refusal(tmp_path, data=data, directory=no) == f"{no}: {reason}"
    assert f"{no}: " in refusal(tmp_path, data=data, restore=no)
    assert os.listdir(tmp_path) == ["jobs"]


def test_torn_tail_is_described_with_its_fate() -> None:
    torn = TornTail(file="d/1.journal", offset=90, bytes=1, reason="the file ends in zeros")
    assert describe_torn_tail(torn, "was dropped") == (
        "d/1.journal: the file ends in zeros: the incomplete group at byte 90 was dropped (1 byte)"
    )


def test_progress_is_shown_on_a_terminal_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(tmp_path / "stderr", "w") as file:
        for stream in (None, file):
            monkeypatch.setattr("sys.stderr", stream)
            with progress_bar() as progress:
                assert progress is ignore_progress


def test_progress_ignores_a_lost_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROGRESS_DELAY_SECONDS", 0)
    monkeypatch.setenv("TERM", "xterm-256color")
    master, slave = os.openpty()
    with open(slave, "w", buffering=1) as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        with progress_bar() as progress:
            progress(1, 3)
            shown = b""
            while b"reading the journal" not in shown:
                shown += os.read(master, 4096)
            os.close(master)
            progress(2, 3)
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, slave)  # gets the rest of the buffer
        os.close(devnull)
