"""Build commands from words, and parse the output of commands. Pure functions."""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, SupportsIndex, TypeVar

from kvs.errors import InvalidValueError, InvalidWordError
from kvs.language.diagnostics import MAX_QUOTED_BYTES, validate_word
from kvs.language.grammar import (
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    MISSING_VALUE,
    NUMBER,
    WORD,
    are_plain,
    spell,
    spell_all,
    spell_value,
    unquote,
)
from kvs.text import printable

Word = str | bytes
"""A key or a value; str is encoded as UTF-8."""

Condition = Mapping[bytes, bytes | None]
"""Keys and the values that they must have; None if the key must be missing."""
NO_CONDITION: Condition = MappingProxyType({})

MAX_FOR_SECONDS = 10**11
"""Maximum seconds after which a pair expires, about 3,000 years."""

Key = TypeVar("Key")
Value = TypeVar("Value")

_KEY: Literal["key"] = "key"
_VALUE: Literal["value"] = "value"
_REFUSED = b"NOT "
_PAIR = re.compile(rb"\((%b),(%b)\)" % (WORD, WORD))
_LISTED_PAIR = re.compile(rb"\((%b), (%b)\)(?: UNTIL ([0-9]++))?\n" % (WORD, WORD))


def encode_script(script: Word) -> bytes:
    """Return a script as bytes; a str is encoded as UTF-8.

    Raises:
        TypeError: `script` is neither str nor bytes.

    """
    if not isinstance(script, str | bytes):
        raise TypeError(f"commands are str or bytes, not {type(script).__name__}")
    return script.encode(errors="surrogateescape") if isinstance(script, str) else bytes(script)


def encode_key(key: Word) -> bytes:
    """Return a key as bytes.

    Raises:
        InvalidWordError: the key is empty or too long.

    """
    return validate_word(key, "key")


def encode_value(value: Word) -> bytes:
    """Return a value as bytes.

    Raises:
        InvalidWordError: the value is too long.

    """
    return validate_word(value, "value")


def validate_keys(
    keys: Iterable[Key],
    encode: Callable[[Key], bytes] = encode_key,  # type: ignore[assignment]
) -> list[bytes]:
    """Return the keys as bytes, each as `encode` returns it.

    Raises:
        InvalidWordError: a key is empty or too long.
        TypeError: `keys` is a single word.

    """
    if isinstance(keys, str | bytes):
        raise TypeError("expected an iterable of keys, not one key; put it into a list")
    return list(map(encode, keys))


def iterate_pairs(
    pairs: Mapping[Any, Value] | Iterable[tuple[Key, Value]],
) -> Iterable[tuple[Key, Value]]:
    """Return an iterable of the pairs of a mapping, or of an iterable of pairs.

    Raises:
        TypeError: `pairs` is a single word.
        InvalidWordError: an item is not a pair; raised by the iterable.

    """
    if isinstance(pairs, str | bytes):
        raise TypeError("expected a mapping or pairs, not one word")
    return pairs.items() if isinstance(pairs, Mapping) else map(_validate_pair, pairs)


def _validate_pair(item: tuple[Key, Value]) -> tuple[Key, Value]:
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


def encode_changes(
    values: Mapping[Any, Value | None],
    source: str,
    encode_key: Callable[[Any], bytes] = encode_key,
    encode_value: Callable[[Any], bytes] = encode_value,
) -> dict[bytes, bytes | None]:
    """Return encoded keys and values; None, which stands for a missing key, as it is.

    Raises:
        InvalidWordError: a key is empty, a key or value too long, or a key is given twice, for
            example as str and as bytes.
        TypeError: `values` is no mapping; the text begins with `source`.

    """
    if not isinstance(values, Mapping):
        raise TypeError(f"{source} a mapping of keys and values, not {type(values).__name__}")
    changes: dict[bytes, bytes | None] = {}
    for word, value in values.items():
        key = encode_key(word)
        if key in changes:
            raise InvalidWordError(f"'{printable(key, MAX_QUOTED_BYTES)}': the key is given twice")
        changes[key] = None if value is None else encode_value(value)
    return changes


