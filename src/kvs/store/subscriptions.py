"""Subscriptions to keys, and the bounded outboxes of their readers.

Invariants:

- Changes enter the outboxes in the one order of changes. One call into C adds a change and all
  that belongs to it (`kvs.concurrency.atomic`); one reader removes it. No lock guards an outbox.
- The item of a change is made once and shared by all outboxes that contain it.
- Slow consumers: an outbox over its limit is cleared and closed, and so is the longest outbox while
  all together are over theirs. Only the reader of that outbox sees an error.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Generic, TypeVar

from kvs.concurrency.atomic import Step, atomically

Item = TypeVar("Item")
"""The form of a change in an outbox, for example a frame."""

CHANGE_BYTES = 82
"""Bytes that one change counts against a limit, whatever its item: the length of a frame."""

MAX_WORD_BYTES = 256 << 20
"""Maximum bytes of keys and values in one outbox whose items hold them, when they are counted. They
are counted after a sixteenth of this was added, so the effective bound is about 17/16 of it."""

OUTBOX_BYTES = 8 << 20
"""Default maximum bytes of changes in one outbox."""

TOTAL_BYTES = 256 << 20
"""Default maximum bytes of changes in all outboxes of one `Subscriptions`."""


class Outbox(Generic[Item]):
    """The changes that one reader has not taken.

    Threads: any, but `take` and `release` by one thread at a time.
    """

    def __init__(self, wake: Callable[[], None], *, held: bool) -> None:
        """Create an empty outbox; any thread calls `wake` when more changes are available.

        With `held`, which a store with a data directory requires, a change is available only
        after `release`.
        """
        self.wake = wake
        self.keys: dict[bytes, int] = {}
        """The subscribed keys, each with the marker at which its subscription begins."""
        self.overflowed = False
        """Whether the outbox was closed because it was over a limit."""
        self.added = 0
        """Number of changes ever added."""
        self.uncounted_bytes = 0
        """Bytes of words added since `count_bytes` was last called."""
        self._items: deque[Item] = deque()
        self._released = 0 if held else None
        """Number of added changes that were released; None if every change is available."""

    def __len__(self) -> int:
        """Return the number of changes in the outbox, released or not."""
        return len(self._items)

    @property
    def available(self) -> int:
        """Number of changes that `take` may return."""
        # In this order, a change that is added in between makes the result too low, never too
        # high, and the wake-up of that change follows.
        length = len(self._items)
        taken = self.added - length
        if self.overflowed:
            return 0
        return length if self._released is None else max(0, min(length, self._released - taken))

    def take(self, limit: int) -> list[Item]:
        """Remove and return the oldest available changes, at most `limit`, in order."""
        taken: list[Item] = []
        try:  # noqa: SIM105  (contextlib.suppress takes longer than all else here)
            taken.extend(self._items.popleft() for _ in range(min(limit, self.available)))
        except IndexError:  # the outbox was cleared in between: `taken` has what came before
            pass
        return taken

    def steps(self, items: Sequence[Item], word_bytes: int = 0) -> list[Step]:
        """Return the steps that append `items`, which hold `word_bytes` of keys and values."""
        steps: list[Step] = [
            partial(self._items.extend, iter(items)),  # `extend` creates no iterator of its own
            partial(setattr, self, "added", self.added + len(items)),
        ]
        if word_bytes:
            total = self.uncounted_bytes + word_bytes
            steps.append(partial(setattr, self, "uncounted_bytes", total))
        return steps

    def count_bytes(self, word_bytes: Callable[[Item], int]) -> int:
        """Return the bytes of keys and values in the outbox."""
        self.uncounted_bytes = 0
        return sum(map(word_bytes, self._items.copy()))

    def release(self, added: int) -> None:
        """Make the first `added` of all changes ever added available."""
        self._released = max(self._released or 0, added)

    def overflow(self) -> None:
        """Clear and close the outbox."""
        self.overflowed = True
        self._items.clear()


class Subscriptions(Generic[Item]):
    """The outboxes of one kind of reader, by key.

    Only `kvs.store.publication` changes it.
    """

    def __init__(
        self,
        item: Callable[[bytes, bytes | None], Item],
        *,
        outbox_bytes: int = OUTBOX_BYTES,
        total_bytes: int = TOTAL_BYTES,
        word_bytes: Callable[[Item], int] | None = None,
    ) -> None:
        """Create one without subscriptions.

        `item` returns the item of a change: of a key and its new value, None if it was removed.
        `word_bytes` returns the bytes of the words in an item; None if all items have the same
        size.
        """
        self._item = item
        self._word_bytes = word_bytes
        self._outbox_items = outbox_bytes // CHANGE_BYTES
        self._total_items = total_bytes // CHANGE_BYTES
        self._by_key: dict[bytes, tuple[Outbox[Item], ...]] = {}
        self._outboxes: dict[Outbox[Item], int] = {}
        """The outboxes with a subscription, each with their number."""
        self._published = 0
        """Items added to outboxes since the last check of the total limit."""
        self._version = [0]
        """A cell with the number of changes of the subscriptions."""

    def outboxes(self) -> list[Outbox[Item]]:
        """Return the outboxes that have a subscription now."""
        return list(self._outboxes)

    def subscribe(self, outbox: Outbox[Item], key: bytes) -> list[Step]:
        """Return the steps that subscribe `outbox` to `key`; none if it is subscribed.

        The first step raises ValueError if the subscriptions have changed in between.
        """
        version = self._version[0]
        subscribed = self._by_key.get(key, ())
        if outbox in subscribed:
            return []
        number = self._outboxes.get(outbox, 0) + 1
        return [
            partial(self._version.index, version),
            partial(self._by_key.__setitem__, key, (*subscribed, outbox)),
            partial(self._outboxes.__setitem__, outbox, number),
            partial(self._version.__setitem__, 0, version + 1),
        ]

    def unsubscribe(self, outbox: Outbox[Item], key: bytes) -> bool:
        """End a subscription; return whether it existed."""
        while True:
            version = self._version[0]
            subscribed = self._by_key.get(key, ())
            if outbox not in subscribed:
                return False
            rest = tuple(each for each in subscribed if each is not outbox)
            number = self._outboxes.get(outbox, 1) - 1
            keys, outboxes = self._by_key, self._outboxes
            with contextlib.suppress(ValueError):  # the subscriptions have changed in between
                atomically(
                    partial(self._version.index, version),
                    partial(keys.__setitem__, key, rest)
                    if rest
                    else partial(keys.__delitem__, key),
                    partial(outboxes.__setitem__, outbox, number)
                    if number
                    else partial(outboxes.__delitem__, outbox),
                    partial(self._version.__setitem__, 0, version + 1),
                )
                return True

    def publish(
        self, changes: Sequence[tuple[bytes, bytes | None]]
    ) -> tuple[list[Step], dict[Outbox[Item], int]]:
        """Return the steps that add `changes`, keys with new values, to the outboxes of the keys.

        The first step raises ValueError if the subscriptions have changed in between. Also returns
        the outboxes to wake afterwards, each with its `added` after the steps. Both are empty if
        no key has a subscription.
        """
        version = self._version[0]
        items = self._items_of(changes)
        if not items:
            return [], {}
        steps: list[Step] = [partial(self._version.index, version)]
        to_wake: dict[Outbox[Item], int] = {}
        published = self._published
        for outbox, added in items.items():
            if not outbox.overflowed:
                words = 0 if self._word_bytes is None else sum(map(self._word_bytes, added))
                steps += outbox.steps(added, words)
                to_wake[outbox] = outbox.added + len(added)
                published += len(added)
        steps.append(partial(setattr, self, "_published", published))
        return steps, to_wake

    def _items_of(
        self, changes: Sequence[tuple[bytes, bytes | None]]
    ) -> dict[Outbox[Item], list[Item]]:
        """Return the items of the changes, by outbox."""
        if len(changes) == 1:
            [(key, value)] = changes
            outboxes = self._by_key.get(key, ())
            shared = [self._item(key, value)] if outboxes else []
            return dict.fromkeys(outboxes, shared)
        items: dict[Outbox[Item], list[Item]] = {}
        run: list[Item] = []
        """Items of consecutive changes with the same outboxes."""
        run_outboxes: tuple[Outbox[Item], ...] = ()
        for key, value in changes:
            if subscribed := self._by_key.get(key):
                if subscribed != run_outboxes:
                    _add_to_each(items, run_outboxes, run)
                    run_outboxes, run = subscribed, []
                run.append(self._item(key, value))
        _add_to_each(items, run_outboxes, run)
        return items

    def limit(self, outboxes: Iterable[Outbox[Item]]) -> Iterable[Outbox[Item]]:
        """Close each of `outboxes` that is over its limit, and the longest over the total limit.

        Returns the outboxes that were closed because of the total limit.
        """
        for outbox in outboxes:
            if len(outbox) > self._outbox_items or self._has_too_long_words(outbox):
                outbox.overflow()
        if self._published <= self._total_items // 16:
            return ()
        self._published = 0
        closed: list[Outbox[Item]] = []
        all_outboxes = self.outboxes()
        total = sum(map(len, all_outboxes))
        for outbox in sorted(all_outboxes, key=len, reverse=True):
            if total <= self._total_items:
                break
            total -= len(outbox)
            outbox.overflow()
            closed.append(outbox)
        return closed

    def _has_too_long_words(self, outbox: Outbox[Item]) -> bool:
        """Return whether the words in an outbox are over their limit. One change never is."""
        if self._word_bytes is None or outbox.uncounted_bytes <= MAX_WORD_BYTES // 16:
            return False
        return outbox.count_bytes(self._word_bytes) > MAX_WORD_BYTES


def _add_to_each(
    items: dict[Outbox[Item], list[Item]], outboxes: Iterable[Outbox[Item]], run: list[Item]
) -> None:
    for outbox in outboxes:
        items.setdefault(outbox, []).extend(run)
