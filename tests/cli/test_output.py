"""Stdout and stderr without a terminal, and when they cannot be written."""

import os
from pathlib import Path

import pytest

from tests.helpers import (
    LONG_WAIT,
    Start,
    content,
    end,
    kvs,
    only_line,
    pairs_job,
    pairs_listing,
    started,
    until,
    write_jobs,
)

BAD = "READ [k]\nfoo\nREAD [l]\n"
BAD_OUTPUT = b"[(k,KVSERROR)]\n[(l,KVSERROR)]\n"


@pytest.fixture(name="jobs")
def _jobs(tmp_path: Path) -> Path:
    """A directory with a job that has an invalid line, and with a valid one."""
    return write_jobs(tmp_path / "jobs", {"bad": BAD, "good": "WRITE [(a,b)]\nBACKUP\nREAD [a]\n"})


def all_jobs_are_done(jobs: Path) -> bool:
    return (
        (jobs / "bad.out").read_bytes() == BAD_OUTPUT
        and (jobs / "good.out").read_bytes() == b"[(a,b)]\n"
        and (jobs / "good-1.bck").read_bytes() == b"(a, b)\n"
    )


def test_table_is_on_stdout_and_errors_are_on_stderr(jobs: Path) -> None:
    ended = kvs("run", "jobs", how=Start(cwd=jobs.parent))
    headings, *rows = [line.split(maxsplit=5) for line in ended.stdout.decode().splitlines()]
    assert headings == ["job", "commands", "invalid", "backups", "seconds", "state"]
    assert [row[:4] for row in rows] == [["bad", "2", "1", "0"], ["good", "3", "0", "1"]]
    assert all(row[5].startswith("done") for row in rows)
    assert all(0 <= float(row[4]) < 60 for row in rows)
    assert ended.lines[0].startswith("jobs/bad.job:2:1: 'foo' is not a command")


def test_quiet_prints_only_errors(jobs: Path) -> None:
    ended = kvs("run", "--quiet", jobs)
    assert only_line(ended).startswith(f"{jobs}/bad.job:2:1: ")
    assert ended.status == 1


def test_quiet_prints_nothing_on_success(jobs: Path) -> None:
    (jobs / "bad.job").unlink()
    ended = kvs("run", "--quiet", jobs)
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"", b"")


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, {"TERM": "xterm-256color"}, {"FORCE_COLOR": "1"}])
def test_files_get_no_control_characters(tmp_path: Path, environment: dict[str, str]) -> None:
    names = [
        "plain",
        "red\x1b[31m",
        "bell\a",
        "tab\t",
        "return\r",
        "new\nline",
        "c1\x9b31m",
        "d\x7f",
    ]
    jobs = write_jobs(tmp_path / "jobs", dict.fromkeys(names, b"\x1b[31m\nBACKUP\n\x00\r\r\xff\n"))
    (jobs / "fifo\x1b.job").mkdir()
    for command in (["run"], ["lint"]):
        ended = kvs(*command, jobs, how=Start(environment=environment))
        assert ended.status == 1
        for text in (ended.stdout.decode(), ended.stderr.decode()):
            assert text
            assert text.replace("\n", "").isprintable()


NAMES = {
    "space ": b"with a space",
    "newline": b"new\nline",
    "dash": b"-rf",
    "two dashes": b"--threads",
    "backslash": b"back\\slash",
    "no UTF-8": b"latin-\xe9",
    "half of a character": b"half-\xe6\xbc",
    "a wide character": "漢字".encode(),
    "brackets": b"[bold]:x:%s{}",
}
SHOWN = {"newline": r"new\nline", "backslash": r"back\\slash", "no UTF-8": r"latin-\xe9"}
SHOWN["half of a character"] = r"half-\xe6\xbc"


@pytest.mark.slow
@pytest.mark.parametrize("case", NAMES)
def test_jobs_of_any_name_run_and_are_shown_escaped(tmp_path: Path, case: str) -> None:
    name = NAMES[case]
    shown = SHOWN.get(case, name.decode(errors="replace"))
    directory = bytes(tmp_path)
    with open(directory + b"/" + name + b".job", "wb") as job:
        job.write(b"READ [k]\nBACKUP\nfoo\n")
    ended = kvs("run", ".", how=Start(cwd=tmp_path))
    assert ended.status == 1
    assert ended.lines[0].startswith(f"./{shown}.job:3:1: ")
    assert ended.stdout.decode().splitlines()[1].startswith(shown)
    with open(directory + b"/" + name + b".out", "rb") as output:
        assert output.read() == b"[(k,KVSERROR)]\n"
    with open(directory + b"/" + name + b"-1.bck", "rb") as snapshot:
        assert snapshot.read() == b""


def test_errors_of_a_job_beyond_1000_are_counted(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"many": "x\n" * 1_500, "full": "x\n" * 1_000, "one": "x\n"})
    ended = kvs("run", ".", "--threads", "1", how=Start(cwd=tmp_path))
    places = [line.split(":")[:2] for line in ended.lines]
    assert ended.status == 1
    assert places == [
        *(["./full.job", str(number)] for number in range(1, 1_001)),
        *(["./many.job", str(number)] for number in range(1, 1_001)),
        ["./one.job", "1"],
        [
            "./many.job",
            " 500 more invalid lines; only the first 1000 are reported, 'kvs lint' lists all",
        ],
    ]
    rows = {row.split()[0]: row.split()[2] for row in ended.stdout.decode().splitlines()}
    assert rows == {"job": "invalid", "many": "1500", "full": "1000", "one": "1"}


