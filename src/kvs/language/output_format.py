"""How results are written, to the byte. Thread-safe: pure functions."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from kvs.language.grammar import MISSING_KEY

WAITING = b"Waiting...\n"

HELP = b"""\
WRITE [(key,value)(key,value)...]  set every pair
READ [key,key,...]                 write the pairs; KVSERROR where a key is missing
DELETE [key,key,...]               remove the keys; KVSMISSING where one was missing
SHOW                               write every pair, in order of the keys
WAIT milliseconds                  pause, and hold up nobody else
BACKUP                             write a snapshot beside the job, which goes on
HELP                               write this list
# ...                              a comment
"""

PAIRS_PER_BLOCK = 4096
PAIRS_PER_WRITE = 256

_BETWEEN_MISSING = b",%b)(" % MISSING_KEY
_AFTER_MISSING = b",%b)]\n" % MISSING_KEY


def format_pairs(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the line of a READ: ``[(k1,v1)(k2,v2)]`` and a newline."""
    return b"[(" + b")(".join(map(b",".join, pairs)) + b")]\n"


def format_missing_keys(keys: Iterable[bytes]) -> bytes:
    """Return the line of a DELETE that missed `keys`: ``[(k,KVSMISSING)...]`` and a newline."""
    return b"[(" + _BETWEEN_MISSING.join(keys) + _AFTER_MISSING


def format_listing(pairs: Sequence[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Yield the lines of SHOW and of a backup, ``(k, v)`` each, some thousand lines a block."""
    for start in range(0, len(pairs), PAIRS_PER_BLOCK):
        block = pairs[start : start + PAIRS_PER_BLOCK]
        yield b"(" + b")\n(".join(map(b", ".join, block)) + b")\n"


def format_writes(pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Yield lines of WRITE that between them set `pairs`, some hundred pairs a line."""
    rest = iter(pairs)
    while some := list(islice(rest, PAIRS_PER_WRITE)):
        yield b"WRITE " + format_pairs(some)
