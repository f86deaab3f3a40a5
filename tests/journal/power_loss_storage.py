"""A disk that knows what would be left if the power failed at any step."""

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
"""How much of what was not synced is there, and whether the rest is zeros."""

Contents = dict[int, bytes]
"""Of files, by inode."""
Names = dict[bytes, int]
"""Inodes by name."""


@dataclass
class Moment:
    """What the disk is sure to have, and what it may have besides."""

    durable: Contents
    written: Contents
    """What the files were made to hold, whether or not it was synced."""
    names: Names
    """Those that are durable."""
    changes: list[tuple[bytes, int | None]]
    """Of names since, in order: the new inode, None if removed."""
    acknowledged: int

    def left(self) -> Iterator[dict[str, bytes]]:
        """Yield the files that may be found afterwards, by name."""
        for names in self._names():
            for some, zeros in PARTS:
                yield {
                    os.fsdecode(name): self._content(inode, some, zeros=zeros)
                    for name, inode in names.items()
                }

    def killed(self, directory: Path) -> "Record":
        """Make `directory` what a process leaves that is killed now; return a record to go on with.

        All that it did is there, with the kernel; what was not synced is still not.
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
            return copies.get(inode, -inode)  # of what was removed there is none

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
        """Yield the names after some first changes, and after some last ones."""
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
        """Return what is durable, with some of what was appended since; the rest may be zeros."""
        durable, written = self.durable[inode], self.written[inode]
        if not written.startswith(durable):  # it was cut
            return durable if some == 0 else written
        more = written[len(durable) :]
        part = more[: math.ceil(len(more) * some)]
        return durable + part + (bytes(len(more) - len(part)) if zeros else b"")


@dataclass
class Record:
    """All moments of a directory, over any number of disks, one after the other. Thread-safe."""

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
    """Whether nothing more is to be taken down."""

    def close(self) -> None:
        """Let go of what was removed."""
        for file in self.removed:
            os.close(file)

    def take(self) -> None:
        """Take down this moment; the caller holds the lock."""
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
    """A disk that takes every step down."""

    def __init__(self, directory: int, record: Record) -> None:
        super().__init__(directory)
        self._record = record

    def mark(self, name: bytes) -> None:
        with self._record.lock:
            super().mark(name)
            inode = os.stat(name, dir_fd=self.directory).st_ino
            self._record.written[inode] = self._record.durable[inode] = b""
            self._record.changes.append((name, inode))
            self._record.take()
            self._synced_names()

    def append(self, file: int, *pieces: bytes) -> None:
        with self._record.lock:
            super().append(file, *pieces)
            inode = os.fstat(file).st_ino
            before = self._record.written.get(inode, b"")
            self._record.written[inode] = before + b"".join(pieces)
            self._record.durable.setdefault(inode, b"")
            self._record.take()

    def sync(self, file: int) -> None:
        with self._record.lock:  # another thread may append meanwhile
            before = self._record.written.get(os.fstat(file).st_ino, b"")
        super().sync(file)
        with self._record.lock:
            self._synced(file, before)

    def _synced(self, file: int, data: bytes) -> None:
        inode = os.fstat(file).st_ino
        durable = self._record.durable.get(inode)
        if durable is not None and not durable.startswith(data):
            self._record.durable[inode] = data
        self._record.take()

    def truncate(self, file: int, size: int) -> None:
        with self._record.lock:
            inode = os.fstat(file).st_ino
            self._record.written[inode] = self._record.written[inode][:size]
            self._record.take()
            super().truncate(file, size)
            self._record.durable[inode] = self._record.written[inode]
            self._record.take()

    def commit(self, draft: AtomicFile) -> None:
        with self._record.lock:
            inode = os.fstat(draft.file).st_ino
            if inode not in self._record.written:  # a child has written and synced it
                source = os.open(draft.temporary, os.O_RDONLY, dir_fd=self.directory)
                with open(source, "rb") as file:
                    self._record.written[inode] = self._record.durable[inode] = file.read()
            self._record.changes.append((draft.name, inode))
            self._record.take()
            super().commit(draft)
            self._synced_names()

    def _synced_names(self) -> None:
        for name, changed in self._record.changes:
            if changed is None:
                self._record.names.pop(name, None)
            else:
                self._record.names[name] = changed
        self._record.changes.clear()
        self._record.take()

    def sync_directory(self) -> None:
        with self._record.lock:
            super().sync_directory()
            self._synced_names()

    def remove(self, name: bytes) -> None:
        with self._record.lock:
            # Kept open, so that no other file gets its inode.
            self._record.removed.append(os.open(name, os.O_RDONLY, dir_fd=self.directory))
            super().remove(name)
            self._record.changes.append((name, None))
            self._record.take()
