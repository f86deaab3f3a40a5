"""Journals made by hand, byte by byte, and read with a naive model of the commands."""

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

Files = dict[str, bytes]
"""Of a data directory, by name."""


def crc(data: bytes, before: int = 0) -> int:
    """Return the CRC-32C, bit by bit, as RFC 3720 describes it."""
    register = before ^ 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@dataclass
class Made:
    """A file that is being made."""

    kind: str = "journal"
    number: int = 1
    revision: int = 0
    store: bytes = STORE
    previous: int = 0
    data: bytes = b""
    ends: list[int] = field(default_factory=list)
    """Where the head, and each group, ends."""

    def __post_init__(self) -> None:
        line = (
            f"# kvs {self.kind} 1 {self.number:010} {self.revision:020} "
            f"{self.store.decode()} {self.previous:08x} "
        ).encode()
        self.chain = crc(line)
        self.data = line + b"%08x\n" % self.chain
        self.ends.append(len(self.data))

    @property
    def name(self) -> str:
        """What the file is called."""
        return f"{self.number:010}.{self.kind}"

    def group(self, body: bytes, changes: int) -> "Made":
        """Put a group behind the others."""
        after = self.revision + changes
        line = b"# group %020d %020d %012d %08x " % (self.revision, after, len(body), crc(body))
        self.chain = crc(line, self.chain)
        self.data += line + b"%08x\n" % self.chain + body
        self.revision = after
        self.ends.append(len(self.data))
        return self

    def next(self) -> "Made":
        """Return the segment that goes on from this one."""
        return Made("journal", self.number + 1, self.revision, self.store, self.chain)


def files(*made: Made) -> Files:
    """Return them by name."""
    return {each.name: each.data for each in made}


def put(directory: Path, contents: Mapping[str, bytes]) -> Path:
    """Make `directory` one that holds these files and nothing else; return it."""
    directory.mkdir(mode=0o700, exist_ok=True)
    for name in set(os.listdir(directory)) - set(contents):
        (directory / name).unlink()
    for name, data in contents.items():
        (directory / name).write_bytes(data)
    return directory


def contents(directory: Path) -> Files:
    """Return the files of a directory, but for the reserve, which holds nothing."""
    return {
        path.name: path.read_bytes() for path in directory.iterdir() if path.name != "kvs.reserve"
    }


class Naive:
    """A model that is filled with what a directory holds."""

    def __init__(self) -> None:
        self.model = Model()
        self.noted: list[bytes] = []

    def __len__(self) -> int:
        return len(self.model.pairs)

    def apply(self, lines: bytes) -> int:
        before = self.model.revision
        self.model.run(lines)
        return self.model.revision - before


def read(directory: Path) -> tuple[RecoveredState, dict[bytes, bytes]]:
    """Read a data directory; return what was found, and its pairs."""
    naive = Naive()
    with DataDirectory(directory) as folder:
        found = Recovery(folder, naive, naive.noted.append, lambda _done, _all: None).read()
    return found, naive.model.pairs


def damage(directory: Path) -> tuple[str, int, str]:
    """Read a directory that is damaged; return the file's name, the offset and the reason."""
    before = contents(directory)
    with pytest.raises(CorruptionError) as told:
        read(directory)
    error = told.value
    assert contents(directory) == before
    assert str(error) == (
        f"{error.file}: at byte {error.offset}: {error.reason}; nothing was loaded or changed "
        f"({error.advice})"
    )
    parent, name = os.path.split(error.file)
    assert parent == str(directory)
    return name, error.offset, error.reason
