"""The lines of a restore: all pairs of a backup, as one change."""

from collections.abc import Iterable, Iterator, Mapping

from kvs.journal.format import RESTORE
from kvs.language.grammar import spell, spell_long_value
from kvs.language.output_format import Expiries, format_writes

LONG_BYTES = 1 << 20
"""Bytes of a value that is not copied into its line."""


class RestoreLines(Iterable[bytes]):
    """The pieces of the body of a restore's group, made anew for each iteration.

    So the lines are never in memory together: the pairs of a backup may be of any size. Neither
    mapping may change meanwhile.
    """

    def __init__(self, pairs: Mapping[bytes, bytes], expiries: Expiries) -> None:
        self._pairs = pairs
        self._expiries = expiries

    def __iter__(self) -> Iterator[bytes]:
        """Yield lines in pieces; nothing if there are no pairs."""
        if not self._pairs:
            return
        yield RESTORE
        items, expiries = self._pairs.items(), self._expiries
        yield from format_writes((pair for pair in items if len(pair[1]) < LONG_BYTES), expiries)
        for key, value in items:
            if len(value) >= LONG_BYTES:
                until = b" UNTIL %d" % expiries[key] if key in expiries else b""
                yield b"WRITE [(%b," % spell(key)
                yield from spell_long_value(value)
                yield b")]%b\n" % until
