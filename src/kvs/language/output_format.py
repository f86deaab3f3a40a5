"""The form of output, to the byte. Pure functions: words in, canonical spelling out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, islice
from types import MappingProxyType

from kvs.language.grammar import are_plain, spell, spell_all, spell_value

WAITING = b"Waiting...\n"
"""Output of a WAIT."""

HELP = b"""\
WRITE [(key,value)(key,value)...]  set every pair; the pairs never expire
WRITE [...] FOR milliseconds       set every pair; the pairs expire after that
WRITE [...] UNTIL milliseconds     the same, at that time since the epoch
READ [key,key,...]                 write the pairs; KVSERROR: the key is missing
DELETE [key,key,...]               remove the keys; KVSMISSING: it was missing
ADD [(key,number)...]              add whole numbers, and write the sums
ADD [...] FOR or UNTIL             the same, and the pairs expire then
WRITE [...] READ [...] ...         one change of several of the lines above
IF [(key,value)...] WRITE [...]    only if all pairs are so; KVSERROR: missing
SHOW                               write every pair, in order of the keys
SHOW [prefix,...]                  the pairs whose keys begin with a prefix
SHOW AFTER [key] LIMIT number      the pairs after a key, at most that many
SHOW UNTIL                         write also when the pairs expire
COUNT                              write the number of keys
COUNT [prefix,...]                 the number of keys that begin with a prefix
CLEAR [prefix,...]                 remove those keys, and write their number
EXPIRE milliseconds                remove the pairs that expire until that time
WAIT milliseconds                  pause this job or session
BACKUP                             write a backup beside the job
HELP                               write this list
# ...                              a comment
"two words"                        a word in quotes may have any bytes; escapes:
                                   \\" \\\\ \\n \\r \\t \\0 \\xHH; "" is an empty value
"""

PAIRS_PER_BLOCK = 4096
"""Maximum pairs in one block of `format_listing`."""
PAIRS_PER_WRITE = 256
"""Maximum pairs in one line of `format_writes`."""
MAX_BLOCK_BYTES = 1 << 20
"""Maximum bytes of the words in one block or line of several pairs."""

Pairs = Sequence[tuple[bytes, bytes]]
Expiries = Mapping[bytes, int]
"""Keys of pairs that expire, and the times: milliseconds since the epoch."""
NO_EXPIRIES: Expiries = MappingProxyType({})


def _join_pairs(pairs: Pairs) -> bytes:
    return b"(" + b")(".join(map(b",".join, _spell_pairs(pairs))) + b")"


def _spell_pairs(pairs: Pairs) -> Iterable[tuple[bytes, bytes]]:
    if are_plain(list(chain.from_iterable(pairs))):
        return pairs
    return [(spell(key), spell_value(value)) for key, value in pairs]


def format_listing(pairs: Pairs, expiries: Expiries | None = None) -> Iterator[bytes]:
    """Yield the lines of SHOW and of a backup in blocks of many lines.

    A line is ``(k, v)``; with `expiries`, it is ``(k, v) UNTIL ms`` where a pair expires.
    """
    for block in _blocks(pairs, PAIRS_PER_BLOCK):
        spellings = map(b", ".join, _spell_pairs(block))
        if expiries:
            times = (expiries.get(key) for key, _ in block)
            lines = zip(spellings, times, strict=True)
            yield b"".join(b"(%b)%b\n" % (pair, _until(time)) for pair, time in lines)
        else:
            yield b"(" + b")\n(".join(spellings) + b")\n"


def format_writes(
    pairs: Iterable[tuple[bytes, bytes]], expiries: Expiries = NO_EXPIRIES
) -> Iterator[bytes]:
    """Yield lines of WRITE that together set `pairs` and the times at which the pairs expire."""
    remaining = iter(pairs)
    while next_pairs := list(islice(remaining, PAIRS_PER_WRITE)):
        by_time: dict[int | None, list[tuple[bytes, bytes]]] = {None: next_pairs}
        if expiries:
            by_time = {}
            for pair in next_pairs:
                by_time.setdefault(expiries.get(pair[0]), []).append(pair)
        for time, same_time in by_time.items():
            for block in _blocks(same_time, PAIRS_PER_WRITE):
                yield b"WRITE [%b]%b\n" % (_join_pairs(block), _until(time))


def _blocks(pairs: Pairs, max_pairs: int) -> Iterator[Pairs]:
    """Yield `pairs` in blocks of at most `max_pairs` and `MAX_BLOCK_BYTES`, or of one pair."""
    for start in range(0, len(pairs), max_pairs):
        block = pairs[start : start + max_pairs]
        if len(block) > 1 and sum(map(len, chain.from_iterable(block))) > MAX_BLOCK_BYTES:
            yield from _blocks(block, (len(block) + 1) // 2)
        else:
            yield block


def _until(time: int | None) -> bytes:
    return b"" if time is None else b" UNTIL %d" % time


def format_changes(changes: Iterable[tuple[bytes, bytes | None, int | None]]) -> bytes:
    """Return the line that makes `changes`: steps of WRITE and DELETE.

    A change is a key, its new value, and the time at which the pair expires, in milliseconds since
    the epoch, or None. The value None removes the key. There must be at least one change.
    """
    steps = []
    for (time, is_removal), group in groupby(changes, lambda each: (each[2], each[1] is None)):
        if is_removal:
            keys = spell_all([key for key, _, _ in group], spell)
            steps.append(b"DELETE [%b]" % b",".join(keys))
        else:
            pairs = [(key, value) for key, value, _ in group if value is not None]
            steps.append(b"WRITE [%b]%b" % (_join_pairs(pairs), _until(time)))
    return b" ".join(steps) + b"\n"


def format_clear(prefixes: Iterable[bytes]) -> bytes:
    """Return the line of CLEAR that removes every key that begins with one of `prefixes`."""
    return b"CLEAR [%b]\n" % b",".join(spell_all(list(prefixes), spell))
