"""The past of a data directory: the changes of a key, and the state at a revision or a time.

Both replay the journal from a snapshot, or from its first segment, and know nothing of what was
before (`kvs.journal.directory.replay_starts`). Neither changes the directory, and both raise
`DirectoryLockedError` if another process has locked it before or meanwhile. Threads: one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from kvs.engine.interface import DEFAULT_BUDGET_BYTES, NO_EXPIRY, ChangeBatch, Engine, TableView
from kvs.engine.selection import create_engine
from kvs.errors import CorruptionError, DataDirectoryError
from kvs.journal.directory import DataDirectory, replay_starts
from kvs.journal.format import FileKind
from kvs.journal.reader import Group
from kvs.journal.recovery import Recovery
from kvs.language.builder import parse_listings
from kvs.language.grammar import spell
from kvs.language.output_format import format_changes
from kvs.settings import ProgressCallback, ignore_progress
from kvs.store.maintenance import Path, open_unlocked
from kvs.store.persistence import EngineReplayTarget
from kvs.text import printable

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_SHOWN_MS = 253_402_300_799_999
"""Last millisecond of the year 9999."""

RENEW_BYTES = 4 << 20
"""Bytes of lines after which a replay forgets the keys that it does not watch."""

_ORIGIN = re.compile(rb"# origin (.+)")


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """What a key was from one revision on."""

    revision: int
    time_ms: int
    """Time of the change, in milliseconds since the epoch; 0 if it is unknown."""
    origin: bytes
    """Who changed it, as the journal has it (`kvs.store.origins`); `RESTORED`; or `SNAPSHOT` if the
    snapshot at which the journal begins has this version. Empty if it is unknown."""
    value: bytes | None
    """None if the key was removed, or is not in the snapshot."""
    until: int | None
    """Time at which the pair expires, in milliseconds since the epoch, or None."""


RESTORED, SNAPSHOT = b"restore", b"snapshot"


def history(
    path: Path, key: bytes, progress: ProgressCallback = ignore_progress
) -> Iterator[KeyVersion]:
    """Yield every version of `key`, oldest first, as far back as the journal reaches.

    Cost: memory for about `RENEW_BYTES` of lines, whatever the size of the journal, and for one
    group.

    Raises:
        DataDirectoryError: it is not a data directory, or cannot be read.
        DirectoryLockedError: another process has locked it.
        CorruptionError: a file is damaged or missing; what was read before was yielded.

    """
    with open_unlocked(path) as directory:
        oldest = replay_starts(directory.list_files())[0]
        target = _KeyTarget(key)
        recovery = Recovery(directory, target, _ignore_jobs, progress)
        try:
            for group in recovery.groups(before=oldest + 1):
                yield from target.begin(group, recovery.current_file[0])
                del group  # before the next one is read: a group may be long
        except CorruptionError:
            yield from target.end(recovery.state.revision)
            raise
        yield from target.end(recovery.state.revision)


def _ignore_jobs(_lines: bytes) -> None:
    """Ignore the job records of a group."""


class _KeyTarget:
    """A replay target that follows one key, and holds few others. Threads: one."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        spelling = spell(key)
        self._show = b"SHOW [%b] LIMIT 1 UNTIL\n" % spelling
        self._part = key if spelling == key else b'"'
        """What a line with the key has, unless it has an escape."""
        self._engine = create_engine()
        self._engine_bytes = 0
        """Bytes of the lines that the engine has executed."""
        self._pairs = 0
        """Pairs of the snapshot."""
        self._file = FileKind.JOURNAL
        self._time_ms = 0
        self._revision = 0
        self._origin = b""
        self._is_restore = False
        self._versions: list[KeyVersion] = []
        self._engine.watch(key)

    def __len__(self) -> int:
        """Return the number of pairs of the snapshot."""
        return self._pairs

    def begin(self, group: Group, file: FileKind) -> list[KeyVersion]:
        """Begin a group, from a file of this kind; return the versions since the last call."""
        if file is FileKind.JOURNAL:
            self._leave_snapshot(group.before)
        self._file, self._time_ms = file, group.time_ms
        self._revision = group.before
        self._is_restore = group.is_restore
        self._origin = RESTORED if group.is_restore else b""
        return self._take()

    def end(self, revision: int) -> list[KeyVersion]:
        """Return the versions since `begin`; the last file ended at `revision`."""
        self._leave_snapshot(revision)
        return self._take()

    def _take(self) -> list[KeyVersion]:
        taken, self._versions = self._versions, []
        return taken

    def _leave_snapshot(self, revision: int) -> None:
        if self._file is FileKind.SNAPSHOT:
            self._file = FileKind.JOURNAL
            [value] = self._engine.get([self._key])
            version = KeyVersion(revision, self._time_ms, SNAPSHOT, value, self._until())
            self._versions.append(version)

    def apply(self, lines: bytes) -> int:
        """Execute the lines that may concern the key; return the number of changes."""
        if self._file is FileKind.SNAPSHOT:
            before = len(self._engine)
            EngineReplayTarget(self._engine).apply(lines)
            self._pairs += len(self._engine) - before
            self._engine.move_batches([])  # the snapshot's pairs are no changes
            self._forget(len(lines))
            return 0
        changes = 0
        for line in lines.split(b"\n"):
            if line.startswith(b"#") or not line:
                if origin := _ORIGIN.match(line):
                    self._origin = origin[1]
                continue
            changes += 1
            if self._part in line or b"\\" in line or b"CLEAR" in line:
                self._execute(line + b"\n", self._revision + (1 if self._is_restore else changes))
        if not self._is_restore:
            self._revision += changes
        return changes

    def _execute(self, line: bytes, revision: int) -> None:
        batches: list[ChangeBatch] = []
        self._engine.execute(line, 0, DEFAULT_BUDGET_BYTES, limits=False)
        self._engine.move_batches(batches)
        for batch in batches:
            for _, value in batch.changes:
                until = None if value is None else self._until()
                version = KeyVersion(revision, self._time_ms, self._origin, value, until)
                self._versions.append(version)
        self._forget(len(line))

    def _until(self) -> int | None:
        if self._engine.next_expiry == NO_EXPIRY:
            return None
        shown = self._engine.execute(self._show, 0, DEFAULT_BUDGET_BYTES).output
        # If the key is missing, this is the pair of one that begins with it.
        return next((until for key, _, until in parse_listings([shown]) if key == self._key), None)

    def _forget(self, executed: int) -> None:
        """Note `executed` bytes of lines; after many, continue without the other keys."""
        self._engine_bytes += executed
        if self._engine_bytes < RENEW_BYTES:
            return
        [value] = self._engine.get([self._key])
        until = self._until()
        self._engine, self._engine_bytes = create_engine(), 0
        if value is not None:
            line = format_changes([(self._key, value, until)])
            self._engine.execute(line, 0, DEFAULT_BUDGET_BYTES)
        self._engine.watch(self._key)


