"""The bytes of one pipe as messages, parsed by any thread without a lock."""

import contextlib
import operator
import struct
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from kvs.concurrency.atomic import atomically

Message = TypeVar("Message")


class MessageStream(Generic[Message]):
    """A pipe's unparsed bytes, and the queue to which its messages are appended.

    Threads: any thread, signal handler or finalizer may call `parse`, also within another call of
    it. A call that another one overtakes, which the version shows, parses again.
    """

    def __init__(
        self, parse: Callable[[bytearray], tuple[list[Message], int]], messages: deque[Message]
    ) -> None:
        self.data = bytearray()
        """Bytes read and not parsed yet."""
        self._parse = parse
        self._messages = messages
        self._version = deque([object()])
        """One object, which is replaced when bytes are removed from the start of `data`."""

    def parse(self) -> None:
        """Append the complete messages of `data` to `messages`, and remove their bytes."""
        while self.data:
            version = self._version[0]
            try:
                messages, size = self._parse(self.data)
            except (IndexError, struct.error):
                if self._version[0] is version:
                    raise
                continue  # bytes were removed while they were parsed
            if not size and self._version[0] is version:
                return
            with contextlib.suppress(ValueError):
                atomically(
                    partial(self._version.remove, version),
                    partial(self._version.append, object()),
                    partial(operator.delitem, self.data, slice(0, size)),
                    partial(self._messages.extend, iter(messages)),
                )
