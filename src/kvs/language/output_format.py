"""The form of output, to the byte. Pure functions."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from kvs.language.grammar import MISSING_KEY

WAITING = b"Waiting...\n"
"""Output of a WAIT."""

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
"""Pairs in one block of `format_listing`."""
PAIRS_PER_WRITE = 256
"""Pairs in one line of `format_writes`."""

_BETWEEN_MISSING = b",%b)(" % MISSING_KEY
_AFTER_MISSING = b",%b)]\n" % MISSING_KEY


def format_pairs(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the output of a READ: ``[(k1,v1)(k2,v2)]`` and a newline."""
    return b"[(" + b")(".join(map(b",".join, pairs)) + b")]\n"


def format_missing_keys(keys: Iterable[bytes]) -> bytes:
    """Return the output of a DELETE of missing keys: ``[(k,KVSMISSING)...]`` and a newline."""
    return b"[(" + _BETWEEN_MISSING.join(keys) + _AFTER_MISSING


def format_listing(pairs: Sequence[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Yield the lines of SHOW and of a backup, ``(k, v)`` each, in blocks of many lines."""
    for start in range(0, len(pairs), PAIRS_PER_BLOCK):
        block = pairs[start : start + PAIRS_PER_BLOCK]
        yield b"(" + b")\n(".join(map(b", ".join, block)) + b")\n"


def format_writes(pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Yield lines of WRITE that together set `pairs`."""
    remaining = iter(pairs)
    while line_pairs := list(islice(remaining, PAIRS_PER_WRITE)):
        yield b"WRITE " + format_pairs(line_pairs)
