"""The three pipes that a client has made for a session."""

from dataclasses import dataclass, field

from kvs.posix.fifos import Fifo, Identity
from kvs.protocol.frames import Dialect
from kvs.text import printable

Identities = tuple[Identity, ...]
"""Identities of the requests, responses and notifications pipes of a client."""


@dataclass(frozen=True)
class ConnectedPipes:
    """The pipes that a connect names, open (O_PATH) and validated."""

    requests: Fifo
    responses: Fifo
    notifications: Fifo
    dialect: Dialect = field(default=Dialect.BINARY, kw_only=True)

    @property
    def all(self) -> tuple[Fifo, Fifo, Fifo]:
        """All three pipes, in the order of the frame."""
        return self.requests, self.responses, self.notifications

    @property
    def identities(self) -> Identities:
        """Identities of all three pipes, in the order of the frame."""
        return tuple(pipe.identity for pipe in self.all)

    @property
    def name(self) -> str:
        """Name of the session in the log: the path of its requests pipe."""
        return printable(self.requests.path)

    def close(self) -> None:
        """Close the O_PATH handles; ends that were opened stay open."""
        for pipe in self.all:
            pipe.close()
