"""``kvs client`` on a terminal (a pseudo-terminal): the screen and the keys."""

import asyncio
import os
import re
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from kvs.cli.console import MAX_REMEMBERED_KEYS, Completions, Keys, wait_for_event
from tests.cli.terminal import Terminal, on_terminal
from tests.helpers import SECONDS, Start, until
from tests.server.raw_client import Served, serving

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


@pytest.fixture
def home() -> Iterator[Path]:
    """A runtime directory and state directory."""
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as name:
        yield Path(name)
        assert not (Path(name) / "kvs").exists() or set(os.listdir(Path(name) / "kvs")) <= {
            "history"
        }


@pytest.fixture
def served(home: Path) -> Iterator[Served]:
    with serving() as server:
        yield server


@contextmanager
def console(home: Path, fifo: Path) -> Iterator[tuple[subprocess.Popen[bytes], Terminal]]:
    """Start a client on a terminal, and wait for its prompt."""
    environment = {
        "XDG_RUNTIME_DIR": str(home),
        "XDG_STATE_HOME": str(home),
        "PROMPT_TOOLKIT_NO_CPR": "1",  # a pseudo-terminal does not answer
    }
    with on_terminal("client", "me", fifo, how=Start(environment=environment)) as started:
        process, terminal = started
        terminal.read_until("Ctrl-D disconnects(.|\n)*kvs>")
        try:
            yield started
        finally:
            if process.poll() is None:
                process.terminate()
                terminal.read_to_end()
                process.wait(SECONDS)


def enter(terminal: Terminal, line: str, answer: str) -> None:
    """Type a line, and wait for the answer behind it."""
    count = len(re.findall(answer, terminal.text))
    terminal.type(line.encode() + b"\r")
    terminal.read_until(f"(?:(?:.|\n)*?{answer}){{{count + 1}}}")


def test_commands_are_answered_and_ctrl_d_disconnects(home: Path, served: Served) -> None:
    with console(home, served.path) as (process, terminal):
        assert "Server returned 0 for operation: connect" in terminal.text
        enter(terminal, "SUBSCRIBE [a]", "returned 0 for operation: subscribe")
        enter(terminal, "WRITE [(a,1)(b,2)]", r"\(a,1\)\n")
        enter(terminal, "READ [a,b]", r"\n?\[\(a,1\)\(b,2\)\]")
        enter(terminal, "UNSUBSCRIBE [a]", "returned 0 for operation: unsubscribe")
        terminal.type(b"\x04")
        text = terminal.read_to_end()
        assert process.wait(SECONDS) == 0
        assert "returned 0 for operation: disconnect" in text
        assert terminal.raw.rindex(SHOW_CURSOR) > terminal.raw.rindex(HIDE_CURSOR)


def test_input_typed_ahead_is_not_lost(home: Path, served: Served) -> None:
    with console(home, served.path) as (process, terminal):
        terminal.type(b"WAIT 200\rWRITE [(a,1)]\rREAD [a]\r\x04")
        text = terminal.read_to_end()
        assert process.wait(SECONDS) == 0
        assert re.search(r"Waiting...(.|\n)*\[\(a,1\)\](.|\n)*operation: disconnect", text)


def test_disconnect_exits(home: Path, served: Served) -> None:
    with console(home, served.path) as (process, terminal):
        enter(terminal, "DISCONNECT", "operation: disconnect")
        terminal.read_to_end()
        assert process.wait(SECONDS) == 0


def test_notifications_appear_above_the_prompt(home: Path, served: Served) -> None:
    with console(home, served.path) as (_, terminal):
        enter(terminal, "SUBSCRIBE [a]", "operation: subscribe")
        terminal.type(b"READ [half")
        terminal.read_until(r"READ \[half")
        served.store.write({"a": "news"})
        terminal.read_until(r"\(a,news\)\n(.|\n)*kvs> READ \[half")
        terminal.type(b",a]\r")
        terminal.read_until(r"\[\(a,news\)\(half,KVSERROR\)\]")


