"""Recovery: read the files of a data directory, in order, and apply them to a store.

Invariants:

- The files to read are the newest snapshot, the segment with the same number, and all later
  segments, without a gap; without a snapshot, the segments from 1 on. Older files are kept
  for the history, or left over from a compaction; they may be removed.
- Each segment must begin at the revision, and with the checksum, at which the previous one ends.
- Only the last segment may be torn. Any other failed check raises `CorruptionError`, and no file is
  changed.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from kvs.errors import CorruptionError, DataDirectoryError
from kvs.journal import format as journal_format
from kvs.journal.directory import DataDirectory
from kvs.journal.format import MAX_TRAILER_BYTES, FileHeader, FileKind, StoreMark, file_name
from kvs.journal.reader import Group, JournalReader, TailState
from kvs.settings import ProgressCallback
from kvs.text import os_error_text

RESTORE_ADVICE = "begin a new data directory with 'kvs restore' from a backup"
"""Advice where a repair would lose everything."""


class ReplayTarget(Protocol):
    """The store to which the files are applied."""

    def __len__(self) -> int:
        """Return the number of pairs."""

    def apply(self, lines: bytes) -> int:
        """Execute lines of the command language; return the number of changes."""


@dataclass(frozen=True, slots=True)
class TornTail:
    """The end of the last segment, if a crash left a group there that was written in part."""

    file: str
    """Path of the segment, made printable."""
    offset: int
    """Byte of the file at which the group begins, from 0."""
    bytes: int
    """Bytes from `offset` to the end of the file."""
    reason: str
    """How the group was recognized as incomplete."""


@dataclass(slots=True)
class RecoveredState:
    """The contents of a data directory, as far as they were read."""

    store_id: bytes = b""
    mark: StoreMark | None = None
    """The mark of the store; None if it is still the ID of the store."""
    version: int = journal_format.VERSION
    """Version of the format of the last segment."""
    snapshot: int | None = None
    """Number of the snapshot; None if there is none."""
    snapshot_bytes: int = 0
    segments: list[int] = field(default_factory=list)
    """Numbers of the segments, in order."""
    older_segments: int = 0
    """Number of segments before them that are kept for the history, where a check counts them."""
    journal_bytes: int = 0
    """Valid bytes of all segments."""
    revision: int = 0
    changes: int = 0
    """Number of changes in the segments."""
    pairs: int = 0
    torn: TornTail | None = None
    last_checksum: int = 0
    """Checksum of the last valid header."""
    end: int = 0
    """Valid bytes of the last segment."""


class Recovery:
    """One reading of a data directory into a target. Threads: one."""

    def __init__(
        self,
        directory: DataDirectory,
        target: ReplayTarget,
        replay_jobs: Callable[[bytes], None],
        progress: ProgressCallback,
    ) -> None:
        """Read nothing yet.

        `replay_jobs` is called with the lines of every group, for the job records in its comments.
        """
        self._directory = directory
        self._target = target
        self._replay_jobs = replay_jobs
        self._progress = progress
        self.state = RecoveredState()
        """What has been read and verified so far."""
        self.current_file = (FileKind.JOURNAL, 1)
        """The file that was read last, or is missing."""
        self._read_bytes = self._total_bytes = 0

    def read(self, before: int | None = None, end: int | None = None) -> RecoveredState:
        """Read and verify the files; return what was read. The arguments are those of `groups`.

        Raises:
            CorruptionError: a file is damaged or missing.
            DataDirectoryError: the directory cannot be read, or has other files and no journal.

        """
        for group in self.groups(before, end):
            del group  # before the next one is read: a group may be long
        return self.state

    def groups(self, before: int | None = None, end: int | None = None) -> Iterator[Group]:
        """Read and verify the files; yield each group before it is applied. There must be a file.

        With `before`, ignore the snapshots with this or a later number; with `end`, the segments.

        Raises:
            CorruptionError: a file is damaged or missing.
            DataDirectoryError: the directory cannot be read, or has other files and no journal.

        """
        numbers = self._directory.list_files()
        snapshots, segments = numbers[FileKind.SNAPSHOT], numbers[FileKind.JOURNAL]
        if before is not None:
            snapshots = [number for number in snapshots if number < before]
        try:
            yield from self._read(snapshots, segments, end)
        except CorruptionError as damage:
            damage.advice = self._advice(snapshots, segments)
            raise

    def _advice(self, snapshots: list[int], segments: list[int]) -> str:
        """Return what the user can do about the damage in the file that was read last."""
        kind, number = self.current_file
        if kind is FileKind.SNAPSHOT:
            if min(snapshots[0], *segments, number) < number:
                return "'kvs repair --cut' removes it, if the older files are intact"
            return f"everything later depends on it: {RESTORE_ADVICE}"
        is_missing = number not in segments
        if snapshots or self.state.revision:
            advice = "'kvs repair --cut' keeps everything before it"
        else:
            advice = RESTORE_ADVICE if is_missing else f"nothing comes before it: {RESTORE_ADVICE}"
        return f"put the file back, or else {advice}" if is_missing else advice

    def _read(self, snapshots: list[int], segments: list[int], end: int | None) -> Iterator[Group]:
        first = snapshots[-1] if snapshots else 1
        files = [
            (FileKind.JOURNAL, number)
            for number in segments
            if number >= first and (end is None or number < end)
        ]
        if snapshots:
            files.insert(0, (FileKind.SNAPSHOT, first))
        self._total_bytes = sum(self._size(kind, number) for kind, number in files)
        expected = first
        if snapshots:
            yield from self._read_snapshot(first)
        for kind, number in files:
            if kind is FileKind.JOURNAL:
                self._expect_segment(number, expected)
                yield from self._read_segment(number, last=number == segments[-1])
                expected += 1
        if expected == first:
            self._expect_segment(None, first)
        self.state.pairs = len(self._target)

    def _size(self, kind: FileKind, number: int) -> int:
        file = self._directory.open_file(kind, number)
        try:
            return os.fstat(file).st_size
        finally:
            self._directory.close_file(file)

    def _expect_segment(self, number: int | None, expected: int) -> None:
        if number != expected:
            self.current_file = (FileKind.JOURNAL, expected)
            name = self._directory.display_path_of(file_name(FileKind.JOURNAL, expected))
            reason = "this segment of the journal is missing"
            if number is not None and self.state.snapshot is None and not self.state.segments:
                reason += f", or else {file_name(FileKind.SNAPSHOT, number).decode()}"
            raise CorruptionError(name, 0, reason)

    def _read_snapshot(self, number: int) -> Iterator[Group]:
        state = self.state
        pairs = None
        with self._open(FileKind.SNAPSHOT, number) as reader:
            state.store_id, state.revision = reader.header.store_id, reader.header.revision
            state.snapshot, state.snapshot_bytes = number, reader.size
            for group in reader:
                if pairs is not None or group.before != group.after:
                    raise self._corruption(reader, group.offset, "unexpected group")
                if group.length <= MAX_TRAILER_BYTES:
                    pairs = journal_format.decode_trailer(b"".join(group.body))
                if pairs is None:
                    self._check_words(reader, group)
                    yield group
                    self._apply_group(reader, group)
                del group  # before the next one is read: a group may be long
            if reader.tail_state is not TailState.CLEAN:
                raise self._corruption(reader, reader.end, reader.reason)
            if pairs != len(self._target):
                raise self._corruption(reader, reader.end, "the snapshot is not complete")

    def _read_segment(self, number: int, *, last: bool) -> Iterator[Group]:
        state = self.state
        with self._open(FileKind.JOURNAL, number) as reader:
            header = reader.header
            if header.revision != state.revision:
                reason = f"it follows revision {header.revision}, not revision {state.revision}"
                raise self._corruption(reader, 0, reason)
            if state.segments and header.previous_checksum != state.last_checksum:
                raise self._corruption(reader, 0, "it does not follow the segment before it")
            state.store_id = header.store_id
            state.segments.append(number)
            for group in reader:
                self._check_words(reader, group)
                yield group
                changes = self._apply_group(reader, group)
                if group.before != state.revision or group.after != group.before + changes:
                    reason = "the lines of the group do not lead to the revision in its header"
                    state.last_checksum = reader.last_checksum
                    raise self._corruption(reader, group.offset, reason)
                state.revision = group.after
                state.changes += changes
                del group  # before the next one is read: a group may be long
            state.version = header.version
            state.last_checksum, state.end = reader.last_checksum, reader.end
            state.journal_bytes += reader.end
            if reader.tail_state is TailState.TORN and last:
                name = self._directory.display_path_of(file_name(FileKind.JOURNAL, number))
                state.torn = TornTail(name, reader.end, reader.size - reader.end, reader.reason)
            elif reader.tail_state is not TailState.CLEAN:
                raise self._corruption(reader, reader.end, reader.reason)

    @contextmanager
    def _open(self, kind: FileKind, number: int) -> Iterator[JournalReader]:
        """Open a file for reading, and check that its header has its name and this store's ID."""
        self.current_file = (kind, number)
        name = self._directory.display_path_of(file_name(kind, number))
        file = self._directory.open_file(kind, number)
        try:
            reader = JournalReader(file)
            self._check_header(reader.header, kind, number)
            yield reader
        except journal_format.UnsupportedVersion as error:  # not damage: a repair must not cut it
            raise DataDirectoryError(
                name, f"at byte 0: {error}; use the version of kvs that wrote it"
            ) from error
        except journal_format.InvalidFileHeader as error:
            raise CorruptionError(name, 0, str(error)) from error
        except OSError as error:
            raise DataDirectoryError(name, f"cannot read it: {os_error_text(error)}") from error
        finally:
            self._directory.close_file(file)

    def _check_header(self, header: FileHeader, kind: FileKind, number: int) -> None:
        if (header.kind, header.number) != (kind, number):
            name = header.name.decode()
            raise journal_format.InvalidFileHeader(f"it is {name}, under another name")
        if self.state.store_id not in {b"", header.store_id}:
            raise journal_format.InvalidFileHeader("it belongs to another store")

    def _apply_group(self, reader: JournalReader, group: Group) -> int:
        """Apply the lines of a group; return the number of changes."""
        changes = 0
        self._read_bytes += journal_format.group_header_bytes(reader.header.version)
        for lines in group.body:
            self._replay_jobs(lines)
            self.state.mark = journal_format.decode_mark(lines) or self.state.mark
            changes += self._target.apply(lines)
            self._read_bytes += len(lines)
            self._progress(self._read_bytes, self._total_bytes)
        return min(changes, 1) if group.is_restore else changes

    def _check_words(self, reader: JournalReader, group: Group) -> None:
        """Raise an error if a word has another meaning in the version that this code writes."""
        for lines in group.body if reader.header.version == 1 else ():
            offset = journal_format.find_old_word(lines)
            if offset is None:
                continue
            offset += group.offset + journal_format.group_header_bytes(reader.header.version)
            reason = (
                f"at byte {offset}: a word of this line begins with '\"', which has another "
                "meaning since version 2 of the format; write all pairs with 'kvs dump' of the "
                "kvs that wrote it, quote such words, and use 'kvs restore'"
            )
            raise DataDirectoryError(self._path_of(reader), reason)

    def snapshot_time(self, number: int) -> tuple[int, int]:
        """Return the revision of a snapshot, and the time at which it was written, or 0.

        Raises:
            CorruptionError: the snapshot is damaged.
            DataDirectoryError: it cannot be read.

        """
        with self._open(FileKind.SNAPSHOT, number) as reader:
            for group in reader:
                return reader.header.revision, group.time_ms
            raise self._corruption(reader, reader.end, reader.reason or "it has no group")

    def _path_of(self, reader: JournalReader) -> str:
        return self._directory.display_path_of(reader.header.name)

    def _corruption(self, reader: JournalReader, offset: int, reason: str) -> CorruptionError:
        return CorruptionError(self._path_of(reader), offset, reason)
