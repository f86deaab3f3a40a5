"""Journals built byte by byte, and read into a naive model of the store."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kvs.errors import CorruptionError
from kvs.journal.directory import DataDirectory
from kvs.journal.recovery import RecoveredState, Recovery
from tests.model import Model

STORE = b"0123456789abcdef"
OTHER = b"fedcba9876543210"

TIME_MS = 1_790_000_000_123
"""Time of every group, in milliseconds since the epoch, where `fixed_time` is in use."""

Files = dict[str, bytes]
"""Contents of the files of a data directory, by name."""


def crc(data: bytes, before: int = 0) -> int:
    """Return the CRC-32C, bit by bit, as RFC 3720 describes it."""
    register = before ^ 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@dataclass
class JournalBuilder:
    """A file of a journal, built group by group."""

    kind: str = "journal"
    number: int = 1
    revision: int = 0
    store: bytes = STORE
    previous: int = 0
    version: int = 2
    time_ms: int = TIME_MS
    """Time of the groups that are appended."""
    data: bytes = b""
    ends: list[int] = field(default_factory=list)
    """Offsets of the ends of the file header and of each group."""

    def __post_init__(self) -> None:
        line = (
            f"# kvs {self.kind} {self.version} {self.number:010} {self.revision:020} "
            f"{self.store.decode()} {self.previous:08x} "
        ).encode()
        self.chain = crc(line)
        self.data = line + b"%08x\n" % self.chain
        self.ends.append(len(self.data))

    @property
    def name(self) -> str:
        """Name of the file."""
        return f"{self.number:010}.{self.kind}"

    def group(self, body: bytes, changes: int) -> "JournalBuilder":
        """Append a group; return this file."""
        after = self.revision + changes
        line = b"# group %020d %020d %012d " % (self.revision, after, len(body))
        line += b"%015d " % self.time_ms if self.version > 1 else b""
        line += b"%08x " % crc(body)
        self.chain = crc(line, self.chain)
        self.data += line + b"%08x\n" % self.chain + body
        self.revision = after
        self.ends.append(len(self.data))
        return self

    def next(self) -> "JournalBuilder":
        """Return the segment that follows this one."""
        return JournalBuilder(
            "journal",
            self.number + 1,
            self.revision,
            self.store,
            self.chain,
            self.version,
            self.time_ms,
        )


def files(*made: JournalBuilder) -> Files:
    """Return the contents of the files by name."""
    return {file.name: file.data for file in made}


def put(directory: Path, contents: Mapping[str, bytes]) -> Path:
    """Create `directory` with these files and no others; return its path."""
    directory.mkdir(mode=0o700, exist_ok=True)
    for name in set(os.listdir(directory)) - set(contents):
        (directory / name).unlink()
    for name, data in contents.items():
        (directory / name).write_bytes(data)
    return directory


def contents(directory: Path) -> Files:
    """Return the files of a directory without the reserve, whose contents do not matter."""
    return {
        path.name: path.read_bytes() for path in directory.iterdir() if path.name != "kvs.reserve"
    }


class Naive:
    """A replay target that executes the lines in a model."""

    def __init__(self) -> None:
        self.model = Model()
        self.bodies: list[bytes] = []

    def __len__(self) -> int:
        return len(self.model.pairs)

    def apply(self, lines: bytes) -> int:
        before = self.model.revision
        self.model.run(lines)
        return self.model.revision - before


def read(directory: Path) -> tuple[RecoveredState, dict[bytes, bytes]]:
    """Recover a data directory; return its state and its pairs."""
    naive = Naive()
    with DataDirectory(directory) as opened:
        state = Recovery(opened, naive, naive.bodies.append, lambda _done, _all: None).read()
    return state, naive.model.pairs


def damage(directory: Path) -> tuple[str, int, str]:
    """Recover a damaged directory; return the name of the file, the offset and the reason."""
    before = contents(directory)
    with pytest.raises(CorruptionError) as caught:
        read(directory)
    error = caught.value
    assert contents(directory) == before
    assert str(error) == (
        f"{error.path}: at byte {error.offset}: {error.reason}; nothing was loaded or changed "
        f"({error.advice})"
    )
    parent, name = os.path.split(error.path)
    assert parent == str(directory)
    return name, error.offset, error.reason