Pairs = tuple[dict[bytes, bytes], dict[bytes, int]]
"""Pairs, and when those that expire do so, in milliseconds since the epoch."""


def state_at_revision(
    path: Path, revision: int, progress: ProgressCallback = ignore_progress
) -> Pairs:
    """Return the pairs right after a revision.

    Raises:
        DataDirectoryError: it is not a data directory, or cannot be read, or the journal does not
            reach to that revision.
        DirectoryLockedError: another process has locked it.
        CorruptionError: a file is damaged or missing.

    """
    engine = create_engine()
    with open_unlocked(path) as directory:
        recovery = Recovery(directory, EngineReplayTarget(engine), _ignore_jobs, progress)
        starts = _find_starts(directory, recovery)
        if revision < starts[0].revision:
            reason = f"the journal reaches back to revision {starts[0].revision}"
            raise DataDirectoryError(printable(directory.path), reason)
        start = [start for start in starts if start.revision <= revision][-1]
        for group in _changes(recovery, start):
            if group.after > revision:
                _apply_changes(engine, group, revision - group.before)
                break
            del group  # before the next one is read: a group may be long
        else:
            if recovery.state.revision < revision:
                reason = f"the journal reaches to revision {recovery.state.revision}"
                raise DataDirectoryError(printable(directory.path), reason)
    return _pairs(engine)