def test_invalid_line_is_shown_with_caret_and_reason(home: Path, served: Served) -> None:
    with console(home, served.path) as (_, terminal):
        enter(terminal, "SUBSCRIBE a", "expected")
        assert re.search(
            r"    SUBSCRIBE a\n {14}\^\nexpected '\[' after SUBSCRIBE, not 'a'", terminal.text
        )
        enter(terminal, "foo", "'foo' is not a command")
        enter(terminal, "BACKUP", r" BACKUP\n    \^\n")


@pytest.mark.parametrize("line", ["QUIT", "exit"])
def test_word_for_the_end_names_the_command(home: Path, served: Served, line: str) -> None:
    with console(home, served.path) as (_, terminal):
        enter(terminal, line, "DISCONNECT, or Ctrl-D, ends the session")


def test_control_characters_are_shown_escaped(home: Path, served: Served) -> None:
    served.store.write({b"a": b"\x1b[31m\xff"})
    with console(home, served.path) as (_, terminal):
        enter(terminal, "READ [a]", r"\[\(a,\\x1b\[31m\\xff\)\]")
        enter(terminal, "SUBSCRIBE [a]", "operation: subscribe")
        served.store.write({b"a": b"\x9b"})
        terminal.read_until(r"\(a,\\x9b\)")


def test_help_shows_the_commands_of_a_client(home: Path, served: Served) -> None:
    with console(home, served.path) as (_, terminal):
        enter(terminal, "HELP", "a comment")
        for line in (r"SUBSCRIBE \[key\]", "DELAY milliseconds", r"WRITE \[\(key,value\)", "SHOW"):
            assert re.search(line, terminal.text)
        assert "BACKUP" not in terminal.text


def test_tab_completes_commands_and_used_keys(home: Path, served: Served) -> None:
    with console(home, served.path) as (_, terminal):
        terminal.type(b"UNS\t")
        terminal.read_until("UNSUBSCRIBE")
        terminal.type(b" [alphabet]\r")
        terminal.read_until("operation: unsubscribe")
        terminal.type(b"READ [alp\t")
        terminal.read_until(
            r"READ \[(alp)?(.|\n)*habet(.|\n)*READ \[(alp)?(.|\n)*habet|READ \[alphabet"
        )
        terminal.type(b"]\r")
        terminal.read_until(r"\[\(alphabet,KVSERROR\)\]")


def test_history_is_restored_and_private(home: Path, served: Served) -> None:
    with console(home, served.path) as (_, terminal):
        enter(terminal, "READ [remembered]", r"\(remembered,KVSERROR\)")
    file = home / "kvs" / "history"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with console(home, served.path) as (_, terminal):
        terminal.type(b"\x1b[A")
        terminal.read_until("remembered")
        terminal.type(b"\r")
        terminal.read_until(r"\(remembered,KVSERROR\)")


def test_ctrl_c_clears_the_line(home: Path, served: Served) -> None:
    with console(home, served.path) as (process, terminal):
        terminal.type(b"WRITE [(half")
        terminal.read_until("half")
        terminal.type(b"\x03")
        enter(terminal, "READ [a]", r"\[\(a,KVSERROR\)\]")
        assert process.poll() is None


@pytest.mark.parametrize("line", [b"WAIT 3600000\r", b"DELAY 3600000\r"])
def test_ctrl_c_exits_during_a_command(home: Path, served: Served, line: bytes) -> None:
    with console(home, served.path) as (process, terminal):
        enter(terminal, "SUBSCRIBE [a]", "operation: subscribe")
        terminal.type(line)
        terminal.read_until("3600000(.|\n)*\n")
        served.store.write({"a": "news"})
        terminal.read_until(r"\(a,news\)")
        process.send_signal(signal.SIGINT)
        terminal.read_to_end()
        assert process.wait(SECONDS) == 130


