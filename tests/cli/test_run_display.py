"""``kvs run`` on a terminal (a pseudo-terminal): progress, errors, a table."""

import io
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from kvs.cli.run_display import Terminal
from tests.cli.terminal import on_terminal
from tests.helpers import (
    LONG_WAIT,
    SECONDS,
    USUAL,
    Start,
    content,
    interrupt_until_gone,
    is_blocked_on,
    kvs,
    leftovers,
    stopped_children,
    until,
    write_jobs,
)

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


def run_on_terminal(
    *arguments: str | Path, how: Start = USUAL, columns: int = 100
) -> tuple[int, str, str]:
    """Run the program on a terminal; return its exit status, the text, and the text as written."""
    with on_terminal(*arguments, how=how, columns=columns) as (process, terminal):
        text = terminal.read_to_end()
        return process.wait(SECONDS), text, terminal.raw


def table(text: str) -> list[list[str]]:
    """Return the rows of the table at the end of `text`, headings first."""
    lines = (line.strip() for line in text[text.rindex("job ") :].splitlines())
    rows = (line for line in lines if line and "─" not in line and "jobs had errors" not in line)
    return [row.split(maxsplit=5) for row in rows]


@pytest.mark.slow
def test_progress_is_followed_by_a_table(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"a": "WRITE [(k,v)]\nBACKUP\n", "b": LONG_WAIT, "c": "HELP\nfoo\n"})
    arguments = ("run", tmp_path, "--threads", "2")
    with on_terminal(*arguments, how=Start(children_stop="birth")) as (process, terminal):
        terminal.read_until(r"2 of 3 jobs done, 1 running, [0-9,]+ commands/s, 1 backup in flight")
        (child,) = stopped_children(process)
        os.kill(child, signal.SIGCONT)
        terminal.read_until("2 of 3 jobs done, 1 running, [0-9,]+ commands/s, 0 backups in flight")
        terminal.type(b"\x03")
        text = terminal.read_to_end()
        assert process.wait(SECONDS) == 130
    headings, *rows = table(text)
    assert headings == ["job", "commands", "invalid", "backups", "seconds", "state"]
    assert [row[:4] for row in rows] == [
        ["a", "2", "0", "1"],
        ["b", "1", "0", "0"],
        ["c", "1", "1", "0"],
    ]
    assert [row[5].split(",")[0] for row in rows] == ["done", "stopped", "done"]


def test_progress_is_erased_and_the_cursor_restored(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"a": "HELP\n"})
    status, text, raw = run_on_terminal("run", tmp_path)
    assert status == 0
    assert raw.rindex(SHOW_CURSOR) > raw.rindex(HIDE_CURSOR)
    assert "in flight" not in text[text.rindex("job ") :]
    assert text.endswith("\n")


def test_table_has_a_row_for_each_of_many_jobs(tmp_path: Path) -> None:
    write_jobs(tmp_path, {f"job{number:03}": "HELP\n" for number in range(200)})
    _, text, _ = run_on_terminal("run", tmp_path)
    assert [row[0] for row in table(text)] == ["job", *(f"job{number:03}" for number in range(200))]


@pytest.mark.parametrize("columns", [1, 10, 40, 70])
def test_narrow_terminal_folds_names(tmp_path: Path, columns: int) -> None:
    name = "abcdefghij" * 4
    write_jobs(tmp_path, {name: "HELP\n"})
    status, text, _ = run_on_terminal("run", tmp_path, columns=columns)
    assert status == 0
    if columns >= 70:
        lines = text[text.rindex("─") + 1 :].splitlines()
        assert "".join(line.split()[0] for line in lines if line.strip()) == name


NAMES_AND_LINES = {
    "plain": ("plain", "foo"),
    "far longer than a line of the terminal": ("long" * 50, "y" * 80),
    "what rich takes for its markup": ("[red]x[", "READ [a][/red]"),
    "what rich takes for an emoji": (":x:", ":warning: "),
    "wide characters": ("漢字" * 40, "漢字" * 40),
    "control characters": ("\x1b[31m\n\x9b", "\x1b]0;title\a"),
    "numbers and quotes, which rich would colour": ("1.5e3'x'", "'127.0.0.1'"),
}


@pytest.mark.slow
@pytest.mark.parametrize("columns", [20, 80])
@pytest.mark.parametrize(("name", "line"), NAMES_AND_LINES.values(), ids=NAMES_AND_LINES)
def test_errors_are_shown_unchanged(tmp_path: Path, name: str, line: str, columns: int) -> None:
    write_jobs(tmp_path, {name: f"{line}\nHELP\n {line}\n"})
    elsewhere = kvs("run", ".", "--quiet", how=Start(cwd=tmp_path))
    status, text, raw = run_on_terminal("run", ".", how=Start(cwd=tmp_path), columns=columns)
    assert status == elsewhere.status == 1
    assert len(elsewhere.lines) == 2
    for error in elsewhere.lines:
        assert f"{error}\r\n" in raw
    assert ".job: " not in text


def test_names_in_the_table_are_shown_unchanged(tmp_path: Path) -> None:
    write_jobs(tmp_path, {":x:[red]x": "HELP\n"})
    _, text, _ = run_on_terminal("run", tmp_path)
    assert table(text)[1][0] == ":x:[red]x"


def test_wrong_usage_is_a_plain_line(tmp_path: Path) -> None:
    status, _, raw = run_on_terminal("run", "nowhere", how=Start(cwd=tmp_path))
    assert status == 2
    assert "kvs run: nowhere: cannot open the jobs directory: No such file or directory\r\n" in raw


