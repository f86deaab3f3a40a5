"""Many pairs to fill a store with; equal numbers give equal pairs."""

import random
from collections.abc import Iterator
from itertools import islice

from kvs.library import Store

_BATCH = 10_000
_KEY = b"key%013d"
_KEYS = 10**13
_VALUE = b"value%021d"

PAIR_BYTES = len(_KEY % 0) + len(_VALUE % 0)


def random_pairs(pairs: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield `pairs` pairs, always the same ones, in random order: sorted keys sort in no time.

    A key may come twice, too rarely to matter.
    """
    rng = random.Random(pairs)
    for number in range(pairs):
        yield _KEY % rng.randrange(_KEYS), _VALUE % number


def fill(store: Store, pairs: int) -> None:
    """Write `pairs` pairs, in batches."""
    source = random_pairs(pairs)
    while batch := dict(islice(source, _BATCH)):
        store.write(batch)
