"""A storage that records what a power loss would leave at any of its calls."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from kvs.journal.storage import Storage
from kvs.posix.files import AtomicFile
from tests.journal.builders import put

PARTS = [(0, False), (0.01, False), (0.5, False), (0.99, False), (1, False), (0, True), (0.5, True)]
"""Part of the unsynced bytes that reached the disk, and whether the others are zeros."""

Contents = dict[int, bytes]
"""Contents of files by inode."""
Names = dict[bytes, int]
"""Inodes by name."""


@dataclass
class Moment:
    """What is durable at one moment, and what may be on disk as well."""

    durable: Contents
    written: Contents
    """Contents as the process wrote them, synced or not."""
    names: Names
    """Durable names."""
    changes: list[tuple[bytes, int | None]]
    """Later changes of names, in order: the new inode, None if removed."""
    acknowledged: int

    def left(self) -> Iterator[dict[str, bytes]]:
        """Yield each set of files that the power loss may leave, by name."""
        for names in self._names():
            for some, zeros in PARTS:
                yield {
                    os.fsdecode(name): self._content(inode, some, zeros=zeros)
                    for name, inode in names.items()
                }

    def killed(self, directory: Path) -> "Record":
        """Create in `directory` the files of a process that is killed now; return their record.

        Everything that the process wrote is with the kernel, and as unsynced as before.
        """
        names = dict(self.names)
        for name, inode in self.changes:
            if inode is None:
                names.pop(name, None)
            else:
                names[name] = inode
        put(directory, {os.fsdecode(name): self.written[inode] for name, inode in names.items()})
        copies = {
            inode: (directory / os.fsdecode(name)).stat().st_ino for name, inode in names.items()
        }

        def copy(inode: int) -> int:
            return copies.get(inode, -inode)  # a removed file has no copy

        return Record(
            acknowledged=self.acknowledged,
            durable={copy(inode): data for inode, data in self.durable.items()},
            written={copy(inode): data for inode, data in self.written.items()},
            names={name: copy(inode) for name, inode in self.names.items()},
            changes=[
                (name, None if inode is None else copy(inode)) for name, inode in self.changes
            ],
        )

    def _names(self) -> Iterator[Names]:
        """Yield the names after each prefix and each suffix of the changes."""
        count = len(self.changes)
        parts = [self.changes[:end] for end in range(count + 1)]
        parts += [self.changes[start:] for start in range(1, count)]
        for part in parts:
            names = dict(self.names)
            for name, inode in part:
                if inode is None:
                    names.pop(name, None)
                else:
                    names[name] = inode
            yield names

    def _content(self, inode: int, some: float, *, zeros: bool) -> bytes:
        """Return the durable bytes and a part of the later ones; the others may be zeros."""
        durable, written = self.durable[inode], self.written[inode]
        if not written.startswith(durable):  # truncated
            return durable if some == 0 else written
        more = written[len(durable) :]
        part = more[: math.ceil(len(more) * some)]
        return durable + part + (bytes(len(more) - len(part)) if zeros else b"")


@dataclass
class Record:
    """All moments of a directory, over its storages, one after the other. Thread-safe."""

    acknowledged: int = 0
    moments: list[Moment] = field(default_factory=list)
    durable: Contents = field(default_factory=dict)
    written: Contents = field(default_factory=dict)
    names: Names = field(default_factory=dict)
    changes: list[tuple[bytes, int | None]] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    """Descriptors of files that were removed."""
    lock: Lock = field(default_factory=Lock)
    over: bool = False
    """Whether recording has ended."""

    def close(self) -> None:
        """Close the descriptors of removed files."""
        for file in self.removed:
            os.close(file)

    def record_moment(self) -> None:
        """Record this moment; the caller holds the lock."""
        self.moments.append(
            Moment(
                dict(self.durable),
                dict(self.written),
                dict(self.names),
                list(self.changes),
                self.acknowledged,
            )
        )


class Recorder(Storage):
    """A storage that records every call."""

    def __init__(self, directory: int, record: Record) -> None:
        super().__init__(directory)
        self._record = record

    def mark(self, name: bytes) -> None:
        with self._record.lock:
            super().mark(name)
            inode = os.stat(name, dir_fd=self.directory).st_ino
            self._record.written[inode] = self._record.durable[inode] = b""
            self._record.changes.append((name, inode))
            self._record.record_moment()
            self._note_synced_names()

    def append(self, file: int, *pieces: bytes) -> None:
        with self._record.lock:
            super().append(file, *pieces)
            inode = os.fstat(file).st_ino
            before = self._record.written.get(inode, b"")
            self._record.written[inode] = before + b"".join(pieces)
            self._record.durable.setdefault(inode, b"")
            self._record.record_moment()

    def sync(self, file: int) -> None:
        with self._record.lock:  # another thread may append meanwhile
            before = self._record.written.get(os.fstat(file).st_ino, b"")
        super().sync(file)
        with self._record.lock:
            self._note_synced(file, before)

    def _note_synced(self, file: int, data: bytes) -> None:
        inode = os.fstat(file).st_ino
        durable = self._record.durable.get(inode)
        if durable is not None and not durable.startswith(data):
            self._record.durable[inode] = data
        self._record.record_moment()

    def truncate(self, file: int, size: int) -> None:
        with self._record.lock:
            inode = os.fstat(file).st_ino
            self._record.written[inode] = self._record.written[inode][:size]
            self._record.record_moment()
            super().truncate(file, size)
            self._record.durable[inode] = self._record.written[inode]
            self._record.record_moment()

    def commit(self, replacement: AtomicFile) -> None:
        with self._record.lock:
            inode = os.fstat(replacement.file).st_ino
            if inode not in self._record.written:  # a child has written and synced it
                source = os.open(replacement.temporary, os.O_RDONLY, dir_fd=self.directory)
                with open(source, "rb") as file:
                    self._record.written[inode] = self._record.durable[inode] = file.read()
            self._record.changes.append((replacement.name, inode))
            self._record.record_moment()
            super().commit(replacement)
            self._note_synced_names()

    def _note_synced_names(self) -> None:
        for name, changed in self._record.changes:
            if changed is None:
                self._record.names.pop(name, None)
            else:
                self._record.names[name] = changed
        self._record.changes.clear()
        self._record.record_moment()

    def sync_directory(self) -> None:
        with self._record.lock:
            super().sync_directory()
            self._note_synced_names()

    def remove(self, name: bytes) -> None:
        with self._record.lock:
            # Kept open, so that no other file gets its inode.
            self._record.removed.append(os.open(name, os.O_RDONLY, dir_fd=self.directory))
            super().remove(name)
            self._record.changes.append((name, None))
            self._record.record_moment()
