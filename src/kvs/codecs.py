"""Codecs: the types of keys and values in programs, and their bytes in a store. Pure functions.

A store has bytes alone. A `Codec` says which bytes a key or value of a program becomes, and what a
program gets back: `BYTES` changes nothing, `JSON` is for keys of text and values of JSON.
"""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from kvs.errors import InvalidWordError
from kvs.language.builder import Word, encode_key, encode_value
from kvs.language.diagnostics import MAX_QUOTED_BYTES, validate_word

if TYPE_CHECKING:
    # A default, which `typing` has from Python 3.13 on, makes `Store` mean `Store[bytes, bytes]`.
    from typing_extensions import TypeVar as _TypeVar

    K = _TypeVar("K", default=bytes)
    V = _TypeVar("V", default=bytes)
else:
    K = TypeVar("K")
    V = TypeVar("V")


@dataclass(frozen=True)
class Codec(Generic[K, V]):
    """How a store encodes the keys and values of a program, and decodes them again.

    `K` and `V` are the types of keys and values, `bytes` where none are given.

    `decode_key` must return, for the bytes of every key, what `encode_key` takes back to the same
    bytes. Order and prefixes of keys are those of their bytes. None is never encoded: it stands for
    a missing key. A decoder raises ValueError for bytes that it cannot decode.
    """

    encode_key: Callable[[K | Word], bytes]
    """Return the bytes of a key, 1 to 1,024."""
    decode_key: Callable[[bytes], K]
    """Return the key of the bytes that a store has."""
    encode_value: Callable[[V | Word], bytes]
    """Return the bytes of a value, at most 16 MiB."""
    decode_value: Callable[[bytes], V]
    """Return the value of the bytes that a store has."""


def _same(word: bytes) -> bytes:
    return word


def _decode_text(word: bytes) -> str:
    """Return a word as text; bytes that are not UTF-8 become surrogates, as `os.fsdecode` does."""
    return word.decode(errors="surrogateescape")


def _encode_json(value: Any) -> bytes:  # noqa: ANN401
    """Return the shortest JSON text of `value`, in UTF-8.

    Raises:
        InvalidWordError: `value` is None, or has a number that JSON has not, or is nested too
            deeply, or its text is too long.
        TypeError: `value` has a part of a type that JSON has not.

    """
    if value is None:
        raise InvalidWordError("None is not a value: it stands for a missing key; delete the key")
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        try:
            raw = text.encode()
        except UnicodeEncodeError:  # lone surrogates, which JSON can only escape
            raw = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as error:
        reason = json_reason(error)
        raise InvalidWordError(
            f"a value of type {type(value).__name__} cannot be written as JSON: {reason}"
        ) from error
    return validate_word(raw, "value")


def _decode_json(raw: bytes) -> Any:  # noqa: ANN401
    """Return the value of a JSON text.

    Raises:
        ValueError: `raw` is no JSON text, or has a value that `_encode_json` refuses.

    """
    try:
        value = json.loads(raw, parse_float=_parse_float, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(json_reason(error)) from error
    if value is None:
        raise ValueError("null is not a value: it stands for a missing key")
    return value


def _parse_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:MAX_QUOTED_BYTES]} is too great")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def json_reason(error: Exception) -> str:
    """Return why `json` refuses a value or a text, with no advice for programmers of Python."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if "set_int_max_str_digits" in str(error):
        return f"a whole number has more than {sys.get_int_max_str_digits()} digits"
    return str(error)


BYTES: Codec[bytes, bytes] = Codec(encode_key, _same, encode_value, _same)
"""Words as they are: given as bytes, or as str and then encoded as UTF-8; returned as bytes."""

JSON: Codec[str, Any] = Codec(encode_key, _decode_text, _encode_json, _decode_json)
"""Keys are str; values are whatever JSON can express, except None and NaN, in UTF-8."""
