"""The console: a session on a terminal, with a prompt, history, completion and help.

Invariants:

- The terminal must stay in raw input mode (`_raw_input_mode`) for the whole session, also between
  two prompts, so that the next prompt gets what the user types ahead, Ctrl-D included.
- Messages that arrive during a prompt must be written by `Console._print`, on the loop's thread,
  which erases and redraws the prompt. prompt_toolkit's `patch_stdout` would leave the raw mode.
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

from kvs.cli.executor import CommandExecutor
from kvs.cli.lint import excerpt_with_caret
from kvs.cli.render import Renderer, change_line, reply_line, terminal_line
from kvs.cli.signals import SIGNALS
from kvs.cli.stdio import StdoutClosed
from kvs.client.commands import COMMANDS, HELP, named_keys, parse_line
from kvs.client.transport import Transport
from kvs.language.diagnostics import Diagnostic
from kvs.language.grammar import spell
from kvs.posix.files import PRIVATE_MODE, open_regular
from kvs.protocol.replies import Reply
from kvs.store.watch import Change
from kvs.text import os_error_text

PROMPT = "kvs> "

GREETING = "HELP lists the commands, Tab completes, Ctrl-D disconnects."

MAX_REMEMBERED_KEYS = 10_000
"""Maximum keys offered for completion, the most recent ones."""


class Console(Renderer):
    """A session on a terminal.

    Threads: for the main thread.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._executor = CommandExecutor(transport, self)
        self._keys = Keys()
        self._number = 0
        self._readable = asyncio.Event()
        """Set when the transport becomes readable."""
        self._session: PromptSession[str] = PromptSession(
            PROMPT,
            history=_history(),
            completer=Completions(self._keys),
            complete_while_typing=False,
        )

    def run(self) -> int:
        """Run until the user, the server or a signal ends the session; return the exit status."""
        return asyncio.run(self._run())

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._transport.fileno(), self._readable.set)
        with _raw_input_mode(sys.stdin.fileno()), _cancelled_by_signals(loop) as caught:
            self._print(GREETING + "\n")
            try:
                while not self._executor.is_over:
                    line = await self._read_line()
                    await self._execute_line(line.encode(errors="surrogateescape"))
            except asyncio.CancelledError:
                if not caught:
                    raise
                return 128 + caught[0]
            finally:
                loop.remove_reader(self._transport.fileno())
        return 0

    async def _read_line(self) -> str:
        """Prompt for a line and return it; show meanwhile what the server sends."""
        prompt = asyncio.ensure_future(_prompt(self._session))
        display = asyncio.ensure_future(self._show_messages())
        try:
            await asyncio.wait({prompt, display}, return_when=asyncio.FIRST_COMPLETED)
            return prompt.result() if prompt.done() else display.result()
        finally:
            prompt.cancel()
            display.cancel()
            await asyncio.gather(prompt, display, return_exceptions=True)

    async def _execute_line(self, line: bytes) -> None:
        self._number += 1
        if line.strip() == b"HELP":
            self.show_output(HELP)
            return
        command = parse_line(line)
        if isinstance(command, Diagnostic):
            is_end = line.strip().upper() in {b"QUIT", b"EXIT"}
            reason = "DISCONNECT, or Ctrl-D, ends the session" if is_end else command.reason
            self.show_error(line, self._number, command.column, reason)
            return
        self._keys.add(named_keys(line))
        self._executor.start(command, line, self._number)
        while not self._executor.step():
            await self._wait()

    async def _show_messages(self) -> NoReturn:
        while True:
            self._executor.step()
            await self._wait()

    async def _wait(self) -> None:
        """Wait until the executor has to be called again."""
        await wait_for_event(self._readable, self._executor.remaining_seconds())
        self._readable.clear()

    # Rendering. Control characters, which a word may contain, are shown escaped.

    def show_reply(self, reply: Reply) -> None:
        """Show the line of a reply."""
        self._print(reply_line(reply))

    def show_changes(self, changes: list[Change]) -> None:
        """Show a line for each change, above the prompt if there is one."""
        self._keys.add(change.key for change in changes)
        self.show_output(b"".join(map(change_line, changes)))

    def show_output(self, output: bytes) -> None:
        """Show the output of commands."""
        lines = output.split(b"\n")[:-1]
        self._print("".join(terminal_line(line) + "\n" for line in lines))

    def show_error(self, line: bytes, number: int, column: int, reason: str) -> None:  # noqa: ARG002
        """Show the line with a caret under the column, and the reason."""
        self._print(f"{excerpt_with_caret(line, Diagnostic(0, column, reason))}\n{reason}\n")

    def _print(self, text: str) -> None:
        """Write `text`, complete lines, above the prompt if there is one."""
        app = self._session.app
        has_prompt = app.is_running
        try:
            if has_prompt:
                app.renderer.erase()
            app.output.write_raw(text)
            app.output.flush()
            if has_prompt:
                app.renderer.request_absolute_cursor_position()
                app.invalidate()
        except OSError as error:
            raise StdoutClosed(f"terminal: cannot write: {os_error_text(error)}") from error


