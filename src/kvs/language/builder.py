"""Build commands from words, and parse the output of commands. Pure functions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kvs.errors import InvalidWordError
from kvs.language.diagnostics import validate_word
from kvs.language.grammar import MISSING_VALUE, split_pairs
from kvs.language.scanner import MAX_QUOTED_BYTES
from kvs.text import printable

Word = str | bytes
"""A key or a value; str is encoded as UTF-8."""


def encode_script(script: Word) -> bytes:
    """Return a script as bytes; a str is encoded as UTF-8.

    Raises:
        TypeError: `script` is neither str nor bytes.

    """
    if not isinstance(script, str | bytes):
        raise TypeError(f"commands are str or bytes, not {type(script).__name__}")
    return script.encode(errors="surrogateescape") if isinstance(script, str) else bytes(script)


def validate_keys(keys: Iterable[Word]) -> list[bytes]:
    """Return the keys as bytes.

    Raises:
        InvalidWordError: a key is not a word of the language.
        TypeError: `keys` is a single word.

    """
    if isinstance(keys, str | bytes):
        raise TypeError("expected an iterable of keys, not one key; put it into a list")
    return [validate_word(key, "key") for key in keys]


def build_write(pairs: Mapping[Any, Word] | Iterable[tuple[Word, Word]]) -> bytes:
    """Return a WRITE of `pairs`, or no bytes if there are no pairs.

    Raises:
        InvalidWordError: a key or value is not a word of the language, or an item is not a pair.
        TypeError: `pairs` is a single word.

    """
    if isinstance(pairs, str | bytes):
        raise TypeError("expected a mapping or pairs, not one word")
    items = pairs.items() if isinstance(pairs, Mapping) else map(_validate_pair, pairs)
    valid = [b"(%b,%b)" % (validate_word(k, "key"), validate_word(v, "value")) for k, v in items]
    return b"WRITE [" + b"".join(valid) + b"]\n" if valid else b""


def _validate_pair(item: tuple[Word, Word]) -> tuple[Word, Word]:
    """Return `item` if it is a pair; a word of two letters is not."""
    if not isinstance(item, str | bytes):
        try:
            key, value = item
        except (TypeError, ValueError):  # not two, or not iterable
            pass
        else:
            return key, value
    raise InvalidWordError(
        f"a pair is a key and a value, not {printable(repr(item), MAX_QUOTED_BYTES)}"
    )


def build_keys_command(name: bytes, keys: Sequence[bytes]) -> bytes:
    """Return the command `name`, READ or DELETE, of `keys`."""
    return b"%b [%b]\n" % (name, b",".join(keys))


def parse_read_output(output: bytes) -> dict[bytes, bytes]:
    """Return the pairs in the output of a READ, without the missing keys."""
    return {key: value for key, value in _pairs(output) if value != MISSING_VALUE}


def parse_delete_output(output: bytes) -> list[bytes]:
    """Return the keys in the output of a DELETE, which are the missing ones."""
    return [key for key, _ in _pairs(output)]


def _pairs(output: bytes) -> Iterable[tuple[bytes, bytes]]:
    words = split_pairs(output[1:-2]) if output else []
    return zip(words[::2], words[1::2], strict=True)