def test_errors_of_parallel_jobs_do_not_mix(tmp_path: Path) -> None:
    names = [f"job{number}" for number in range(8)]
    write_jobs(tmp_path, dict.fromkeys(names, "x\n" * 1_000))
    ended = kvs("run", ".", "--threads", "8", how=Start(cwd=tmp_path))
    for name in names:
        mine = [line.split(":")[1] for line in ended.lines if line.startswith(f"./{name}.job:")]
        assert mine == [str(number) for number in range(1, 1_001)]
    assert len(ended.lines) == 8_000


def test_count_of_one_omitted_error_is_singular(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"many": "x\n" * 1_001})
    ended = kvs("run", tmp_path)
    assert "1 more invalid line;" in ended.lines[-1]


# Streams that cannot be written.


LOST_RESULTS = {
    "closed": (">&-", "kvs {}: stdout is closed: "),
    "full": (">/dev/full", "kvs {}: stdout: cannot write the results: No space left on device"),
}


@pytest.mark.parametrize(("redirection", "reason"), LOST_RESULTS.values(), ids=LOST_RESULTS)
@pytest.mark.parametrize("command", ["run", "lint"])
def test_unwritable_results_are_an_error(
    jobs: Path, command: str, redirection: str, reason: str
) -> None:
    (jobs / "bad.job").unlink()
    ended = kvs(command, jobs, how=Start(redirections=redirection))
    assert only_line(ended).startswith(reason.format(command))
    assert ended.status == 1
    if command == "run":
        assert (jobs / "good.out").read_bytes() == b"[(a,b)]\n"
        assert (jobs / "good-1.bck").read_bytes() == b"(a, b)\n"


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_unwritable_version_and_help_are_an_error(argument: str, redirection: str) -> None:
    ended = kvs(argument, how=Start(redirections=redirection))
    assert ended.status == 1
    assert "stdout" in only_line(ended)


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_quiet_needs_no_stdout(jobs: Path, redirection: str) -> None:
    (jobs / "bad.job").unlink()
    ended = kvs("run", "--quiet", jobs, how=Start(redirections=redirection))
    assert (ended.status, ended.stderr) == (0, b"")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["run"], ["lint"]])
def test_closed_stdout_needs_no_message(jobs: Path, arguments: list[str]) -> None:
    write_jobs(jobs, {"long name " * 20 + str(number): b"HELP\n" for number in range(1000)})
    (jobs / "bad.job").unlink()
    with started(*arguments, jobs) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        ended = end(process)
    assert (ended.status, ended.stderr) == (1, b"")
    assert arguments != ["run"] or (jobs / "good.out").exists()


LOST_ERRORS = ["2>&-", "2>/dev/full"]


@pytest.mark.parametrize("redirection", LOST_ERRORS)
def test_unwritable_errors_do_not_stop_jobs(jobs: Path, redirection: str) -> None:
    ended = kvs("run", jobs, how=Start(redirections=redirection))
    assert ended.status == 1
    assert len(ended.stdout.splitlines()) == 3
    assert all_jobs_are_done(jobs)


@pytest.mark.slow
@pytest.mark.parametrize("redirection", LOST_ERRORS)
@pytest.mark.parametrize("arguments", [["--frobnicate"], ["run", "nowhere"], ["lint", "nowhere"]])
def test_unwritable_wrong_usage_exits_with_2(arguments: list[str], redirection: str) -> None:
    ended = kvs(*arguments, how=Start(redirections=redirection))
    assert (ended.status, ended.stdout) == (2, b"")


def test_closed_stderr_does_not_stop_jobs(jobs: Path) -> None:
    with started("run", jobs) as process:
        assert process.stderr is not None
        process.stderr.close()
        process.stderr = None
        ended = end(process)
    assert ended.status == 1
    assert len(ended.stdout.splitlines()) == 3
    assert all_jobs_are_done(jobs)


@pytest.mark.parametrize("redirections", ["<&- >&- 2>&-", "<&-", "<&- 2>&-"])
def test_closed_streams_do_not_corrupt_files(jobs: Path, redirections: str) -> None:
    write_jobs(jobs, {"good": pairs_job(5_000) + b"BACKUP\nSHOW\nfoo\n"})
    ended = kvs("run", jobs, "--report", jobs / "r.json", how=Start(redirections=redirections))
    assert ended.status == 1
    assert (jobs / "bad.out").read_bytes() == BAD_OUTPUT
    assert (jobs / "good.out").read_bytes() == pairs_listing(5_000)
    assert (jobs / "good-1.bck").read_bytes() == pairs_listing(5_000)


CANNOT_SHOW = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "no locale": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}


@pytest.mark.slow
@pytest.mark.parametrize("environment", CANNOT_SHOW.values(), ids=CANNOT_SHOW)
@pytest.mark.parametrize("command", ["run", "lint"])
def test_unencodable_characters_do_not_fail_a_command(
    tmp_path: Path, command: str, environment: dict[str, str]
) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"漢é": b"HELP\n"})
    ended = kvs(command, jobs, how=Start(environment=environment))
    assert (ended.status, ended.stderr) == (0, b"")
    assert b"1" in ended.stdout


def test_closed_streams_are_replaced_by_dev_null(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": LONG_WAIT})
    how = Start(redirections="<&- >&- 2>&-")
    with started("run", jobs, "--data", tmp_path / "data", how=how) as process:
        until(lambda: content(jobs / "a.out"))
        open_files = Path("/proc", str(process.pid), "fd")
        assert {os.readlink(open_files / name) for name in "012"} == {os.devnull}