async def wait_for_event(event: asyncio.Event, seconds: float | None) -> None:
    """Return when `event` is set, or after `seconds`; None: no limit.

    `asyncio.wait_for` would not do: before Python 3.12 it loses a cancellation, and with it a
    signal, that comes in the moment in which `event` is set.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def _prompt(session: "PromptSession[str]") -> str:
    """Return the line that the user types: an empty one at Ctrl-C, ``DISCONNECT`` at Ctrl-D."""
    # The exceptions must not leave the task: KeyboardInterrupt would stop the loop.
    try:
        return await session.prompt_async(handle_sigint=False)
    except KeyboardInterrupt:
        return ""
    except EOFError:
        return "DISCONNECT"


class Keys:
    """The keys that were used or changed most recently, for completion.

    Threads: for one thread.
    """

    def __init__(self) -> None:
        self._keys: dict[str, None] = {}
        """Oldest first."""

    def add(self, keys: Iterable[bytes]) -> None:
        """Remember the spellings of keys, except those that a terminal cannot show."""
        for key in keys:
            text = spell(key).decode(errors="replace")
            if text.isprintable() and "\ufffd" not in text:
                self._keys.pop(text, None)
                self._keys[text] = None
        while len(self._keys) > MAX_REMEMBERED_KEYS:
            del self._keys[next(iter(self._keys))]

    def with_prefix(self, prefix: str) -> list[str]:
        """Return the spellings that start with `prefix`, in lexical order."""
        return sorted(key for key in self._keys if key.startswith(prefix))


class Completions(Completer):
    """Completes the names of commands, and keys where the language expects them."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:  # noqa: ARG002
        """Yield the completions of the word before the cursor."""
        match = _INCOMPLETE_LINE.fullmatch(document.text_before_cursor)
        if match is None:
            return
        prefix = match["pair"] if match["key"] is None else match["key"]
        if prefix is None:
            prefix = match["name"]
            names = CONTINUATIONS if match["before"] else COMMANDS
            words = [name for name in names if name.startswith(prefix)]
        else:
            words = self._keys.with_prefix(prefix)
        for word in words:
            yield Completion(word, start_position=-len(prefix))


CONTINUATIONS = ("ADD", "AFTER", "DELETE", "FOR", "LIMIT", "READ", "UNTIL", "WRITE")
"""What may follow a part of a command in the same line."""

_BLANKS = r"[ \t]*+"
_PLAIN = r'[^ \t,)\]"][^ \t,)\]]*+'
_QUOTED_START = r'"(?>(?:[^"\\]|\\.)*)'
_WORD = rf'(?:{_QUOTED_START}"|{_PLAIN}){_BLANKS}'
_PAIR = rf"\({_BLANKS}{_WORD},{_BLANKS}{_WORD}\){_BLANKS}"
_COMPLETE_LIST = rf"\[{_BLANKS}(?:(?>(?:{_PAIR})+)|{_WORD}(?>(?:,{_BLANKS}{_WORD})*))\]"
_COMPLETE_PART = rf"[A-Z]*+{_BLANKS}{_COMPLETE_LIST}{_BLANKS}|[A-Z0-9]++[ \t]++(?!\[)"
_INCOMPLETE_WORD = rf"(?:{_QUOTED_START}|{_PLAIN}|)"
_INCOMPLETE_LINE = re.compile(
    rf"{_BLANKS}(?P<before>(?>(?:{_COMPLETE_PART})*))"
    r"(?P<name>[A-Z]*+)"
    rf"(?:(?:(?<=WRITE)|(?<=ADD)|(?<=IF)){_BLANKS}\[{_BLANKS}(?>(?:{_PAIR})*)"
    rf"\({_BLANKS}(?P<pair>{_INCOMPLETE_WORD})"
    rf"|(?<!WRITE)(?<!ADD)(?<!IF){_BLANKS}\[{_BLANKS}(?>(?:{_WORD},{_BLANKS})*)"
    rf"(?P<key>{_INCOMPLETE_WORD}))?"
)


@contextlib.contextmanager
def _raw_input_mode(terminal: int) -> Iterator[None]:
    """Get every key at once, unchanged and without echo (termios(3)); Ctrl-C still signals."""
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
    """Cancel the current task at the first signal that is not ignored; yield a list that gets it.

    A cancelled prompt restores the terminal; an exception from a signal handler would not let it.
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
    """A history file; lines that cannot be written to it are dropped."""

    def store_string(self, string: str) -> None:
        """Append a line to the file, if possible."""
        with contextlib.suppress(OSError):
            super().store_string(string)


def _history() -> History:
    """Return the user's history file (XDG Base Directory Specification), or a history in memory.

    The file is readable by the user only.
    """
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