def to_milliseconds(seconds: float | None) -> int | None:
    """Return the argument of FOR for `seconds`; None for None.

    Raises:
        TypeError: it is no number.
        ValueError: it is not more than 0, or more than `MAX_FOR_SECONDS`.

    """
    if seconds is None:
        return None
    if not hasattr(seconds, "__round__"):
        raise TypeError(f"for_ is a number of seconds, not {type(seconds).__name__}")
    if not 0 < seconds <= MAX_FOR_SECONDS:
        raise ValueError(
            f"for_ is more than 0 seconds and at most {MAX_FOR_SECONDS}, not {seconds}"
        )
    return max(1, round(seconds * 1000))


def build_write(
    pairs: Mapping[Any, Word] | Iterable[tuple[Word, Word]],
    condition: Condition = NO_CONDITION,
    for_ms: int | None = None,
) -> bytes:
    """Return a WRITE of `pairs`, or no bytes if there are neither pairs nor a condition.

    Raises:
        InvalidWordError: a key is empty, a key or value too long, or an item not a pair.
        TypeError: `pairs` is a single word.

    """
    words = _encode_pairs(list(iterate_pairs(pairs)))
    begin = _build_condition(condition)
    if words:
        return b"%bWRITE [%b]%b\n" % (begin, _join_pairs(words), _expiry(for_ms))
    return b"%bREAD [%b]\n" % (begin, spell(next(iter(condition)))) if condition else b""


def _encode_pairs(pairs: Sequence[tuple[Word, Word]]) -> list[bytes]:
    """Return key, value, key, value, ... as bytes: many at a time if all are valid."""
    with contextlib.suppress(UnicodeEncodeError):
        words = [
            word.encode(errors="surrogateescape") if isinstance(word, str) else word
            for pair in pairs
            for word in pair
        ]
        if set(map(type, words)) == {bytes}:
            key_sizes = set(map(len, words[::2]))
            sizes_are_valid = min(key_sizes) > 0 and max(key_sizes) <= MAX_KEY_BYTES
            if sizes_are_valid and max(map(len, words[1::2])) <= MAX_VALUE_BYTES:
                return words
    return [
        validate_word(word, role)
        for key, value in pairs
        for word, role in ((key, _KEY), (value, _VALUE))
    ]


def build_add(numbers: Iterable[tuple[bytes, int]], for_ms: int | None = None) -> bytes:
    """Return an ADD of `numbers`, or no bytes if there are none.

    Raises:
        TypeError: a number is not an int.
        ValueError: a number has more than 64 bits.

    """
    words = [word for key, number in numbers for word in (key, _encode_number(number))]
    return b"ADD [%b]%b\n" % (_join_pairs(words), _expiry(for_ms)) if words else b""


def _encode_number(number: int) -> bytes:
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"a number to add is an int, not {type(number).__name__}")
    raw = b"%d" % number
    if not NUMBER.fullmatch(raw):
        raise ValueError(f"a number to add has at most 64 bits, {printable(raw, 24)} has more")
    return raw


def build_change(changes: Iterable[tuple[bytes, bytes | None]], condition: Condition) -> bytes:
    """Return a line that makes `changes` if `condition` holds; the value None removes a key.

    Returns no bytes if there are no changes.
    """
    written: list[bytes] = []
    removed: list[bytes] = []
    for key, value in changes:
        if value is None:
            removed.append(key)
        else:
            written += (key, value)
    steps: list[bytes] = []
    if written:
        steps.append(b"WRITE [%b]" % _join_pairs(written))
    if removed:
        steps.append(build_keys_command(b"DELETE", removed).removesuffix(b"\n"))
    return b"%b%b\n" % (_build_condition(condition), b" ".join(steps)) if steps else b""


def build_keys_command(name: bytes, keys: Sequence[bytes]) -> bytes:
    """Return the command `name`, such as READ, of a list of keys or prefixes."""
    return b"%b [%b]\n" % (name, b",".join(spell_all(list(keys), spell)))


