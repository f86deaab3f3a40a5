"""``kvs lint``: the reported lines, columns and reasons; nothing is run or changed."""

import os
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.helpers import LONG_WAIT, Start, content, kvs, only_line, started, until, write_jobs


def everything(directory: Path) -> dict[str, tuple[bytes, int, int]]:
    """Return content, mtime and ctime of each file."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ctime_ns)
        for path in directory.iterdir()
    }


def test_valid_jobs_are_reported_as_valid(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "HELP\n# x\n\nSHOW", "b": "", "c": "BACKUP\n"})
    ended = kvs("lint", "jobs", how=Start(cwd=tmp_path))
    assert (ended.status, ended.stderr) == (0, b"")
    assert ended.stdout.decode().splitlines() == [
        "jobs/a.job: 4 lines, 2 commands, all valid",
        "jobs/b.job: 0 lines, 0 commands, all valid",
        "jobs/c.job: 1 line, 1 command, all valid",
    ]
    assert len(list(jobs.iterdir())) == 3


def test_invalid_line_is_reported_with_excerpt_and_caret(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"a": "HELP\n  READ [k,]\nSHOW\nfoo\r\nSHOW\n"})
    ended = kvs("lint", "a.job", how=Start(cwd=tmp_path))
    assert (ended.status, ended.stderr) == (1, b"")
    lines = ended.stdout.decode().splitlines()
    assert lines[0].startswith("a.job:2:11: expected a key, not ']'")
    assert lines[1:3] == ["      READ [k,]", "              ^"]
    assert lines[3].startswith("a.job:4:1: 'foo' is not a command")
    assert lines[4:] == ["    foo", "    ^", "a.job: 5 lines, 3 commands, 2 invalid"]


def test_invalid_line_is_shown_as_it_was_typed(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"a": 'WRITE [(a,"b\\q")]\n'})
    lines = kvs("lint", "a.job", how=Start(cwd=tmp_path)).stdout.decode().splitlines()
    assert lines[1:3] == [r'    WRITE [(a,"b\q")]', "                ^"]


def test_directories_and_files_can_be_mixed(tmp_path: Path) -> None:
    write_jobs(tmp_path / "jobs", {"b": "HELP\n", "a": "x\n", "c": "HELP\n"})
    (tmp_path / "jobs" / "readme.txt").write_text("no job")
    (tmp_path / "any name").write_text("SHOW\n")
    ended = kvs("lint", "any name", "jobs", "jobs/b.job", how=Start(cwd=tmp_path))
    verdicts = [line for line in ended.stdout.decode().splitlines() if "command," in line]
    verdicts += [line for line in ended.stdout.decode().splitlines() if "commands," in line]
    assert ended.status == 1
    assert sorted(line.split(":")[0] for line in verdicts) == sorted(
        ["any name", "jobs/a.job", "jobs/b.job", "jobs/b.job", "jobs/c.job"]
    )


def test_lint_changes_no_files(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path, {"a": "WRITE [(a,b)]\nBACKUP\nWAIT 3600000\n", "b": "x\n"})
    (jobs / "a.out").write_text("old")
    (jobs / ".kvs-0123456789abcdef.tmp").write_text("of a crashed run")
    before = everything(jobs)
    assert kvs("lint", jobs, jobs / "a.job").status == 1
    assert everything(jobs) == before


def test_lint_works_during_a_run(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path, {"a": LONG_WAIT})
    with started("run", jobs):
        until(lambda: content(jobs / "a.out"))
        assert kvs("lint", jobs).status == 0


def test_lint_reports_every_invalid_line(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"a": "x\n" * 2_345})
    ended = kvs("lint", tmp_path)
    assert ended.stdout.count(b" is not a command") == 2_345
    assert ended.stdout.endswith(b"a.job: 2345 lines, 0 commands, 2345 invalid\n")


def test_directory_without_jobs_is_valid(tmp_path: Path) -> None:
    ended = kvs("lint", tmp_path)
    assert (ended.status, ended.stderr) == (0, b"")
    assert ended.stdout.decode() == f"{tmp_path}: no jobs (no file ends in .job)\n"


def test_run_and_lint_ignore_hidden_files(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path, {"a": "READ [k]\n", ".b": "x\n"})
    (jobs / ".#a.job").symlink_to("user@host.1234")
    for command in (("lint",), ("run", "--quiet")):
        ended = kvs(*command, jobs)
        assert (ended.status, ended.stderr) == (0, b"")
    assert not (jobs / ".b.out").exists()
    assert kvs("lint", jobs / ".b.job").status == 1  # a file that is named is checked


def test_unreadable_jobs_are_reported_and_skipped(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path, {"a": "HELP\n", "z": "HELP\n"})
    (jobs / "dir.job").mkdir()
    (jobs / "gone.job").symlink_to("nowhere")
    os.mkfifo(jobs / "pipe.job")
    ended = kvs("lint", ".", how=Start(cwd=jobs))
    assert ended.status == 1
    assert ended.lines == [
        "./dir.job: cannot open it: it is not a regular file",
        "./gone.job: cannot open it: it is a dangling symbolic link",
        "./pipe.job: cannot open it: it is not a regular file",
    ]
    assert ended.stdout.count(b"all valid") == 2
    assert sorted(kvs("run", "--quiet", ".", how=Start(cwd=jobs)).lines) == ended.lines


def test_missing_path_is_wrong_usage(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"a": "x\n"})
    ended = kvs("lint", tmp_path, tmp_path / "nowhere")
    assert ended.status == 2
    assert f"{tmp_path}/nowhere: No such file or directory" in only_line(ended)


def test_names_with_a_leading_dash_are_accepted(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"-rf": "HELP\n"})
    ended = kvs("lint", "--", "-rf.job", how=Start(cwd=tmp_path))
    assert (ended.status, ended.stdout) == (0, b"-rf.job: 1 line, 1 command, all valid\n")


# The caret is in the terminal column in which the invalid part begins.

INVALID_PART = "here"
"""Follows a valid line, so the diagnostic points to its start."""

VALID_PARTS = {
    "nothing": b"",
    "plain": b"READ [k] ",
    "blanks": b"  \t SHOW\t ",
    "wide": "READ [漢字,한글] ".encode(),
    "combining accents": "READ [e\u0301a\u0308] ".encode(),
    "marks without a class": "READ [\u0e14\u0e31,\u0915\u0941] ".encode(),
    "escaped bytes": b"READ [\xff\xfe,\x1b[31m\x7f\\] ",
    "half of a character": b"READ [\xe6\xbc,\xbc] ",
    "a line that is cut": b"READ [%b] " % b",".join([b"key"] * 100),
    "a wide line that is cut": "READ [{}] ".format(",".join(["漢字"] * 100)).encode(),
}


@pytest.mark.slow
@pytest.mark.parametrize("before", VALID_PARTS.values(), ids=VALID_PARTS)
@pytest.mark.parametrize("after", [b"", b" and " + b"more " * 50])
def test_caret_is_under_the_column(tmp_path: Path, before: bytes, after: bytes) -> None:
    (tmp_path / "a").write_bytes(b"SHOW\n" + before + INVALID_PART.encode() + after + b"\nSHOW\n")
    ended = kvs("lint", "a", how=Start(cwd=tmp_path))
    diagnostic, line, caret, _ = ended.stdout.decode().splitlines()
    assert diagnostic.startswith(f"a:2:{len(before) + 1}: ")
    assert caret.strip(" ") == "^"
    assert cell_len(caret[:-1]) == cell_len(line[: line.index(INVALID_PART)])
    assert cell_len(line) < 400
    assert line.isprintable()


def test_caret_is_behind_an_incomplete_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("READ [漢".encode())
    _, line, caret, _ = kvs("lint", tmp_path / "a").stdout.decode().splitlines()
    assert (line, caret) == ("    READ [漢", "            ^")
