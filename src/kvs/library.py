"""The library: `Store`, the public store for programs that embed KVS."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, cast, overload

from kvs.codecs import BYTES, Codec, K, V
from kvs.concurrency.atomic import exhaust
from kvs.concurrency.resources import NonCopyable
from kvs.concurrency.waiters import call_uninterrupted
from kvs.engine.interface import DEFAULT_BUDGET_BYTES, ExecuteResult
from kvs.errors import (
    InvalidValueError,
    JournalWriteError,
    KvsError,
    SnapshotError,
    StoreClosedError,
    ThreadStartError,
)
from kvs.jobs.report import ErrorCallback, Report
from kvs.jobs.run import JobRun, ignore_error
from kvs.language import builder
from kvs.language.builder import Word
from kvs.language.diagnostics import validate_word
from kvs.posix.files import check_can_replace, open_directory
from kvs.settings import DataSettings, ProgressCallback, Settings, ignore_progress, usable_cpu_count
from kvs.snapshot.reader import load
from kvs.snapshot.writer import SnapshotInfo, SnapshotWriter
from kvs.store.commit import CommitPoint
from kvs.store.core import Path, StoreCore
from kvs.store.subscriptions import Subscriptions
from kvs.store.watch import Change, Reader, Watch
from kvs.text import os_error_text, printable

if TYPE_CHECKING:  # a store in memory does not load these
    from kvs.store.persistence import RecoveryInfo

D = TypeVar("D")


class _Missing:
    """The default of `get` that no caller has."""


_MISSING = _Missing()


class Store(NonCopyable, Generic[K, V]):
    """Pairs of bytes in memory, and optionally in a data directory.

    Keys and values are any bytes, given as bytes, or as str and then encoded as UTF-8; they are
    returned as bytes. With a `codec` they are what it encodes and decodes: with `kvs.JSON`, keys
    are str, and values whatever JSON can express. A key has 1 to 1,024 bytes, a value at most 16
    MiB; others raise `InvalidWordError`, a `ValueError`, in every method. After `close` every
    method but `close` and `on_failure` raises `StoreClosedError`, in a forked child
    `InheritedByForkError`, and `JournalWriteError` once the journal has failed.

    With a data directory, a method returns only when every change that its result depends on is
    committed: the ``fsync`` setting is met for it. `execute` alone returns earlier: its caller
    waits for `commit_point` before it releases the output.

    Threads: any number, and every method takes effect at one instant. A signal handler or a
    finalizer may call every method, also within another call of the same thread.
    """

    @overload
    def __init__(
        self: "Store[bytes, bytes]",
        data: Path | None = None,
        settings: DataSettings | None = None,
        *,
        progress: ProgressCallback = ignore_progress,
    ) -> None: ...
    @overload
    def __init__(
        self,
        data: Path | None = None,
        settings: DataSettings | None = None,
        *,
        codec: Codec[K, V],
        progress: ProgressCallback = ignore_progress,
    ) -> None: ...
    def __init__(
        self,
        data: Path | None = None,
        settings: DataSettings | None = None,
        *,
        codec: Codec[Any, Any] = BYTES,
        progress: ProgressCallback = ignore_progress,
    ) -> None:
        """Create an empty store in memory, or open the data directory `data`.

        The directory is created if it does not exist; it is locked until `close`. `settings`
        defaults to `DataSettings()`. `codec` is not stored with the data: each opening names it.
        `progress` is called during recovery with the bytes read and the bytes to read.

        Raises:
            EngineUnavailableError: `KVS_ENGINE` names an engine that is not available.
            DataDirectoryError: the directory cannot be created, opened, locked or read.
            DirectoryLockedError: another process has the directory open.
            CorruptionError: a file in the directory fails a check; no file was changed.
            TypeError: `settings` is no `DataSettings`, or `codec` no `Codec`.

        """
        if settings is not None and not isinstance(settings, DataSettings):
            raise TypeError(f"settings is a kvs.DataSettings, not {type(settings).__name__}")
        if not isinstance(codec, Codec):
            raise TypeError(f"codec is kvs.JSON or another kvs.Codec, not {type(codec).__name__}")
        self._codec: Codec[K, V] = codec
        self._core = StoreCore(data, settings, progress=progress)
        self._subscriptions = Subscriptions(Change, word_bytes=_word_bytes)
        self._readers: dict[Reader, None] = {}
        """The state of every open watch."""
        self._core.add_subscriptions(self._subscriptions)
        if data is not None:
            self._core.on_failure(partial(_end_readers, self._readers))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write every change, close the data directory, and end every watch. Idempotent.

        A call within another call of the same thread, by a signal handler or a finalizer, closes
        the store as well; if a compaction waits for that thread, the compaction closes the store
        when it ends. In a forked child it frees the memory of the store and changes nothing else.

        Raises:
            JournalWriteError: some changes could not be written.

        """
        try:
            self._core.close()
        finally:
            _end_readers(self._readers, StoreClosedError())

    # Commands.

    def execute(
        self, script: Word, start: int = 0, budget: int = DEFAULT_BUDGET_BYTES
    ) -> ExecuteResult:
        """Execute the commands of `script` from byte `start` on.

        Returns at the end of the script, at a WAIT or BACKUP, which the caller carries out if it
        wants to, or after the command that takes input or output past `budget` bytes. To continue,
        call it again with `start` set to the `offset` of the result. `start` must be the start of a
        line. An invalid line has no effect and is in `diagnostics` of the result. A str is encoded
        as UTF-8; offsets count bytes.

        Does not wait for the commit of its changes: call `commit_point` and wait for it before the
        output is released.

        Raises:
            TypeError: `script` is neither bytes nor str.
            UnicodeEncodeError: `script` is a str that cannot be encoded.
            ValueError: `start` is outside of the script, or `budget` is negative.
            JournalWriteError: the journal failed.

        """
        if type(script) is not bytes:
            script = builder.encode_script(script)
        return self._core.execute(script, start, budget)

    def commit_point(self) -> CommitPoint:
        """Return the commit point of every change that is applied by now.

        Raises:
            JournalWriteError: the journal failed, so that nothing more is committed.

        """
        return self._core.commit_point()

    @overload
    def write(
        self,
        pairs: Mapping[Any, V | Word] | Iterable[tuple[K | Word, V | Word]],
        *,
        for_: float | None = None,
    ) -> int: ...
    @overload
    def write(
        self,
        pairs: Mapping[Any, V | Word] | Iterable[tuple[K | Word, V | Word]],
        *,
        if_: Mapping[Any, V | Word | None] | None,
        for_: float | None = None,
    ) -> int | None: ...
    def write(
        self,
        pairs: Mapping[Any, V | Word] | Iterable[tuple[K | Word, V | Word]],
        *,
        if_: Mapping[Any, V | Word | None] | None = None,
        for_: float | None = None,
    ) -> int | None:
        """Set every pair of a mapping, or of an iterable of pairs, as one change.

        A key named twice gets the last value. With `if_`, nothing is written unless each of its
        keys has exactly its value (None: the key does not exist) at that instant. With `for_`, the
        pairs expire after so many seconds; without it, they do not expire.

        Returns the revision after the change, or None if `if_` did not hold. No pairs are no
        change.

        Raises:
            InvalidWordError: a key or value is too long, an item is not a pair, or `if_` has a key
                twice, as str and as bytes; nothing was written.
            TypeError: the codec of the store cannot encode a key or value; nothing was written.
            ValueError: `for_` is not more than 0, or more than 10**11.

        """
        self._core.check_open()
        encoded = self._encode_pairs(pairs)
        condition = self._encode_changes(if_ or {}, "if_ is")
        line = builder.build_write(encoded, condition, builder.to_milliseconds(for_))
        result = self._execute_line(line)
        if builder.is_refused(result.output):
            return self._core.after_commit(None)
        return self._core.after_commit(result.revision)

    def add(
        self,
        numbers: Mapping[Any, int] | Iterable[tuple[K | Word, int]],
        *,
        for_: float | None = None,
    ) -> dict[K, int]:
        """Add a whole number to the value of each key, as one change; return the new values.

        A missing key counts from 0. The values are decimal numbers of 64 bits, as ``b"-12"``. With
        `for_`, the pairs expire after so many seconds; without, an expiry stays as it is.

        Raises:
            InvalidValueError: a value is not a number, or a sum has more than 64 bits; no number
                was added.
            InvalidWordError: a key is too long, or an item is not a pair.
            TypeError: what is to be added is not an int.
            ValueError: it has more than 64 bits, or `for_` is not more than 0, or more than
                10**11.

        """
        self._core.check_open()
        encode = self._codec.encode_key
        pairs = [(encode(key), number) for key, number in builder.iterate_pairs(numbers)]
        result = self._execute_line(builder.build_add(pairs, builder.to_milliseconds(for_)))
        sums = builder.parse_add_output(pairs, self._core.after_commit(result.output))
        return {self._codec.decode_key(key): number for key, number in sums.items()}

    def update(
        self,
        keys: Iterable[K | Word],
        function: Callable[[dict[K, V]], Mapping[Any, V | Word | None]],
    ) -> dict[K, V | None]:
        """Change pairs depending on what they are, as one change; return what was written.

        `function` is called with the pairs of those `keys` that exist, and returns the pairs to
        write, of any keys; the value None removes a key. If one of `keys` has changed meanwhile,
        nothing is written and `function` is called again, so it should do nothing else. What it
        raises leaves the store unchanged. It may see changes that are not committed yet.

        Raises:
            InvalidWordError: a key or value is too long; nothing was written.
            TypeError: `function` returned no mapping, or the codec of the store cannot encode a
                key or value; nothing was written.
            InvalidValueError: the codec of the store cannot decode a value.

        """
        self._core.check_open()
        encode_key = self._codec.encode_key
        names = builder.validate_keys(keys, encode_key)
        found = dict(zip(names, self._core.peek(names), strict=True))
        while True:
            given = {k: v for k, v in found.items() if v is not None}
            changes = self._encode_changes(
                function(dict(self._decode_pairs(given.items()))),
                "the function of update must return",
            )
            line = builder.build_change(changes.items(), found)
            output = self._execute_line(line).output
            if not builder.is_refused(output):
                break
            values = builder.parse_read_output(output)
            found = {name: values.get(name) for name in names}
        return self._core.after_commit(
            {
                self._codec.decode_key(key): None
                if value is None
                else self._decode_value(key, value)
                for key, value in changes.items()
            }
        )

    def read(self, keys: Iterable[K | Word]) -> dict[K, V]:
        """Return the pairs of those `keys` that exist, at one instant, in the order of `keys`.

        (`Session.read` returns them in ascending order of the keys.)

        Raises:
            InvalidWordError: a key is too long.
            InvalidValueError: the codec of the store cannot decode a value.

        """
        self._core.check_open()
        names = builder.validate_keys(keys, self._codec.encode_key)
        pairs = zip(names, self._core.get(names), strict=True)
        return dict(self._decode_pairs((k, v) for k, v in pairs if v is not None))

    def delete(self, keys: Iterable[K | Word]) -> list[K]:
        """Remove `keys` as one change; return those that did not exist, in ascending order.

        As in the language, a key named twice is missing the second time.

        Raises:
            InvalidWordError: a key is too long; nothing was removed.

        """
        self._core.check_open()
        names = builder.validate_keys(keys, self._codec.encode_key)
        if not names:
            return []
        result = self._execute_line(builder.build_keys_command(b"DELETE", names))
        missing = self._core.after_commit(builder.parse_delete_output(result.output))
        return list(map(self._codec.decode_key, missing))

    def count(self, prefix: K | Word = b"") -> int:
        """Return the number of keys that begin with `prefix`.

        Raises:
            InvalidWordError: `prefix` is too long.

        """
        self._core.check_open()
        line = builder.build_keys_command(b"COUNT", [self._encode_prefix(prefix)])
        return int(self._core.after_commit(self._execute_line(line).output))

    def clear(self, prefix: K | Word) -> int:
        """Remove every key that begins with `prefix`, as one change; return their number.

        An empty prefix is that of every key.

        Raises:
            InvalidWordError: `prefix` is too long; nothing was removed.

        """
        self._core.check_open()
        line = builder.build_keys_command(b"CLEAR", [self._encode_prefix(prefix)])
        return int(self._core.after_commit(self._execute_line(line).output))

    def _execute_line(self, line: bytes) -> ExecuteResult:
        """Execute one command of any length that is built of valid words, or no command."""
        return self._core.execute(line, limits=False)

    # Encoding.

    def _encode_pairs(
        self, pairs: Mapping[Any, V | Word] | Iterable[tuple[K | Word, V | Word]]
    ) -> Mapping[Any, Word] | Iterable[tuple[Word, Word]]:
        if self._codec is BYTES:  # the builder encodes them
            return cast("Iterable[tuple[Word, Word]]", pairs)
        encode_key, encode_value = self._codec.encode_key, self._codec.encode_value
        return [
            (encode_key(key), encode_value(value)) for key, value in builder.iterate_pairs(pairs)
        ]

    def _encode_changes(
        self, values: Mapping[Any, V | Word | None], source: str
    ) -> dict[bytes, bytes | None]:
        return builder.encode_changes(
            values, source, self._codec.encode_key, self._codec.encode_value
        )

    def _encode_prefix(
        self, prefix: K | Word, role: Literal["prefix", "after"] = "prefix"
    ) -> bytes:
        is_empty = isinstance(prefix, str | bytes) and not prefix
        if is_empty or self._codec.encode_key is BYTES.encode_key:
            return validate_word(cast("Word", prefix), role)
        return self._codec.encode_key(prefix)

    def _decode_pairs(self, pairs: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[K, V]]:
        if self._codec is BYTES:
            return cast("Iterable[tuple[K, V]]", pairs)
        return (
            (self._codec.decode_key(key), self._decode_value(key, value)) for key, value in pairs
        )

    def _decode_value(self, key: bytes, value: bytes) -> V:
        try:
            return self._codec.decode_value(value)
        except ValueError as error:
            raise InvalidValueError(key, value, f"cannot be decoded: {error}") from error

    def _decode_change(self, change: Change) -> Change[K, V]:
        key, value = change.key, change.value
        return Change(
            self._codec.decode_key(key), None if value is None else self._decode_value(key, value)
        )

    # As a mapping.

    @overload
    def get(self, key: K | Word) -> V | None: ...
    @overload
    def get(self, key: K | Word, default: D) -> V | D: ...
    def get(self, key: K | Word, default: object = None) -> object:
        """Return the value of `key`, or `default` if the key does not exist.

        Raises:
            InvalidWordError: `key` is too long.
            InvalidValueError: the codec of the store cannot decode the value.

        """
        self._core.check_open()
        name = self._codec.encode_key(key)
        [value] = self._core.get([name])
        return default if value is None else self._decode_value(name, value)

    def __getitem__(self, key: K | Word) -> V:
        """Return the value of `key`.

        Raises:
            KeyError: `key` does not exist.
            InvalidWordError: `key` is too long.
            InvalidValueError: the codec of the store cannot decode the value.

        """
        value = self.get(key, _MISSING)
        if isinstance(value, _Missing):
            raise KeyError(key)
        return value

    def __setitem__(self, key: K | Word, value: V | Word) -> None:
        """Set the value of `key`.

        Raises:
            InvalidWordError: `key` or `value` is too long.

        """
        self.write([(key, value)])

    def __delitem__(self, key: K | Word) -> None:
        """Remove `key`.

        Raises:
            KeyError: `key` does not exist.
            InvalidWordError: `key` is too long.

        """
        if self.delete([key]):
            raise KeyError(key)

    def __contains__(self, key: K | Word) -> bool:
        """Return whether `key` exists.

        Raises:
            InvalidWordError: `key` is too long.

        """
        self._core.check_open()
        return self._core.get([self._codec.encode_key(key)]) != [None]

    def __iter__(self) -> Iterator[K]:
        """Return an iterator of the keys at one instant, in ascending order."""
        return iter(self.keys())

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._core)

    def keys(
        self, *, prefix: K | Word = b"", after: K | Word | None = None, limit: int | None = None
    ) -> list[K]:
        """Return keys at one instant, in ascending order of their bytes.

        By default they are all keys; the arguments are those of `items`.

        Raises:
            InvalidWordError: `prefix` or `after` is too long.
            ValueError: `limit` is negative.

        """
        selection = self._selection(prefix, after, limit)
        return [self._codec.decode_key(key) for key in self._core.keys(*selection)]

    def items(
        self, *, prefix: K | Word = b"", after: K | Word | None = None, limit: int | None = None
    ) -> list[tuple[K, V]]:
        """Return pairs at one instant, in ascending order of the bytes of their keys.

        They are those whose keys begin with `prefix` and are greater than `after`, which need not
        exist: the first `limit` of them, or all. To take many pairs in parts, pass the last key of
        a part as `after` of the next one.

        Raises:
            InvalidWordError: `prefix` or `after` is too long.
            InvalidValueError: the codec of the store cannot decode a value.
            ValueError: `limit` is negative.

        """
        selection = self._selection(prefix, after, limit)
        return list(self._decode_pairs(self._core.items(*selection)))

    def _selection(
        self, prefix: K | Word, after: K | Word | None, limit: int | None
    ) -> tuple[Sequence[bytes], bytes | None, int | None]:
        """Return the encoded arguments; raise if one is invalid."""
        builder.validate_limit(limit)
        self._core.check_open()
        begin = self._encode_prefix(prefix)
        last_before = None if after is None else self._encode_prefix(after, "after")
        return (begin,) if begin else (), last_before, limit

    # Watches.

    def watch(self, keys: Iterable[K | Word]) -> Watch[K, V]:
        """Return an iterator of every later change of `keys`, in order; see `Watch`.

        A key need not exist; its removal and its return are changes. A watch with more than about
        100,000 changes that were not read, or 256 MiB of them, is closed with `SlowConsumerError`:
        writers never wait for a watch.

        Raises:
            InvalidWordError: a key is too long.

        """
        self._core.check_open()
        reader = Reader(held=self._core.is_persistent)

        def unsubscribe() -> None:
            self._readers.pop(reader, None)
            self._core.unsubscribe_all(self._subscriptions, reader.outbox)

        names = builder.validate_keys(keys, self._codec.encode_key)
        watch = Watch(reader, unsubscribe, self._decode_change)
        self._readers[reader] = None
        try:
            for name in names:
                self._core.subscribe(self._subscriptions, reader.outbox, name)
            if self._core.failure is not None:
                reader.end(self._core.failure)
            self._core.check_open()
        except BaseException:
            watch.close()
            raise
        return watch

    # Backups and the data directory.

    def backup(self, path: Path) -> SnapshotInfo:
        """Write the pairs of this instant to the file `path`; return when it is on disk.

        A forked child writes the file while other threads use the store. The finished file
        replaces what was at `path`; if the backup fails, `path` is unchanged.

        Raises:
            SnapshotError: the file could not be written, and `path` is unchanged.
            SnapshotNotDurableError: the file is in place, but a loss of power may undo that.

        """
        self._core.check_open()
        parent, name = os.path.split(os.fsencode(path))
        directories: list[int] = []
        writers: list[SnapshotWriter] = []
        close_all = partial(exhaust, map(os.close, directories))

        def begin() -> None:
            directories.append(open_directory(parent or b"."))
            check_can_replace(name, directories[0])
            writers.append(SnapshotWriter(directories[0], name, printable(path)))

        try:
            call_uninterrupted(begin)
            self._core.fork_snapshot(writers[0], framed=True)
            # No return here: CPython could run a signal handler between it and `close_all`.
            info = writers[0].finish(self._core.commit_point().wait)
        except BaseException as error:
            for writer in writers:
                writer.cancel()
            if isinstance(error, OSError):
                raise SnapshotError(printable(path), os_error_text(error)) from error
            if isinstance(error, ThreadStartError):
                raise SnapshotError(printable(path), str(error)) from error
            raise
        finally:
            close_all()
        return info

    def restore(self, path: Path) -> int:
        """Replace all pairs by those of the backup at `path`, as one change; return its revision.

        Raises:
            BackupReadError: the file cannot be opened or read.
            BackupFormatError: the file is not a backup; the store is unchanged.
            StoreNotEmptyError: the store has a data directory, and was changed before.

        """
        self._core.check_open()
        backup = load(os.fsencode(path))
        return self._core.load(backup.pairs, backup.expiries)

    def compact(self) -> SnapshotInfo | None:
        """Write all pairs as a snapshot, and remove the journal before it.

        A forked child writes the snapshot while other threads use the store. Returns None
        for a store in memory. A finalizer that runs in a thread for which a compaction waits gets
        None too: the journal is then compacted in the background.

        Raises:
            SnapshotError: the snapshot could not be written; the journal is unchanged.
            DataDirectoryError: the snapshot was written, but old files could not be removed.
            JournalWriteError: the journal failed.
            ThreadStartError: no thread could be started; the journal is unchanged.

        """
        return self._core.compact()

    @property
    def revision(self) -> int:
        """The number of changes since the store was created: each changing command adds 1."""
        return self._core.revision

    @property
    def recovered(self) -> "RecoveryInfo | None":
        """What recovery found in the data directory; None for a store in memory."""
        return self._core.recovered

    @property
    def failure(self) -> JournalWriteError | None:
        """The error of the journal, if it has failed: the store executes no more commands."""
        return self._core.failure

    def on_failure(self, callback: Callable[[JournalWriteError], None]) -> Callable[[], None]:
        """Call `callback` once when the journal fails; return a function that cancels this.

        A thread of the store calls it; if the journal has failed already, the calling thread does.
        """
        return self._core.on_failure(callback)

    # Jobs.

    def run_jobs(
        self,
        directory: Path,
        *,
        threads: int | None = None,
        backups: int = 2,
        resume: bool = False,
        on_error: ErrorCallback = ignore_error,
    ) -> Report:
        """Run every job of `directory` against this store; return the report at the end.

        At most `threads` jobs run at the same time (default: the number of usable cores), and at
        most `backups` backups are written at the same time. With `resume`, unfinished jobs that the
        data directory knows continue where they stopped, and finished jobs are skipped. An error
        within a job does not raise: it is in the report, and `on_error` is called with it in the
        thread that met it. An exception in the waiting thread, such as KeyboardInterrupt, stops the
        run, waits for its end, and propagates. Any number of threads may call this, each with a
        directory of its own.

        Raises:
            JobsDirectoryError: `directory` is not a directory, or cannot be listed or locked.
            DirectoryLockedError: another run uses the directory.
            ThreadStartError: no thread could be started.
            ValueError: `threads` or `backups` is below 1.

        """
        self._core.check_open()
        settings = Settings(usable_cpu_count() if threads is None else threads, backups, resume)
        with JobRun(self._core, directory, settings, on_error) as run:
            run.wait()
        return run.report


def _word_bytes(change: Change) -> int:
    """Return the bytes of the words in a change."""
    return len(change.key) + len(change.value or b"")


def _end_readers(readers: dict[Reader, None], error: KvsError) -> None:
    """End every open watch with `error`."""
    for reader in list(readers):
        reader.end(error)