def test_wait_for_event_loses_no_cancellation() -> None:
    async def cancelled_after(turns: int) -> bool:
        event = asyncio.Event()
        waiting = asyncio.create_task(wait_for_event(event, SECONDS))
        for turn in range(turns):
            await asyncio.sleep(0)
            if turn == 1:
                event.set()
        refused = not waiting.cancel()
        await asyncio.wait([waiting])
        return waiting.cancelled() or refused

    assert all(asyncio.run(cancelled_after(turns)) for turns in range(8))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_restore_the_terminal(home: Path, served: Served, number: signal.Signals) -> None:
    with console(home, served.path) as (process, terminal):
        process.send_signal(number)
        terminal.read_to_end()
        assert process.wait(SECONDS) == 128 + number
        assert terminal.raw.rindex(SHOW_CURSOR) > terminal.raw.rindex(HIDE_CURSOR)
    assert os.listdir(home / "kvs") == ["history"]
    until(lambda: served.server.sessions == 0)


def test_console_exits_when_the_server_ends_the_session(home: Path, served: Served) -> None:
    with console(home, served.path) as (process, terminal):
        terminal.type(b"READ [ha")
        terminal.read_until("ha")
        served.server.disconnect_all()
        text = terminal.read_to_end()
        assert process.wait(SECONDS) == 1
        assert "kvs client: the server closed the session" in text
        assert "Traceback" not in text


def test_hangup_removes_the_pipes(home: Path, served: Served) -> None:
    with console(home, served.path) as (process, terminal):
        terminal.hang_up()
        assert process.wait(SECONDS) in {0, 1, 129}
        assert os.listdir(home / "kvs") == ["history"]
    until(lambda: served.server.sessions == 0)


def test_completions_fit_the_position_in_the_line() -> None:
    keys = Keys()
    keys.add([b"alpha", b"alps", b"beta", b"two words", b"\xff", b"\x1b"])
    completions = Completions(keys)

    def completed(text: str) -> list[str]:
        return [
            text[: len(text) + completion.start_position] + completion.text
            for completion in completions.get_completions(Document(text), CompleteEvent())
        ]

    assert completed("SU") == ["SUBSCRIBE"]
    assert completed(" D") == [" DELAY", " DISCONNECT", " DELETE"]
    assert completed("X") == []
    assert completed("SUBSCRIBE [al") == ["SUBSCRIBE [alpha", "SUBSCRIBE [alps"]
    assert completed("READ[beta, be") == ["READ[beta, beta"]
    assert completed("WRITE [(al") == ["WRITE [(alpha", "WRITE [(alps"]
    assert completed("WRITE [(al,1) (b") == ["WRITE [(al,1) (beta"]
    assert completed('READ [",],", "tw') == ['READ [",],", "two words"']
    assert completed("IF [(a,1)] W") == ["IF [(a,1)] WRITE"]
    assert completed('IF [(a,")") (al') == ['IF [(a,")") (alpha', 'IF [(a,")") (alps']
    assert completed("WRITE [(a,1)] FOR 50 READ [be") == ["WRITE [(a,1)] FOR 50 READ [beta"]
    assert completed("SHOW L") == ["SHOW LIMIT"]
    assert completed("SHOW [al] AFTER [be") == ["SHOW [al] AFTER [beta"]
    for text in ("WRITE [(a,al", "WRITE [al", "READ al", "DELAY 1", 'READ ["two words"'):
        assert completed(text) == []


def test_keys_are_limited_to_the_most_recent() -> None:
    keys = Keys()
    keys.add(b"k%d" % number for number in range(MAX_REMEMBERED_KEYS + 5))
    keys.add([b"k5"])
    assert len(keys.with_prefix("k")) == MAX_REMEMBERED_KEYS
    assert "k4" not in keys.with_prefix("k4")
    assert "k5" in keys.with_prefix("k5")
