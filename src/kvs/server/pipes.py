"""The pipes that a client has made for a session."""

from dataclasses import dataclass, field

from kvs.posix.fifos import Fifo
from kvs.protocol.frames import Dialect
from kvs.text import printable


@dataclass(frozen=True)
class ClientPipes:
    """The pipes that a connect names, found and judged."""

    requests: Fifo
    responses: Fifo
    notifications: Fifo
    dialect: Dialect = field(default=Dialect.BINARY, kw_only=True)

    @property
    def all(self) -> tuple[Fifo, Fifo, Fifo]:
        """In the order of the frame."""
        return self.requests, self.responses, self.notifications

    @property
    def name(self) -> str:
        """How the log names the session."""
        return printable(self.requests.path)

    def close(self) -> None:
        """Let go of the files; what was opened stays open."""
        for pipe in self.all:
            pipe.close()