def validate_limit(limit: int | None) -> None:
    """Check the argument of LIMIT.

    Raises:
        TypeError: `limit` is no whole number.
        ValueError: `limit` is negative.

    """
    if limit is None:
        return
    if not isinstance(limit, SupportsIndex):
        raise TypeError(f"limit is an int or None, not {type(limit).__name__}")
    if limit < 0:
        raise ValueError(f"limit must be 0 or more, not {limit}")


def build_show(prefix: bytes, after: bytes | None, limit: int | None) -> bytes:
    """Return a SHOW of the keys that begin with `prefix`.

    Raises:
        TypeError: `limit` is no whole number.
        ValueError: `limit` is negative.

    """
    validate_limit(limit)
    line = b"SHOW [%b]" % spell(prefix)
    if after is not None:
        line += b" AFTER [%b]" % spell(after)
    return line + (b"\n" if limit is None else b" LIMIT %d\n" % min(limit, 10**15 - 1))


def _build_condition(condition: Condition) -> bytes:
    if not condition:
        return b""
    pairs = (
        b"(%b,%b)" % (spell(key), MISSING_VALUE if value is None else spell_value(value))
        for key, value in condition.items()
    )
    return b"IF [%b] " % b"".join(pairs)


def _join_pairs(words: list[bytes]) -> bytes:
    """Return the list of a WRITE without its brackets; `words` is key, value, key, value, ..."""
    if are_plain(words):
        spelled = words
    else:
        spellers = (spell, spell_value) * (len(words) // 2)
        spelled = [speller(word) for speller, word in zip(spellers, words, strict=True)]
    pairs = map(b",".join, zip(spelled[::2], spelled[1::2], strict=True))
    return b"(" + b")(".join(pairs) + b")"


def _expiry(for_ms: int | None) -> bytes:
    return b"" if for_ms is None else b" FOR %d" % for_ms


def is_refused(output: bytes) -> bool:
    """Return whether a line of steps was not executed, because of its condition or an ADD."""
    return output.startswith(_REFUSED)


def parse_read_output(output: bytes) -> dict[bytes, bytes]:
    """Return the pairs in the output of a READ, without the missing keys; also after NOT."""
    return {key: value for key, value in _parse_pairs(output) if value is not None}


def parse_delete_output(output: bytes) -> list[bytes]:
    """Return the keys in the output of a DELETE, which are the missing ones."""
    return [unquote(key) for key, _ in _PAIR.findall(output)]


def parse_add_output(numbers: Iterable[tuple[bytes, int]], output: bytes) -> dict[bytes, int]:
    """Return the sums in the output of an ADD of `numbers`, in their order.

    Raises:
        InvalidValueError: the ADD was refused.

    """
    values = parse_read_output(output)
    if not is_refused(output):
        return {key: int(values[key]) for key, _ in numbers}
    for key, number in numbers:
        value = values.get(key, b"0")
        if not NUMBER.fullmatch(value):
            raise InvalidValueError(key, value, "is not a whole number of 64 bits")
        values[key] = b"%d" % (int(value) + number)
        if not NUMBER.fullmatch(values[key]):
            raise InvalidValueError(key, value, f"plus {number} is not a whole number of 64 bits")
    raise ValueError(output)


def parse_show_output(output: bytes) -> list[tuple[bytes, bytes]]:
    """Return the pairs in the output of a SHOW without UNTIL."""
    return [(key, value) for key, value, _ in parse_listings([output])]


def parse_listings(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bytes, int | None]]:
    """Yield key, value and UNTIL, or None, of the pairs in blocks of lines of SHOW or SHOW UNTIL.

    Each block has whole lines. UNTIL is in milliseconds since the epoch.
    """
    for block in blocks:
        for line in _LISTED_PAIR.finditer(block):
            key, value, until = line.groups()
            yield unquote(key), unquote(value), None if until is None else int(until)


def _parse_pairs(output: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    for key, value in _PAIR.findall(output):
        yield unquote(key), None if value == MISSING_VALUE else unquote(value)
