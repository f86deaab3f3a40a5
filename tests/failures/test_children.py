"""Children that write backups and are killed or stopped."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers import (
    Start,
    backup_error,
    content,
    end,
    leftovers,
    pairs_job,
    started,
    stopped_children,
    until,
    write_jobs,
)

NUMBER_WITHOUT_NAME = signal.SIGRTMIN + 1

LETHAL = {
    signal.SIGKILL: "SIGKILL",
    signal.SIGTERM: "SIGTERM",
    signal.SIGSEGV: "SIGSEGV",
    NUMBER_WITHOUT_NAME: f"signal {NUMBER_WITHOUT_NAME}",
}
"""Signals and their names in messages."""


@pytest.mark.slow
@pytest.mark.parametrize("point", ["birth", "sync"])
@pytest.mark.parametrize(("number", "name"), LETHAL.items(), ids=LETHAL.values())
def test_killed_child_is_reported_and_leaves_nothing(
    tmp_path: Path, number: int, name: str, point: str
) -> None:
    write_jobs(tmp_path, {"a": pairs_job(3_000), "b": "BACKUP\nREAD [k]\n", "c": "READ [k]\n"})
    (tmp_path / "b-1.bck").write_text("older")
    arguments = ("run", tmp_path, "--threads", "1", "--quiet")
    with started(*arguments, how=Start(children_stop=point)) as process:
        (child,) = stopped_children(process)
        until(lambda: content(tmp_path / "c.out"))
        os.kill(child, number)
        with suppress(ProcessLookupError):  # SIGKILL has already ended it
            os.kill(child, signal.SIGCONT)
        ended = end(process)
    (line,) = ended.lines
    assert ended.status == 1
    reason = f"its process was killed by {name}"
    assert line == backup_error(tmp_path, "b", line=1, number=1, reason=reason)
    assert (tmp_path / "b-1.bck").read_text() == "older"
    assert (tmp_path / "b.out").read_bytes() == b"[(k,KVSERROR)]\n"
    assert leftovers(tmp_path) == []


def test_killed_child_frees_its_slot(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"a": "BACKUP\nBACKUP\nREAD [k]\n"})
    how = Start(children_stop="sync")
    with started("run", tmp_path, "--backups", "1", how=how) as process:
        (first,) = stopped_children(process)
        os.kill(first, signal.SIGKILL)
        (second,) = until(lambda: [pid for pid in stopped_children(process) if pid != first])
        os.kill(second, signal.SIGCONT)
        ended = end(process)
    assert ended.status == 1
    assert len(ended.lines) == 1
    assert not (tmp_path / "a-1.bck").exists()
    assert (tmp_path / "a-2.bck").read_bytes() == b""
    assert (tmp_path / "a.out").read_bytes() == b"[(k,KVSERROR)]\n"


def test_concurrent_children_are_limited(tmp_path: Path) -> None:
    """With more jobs than slots, three children are stopped, and a fourth is not forked."""
    names = "abcdef"
    write_jobs(tmp_path, dict.fromkeys(names, "READ [k]\nBACKUP\n"))
    how = Start(children_stop="birth")
    arguments = ("run", tmp_path, "--threads", "6", "--backups", "3")
    seen: set[int] = set()
    with started(*arguments, how=how) as process:
        until(lambda: all(content(tmp_path / f"{name}.out") for name in names))
        while len(seen) < len(names):
            stopped = stopped_children(process, min(3, len(names) - len(seen)))
            child = next(pid for pid in stopped if pid not in seen)
            seen.add(child)
            os.kill(child, signal.SIGCONT)
        ended = end(process)
    assert ended.status == 0
    assert len(list(tmp_path.glob("*-1.bck"))) == 6
