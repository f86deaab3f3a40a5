"""The lines of a restore: all pairs of a backup, as one change."""

from collections.abc import Iterable, Iterator, Mapping

from kvs.journal.format import RESTORE
from kvs.language.output_format import Expiries, format_writes


class RestoreLines(Iterable[bytes]):
    """The pieces of the body of a restore's group, made anew for each iteration.

    So the lines are never in memory together: the pairs of a backup may be of any size. Neither
    mapping may change meanwhile.
    """

    def __init__(self, pairs: Mapping[bytes, bytes], expiries: Expiries) -> None:
        self._pairs = pairs
        self._expiries = expiries

    def __iter__(self) -> Iterator[bytes]:
        """Yield whole lines; nothing if there are no pairs."""
        if self._pairs:
            yield RESTORE
            yield from format_writes(self._pairs.items(), self._expiries)
