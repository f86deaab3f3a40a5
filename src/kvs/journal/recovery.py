"""Recovery: what the files of a data directory prove, read in order into a store.

Laws:

- What counts is the newest snapshot, the segment of the same number, and all later ones without a
  gap; without a snapshot, the segments from 1 on. Whatever is older is left over and may go.
- Each segment begins at the revision, and with the checksum, with which the one before it ends.
- Only the last may be torn at its end. All else that does not prove itself is refused: nothing in
  the directory is changed then.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from kvs.errors import CorruptionError, DataDirectoryError
from kvs.journal import format as journal_format
from kvs.journal.directory import DataDirectory
from kvs.journal.format import FileKind, file_name
from kvs.journal.reader import Group, JournalReader, TailState
from kvs.text import os_error_text

RESTORE_ADVICE = "begin a new data directory with 'kvs restore' from a backup"
"""The advice where nothing can be kept."""


class ReplayTarget(Protocol):
    """What is filled with what a data directory holds."""

    def __len__(self) -> int:
        """Return the number of pairs."""

    def apply(self, lines: bytes) -> int:
        """Carry out lines of the command language; return how many of them changed something."""


@dataclass(frozen=True, slots=True)
class TornTail:
    """The end of the last segment, that a crash left half written."""

    file: str
    offset: int
    bytes: int
    """How much there is of it."""
    reason: str


@dataclass(slots=True)
class RecoveredState:
    """What is in a data directory."""

    store: bytes = b""
    """The store's mark."""
    snapshot: int | None = None
    """The number of the snapshot, if there is one."""
    snapshot_bytes: int = 0
    segments: list[int] = field(default_factory=list)
    """The numbers of the segments, in order."""
    journal_bytes: int = 0
    """Of all segments, as far as they prove themselves."""
    revision: int = 0
    changes: int = 0
    """Commands in the segments."""
    pairs: int = 0
    torn: TornTail | None = None
    chain: int = 0
    """The last checksum."""
    end: int = 0
    """Where what is proved ends in the last segment."""


