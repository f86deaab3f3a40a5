"""Long values, and the commands that write and read them, for kvs and for Redis."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from bench import redis

_KEYS = 10**13
_FACTOR = 7_919_000_000_019
"""Multiplied by a number, modulo `_KEYS`: equally distributed, and different for each number."""
_STEP = 65_537
"""Bytes between the starts of two values in the text that all are taken from."""
_TEXT_BYTES = 4 << 20
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Values:
    """A number of pairs with values of a size: words and blanks, so that kvs must quote them."""

    size: int
    """Bytes of a value."""
    count: int

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the pairs, always the same ones."""
        text = _text()
        for number in range(self.count):
            start = number * _STEP % (len(text) - self.size)
            yield b"key%013d" % (number * _FACTOR % _KEYS), text[start : start + self.size]

    def writes(self) -> bytes:
        """Return a script that writes every pair by a command of its own."""
        return b"".join(b'WRITE [(%b,"%b")]\n' % pair for pair in self.pairs())

    def reads(self) -> bytes:
        """Return a script that reads every value by a command of its own."""
        return b"".join(b"READ [%b]\n" % key for key, _ in self.pairs())

    def output(self) -> bytes:
        """Return the output of `reads`."""
        return b"".join(b'[(%b,"%b")]\n' % pair for pair in self.pairs())

    def sets(self) -> bytes:
        """Return the requests to Redis that correspond to `writes`."""
        return b"".join(redis.encoded(b"SET", *pair) for pair in self.pairs())

    def gets(self) -> bytes:
        """Return the requests to Redis that correspond to `reads`."""
        return b"".join(redis.encoded(b"GET", key) for key, _ in self.pairs())

    @property
    def set_reply_bytes(self) -> int:
        """Bytes of the replies to `sets`."""
        return self.count * len(b"+OK\r\n")

    @property
    def get_reply_bytes(self) -> int:
        """Bytes of the replies to `gets`."""
        return self.count * len(b"$%d\r\n%b\r\n" % (self.size, bytes(self.size)))


def size_label(size: int) -> str:
    """Return a number of bytes with its unit."""
    if size % (1 << 20) == 0:
        return f"{size >> 20} MiB"
    return f"{size // 1000} kB" if size % 1000 == 0 else f"{size} bytes"


@cache
def _text() -> bytes:
    """Return a long text of words of random letters."""
    rng = random.Random(_TEXT_BYTES)
    letters = bytearray(ord(letter) for letter in rng.choices(_LETTERS, k=_TEXT_BYTES))
    at = 0
    while (at := at + rng.randrange(2, 12)) < len(letters):
        letters[at] = ord(" ")
    return bytes(letters)