def state_at_time(path: Path, time_ms: int, progress: ProgressCallback = ignore_progress) -> Pairs:
    """Return the pairs right before the first change after a time, in milliseconds since the epoch.

    Changes of an unknown time count as made before all others.

    Raises:
        DataDirectoryError: it is not a data directory, or cannot be read, or the journal does not
            reach back to that time.
        DirectoryLockedError, CorruptionError: as `state_at_revision`.

    """
    engine = create_engine()
    with open_unlocked(path) as directory:
        recovery = Recovery(directory, EngineReplayTarget(engine), _ignore_jobs, progress)
        starts = _find_starts(directory, recovery)
        start = [starts[0], *(start for start in starts if 0 < start.time_ms <= time_ms)][-1]
        oldest = start.revision, start.time_ms
        for group in _changes(recovery, start):
            if not oldest[1]:
                oldest = group.after, group.time_ms
            if group.time_ms > time_ms:
                break
            del group  # before the next one is read: a group may be long
        if not 0 < oldest[1] <= time_ms:
            reason = "the journal has no times; give a revision"
            if oldest[1]:
                text = format_time(oldest[1])
                reason = f"the journal reaches back to {text}, with revision {oldest[0]}"
            raise DataDirectoryError(printable(directory.path), reason)
    return _pairs(engine)


class _Start(NamedTuple):
    """A state at which a replay can begin."""

    number: int
    """Number of the file."""
    revision: int
    time_ms: int
    """Time at which it was the state, in milliseconds since the epoch, or 0."""


def _find_starts(directory: DataDirectory, recovery: Recovery) -> list[_Start]:
    """Return the states at which a replay can begin, the oldest first.

    Raises:
        DataDirectoryError, CorruptionError: as `state_at_revision`.

    """
    files = directory.list_files()
    snapshots = set(files[FileKind.SNAPSHOT])
    return [
        _Start(number, *(recovery.snapshot_time(number) if number in snapshots else (0, 0)))
        for number in replay_starts(files)
    ]


def _changes(recovery: Recovery, start: _Start) -> Iterator[Group]:
    """Yield each group of changes after `start` before it is applied."""
    for group in recovery.groups(before=start.number + 1):
        if group.after > group.before:
            yield group
        del group  # before the next one is read: a group may be long


def _apply_changes(engine: Engine, group: Group, count: int) -> None:
    """Apply the first `count` changes of a group."""
    end = engine.revision + count
    for lines in group.body:
        offset = 0
        while engine.revision < end and offset < len(lines):
            offset = engine.execute(lines, offset, 0, limits=False).offset


def _pairs(engine: Engine) -> Pairs:
    pairs: dict[bytes, bytes] = {}
    expiries: dict[bytes, int] = {}

    def take(view: TableView) -> None:
        for key, value, until in parse_listings(view.listing(expiries=True)):
            pairs[key] = value
            if until is not None:
                expiries[key] = until

    engine.with_locked_view(take)
    return pairs, expiries


def format_time(time_ms: int) -> str:
    """Return a time as ISO 8601, in UTC with milliseconds; ``-`` for an unknown one.

    A time after the year 9999 is that of its end.
    """
    if not time_ms:
        return "-"
    moment = _EPOCH + timedelta(milliseconds=min(time_ms, _MAX_SHOWN_MS))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
