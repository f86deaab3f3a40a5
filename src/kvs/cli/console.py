"""The console: a session on a terminal, with a prompt, history, completion and help.

Laws:

- The terminal echoes nothing and hands over every key at once from beginning to end, also between
  two prompts: so what is typed ahead, Ctrl-D included, is there for the next prompt.
- What comes while a prompt is on is written by `Console._print`, on the loop's thread, between
  erasing and drawing the prompt. prompt_toolkit's `patch_stdout` would leave that mode meanwhile.
"""

import asyncio
import contextlib
import os
import re
import signal
import sys
import termios
from collections.abc import Iterable, Iterator
from typing import NoReturn

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from kvs.cli.dialogue import Conversation, Renderer, reply_line
from kvs.cli.lint import excerpt_with_caret
from kvs.cli.signals import SIGNALS
from kvs.cli.stdio import StdoutClosed
from kvs.client.commands import COMMANDS, HELP, named_keys, parse_line
from kvs.client.transport import Transport
from kvs.language.diagnostics import Diagnostic
from kvs.posix.files import PRIVATE_MODE, open_regular
from kvs.protocol.replies import Notification, Reply
from kvs.text import os_error_text, printable

PROMPT = "kvs> "

GREETING = "HELP lists the commands, Tab completes, Ctrl-D disconnects."

MAX_REMEMBERED_KEYS = 10_000
"""So many keys are offered for completion: the last ones seen."""


class Console(Renderer):
    """A session on a terminal. For the main thread."""

    def __init__(self, link: Transport) -> None:
        self._link = link
        self._dialogue = Conversation(link, self)
        self._keys = Keys()
        self._number = 0
        self._event = asyncio.Event()
        self._session: PromptSession[str] = PromptSession(
            PROMPT,
            history=_history(),
            completer=Completions(self._keys),
            complete_while_typing=False,
        )

    def run(self) -> int:
        """Talk until a person, the server or a signal ends it; return the exit status."""
        return asyncio.run(self._run())

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._link.fileno(), self._event.set)
        with _raw_input_mode(sys.stdin.fileno()), _cancelled_by_signals(loop) as caught:
            self._print(GREETING + "\n")
            try:
                while not self._dialogue.over:
                    line = await self._ask()
                    await self._execute_line(line.encode(errors="surrogateescape"))
            except asyncio.CancelledError:
                if not caught:
                    raise
                return 128 + caught[0]
            finally:
                loop.remove_reader(self._link.fileno())
        return 0

    async def _ask(self) -> str:
        """Ask for a line, showing what comes meanwhile."""
        asking = asyncio.ensure_future(_line_from(self._session))
        showing = asyncio.ensure_future(self._show_notifications())
        try:
            await asyncio.wait({asking, showing}, return_when=asyncio.FIRST_COMPLETED)
            return asking.result() if asking.done() else showing.result()
        finally:
            asking.cancel()
            showing.cancel()
            await asyncio.gather(asking, showing, return_exceptions=True)

    async def _execute_line(self, line: bytes) -> None:
        self._number += 1
        if line.strip() == b"HELP":
            self.output(HELP)
            return
        meant = parse_line(line)
        if isinstance(meant, Diagnostic):
            self.error(line, self._number, meant.column, meant.reason)
            return
        self._keys.add(named_keys(line))
        self._dialogue.send_command(meant, line, self._number)
        while not self._dialogue.step():
            await self._wait_for_event()

    async def _show_notifications(self) -> NoReturn:
        while True:
            self._dialogue.step()
            await self._wait_for_event()

    async def _wait_for_event(self) -> None:
        """Wait for the server, or for the time at which the dialogue wants to go on."""
        await set_within(self._event, self._dialogue.seconds_left())
        self._event.clear()

    # What is seen. Control characters are shown escaped: a key may hold any.

    def reply(self, reply: Reply) -> None:
        """Show the line of a response."""
        self._print(reply_line(reply))

    def changes(self, changes: list[Notification]) -> None:
        """Show a line for each notification, above the prompt if there is one."""
        self._keys.add(change.key for change in changes)
        lines = [f"({printable(change.key)},{printable(change.value)})\n" for change in changes]
        self._print("".join(lines))

    def output(self, output: bytes) -> None:
        """Show what commands wrote."""
        lines = output.split(b"\n")[:-1]
        self._print("".join(printable(line) + "\n" for line in lines))

    def error(self, line: bytes, number: int, column: int, reason: str) -> None:  # noqa: ARG002
        """Show the line again, with a caret under the place, and the reason."""
        self._print(f"{excerpt_with_caret(line, Diagnostic(0, column, reason))}\n{reason}\n")

    def _print(self, text: str) -> None:
        """Write `text`, whole lines, above the prompt if there is one."""
        app = self._session.app
        prompting = app.is_running
        try:
            if prompting:
                app.renderer.erase()
            app.output.write_raw(text)
            app.output.flush()
            if prompting:
                app.renderer.request_absolute_cursor_position()
                app.invalidate()
        except OSError as error:
            raise StdoutClosed(f"the terminal is gone: {os_error_text(error)}") from error


