"""A kill at every step of the storage: acknowledged changes remain, partial ones do not."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kvs.library import Store
from kvs.settings import FSYNC_MODES, DataSettings
from tests.helpers import kvs, pairs_listing, started, until
from tests.journal.crash_child import (
    Acknowledge,
    Work,
    check,
    killed_at_every_step,
    reopened,
    victim,
    write,
)

pytestmark = pytest.mark.slow

NEVER = 10**9


def recovered_after_kills(
    place: Path, before: Path | None, work: Callable[[Path], Work]
) -> list[int]:
    """Kill `work` at every step, in copies of the directory `before`.

    Return the revisions that were recovered.
    """

    def prepared(number: int) -> Work:
        directory = place / f"{number}"
        if before is not None:
            shutil.copytree(before, directory)
        return work(directory)

    recovered = []
    for number, acknowledged in killed_at_every_step(prepared):
        recovered.append(check(place / f"{number}", acknowledged))
        shutil.rmtree(place / f"{number}")
    return recovered


@pytest.mark.parametrize("fsync", FSYNC_MODES)
def test_kill_at_any_step_of_writing_loses_nothing(tmp_path: Path, fsync: str) -> None:
    def work(directory: Path) -> Work:
        def run(acknowledge: Acknowledge) -> None:
            with Store(directory, DataSettings(fsync)) as store:
                write(store, 6, acknowledge)

        return run

    assert set(recovered_after_kills(tmp_path, None, work)) == set(range(7))


def test_kill_at_any_step_of_rotation_loses_nothing(tmp_path: Path) -> None:
    def work(directory: Path) -> Work:
        def run(acknowledge: Acknowledge) -> None:
            with Store(directory, DataSettings(segment_bytes=40)) as store:
                write(store, 5, acknowledge)

        return run

    assert set(recovered_after_kills(tmp_path, None, work)) == set(range(6))


def test_kill_at_any_step_of_compaction_loses_nothing(tmp_path: Path) -> None:
    def work(directory: Path) -> Work:
        def run(acknowledge: Acknowledge) -> None:
            with Store(directory) as store:
                write(store, 2, acknowledge)
                store.compact()
                write(store, 1, acknowledge)
                store.compact()
                write(store, 1, acknowledge)

        return run

    assert set(recovered_after_kills(tmp_path, None, work)) == set(range(5))


def test_kill_in_background_compaction_loses_nothing(tmp_path: Path) -> None:
    def work(directory: Path) -> Work:
        def run(acknowledge: Acknowledge) -> None:
            settings = DataSettings(compact_bytes=1, segment_bytes=60)
            with Store(directory, settings) as store:
                write(store, 5, acknowledge)

        return run

    recovered = recovered_after_kills(tmp_path, None, work)
    assert (recovered[0], recovered[-1]) == (0, 5)


@pytest.mark.parametrize("torn", [b"# group 0000", bytes(5000)])
def test_kill_at_any_step_of_recovery_loses_nothing(tmp_path: Path, torn: bytes) -> None:
    """With a torn tail to cut, and files that a compaction has left to remove."""
    before = tmp_path / "before"
    with Store(before) as store:
        write(store, 3)
        old = {path.name: path.read_bytes() for path in before.glob("*.journal")}
        store.compact()
        write(store, 2)
    for name, data in old.items():
        (before / name).write_bytes(data)
    with open(before / "0000000002.journal", "ab") as file:
        file.write(torn)

    def work(directory: Path) -> Work:
        def run(acknowledge: Acknowledge) -> None:
            with Store(directory) as store:
                acknowledge(5)
                write(store, 1, acknowledge)

        return run

    assert set(recovered_after_kills(tmp_path, before, work)) == {5, 6}


def test_repeated_kills_lose_nothing(tmp_path: Path) -> None:
    revision = 0
    for number in range(3, 60, 4):

        def work(acknowledge: Acknowledge) -> None:
            settings = DataSettings(compact_bytes=200, segment_bytes=100)
            with reopened(tmp_path / "d", settings) as store:
                write(store, 20, acknowledge)

        _, acknowledged = victim(number, work)
        revision = check(tmp_path / "d", max(acknowledged, revision))
    killed, _ = victim(NEVER, work)
    assert not killed


def test_killed_restore_program_is_all_or_nothing(tmp_path: Path) -> None:
    backup = tmp_path / "x.bck"
    backup.write_bytes(pairs_listing(20_000))
    for number in range(3):
        data = tmp_path / f"{number}"
        with started("restore", backup, data) as process:
            until(lambda: data.exists() and os.listdir(data))  # noqa: B023
            process.kill()
            process.wait()
        checked = kvs("check", data)
        if checked.status == 2:
            assert kvs("restore", backup, data).status == 0
            checked = kvs("check", data)
        assert checked.stdout.startswith(b"%b: revision 1, 20000 pairs, " % os.fsencode(data))