class Recovery:
    """Reads a data directory, and fills a target with what it holds. For one thread."""

    def __init__(
        self,
        folder: DataDirectory,
        target: ReplayTarget,
        note: Callable[[bytes], None],
        progress: Callable[[int, int], None],
    ) -> None:
        """Read nothing yet.

        `note` is given the lines of every group, for what else stands in them; `progress` how
        many bytes have been read, and how many there are.
        """
        self._folder = folder
        self._target = target
        self._note = note
        self._progress = progress
        self.found = RecoveredState()
        """What has been proved so far."""
        self.current_file = (FileKind.JOURNAL, 1)
        """The file that was read last, or is missing."""
        self._done = self._all = 0

    def read(self, before: int | None = None) -> RecoveredState:
        """Read all that counts; return what was found. There must be some file.

        With `before`, what counts is what would without snapshots from that number on.

        Raises:
            CorruptionError: something does not prove itself.
            DataDirectoryError: the directory cannot be read, or holds other things.

        """
        numbers = self._folder.list_files()
        snapshots, segments = numbers[FileKind.SNAPSHOT], numbers[FileKind.JOURNAL]
        if before is not None:
            snapshots = [number for number in snapshots if number < before]
        try:
            return self._read(snapshots, segments)
        except CorruptionError as damage:
            damage.advice = self._advice(snapshots, segments)
            raise

    def _advice(self, snapshots: list[int], segments: list[int]) -> str:
        """Say what can be done about the damage in the file that was read last."""
        kind, number = self.current_file
        if kind is FileKind.SNAPSHOT:
            if min(snapshots[0], *segments, number) < number:
                return "'kvs repair --cut' goes on without it, if what is older is whole"
            return f"all that follows depends on it: {RESTORE_ADVICE}"
        is_missing = number not in segments
        if snapshots or self.found.revision:
            advice = "'kvs repair --cut' keeps what comes before it"
        else:
            advice = RESTORE_ADVICE if is_missing else f"nothing comes before it: {RESTORE_ADVICE}"
        return f"put it back; else {advice}" if is_missing else advice

    def _read(self, snapshots: list[int], segments: list[int]) -> RecoveredState:
        first = snapshots[-1] if snapshots else 1
        files = [(FileKind.JOURNAL, number) for number in segments if number >= first]
        if snapshots:
            files.insert(0, (FileKind.SNAPSHOT, first))
        self._all = sum(self._size(*each) for each in files)
        expected = first
        if snapshots:
            self._read_snapshot(first)
        for kind, number in files:
            if kind is FileKind.JOURNAL:
                self._expect_segment(number, expected)
                self._read_segment(number, last=number == segments[-1])
                expected += 1
        if expected == first:
            self._expect_segment(None, first)
        self.found.pairs = len(self._target)
        return self.found

    def _size(self, kind: FileKind, number: int) -> int:
        file = self._folder.open_file(kind, number)
        try:
            return os.fstat(file).st_size
        finally:
            self._folder.close_file(file)

    def _expect_segment(self, number: int | None, expected: int) -> None:
        if number != expected:
            self.current_file = (FileKind.JOURNAL, expected)
            name = self._folder.shown(file_name(FileKind.JOURNAL, expected))
            reason = "this segment of the journal is missing"
            if number is not None and self.found.snapshot is None and not self.found.segments:
                reason += f", or else {file_name(FileKind.SNAPSHOT, number).decode()}"
            raise CorruptionError(name, 0, reason)

    def _read_snapshot(self, number: int) -> None:
        found = self.found
        pairs = None
        with self._scan(FileKind.SNAPSHOT, number) as scan:
            found.store, found.revision = scan.head.store, scan.head.revision
            found.snapshot, found.snapshot_bytes = number, scan.size
            for group in scan:
                if pairs is not None or group.before != group.after:
                    raise self._damaged(scan, group.offset, "this group does not belong here")
                pairs = journal_format.decode_trailer(group.body)
                if pairs is None:
                    self._apply_group(group)
            if scan.tail_state is not TailState.CLEAN:
                raise self._damaged(scan, scan.end, scan.reason)
            if pairs != len(self._target):
                raise self._damaged(scan, scan.end, "the snapshot is not complete")

    def _read_segment(self, number: int, *, last: bool) -> None:
        found = self.found
        with self._scan(FileKind.JOURNAL, number) as scan:
            head = scan.head
            if head.revision != found.revision:
                reason = f"it goes on from revision {head.revision}, not from {found.revision}"
                raise self._damaged(scan, 0, reason)
            if found.segments and head.previous != found.chain:
                raise self._damaged(scan, 0, "it does not go on from the segment before it")
            found.store = head.store
            found.segments.append(number)
            for group in scan:
                changes = self._apply_group(group)
                if group.before != found.revision or group.after != group.before + changes:
                    reason = "the lines of the group do not lead to the revision that it tells"
                    raise self._damaged(scan, group.offset, reason)
                found.revision = group.after
                found.changes += changes
            found.chain, found.end = scan.chain, scan.end
            found.journal_bytes += scan.end
            if scan.tail_state is TailState.TORN and last:
                name = self._folder.shown(file_name(FileKind.JOURNAL, number))
                found.torn = TornTail(name, scan.end, scan.size - scan.end, scan.reason)
            elif scan.tail_state is not TailState.CLEAN:
                raise self._damaged(scan, scan.end, scan.reason)

    @contextmanager
    def _scan(self, kind: FileKind, number: int) -> Iterator[JournalReader]:
        """Open a file whose head is what its name says, and of this store."""
        self.current_file = (kind, number)
        name = self._folder.shown(file_name(kind, number))
        file = self._folder.open_file(kind, number)
        try:
            scan = JournalReader(file)
            self._check_head(scan.head, kind, number)
            yield scan
        except journal_format.UnsupportedVersion as error:  # no damage, and nothing to be cut off
            raise DataDirectoryError(
                name, f"at byte 0: {error}; use the kvs that wrote it"
            ) from error
        except journal_format.InvalidFileHeader as error:
            raise CorruptionError(name, 0, str(error)) from error
        except OSError as error:
            raise DataDirectoryError(name, f"cannot read it: {os_error_text(error)}") from error
        finally:
            self._folder.close_file(file)

    def _check_head(self, head: journal_format.FileHeader, kind: FileKind, number: int) -> None:
        if (head.kind, head.number) != (kind, number):
            was = file_name(head.kind, head.number).decode()
            raise journal_format.InvalidFileHeader(f"it is {was}, under another name")
        if self.found.store not in {b"", head.store}:
            raise journal_format.InvalidFileHeader("it belongs to another store")

    def _apply_group(self, group: Group) -> int:
        self._note(group.body)
        changes = self._target.apply(group.body)
        self._done += len(group.body) + journal_format.GROUP_HEADER_BYTES
        self._progress(self._done, self._all)
        return changes

    def _damaged(self, scan: JournalReader, offset: int, reason: str) -> CorruptionError:
        name = file_name(scan.head.kind, scan.head.number)
        return CorruptionError(self._folder.shown(name), offset, reason)
