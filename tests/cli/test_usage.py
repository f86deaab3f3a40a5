"""Command lines and exit statuses.

0 success, 1 failure, 2 wrong usage, which is reported in one line before any work is done.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from kvs._version import VERSION
from kvs.engine.selection import engine_name
from tests.helpers import SECONDS, Start, kvs, leftovers, only_line, write_jobs

GOOD = "WRITE [(k,v)]\nREAD [k]\n"


@pytest.fixture(name="jobs")
def _jobs(tmp_path: Path) -> Path:
    return write_jobs(tmp_path / "jobs", {"one": GOOD})


WRONG_NUMBERS = [
    "0",
    "-1",
    "+1",
    "1.5",
    "1e3",
    "",
    " 1",
    "1 ",
    "two",
    "²",
    "٣",
    "9999999999",
    "0x1",
]


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--threads", "--backups"])
@pytest.mark.parametrize("number", WRONG_NUMBERS)
def test_invalid_number_is_wrong_usage(jobs: Path, option: str, number: str) -> None:
    ended = kvs("run", jobs, option, number)
    line = only_line(ended)
    assert ended.status == 2
    assert option in line
    assert repr(number) in line
    assert sorted(jobs.iterdir()) == [jobs / "one.job"]


WRONG_USAGE = {
    "no command": ([], "COMMAND"),
    "an unknown command": (["frobnicate"], "'frobnicate'"),
    "a command with control characters": (["a\nb\x1b[31m"], r"'a\nb\x1b[31m'"),
    "an unknown option without a command": (
        ["--versio"],
        "kvs: unrecognized arguments: --versio; see 'kvs --help'",
    ),
    "an unknown option with a value": (
        ["run", "--dta", "new", "jobs"],
        "kvs run: unrecognized arguments: --dta; see 'kvs run --help'",
    ),
    "run without a directory": (["run"], "JOBS_DIR"),
    "run with two directories": (
        ["run", "jobs", "jobs"],
        "kvs run: unrecognized arguments: jobs; see 'kvs run --help'",
    ),
    "run with an unknown option": (
        ["run", "jobs", "--frobnicate"],
        "kvs run: unrecognized arguments: --frobnicate; see 'kvs run --help'",
    ),
    "run with an option cut short": (["run", "jobs", "--thread", "2"], "--thread"),
    "run with an option that lacks its value": (["run", "jobs", "--threads"], "--threads"),
    "run of no such directory": (["run", "nowhere"], "nowhere"),
    "run of a file": (
        ["run", "jobs/one.job"],
        "jobs/one.job: cannot open the jobs directory: Not a directory",
    ),
    "run of below a file": (
        ["run", "jobs/one.job/x"],
        "jobs/one.job/x: cannot open the jobs directory: Not a directory",
    ),
    "report into no such directory": (["run", "jobs", "--report", "no/r.json"], "no/r.json"),
    "report into a file": (["run", "jobs", "--report", "jobs/one.job/r"], "jobs/one.job/r"),
    "report onto a directory": (["run", "jobs", "--report", "jobs"], "--report jobs: it is "),
    "report onto a job's output": (["run", "jobs", "--report", "jobs/one.out"], "jobs/one.out"),
    "report to a name that ends in a slash": (["run", "jobs", "--report", "r/"], "r/"),
    "restore of no such file": (["run", "jobs", "--restore", "no.bck"], "no.bck"),
    "restore of a directory": (["run", "jobs", "--restore", "jobs"], "jobs: "),
    "restore of a device": (["run", "jobs", "--restore", "/dev/null"], "/dev/null: "),
    "lint without a file": (["lint"], "JOBS_DIR_OR_FILE"),
    "lint of no such file": (["lint", "jobs", "nowhere"], "nowhere: No such file or directory"),
    "lint with an unknown option": (["lint", "jobs", "--quiet"], "--quiet"),
}


EMPTY_PATHS = {
    "JOBS_DIR": ["run"],
    "--report": ["run", "jobs", "--report"],
    "--restore": ["run", "jobs", "--restore"],
    "--data": ["run", "jobs", "--data"],
    "JOBS_DIR_OR_FILE": ["lint", "jobs"],
    "FIFO": ["client", "1"],
    "DIR": ["dump"],
    "SOURCE": ["restore"],
}


@pytest.mark.slow
@pytest.mark.parametrize(("argument", "arguments"), EMPTY_PATHS.items(), ids=EMPTY_PATHS)
def test_empty_path_is_wrong_usage(jobs: Path, argument: str, arguments: list[str]) -> None:
    rest = ["new"] if argument == "SOURCE" else []
    ended = kvs(*arguments, "", *rest, how=Start(cwd=jobs.parent))
    message = f"kvs {arguments[0]}: argument {argument}: the path is empty; "
    assert only_line(ended) == f"{message}see 'kvs {arguments[0]} --help'"
    assert ended.status == 2
    assert sorted(jobs.parent.rglob("*")) == [jobs, jobs / "one.job"]


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "message"), WRONG_USAGE.values(), ids=WRONG_USAGE)
def test_wrong_usage_is_reported_in_one_line(
    jobs: Path, arguments: list[str], message: str
) -> None:
    ended = kvs(*arguments, how=Start(cwd=jobs.parent))
    line = only_line(ended)
    assert ended.status == 2
    assert line.startswith("kvs")
    assert message in line
    assert sorted(jobs.parent.rglob("*")) == [jobs, jobs / "one.job"]


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        (b"--new\nline", r"--new\nline"),
        (b"--red\x1b[31m", r"--red\x1b[31m"),
        (b"--latin\xe9", r"--latin\xe9"),
    ],
)
def test_unknown_option_is_shown_escaped(jobs: Path, argument: bytes, shown: str) -> None:
    ended = kvs("run", jobs, argument)
    assert ended.status == 2
    assert shown in only_line(ended)


@pytest.mark.slow
@pytest.mark.parametrize("name", [b"new\nline", b"red\x1b[31m", b"latin\xe9", b"c1\xc2\x9b31m"])
@pytest.mark.parametrize(
    "arguments", [["run"], ["lint"], ["run", "jobs", "--restore"], ["run", "jobs", "--report"]]
)
def test_missing_path_is_shown_escaped(jobs: Path, arguments: list[str], name: bytes) -> None:
    ended = kvs(*arguments, name + b"/x", how=Start(cwd=jobs.parent))
    shown = name.replace(b"\xc2\x9b", b"\\x9b").decode(errors="backslashreplace")
    assert ended.status == 2
    assert shown.replace("\n", r"\n").replace("\x1b", r"\x1b") in only_line(ended)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["run", "--help"]])
def test_version_and_help_are_results(arguments: list[str]) -> None:
    ended = kvs(*arguments)
    assert (ended.status, ended.stderr) == (0, b"")
    assert ended.stdout.endswith(b"\n")
    if arguments == ["--version"]:
        assert ended.stdout == f"kvs {VERSION} (engine: {engine_name()})\n".encode()


def test_help_lists_options_and_exit_statuses() -> None:
    usage = kvs("--help").stdout.decode() + kvs("run", "--help").stdout.decode()
    options = ["--threads", "--backups", "--restore", "--report", "--quiet", "--version", "lint"]
    for word in [*options, "Exit status"]:
        assert word in usage


def test_help_of_run_and_serve_names_stores_and_defaults() -> None:
    run, serve = (
        " ".join(kvs(name, "--help").stdout.decode().split()) for name in ("run", "serve")
    )
    assert "against one store, a new one or that of --data" in run
    assert "debug, info, warning or error (default: info)" in serve


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    [
        "0",
        "000",
        "400",
        "0066",
        "266",
        "1600",
        "6",
        "-600",
        "0o600",
        "640",
        "604",
        "644",
        "666",
        "660",
        "606",
        "626",
        "662",
        "700",
        "610",
        "601",
        "777",
    ],
)
def test_mode_readable_by_others_is_wrong_usage(jobs: Path, mode: str) -> None:
    fifo = jobs.parent / "fifo"
    ended = kvs("serve", jobs, "1", "1", fifo, f"--fifo-mode={mode}")
    assert ended.status == 2
    assert only_line(ended) == (
        "kvs serve: argument --fifo-mode: only the server may read the registration pipe: the mode "
        "is 600, 620 (its group may connect), 602 (others may) or 622 (both may), not "
        f"'{mode}'; see 'kvs serve --help'"
    )
    assert sorted(jobs.parent.rglob("*")) == [jobs, jobs / "one.job"]


def test_successful_run_exits_with_0(jobs: Path) -> None:
    ended = kvs("run", jobs)
    assert (ended.status, ended.stderr) == (0, b"")
    assert (jobs / "one.out").read_bytes() == b"[(k,v)]\n"
    assert leftovers(jobs) == []


def test_directory_without_jobs_is_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "no.jobs").touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "x.job").touch()
    ended = kvs("run", tmp_path)
    assert (ended.status, ended.lines) == (0, [f"{tmp_path}: no jobs (no file ends in .job)"])
    assert len(ended.stdout.splitlines()) == 1
    assert kvs("run", "--quiet", tmp_path).lines == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["below", "no.jobs", "x.job"]


def test_invalid_command_is_reported_and_exits_with_1(jobs: Path) -> None:
    write_jobs(jobs, {"one": "READ [a]\n\n  READ [k,]\nREAD [k]"})
    ended = kvs("run", "jobs", "--quiet", how=Start(cwd=jobs.parent))
    line = only_line(ended)
    assert ended.status == 1
    assert line.startswith("jobs/one.job:3:11: ")
    assert (jobs / "one.out").read_bytes() == b"[(a,KVSERROR)]\n[(k,KVSERROR)]\n"


def test_directory_of_any_name_is_accepted(tmp_path: Path) -> None:
    write_jobs(tmp_path / "-jobs", {"-one": GOOD})
    ended = kvs("run", "--quiet", "--", "-jobs", how=Start(cwd=tmp_path))
    assert (ended.status, ended.stderr) == (0, b"")
    assert (tmp_path / "-jobs" / "-one.out").read_bytes() == b"[(k,v)]\n"


def test_options_may_precede_and_follow_the_directory(jobs: Path) -> None:
    assert kvs("run", "--threads=3", jobs, "--backups", "1").status == 0


def test_link_to_a_directory_is_followed(jobs: Path) -> None:
    link = jobs.with_name("link")
    link.symlink_to(jobs)
    assert kvs("run", link).status == 0
    assert (jobs / "one.out").exists()


def test_installed_command_runs(jobs: Path) -> None:
    program = Path(sys.executable).with_name("kvs")
    ended = subprocess.run(
        [program, "run", jobs, "--quiet"], timeout=SECONDS, check=False, capture_output=True
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
