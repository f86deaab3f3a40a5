"""One `execute` request on its way through the store, a slice at a time.

A slice is some short lines, one long line, or one SHOW. The slices are cut so that each takes
about a millisecond at most, as far as one line does not take longer by itself.
"""

from kvs.engine.interface import ExecuteResult, StopReason
from kvs.language.diagnostics import line_at
from kvs.protocol import frames
from kvs.protocol.requests import Execute
from kvs.store.core import StoreCore

MAX_OUTPUT_BYTES = 256 << 20
"""At the command that would take the output past this, a script stops."""

SHORT_BYTES = 1024
"""Maximum bytes of a script that is executed at once, as one slice."""

SHORT_LINES = 16
"""Maximum newlines in a script that is executed at once."""

MEDIUM_BYTES = 16 << 10
"""Maximum bytes of a script that is executed at once where there is time."""

SLICE_BYTES = 4096
"""Bytes of input or of output after which a slice ends; a line that is longer is its own slice."""

FIRST_SLICE_BYTES = 256
"""The same for the first slice, and behind invalid lines, which take the longest."""

SLICE_OUTPUT = 16 << 10
"""Bytes that a slice of short lines adds to a reply, about; more than its budget for errors."""

BLOCK_BYTES = 1 << 20
"""Bytes of output collected in one block of memory.

Blocks are large so that the C library maps each by itself, and returns it when it is freed.
"""

LINE_OUTPUT = 23
"""Maximum bytes that a READ or DELETE writes for each byte of its line, rounded up."""

SHOWN_PAIR_BYTES = 85
"""Maximum bytes that SHOW writes for one pair."""


class Blocks:
    """Bytes that grow at their end, in blocks. For one thread at a time."""

    def __init__(self) -> None:
        self.blocks: list[bytes | bytearray] = []
        self.size = 0
        self._open = False  # whether the last block takes more

    def add(self, data: bytes) -> None:
        """Append `data`. One that is large becomes a block, without a copy."""
        if not data:
            return
        self.size += len(data)
        if len(data) >= BLOCK_BYTES:
            self.blocks.append(data)
            self._open = False
        elif self._open:
            self.blocks[-1] += data  # a bytearray
            self._open = len(self.blocks[-1]) < BLOCK_BYTES
        else:
            self.blocks.append(bytearray(data))
            self._open = True


