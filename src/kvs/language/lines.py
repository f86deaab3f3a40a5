"""Commands for a program that has words, not lines; and what the outputs say. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kvs.language.faults import checked_word
from kvs.language.grammar import MISSING_VALUE, pair_words

Word = str | bytes
"""A key or a value; str is encoded as UTF-8."""


def checked_keys(keys: Iterable[Word]) -> list[bytes]:
    """Return keys given to the library as words of bytes.

    Raises:
        WordRefused: one is no word of the language.
        TypeError: `keys` is one word.

    """
    if isinstance(keys, str | bytes):
        raise TypeError("expected an iterable of keys, not one key; put it into a list")
    return [checked_word(key, "key") for key in keys]


def write_line(pairs: Mapping[Any, Word] | Iterable[tuple[Word, Word]]) -> bytes:
    """Return the WRITE of `pairs`; nothing if there are none.

    Raises:
        WordRefused: a key or value is no word of the language.
        TypeError: `pairs` is one word.

    """
    if isinstance(pairs, str | bytes):
        raise TypeError("expected a mapping or pairs, not one word")
    given = pairs.items() if isinstance(pairs, Mapping) else pairs
    checked = [b"(%b,%b)" % (checked_word(k, "key"), checked_word(v, "value")) for k, v in given]
    return b"WRITE [" + b"".join(checked) + b"]\n" if checked else b""


def keys_line(name: bytes, keys: Sequence[bytes]) -> bytes:
    """Return the READ or DELETE of `keys`."""
    return b"%b [%b]\n" % (name, b",".join(keys))


def pairs_read(output: bytes) -> dict[bytes, bytes]:
    """Return the pairs in the output of a READ; a missing key is not among them."""
    return {key: value for key, value in _pairs(output) if value != MISSING_VALUE}


def keys_missed(output: bytes) -> list[bytes]:
    """Return the keys in the output of a DELETE: those that were missing."""
    return [key for key, _ in _pairs(output)]


def _pairs(output: bytes) -> Iterable[tuple[bytes, bytes]]:
    words = pair_words(output[1:-2]) if output else []
    return zip(words[::2], words[1::2], strict=True)
