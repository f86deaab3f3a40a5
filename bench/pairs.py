"""Many pairs, always the same for the same number, to fill a store with."""

import random
from collections.abc import Iterator
from itertools import islice

from kvs.library import Store

_FILL_AT_ONCE = 10_000
_KEY = b"key%013d"
_KEYS = 10**13
_VALUE = b"value%021d"

PAIR_BYTES = len(_KEY % 0) + len(_VALUE % 0)


def drawn(pairs: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield so many pairs, always the same, in no order: keys in order sort in no time.

    That a key comes twice is possible and too rare to matter.
    """
    rng = random.Random(pairs)
    for number in range(pairs):
        yield _KEY % rng.randrange(_KEYS), _VALUE % number


def fill(store: Store, pairs: int) -> None:
    """Write so many pairs, many at once."""
    source = drawn(pairs)
    while some := dict(islice(source, _FILL_AT_ONCE)):
        store.write(some)
