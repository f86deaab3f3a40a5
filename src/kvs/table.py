"""The hash table: pairs in, pairs out, ordered listing.

It is CPython's dict, open addressing over hashes of SipHash with a key of the process's own
(PEP 456), so that hostile keys cannot make it slow.
"""

from collections.abc import Mapping
from operator import itemgetter


class Table(dict[bytes, bytes]):
    """Keys and their values.

    Changed by `kvs.concurrency.atomic.atomically` alone. Overrides nothing of dict, so that its
    methods stay as fast as dict's; `copy` is the quickest way to one instant.
    """

    __slots__ = ()


def ordered(pairs: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Return the pairs in ascending order of the bytes of their keys.

    `pairs` must not change meanwhile: give it a copy.
    """
    # By key alone: comparing tuples takes more than twice as long.
    return sorted(pairs.items(), key=itemgetter(0))