async def set_within(event: asyncio.Event, seconds: float | None) -> None:
    """Return when `event` is set, or after `seconds`; None is no limit.

    Not by `asyncio.wait_for`: until Python 3.12 it loses a cancellation that comes as `event` is
    set, and a signal with it.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def _line_from(session: "PromptSession[str]") -> str:
    """Return a typed line: none (it is empty) after Ctrl-C, the last one after Ctrl-D."""
    # The exceptions must not leave the task: a loop ends with KeyboardInterrupt.
    try:
        return await session.prompt_async(handle_sigint=False)
    except KeyboardInterrupt:
        return ""
    except EOFError:
        return "DISCONNECT"


class Keys:
    """The keys that were seen, the last ones, in order. For one thread."""

    def __init__(self) -> None:
        self._seen: dict[str, None] = {}

    def add(self, keys: Iterable[bytes]) -> None:
        """Take note of keys; one that a terminal could not take is left out."""
        for key in keys:
            text = key.decode(errors="replace")
            if text.isprintable() and "\ufffd" not in text:
                self._seen.pop(text, None)
                self._seen[text] = None
        while len(self._seen) > MAX_REMEMBERED_KEYS:
            del self._seen[next(iter(self._seen))]

    def beginning_with(self, start: str) -> list[str]:
        """Return those that begin so, in order of the alphabet."""
        return sorted(key for key in self._seen if key.startswith(start))


class Completions(Completer):
    """The names of commands, and where a key is to stand, keys."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:  # noqa: ARG002
        """Yield what could be meant before the cursor."""
        place = _PROMPT_POSITION.fullmatch(document.text_before_cursor)
        if place is None:
            return
        key = place["pair"] if place["key"] is None else place["key"]
        if key is None:
            found = [name for name in COMMANDS if name.startswith(place["name"])]
            start = place["name"]
        else:
            found, start = self._keys.beginning_with(key), key
        for text in found:
            yield Completion(text, start_position=-len(start))


_PROMPT_POSITION = re.compile(
    r"[ \t]*(?P<name>[A-Z]*)"
    r"(?:(?<=WRITE)[ \t]*\[(?:[ \t]*\([^)]*\))*[ \t]*\([ \t]*(?P<pair>[^ \t,)\]]*)"
    r"|(?<!WRITE)[ \t]*\[(?:[^,\]]*,)*[ \t]*(?P<key>[^ \t,)\]]*))?"
)


@contextlib.contextmanager
def _raw_input_mode(terminal: int) -> Iterator[None]:
    """Have every key handed over at once and as it is, with no echo (termios(3)); Ctrl-C stays."""
    before = termios.tcgetattr(terminal)
    mode = termios.tcgetattr(terminal)
    mode[0] &= ~termios.ICRNL
    mode[3] &= ~(termios.ECHO | termios.ICANON)
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
    termios.tcsetattr(terminal, termios.TCSANOW, mode)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(terminal, termios.TCSANOW, before)


@contextlib.contextmanager
def _cancelled_by_signals(loop: asyncio.AbstractEventLoop) -> Iterator[list[int]]:
    """Cancel the current task at the first signal that has a handler, and yield where it is told.

    The prompt is then put away in good order, which a handler that raises would not let happen.
    """
    task = asyncio.current_task()
    caught: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]

    def catch(number: int) -> None:
        if not caught and task is not None:
            caught.append(number)
            task.cancel()

    for number in handled:
        loop.add_signal_handler(number, catch, number)
    try:
        yield caught
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN if caught else before[number])


class _TolerantFileHistory(FileHistory):
    """A history whose file may be lost under way."""

    def store_string(self, string: str) -> None:
        """Write a line down, if that can be done."""
        with contextlib.suppress(OSError):
            super().store_string(string)


def _history() -> History:
    """Return the user's history (XDG Base Directory Specification), private; or one in memory."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        state = os.path.expanduser("~/.local/state")
    path = os.path.join(state, "kvs", "history")
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        file = open_regular(os.fsencode(path), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW)
        try:
            os.fchmod(file, PRIVATE_MODE)
        finally:
            os.close(file)
    except OSError:
        return InMemoryHistory()
    return _TolerantFileHistory(path)
