"""The table of the Python engine: pairs, the times at which they expire, and selections of pairs.

Invariants:

- Keys are the words themselves, so that they sort by their bytes. Values must be in canonical
  spelling, so that READ and SHOW write them as they are.
- A pair that expires has an `ExpiringValue`. So one assignment to the dict is the whole change of a
  pair, and a plain WRITE ends an expiry without looking for one.
- The heap must have an entry for each pair that expires. An entry whose pair has been removed, or
  has another time by now, is stale and is skipped.
"""

from collections.abc import Iterator, Mapping, Sequence
from heapq import heappop, heappush, nsmallest
from operator import itemgetter, methodcaller
from typing import overload

from kvs.language import output_format
from kvs.language.grammar import unquote

HeapEntry = tuple[int, bytes]
"""A time, in milliseconds since the epoch, and the key of a pair that expires then."""

Pairs = list[tuple[bytes, bytes]]


class ExpiringValue(bytes):
    """A value whose pair expires."""

    until: int
    """Milliseconds since the epoch."""


def value_until(value: bytes, until: int | None) -> bytes:
    """Return a value whose pair expires at `until`, or never if that is None."""
    if until is None:
        return bytes(value)
    expiring = ExpiringValue(value)
    expiring.until = until
    return expiring


def until_of(value: bytes | None) -> int | None:
    """Return the time at which a pair with this value expires; None if it does not."""
    return value.until if type(value) is ExpiringValue else None


@overload
def word_of(value: bytes) -> bytes: ...


@overload
def word_of(value: bytes | None) -> bytes | None: ...


def word_of(value: bytes | None) -> bytes | None:
    """Return the word that a value of the table spells, None for None."""
    if value is None:
        return None
    return unquote(value) if value.startswith(b'"') else bytes(value)


class Table(dict[bytes, bytes]):
    """The pairs. Only `kvs.concurrency.atomic.atomically` changes a table.

    A dict hashes with SipHash under a secret key of the process (PEP 456), so hostile keys cannot
    make it slow. The class overrides no method of dict, so that all stay as fast; `dict.copy` is
    the fastest way to a consistent copy.
    """

    __slots__ = ("expiry_heap",)

    def __init__(self, pairs: Mapping[bytes, bytes] | None = None) -> None:
        super().__init__(pairs or {})
        untils = ((until_of(value), key) for key, value in self.items())
        self.expiry_heap: list[HeapEntry] = sorted(
            (until, key) for until, key in untils if until is not None
        )

    def is_current(self, entry: HeapEntry) -> bool:
        """Return whether a pair of the table expires as `entry` says."""
        until, key = entry
        return until_of(self.get(key)) == until

    def new_entries(self, written: Mapping[bytes, bytes]) -> list[HeapEntry]:
        """Return the entries that the heap needs before `written` is written."""
        untils = ((until_of(value), key) for key, value in written.items())
        entries = [(until, key) for until, key in untils if until is not None]
        return [entry for entry in entries if not self.is_current(entry)]

    def keys_due(self, now_ms: int, limit: int | None) -> list[bytes] | None:
        """Return the keys of the pairs that expire up to `now_ms`, the earliest first.

        At most `limit`, if it is not None. Return None if another thread removed stale entries
        meanwhile: then a key may lack.
        """
        heap = self.expiry_heap
        if limit is None:
            due = sorted(filter(self.is_current, [e for e in heap.copy() if e[0] <= now_ms]))
            return list(dict.fromkeys(key for _, key in due))
        # From the top, as the heap orders an entry before its two children. Nothing is removed: an
        # exception must not lose entries.
        size = len(heap)
        keys: dict[bytes, None] = {}
        frontier = [(entry, 0) for entry in heap[:1]]
        while frontier and len(keys) < limit:
            entry, index = heappop(frontier)
            if entry[0] > now_ms:
                break
            if self.is_current(entry):
                keys[entry[1]] = None
            first = 2 * index + 1
            for child, child_entry in enumerate(heap[first : first + 2], first):
                heappush(frontier, (child_entry, child))
        return None if len(heap) < size else list(keys)


def keys_with(table: Mapping[bytes, bytes], prefixes: Sequence[bytes]) -> list[bytes]:
    """Return the keys that begin with one of the prefixes, in any order."""
    return list(filter(methodcaller("startswith", tuple(prefixes)), list(table)))


def ordered(pairs: Mapping[bytes, bytes]) -> Pairs:
    """Return the pairs in ascending order of the bytes of their keys.

    `pairs` must not change meanwhile, so it should be a copy.
    """
    # By key alone: comparing tuples takes more than twice as long.
    return sorted(pairs.items(), key=itemgetter(0))


def select(
    pairs: Mapping[bytes, bytes],
    prefixes: Sequence[bytes] = (),
    after: bytes | None = None,
    limit: int | None = None,
) -> Pairs:
    """Return the pairs that SHOW with these arguments lists, in ascending order of the keys.

    `pairs` must not change meanwhile.
    """
    if not prefixes and after is None and limit is None:
        return ordered(pairs)
    keys = keys_with(pairs, prefixes) if prefixes else list(pairs)
    if after is not None:
        keys = [key for key in keys if key > after]
    if limit is not None and limit < len(keys) // 16:
        keys = nsmallest(limit, keys)
    else:
        keys = sorted(keys)[:limit]
    return [(key, pairs[key]) for key in keys]


def words_of(pairs: Pairs) -> Pairs:
    """Return pairs of the table with the words that the values spell."""
    return [(key, word_of(value)) for key, value in pairs]


def expiries_of(pairs: Pairs) -> dict[bytes, int]:
    """Return the times at which pairs of the table expire, by key."""
    untils = ((key, until_of(value)) for key, value in pairs)
    return {key: until for key, until in untils if until is not None}


def format_listing(pairs: Pairs, *, expiries: bool) -> Iterator[bytes]:
    """Yield the lines of SHOW for pairs of the table."""
    return output_format.format_listing(words_of(pairs), expiries_of(pairs) if expiries else None)


class PythonView:
    """The table during `with_locked_view`, or in a child process forked meanwhile."""

    def __init__(self, table: Mapping[bytes, bytes], revision: int) -> None:
        self._table = table
        self.revision = revision

    def __len__(self) -> int:
        return len(self._table)

    def listing(self, expiries: bool = False) -> Iterator[bytes]:
        """Yield the lines of SHOW, with `expiries` of SHOW UNTIL."""
        return format_listing(select(self._table), expiries=expiries)

    def writes(self) -> Iterator[bytes]:
        """Yield lines of WRITE that together set every pair, with its expiry."""
        pairs = list(self._table.items())
        return output_format.format_writes(words_of(pairs), expiries_of(pairs))
