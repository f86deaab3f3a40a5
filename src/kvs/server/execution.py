"""Executes the script of one `execute` request, a slice at a time.

A slice is several short lines, one long line, or one command that walks the table (`_WALK`). Slices
are cut so that each takes about a millisecond at most, unless a single line takes longer.
"""

import re

from kvs.engine.interface import UNKNOWN_ORIGIN, ExecuteResult, StopReason
from kvs.language.diagnostics import line_at, number_lines
from kvs.protocol import frames
from kvs.protocol.requests import Execute
from kvs.store.core import StoreCore

MAX_OUTPUT_BYTES = 256 << 20
"""Maximum bytes of output; a script stops at the command that would exceed it."""

SHORT_BYTES = 1024
"""Maximum bytes of a short script, which is executed at once, as one slice."""

SHORT_LINES = 16
"""Maximum newlines in a short script."""

MEDIUM_BYTES = 16 << 10
"""Maximum bytes of a medium script, which is executed at once if the turn leaves time."""

SLICE_BYTES = 4096
"""Bytes of input or output after which a slice ends. A longer line is a slice of its own."""

FIRST_SLICE_BYTES = 256
"""The same for the first slice and after invalid lines, which take the longest."""

SLICE_OUTPUT = 16 << 10
"""Estimated bytes that a slice of short lines adds to a reply, with a margin for errors."""

BLOCK_BYTES = 1 << 20
"""Bytes of output collected in one block of memory.

Blocks are so large that the C library maps each one by itself, and unmaps it when it is freed.
"""

LINE_OUTPUT = 23
"""Maximum bytes that a READ or DELETE writes for each byte of its line, rounded up, if no key or
value is longer than 40 bytes."""

SHOWN_PAIR_BYTES = 85
"""Maximum bytes that SHOW writes for such a pair."""

_WALK = re.compile(rb"SHOW|COUNT|CLEAR|EXPIRE")
"""The names of the commands that take time for every pair of the table."""

_SHOW = re.compile(rb"[ \t]*+SHOW[ \t]*+\r?(?:\n|\Z)")
"""A line that writes every pair."""


class Blocks:
    """A byte string that grows at its end, stored in blocks. For one thread at a time."""

    def __init__(self) -> None:
        self.blocks: list[bytes | bytearray] = []
        self.size = 0
        self._open = False  # whether the last block is a bytearray with space left

    def add(self, data: bytes) -> None:
        """Append `data`; large data becomes a block without a copy."""
        if not data:
            return
        self.size += len(data)
        if len(data) >= BLOCK_BYTES:
            self.blocks.append(data)
            self._open = False
        elif self._open:
            self.blocks[-1] += data
            self._open = len(self.blocks[-1]) < BLOCK_BYTES
        else:
            self.blocks.append(bytearray(data))
            self._open = True


