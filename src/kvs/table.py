"""The hash table: pairs in, pairs out, ordered listing.

It is CPython's dict, open addressing over hashes of SipHash with a key of the process's own
(PEP 456), so that hostile keys cannot make it slow.
"""


class Table(dict[bytes, bytes]):
    """Keys and their values.

    Not to be changed by two threads at once: the store's lock guards it. Overrides nothing of
    dict, so that its methods stay as fast as dict's.
    """

    __slots__ = ()

    def pairs(self) -> list[tuple[bytes, bytes]]:
        """Return all pairs of this instant, in no order: the part that needs the store's lock."""
        return list(self.items())


def ordered(pairs: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Sort `pairs` in place by the bytes of their keys, and return them; no lock is needed."""
    pairs.sort()
    return pairs