class ScriptExecution:
    """A script that a client has sent. For one thread at a time."""

    def __init__(self, request: Execute, store: StoreCore, total: int = MAX_OUTPUT_BYTES) -> None:
        """Begin with `request`; the reply may take `total` bytes, its errors included."""
        self._request: Execute | None = request
        self._text = b""
        self._store = store
        self._total = total
        self._offset = 0
        self._lines = 0
        self._output = Blocks()
        self._errors = Blocks()
        self.is_short = request.length <= SHORT_BYTES and _is_short(request.script)
        """Whether it is as cheap as the other requests."""
        self.is_medium = self.is_short or (
            request.length <= MEDIUM_BYTES and b"SHOW" not in request.script
        )
        """Whether its slices, but for long lines, are as cheap as the other requests."""
        self._slice_bytes = SHORT_BYTES if self.is_short else FIRST_SLICE_BYTES
        self._show = -1
        """Where the line of the next SHOW begins, from the line at `_offset` on."""
        self._budget = 0
        """Of the next slice, for the engine."""
        self.is_next_long = False
        """Whether the next slice is one long line, or a SHOW."""
        self.needs = 0
        """Bytes that the reply may have after the next slice, about; see `prepare`."""
        self.is_finished = not request.length
        """Whether nothing of it is left."""

    @property
    def size(self) -> int:
        """Bytes of the reply so far."""
        return self._output.size + self._errors.size

    @property
    def limit(self) -> int:
        """Bytes of its reply at which it stops at the latest."""
        return min(MAX_OUTPUT_BYTES, self._total)

    def prepare(self) -> None:
        """Find the next slice, and set `needs`. Not at the end."""
        if self._request is not None:
            self._text, self._request = self._request.script, None
        if self.is_short and self.size < self.limit - SLICE_OUTPUT:
            self._budget, self.needs = SHORT_BYTES, self.size + SLICE_OUTPUT
            return
        self._budget, output = self._plan(self._slice_bytes)
        if self._budget and self.size + output > self.limit:
            self._budget, output = self._plan(0)  # to stop at the very command
        self.needs = self.size + output

    def run_slice(self) -> ExecuteResult:
        """Execute the slice that was prepared; the caller pauses where the result says so."""
        start = self._offset
        pause = self._store.execute(self._text, start, self._budget)
        self._offset = pause.offset
        self.is_finished = self._offset >= len(self._text)
        line, counted = self._lines + 1, start
        for fault in pause.diagnostics:
            line += self._text.count(b"\n", counted, fault.offset)
            counted = fault.offset
            self._error(line, fault.column, fault.reason)
        self._slice_bytes = (
            FIRST_SLICE_BYTES if pause.diagnostics else min(2 * self._slice_bytes, SLICE_BYTES)
        )
        self._lines += pause.lines
        self._take(pause.output)
        if pause.reason is StopReason.BACKUP:
            self._refuse_backup()
        return pause

    def stop(self, reason: str) -> None:
        """Execute nothing more, with an error at the line that comes next."""
        self._error(self._lines + 1, 1, f"{reason}; the script stops here")
        self.is_finished = True

    def reply(self) -> list[bytes | bytearray]:
        """Return the parts of the reply."""
        errors = self._errors.size
        head = frames.encode_execute_reply_header(int(bool(errors)), self._output.size, errors)
        return [head, *self._output.blocks, *self._errors.blocks]

    def _take(self, output: bytes) -> None:
        """Put output into the reply, or stop where the reply would be too long."""
        if self._output.size + len(output) > MAX_OUTPUT_BYTES:
            reason = f"the output would be longer than {MAX_OUTPUT_BYTES} bytes"
        elif self.size + len(output) > self._total:
            reason = f"the reply would be longer than the {self._total} bytes of all replies"
        else:
            return self._output.add(output)
        self._error(self._lines, 1, f"{reason}; the script stops here")
        self.is_finished = True
        return None

    def _plan(self, most: int) -> tuple[int, int]:
        """Return a budget of `most` bytes or less for the next slice, and its output, about."""
        text, start = self._text, self._offset
        if self._show < start:
            self._show = self._line_of_show()
        end = text.find(b"\n", start + most) + 1 or len(text)
        last = text.rfind(b"\n", start, start + most) + 1 or start  # the line that goes past it
        if self._show == start or (last == start and end - start > SLICE_BYTES):
            self.is_next_long = True
            return 0, self._line_output(text.find(b"\n", start) + 1 or len(text))
        self.is_next_long = False
        if end - last > SLICE_BYTES:
            end = last
        end = min(end, self._show)
        return (most if end > start + most else end - 1 - start), SLICE_OUTPUT

    def _line_output(self, end: int) -> int:
        """Return how much the line up to `end` writes at most, about."""
        start = self._offset
        shown = SHOWN_PAIR_BYTES * self._store.pairs if self._show == start else 0
        writes_nothing = self._text.startswith((b"#", b"WRITE"), start)
        return SLICE_OUTPUT + (0 if writes_nothing else max(shown, LINE_OUTPUT * (end - start)))

    def _line_of_show(self) -> int:
        """Return where the line of the next SHOW begins; the end, if there is none."""
        at = self._text.find(b"SHOW", self._offset)
        if at < 0:
            return len(self._text)
        return self._text.rfind(b"\n", self._offset, at) + 1 or self._offset

    def _refuse_backup(self) -> None:
        """Report that the BACKUP just passed belongs to a job."""
        end = self._offset - self._text.endswith(b"\n", 0, self._offset)
        line = line_at(self._text, self._text.rfind(b"\n", 0, end) + 1)
        column = len(line) - len(line.lstrip(b" \t")) + 1
        self._error(self._lines, column, "BACKUP belongs to a job, not to a session")

    def _error(self, line: int, column: int, reason: str) -> None:
        self._errors.add(f"{line}:{column}: {reason}\n".encode())


def _is_short(text: bytes) -> bool:
    return text.count(b"\n") <= SHORT_LINES and b"SHOW" not in text


def oversized_reply(length: int) -> list[bytes]:
    """Return the parts of the reply to a script that is too long."""
    reason = f"1:1: a script has at most {frames.MAX_SCRIPT_BYTES} bytes, this one has {length}\n"
    return [frames.encode_execute_reply_header(1, 0, len(reason)), reason.encode()]