def test_quiet_shows_only_errors(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"a": "HELP\nfoo\n"})
    status, _, raw = run_on_terminal("run", ".", "--quiet", how=Start(cwd=tmp_path))
    assert status == 1
    assert re.fullmatch(r"\./a\.job:2:1: 'foo' is not a command; [^\r\n\x1b]*\r\n", raw)


def test_quiet_shows_nothing_on_success(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"a": "HELP\n"})
    assert run_on_terminal("run", tmp_path, "--quiet") == (0, "", "")


def test_lint_writes_no_control_characters(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"a": "HELP\nfoo\n"})
    status, _, raw = run_on_terminal("lint", tmp_path)
    assert status == 1
    assert raw.replace("\r\n", "").isprintable()


def test_dumb_terminal_gets_no_escape_sequences(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"a": "HELP\nfoo\n"})
    status, text, raw = run_on_terminal(
        "run", ".", how=Start(cwd=tmp_path, environment={"TERM": "dumb"})
    )
    assert status == 1
    assert "./a.job:2:1: 'foo' is not a command" in text
    assert table(text)[1][0] == "a"
    assert "\x1b" not in raw


def test_progress_is_on_stderr_when_results_go_to_a_file(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": LONG_WAIT})
    results = tmp_path / "results"
    how = Start(redirections=f">'{results}'")
    with on_terminal("run", jobs, how=how) as (process, terminal):
        terminal.read_until("0 of 1 job done, 1 running")
        process.send_signal(signal.SIGTERM)
        text = terminal.read_to_end()
        assert process.wait(SECONDS) == 143
    assert "commands/s" in text
    assert "stopped by SIGTERM" in text
    assert results.read_text().replace("\n", "").isprintable()
    assert table(results.read_text())[1][:2] == ["a", "1"]


def test_errors_in_a_file_are_plain(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "foo\n"})
    errors = tmp_path / "errors"
    status, text, raw = run_on_terminal("run", jobs, how=Start(redirections=f"2>'{errors}'"))
    assert status == 1
    assert errors.read_text().count("\n") == 1
    assert errors.read_text().rstrip("\n").isprintable()
    assert "commands/s" not in text
    assert table(text)[1][:3] == ["a", "0", "1"]
    assert HIDE_CURSOR not in raw


def test_ctrl_c_stops_jobs_and_finishes_a_backup(tmp_path: Path) -> None:
    """The terminal signals the whole foreground, also the child that writes the backup."""
    write_jobs(tmp_path, {"a": "WRITE [(k,v)]\nBACKUP\nREAD [k]\n" + LONG_WAIT})
    with on_terminal("run", tmp_path, how=Start(children_stop="birth")) as (process, terminal):
        until(lambda: b"Waiting" in content(tmp_path / "a.out"))
        (child,) = stopped_children(process)
        terminal.type(b"\x03")
        os.kill(child, signal.SIGCONT)
        text = terminal.read_to_end()
        assert process.wait(SECONDS) == 130
    assert "stopped by SIGINT; 1 of 1 job unfinished" in text
    assert (tmp_path / "a-1.bck").read_bytes() == b"(k, v)\n"
    assert (tmp_path / "a.out").read_bytes() == b"[(k,v)]\nWaiting...\n"
    assert leftovers(tmp_path) == []


def test_second_signal_restores_the_cursor(tmp_path: Path) -> None:
    write_jobs(tmp_path, {"a": "BACKUP\n"})
    with on_terminal("run", tmp_path, how=Start(children_stop="birth")) as (process, terminal):
        terminal.read_until("1 backup in flight")
        assert interrupt_until_gone(process) == 130
        terminal.read_to_end()
        assert terminal.raw.rindex(SHOW_CURSOR) > terminal.raw.rindex(HIDE_CURSOR)


def test_second_signal_exits_despite_a_stopped_terminal(tmp_path: Path) -> None:
    """The terminal is not read, as after Ctrl-S, and its buffer is too small for the errors."""
    write_jobs(tmp_path, {"a": "x\n" * 1_000})
    with on_terminal("run", tmp_path) as (process, _):
        until((tmp_path / "a.out").exists)
        until(lambda: is_blocked_on(process, descriptor=2))
        assert interrupt_until_gone(process) == 130


def test_hangup_does_not_stop_a_run_that_ignores_sighup(tmp_path: Path) -> None:
    """As with nohup(1): the progress is lost, but the jobs run."""
    scripts = {"a": "BACKUP\nREAD [x]\nBACKUP\nfoo\nREAD [y]\n", "b": "READ [z]\n"}
    write_jobs(tmp_path, scripts)
    how = Start(children_stop="birth", ignored=[signal.SIGHUP])
    arguments = ("run", tmp_path, "--threads", "1", "--backups", "1")
    with on_terminal(*arguments, how=how) as (process, terminal):
        until(lambda: content(tmp_path / "a.out"))
        (first,) = stopped_children(process)
        terminal.hang_up()
        os.kill(first, signal.SIGCONT)
        (second,) = until(lambda: [pid for pid in stopped_children(process) if pid != first])
        os.kill(second, signal.SIGCONT)
        assert process.wait(SECONDS) == 1
    assert (tmp_path / "a.out").read_bytes() == b"[(x,KVSERROR)]\n[(y,KVSERROR)]\n"
    assert (tmp_path / "b.out").read_bytes() == b"[(z,KVSERROR)]\n"


def test_terminal_may_end_after_stderr_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stderr", stderr)
    terminal = Terminal()
    stderr.close()
    terminal.close()
    assert terminal.closed
