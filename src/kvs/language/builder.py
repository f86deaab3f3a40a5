"""Commands for a program that has words, not lines; and what the outputs say. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kvs.errors import InvalidWordError
from kvs.language.diagnostics import MAX_QUOTED_BYTES, validate_word
from kvs.language.grammar import MISSING_VALUE, split_pairs
from kvs.text import printable

Word = str | bytes
"""A key or a value; str is encoded as UTF-8."""


def encode_script(script: Word) -> bytes:
    """Return lines of the command language as bytes, a str encoded as UTF-8.

    Raises:
        TypeError: it is neither str nor bytes.

    """
    if not isinstance(script, str | bytes):
        raise TypeError(f"commands are str or bytes, not {type(script).__name__}")
    return script.encode(errors="surrogateescape") if isinstance(script, str) else bytes(script)


def validate_keys(keys: Iterable[Word]) -> list[bytes]:
    """Return keys given to the library as words of bytes.

    Raises:
        InvalidWordError: one is no word of the language.
        TypeError: `keys` is one word.

    """
    if isinstance(keys, str | bytes):
        raise TypeError("expected an iterable of keys, not one key; put it into a list")
    return [validate_word(key, "key") for key in keys]


def build_write(pairs: Mapping[Any, Word] | Iterable[tuple[Word, Word]]) -> bytes:
    """Return the WRITE of `pairs`; nothing if there are none.

    Raises:
        InvalidWordError: a key or value is no word of the language, or what is given is no pair.
        TypeError: `pairs` is one word.

    """
    if isinstance(pairs, str | bytes):
        raise TypeError("expected a mapping or pairs, not one word")
    given = pairs.items() if isinstance(pairs, Mapping) else map(_pair, pairs)
    checked = [b"(%b,%b)" % (validate_word(k, "key"), validate_word(v, "value")) for k, v in given]
    return b"WRITE [" + b"".join(checked) + b"]\n" if checked else b""


def _pair(given: tuple[Word, Word]) -> tuple[Word, Word]:
    """Return what was given as a pair, if it is one; a word of two letters is none."""
    if not isinstance(given, str | bytes):
        try:
            key, value = given
        except (TypeError, ValueError):  # not two, or not iterable
            pass
        else:
            return key, value
    raise InvalidWordError(
        f"a pair is a key and a value, not {printable(repr(given), MAX_QUOTED_BYTES)}"
    )


def build_keys_command(name: bytes, keys: Sequence[bytes]) -> bytes:
    """Return the READ or DELETE of `keys`."""
    return b"%b [%b]\n" % (name, b",".join(keys))


def parse_read_output(output: bytes) -> dict[bytes, bytes]:
    """Return the pairs in the output of a READ; a missing key is not among them."""
    return {key: value for key, value in _pairs(output) if value != MISSING_VALUE}


def parse_delete_output(output: bytes) -> list[bytes]:
    """Return the keys in the output of a DELETE: those that were missing."""
    return [key for key, _ in _pairs(output)]


def _pairs(output: bytes) -> Iterable[tuple[bytes, bytes]]:
    words = split_pairs(output[1:-2]) if output else []
    return zip(words[::2], words[1::2], strict=True)
