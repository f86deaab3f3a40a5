"""One `execute` request on its way through the store, a slice at a time."""

from kvs.engine.boundary import Pause, Reason
from kvs.language.faults import line_at
from kvs.store import Store
from kvs.wire import frames

OUTPUT_BYTES = 256 << 20
"""At the command that would take the output past this, a script stops."""

SLICE_BYTES = 8192
"""Input or output of one slice: others are served in between."""

LARGEST_LINE_OUTPUT = 32 << 20
"""No READ of a script writes more: 45 bytes for every 2 of its line."""


class Script:
    """A script that a client has sent. For one thread at a time."""

    def __init__(self, script: bytes, store: Store) -> None:
        self._script = script
        self._store = store
        self._offset = 0
        self._lines = 0
        self._output: list[bytes] = []
        self._size = 0
        self._errors: list[bytes] = []
        self.lists = b"SHOW" in script
        """Whether it may list everything, which takes long."""

    def run_slice(self) -> Pause:
        """Carry out some of the script; the caller waits where the pause says so, and calls again.

        The script is at its end when the pause's reason is `Reason.END`.
        """
        one_by_one = self.lists or self._size > OUTPUT_BYTES - LARGEST_LINE_OUTPUT
        start = self._offset
        pause = self._store.execute(self._script, start, 0 if one_by_one else SLICE_BYTES)
        self._offset = pause.offset
        line, counted = self._lines + 1, start
        for fault in pause.faults:
            line += self._script.count(b"\n", counted, fault.offset)
            counted = fault.offset
            self._error(line, fault.column, fault.reason)
        self._lines += pause.lines
        if self._size + len(pause.output) > OUTPUT_BYTES:
            reason = f"the output would be longer than {OUTPUT_BYTES} bytes; the script stops here"
            self._error(self._lines, 1, reason)
            self._offset = len(self._script)
        else:
            self._output.append(pause.output)
            self._size += len(pause.output)
        if pause.reason is Reason.BACKUP:
            self._refuse_backup()
        return pause

    @property
    def over(self) -> bool:
        """Whether nothing of it is left."""
        return self._offset >= len(self._script)

    def reply(self) -> list[bytes]:
        """Return the parts of the reply."""
        errors = b"".join(self._errors)
        return [
            frames.executed_head(int(bool(errors)), self._size, len(errors)),
            *self._output,
            errors,
        ]

    def _refuse_backup(self) -> None:
        """Tell that the BACKUP just passed belongs to a job."""
        end = self._offset - self._script.endswith(b"\n", 0, self._offset)
        line = line_at(self._script, self._script.rfind(b"\n", 0, end) + 1)
        column = len(line) - len(line.lstrip(b" \t")) + 1
        self._error(self._lines, column, "BACKUP belongs to a job, not to a session")

    def _error(self, line: int, column: int, reason: str) -> None:
        self._errors.append(f"{line}:{column}: {reason}\n".encode())


def refused(length: int) -> list[bytes]:
    """Return the parts of the reply to a script that is too long."""
    reason = f"1:1: a script has at most {frames.SCRIPT_BYTES} bytes, this one has {length}\n"
    return [frames.executed_head(1, 0, len(reason)), reason.encode()]