class ScriptExecution:
    """The execution of a script that a client has sent. For one thread at a time."""

    def __init__(
        self, request: Execute, store: StoreCore, total: int, origin: int = UNKNOWN_ORIGIN
    ) -> None:
        """Execute `request` of `origin`; limit the reply, with its errors, to `total` bytes."""
        self._origin = origin
        self._request: Execute | None = request
        self._text = b""
        self._store = store
        self._total = total
        self._offset = 0
        self._lines = 0
        self._output = Blocks()
        self._held_back = b""
        """Output of the last slice, if there was no memory for it; it is in no reply yet."""
        self._errors = Blocks()
        self.is_short = request.length <= SHORT_BYTES and _is_short(request.script)
        """Whether the script is as cheap as other requests."""
        self.is_medium = self.is_short or (
            request.length <= MEDIUM_BYTES and not _WALK.search(request.script)
        )
        """Whether all slices, except long lines, are as cheap as other requests."""
        self._slice_bytes = SHORT_BYTES if self.is_short else FIRST_SLICE_BYTES
        self._walk = -1
        """Offset of the line of the next command that walks the table, at or after `_offset`."""
        self._budget = 0
        """Budget of the next slice, for the engine, in bytes."""
        self.is_next_long = False
        """Whether the next slice is one long line or walks the table."""
        self.required = 0
        """Bytes of the reply after the next slice, an upper bound if no word is longer than 40
        bytes; set by `prepare`."""
        self.is_finished = not request.length
        """Whether nothing is left to execute."""

    @property
    def size(self) -> int:
        """Bytes of the reply so far."""
        return self._output.size + self._errors.size

    @property
    def limit(self) -> int:
        """Bytes of the reply at which the script stops at the latest."""
        return min(MAX_OUTPUT_BYTES, self._total)

    @property
    def held_back_bytes(self) -> int:
        """Bytes of output that wait for memory."""
        return len(self._held_back)

    def prepare(self) -> None:
        """Choose the next slice, and set `required`. The script must not be finished."""
        if self._held_back:
            self.is_next_long = True
            self.required = self.size + len(self._held_back)
            return
        if self._request is not None:
            self._text, self._request = self._request.script, None
        if self.is_short and self.size < self.limit - SLICE_OUTPUT:
            self._budget, self.required = SHORT_BYTES, self.size + SLICE_OUTPUT
            return
        self._budget, output = self._plan(self._slice_bytes)
        if self._budget and self.size + output > self.limit:
            self._budget, output = self._plan(0)  # a line at a time, to stop at the exact command
        self.required = self.size + output

    def run_slice(self, reserved: int) -> ExecuteResult | None:
        """Execute the slice that `prepare` chose. If the result says WAIT, the caller pauses.

        Output that makes the reply longer than `reserved` bytes is held back; then the next slice
        adds it to the reply, executes nothing and returns None.
        """
        if self._held_back:
            self._output.add(self._held_back)
            self._held_back = b""
            self.is_finished = self._offset >= len(self._text)
            return None
        start = self._offset
        result = self._store.execute(self._text, start, self._budget, origin=self._origin)
        self._offset = result.offset
        self.is_finished = self._offset >= len(self._text)
        for line, diagnostic in number_lines(
            result.diagnostics, self._text, start, self._lines + 1
        ):
            self._error(line, diagnostic.column, diagnostic.reason)
        self._slice_bytes = (
            FIRST_SLICE_BYTES if result.diagnostics else min(2 * self._slice_bytes, SLICE_BYTES)
        )
        self._lines += result.lines
        self._add_output(result.output, reserved)
        if result.reason is StopReason.BACKUP:
            self._refuse_backup()
        return result

    def stop(self, reason: str) -> None:
        """Execute nothing more, and report an error at the next line.

        With output that is held back, which is dropped, report it at the line of that output.
        """
        self._error(self._lines + (not self._held_back), 1, f"{reason}; the script stops here")
        self._held_back = b""
        self.is_finished = True

    def reply(self) -> list[bytes | bytearray]:
        """Return the parts of the reply."""
        errors = self._errors.size
        head = frames.encode_execute_reply_header(int(bool(errors)), self._output.size, errors)
        return [head, *self._output.blocks, *self._errors.blocks]

    def _add_output(self, output: bytes, reserved: int) -> None:
        """Add output to the reply or hold it back; stop if the reply would be too long."""
        if self._output.size + len(output) > MAX_OUTPUT_BYTES:
            reason = f"the output would be longer than {MAX_OUTPUT_BYTES} bytes"
        elif self.size + len(output) > self._total:
            reason = f"the reply would be longer than the {self._total} bytes of all replies"
        elif output and self.size + len(output) > reserved:
            self._held_back = output
            self.is_finished = False
            return None
        else:
            return self._output.add(output)
        self._error(self._lines, 1, f"{reason}; the script stops here")
        self.is_finished = True
        return None

    def _plan(self, limit: int) -> tuple[int, int]:
        """Return a budget of at most `limit` bytes for the next slice, and its estimated output."""
        text, start = self._text, self._offset
        if self._walk < start:
            self._walk = self._line_of_walk()
        end = text.find(b"\n", start + limit) + 1 or len(text)
        last = text.rfind(b"\n", start, start + limit) + 1 or start  # of the line that exceeds it
        if self._walk == start or (last == start and end - start > SLICE_BYTES):
            self.is_next_long = True
            return 0, self._line_output(text.find(b"\n", start) + 1 or len(text))
        self.is_next_long = False
        if end - last > SLICE_BYTES:
            end = last
        end = min(end, self._walk)
        return (limit if end > start + limit else end - 1 - start), SLICE_OUTPUT

    def _line_output(self, end: int) -> int:
        """Return the estimated maximum output of the line that ends at `end`."""
        start = self._offset
        show_bytes = SHOWN_PAIR_BYTES * self._store.pairs if _SHOW.match(self._text, start) else 0
        writes_nothing = self._text.startswith((b"#", b"WRITE"), start)
        return SLICE_OUTPUT + (
            0 if writes_nothing else max(show_bytes, LINE_OUTPUT * (end - start))
        )

    def _line_of_walk(self) -> int:
        """Return the offset of the next line that walks the table, or of the script's end."""
        match = _WALK.search(self._text, self._offset)
        if match is None:
            return len(self._text)
        return self._text.rfind(b"\n", self._offset, match.start()) + 1 or self._offset

    def _refuse_backup(self) -> None:
        """Report an error for the BACKUP that was just skipped."""
        end = self._offset - self._text.endswith(b"\n", 0, self._offset)
        line = line_at(self._text, self._text.rfind(b"\n", 0, end) + 1)
        column = len(line) - len(line.lstrip(b" \t")) + 1
        self._error(self._lines, column, "BACKUP belongs to a job, not to a session")

    def _error(self, line: int, column: int, reason: str) -> None:
        self._errors.add(f"{line}:{column}: {reason}\n".encode())


def _is_short(text: bytes) -> bool:
    return text.count(b"\n") <= SHORT_LINES and not _WALK.search(text)


def no_memory_reason(total: int) -> str:
    """Return why a script stops if the replies of all sessions leave no memory for its output."""
    return f"the replies of all sessions would be longer than {total} bytes"


def oversized_reply(length: int) -> list[bytes]:
    """Return the parts of the reply to a script over the limit."""
    reason = f"1:1: a script has at most {frames.MAX_SCRIPT_BYTES} bytes, this one has {length}\n"
    return [frames.encode_execute_reply_header(1, 0, len(reason)), reason.encode()]
