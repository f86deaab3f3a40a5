"""The same commands for SQLite and LMDB, in the process: one transaction a command.

`bench.baseline` gets each database in place of its dict and in place of its lock: a command holds
the lock while it uses the table, and so becomes a transaction.
"""

import os
import sqlite3
from collections.abc import Iterable
from typing import Any, Self, cast

import lmdb

from bench import baseline

_MAP_BYTES = 1 << 30
"""Maximum bytes that LMDB maps: a range of addresses, which takes memory only where it is used."""


class SQLite:
    """A table in a database with a write-ahead log; by default each transaction syncs the log."""

    version = f"SQLite {sqlite3.sqlite_version}"

    def __init__(self, directory: str, *, synced: bool = True) -> None:
        """Create the database; unless `synced`, only checkpoints of the log are synced."""
        self._connection = sqlite3.connect(os.path.join(directory, "pairs"), isolation_level=None)
        execute = self._execute = self._connection.execute
        [mode] = execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise RuntimeError(f"SQLite: journal_mode is {mode!r}, must be 'wal'")
        execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
        execute("CREATE TABLE pairs (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")

    def update(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Set every pair."""
        self._connection.executemany("INSERT OR REPLACE INTO pairs VALUES (?, ?)", pairs)

    def get(self, key: bytes, default: bytes) -> bytes:
        """Return the value of a key, or `default`."""
        row = self._execute("SELECT value FROM pairs WHERE key = ?", (key,)).fetchone()
        return default if row is None else cast("bytes", row[0])

    def pop(self, key: bytes, default: None) -> object:
        """Remove a key; return `default` if it was missing."""
        cursor = self._execute("DELETE FROM pairs WHERE key = ?", (key,))
        return cursor.rowcount or default

    def __len__(self) -> int:
        """Return the number of pairs."""
        [count] = self._execute("SELECT count(*) FROM pairs").fetchone()
        return int(count)

    def __enter__(self) -> Self:
        """Begin a transaction."""
        self._execute("BEGIN")
        return self

    def __exit__(self, *_: object) -> None:
        """Commit the transaction."""
        self._execute("COMMIT")

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


class LMDB:
    """A database; by default each transaction that changed something is synced."""

    version = "LMDB " + ".".join(map(str, lmdb.version()))

    def __init__(self, directory: str, *, synced: bool = True) -> None:
        """Create the database; unless `synced`, it is left to the kernel when to write."""
        self._environment = lmdb.open(directory, map_size=_MAP_BYTES, sync=synced)

    def update(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Set every pair."""
        for key, value in pairs:
            self._transaction.put(key, value)

    def get(self, key: bytes, default: bytes) -> bytes:
        """Return the value of a key, or `default`."""
        return cast("bytes", self._transaction.get(key, default))

    def pop(self, key: bytes, default: None) -> object:
        """Remove a key; return `default` if it was missing."""
        return self._transaction.delete(key) or default

    def __len__(self) -> int:
        """Return the number of pairs."""
        return int(self._environment.stat()["entries"])

    def __enter__(self) -> Self:
        """Begin a transaction."""
        self._transaction = self._environment.begin(write=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Commit the transaction."""
        self._transaction.commit()

    def close(self) -> None:
        """Close the database."""
        self._environment.close()


Database = SQLite | LMDB


def execute(script: bytes, database: Database) -> bytes:
    """Execute the lines of `script`; return their output."""
    return baseline.execute(script, cast("Any", database), cast("Any", database))
