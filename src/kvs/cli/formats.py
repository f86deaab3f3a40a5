"""The formats of import and export: bytes to records and back. No files, no store.

- csv: a row ``key,value`` (RFC 4180) for each pair. A first row of exactly these words is the
  header. Words may have any bytes.
- jsonl: an object ``{"key":"...","value":"..."}`` on each line, and optionally ``"until"``. A word
  that is not UTF-8 is in base64, as ``key_base64`` or ``value_base64``.
- env: ``KEY=VALUE`` on each line. Empty lines, and lines that begin with ``#`` or ``;``, are
  skipped. Words that are not plain are quoted, with the escapes of the command language.

Memory: that of one row. Nothing here reads or writes more than that at a time.
"""

import base64
import binascii
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from io import StringIO
from typing import Any, Literal, NamedTuple

from kvs.codecs import json_reason
from kvs.errors import InvalidWordError
from kvs.language import grammar
from kvs.language.diagnostics import validate_word
from kvs.text import printable_line

MAX_ROW_BYTES = 8 * grammar.MAX_VALUE_BYTES
"""Maximum bytes of a row: a value of which each byte is escaped in 6, and a margin."""


class Record(NamedTuple):
    """A pair, and when it expires."""

    key: bytes
    value: bytes
    until: int | None = None
    """Milliseconds since the epoch; None if it does not expire."""


class BadRow(NamedTuple):
    """A row that is not a record."""

    line: int
    """Number of its first line, from 1."""
    reason: str


Rows = Iterator[Record | BadRow]


class Format(NamedTuple):
    """How records are read from lines, which have their newlines, and written."""

    read: Callable[[Iterable[bytes]], Rows]
    write: Callable[[Iterable[Record]], Iterator[bytes]]
    suffixes: tuple[bytes, ...]
    """The ends of the names of files in the format."""


def _record(key: str | bytes, value: str | bytes, until: int | None = None) -> Record:
    """Return a record.

    Raises:
        InvalidWordError: a word has a size that the store refuses.

    """
    return Record(validate_word(key, "key"), validate_word(value, "value"), until)


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def _without_byte_order_mark(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines without the mark with which some programs begin a file in UTF-8."""
    for number, line in enumerate(lines):
        yield line if number else line.removeprefix(_BYTE_ORDER_MARK)


# CSV.

_HEADER = ["key", "value"]


class _RowReader:
    """The lines of one row after the other, as text; bytes that are not UTF-8 as surrogates."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._row_bytes = 0
        self.number = 0
        """Number of lines read."""
        self.first = 1
        """Number of the first line of the row."""

    def begin_row(self) -> None:
        self.first = self.number + 1
        self._row_bytes = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        self._row_bytes += len(line)
        if self._row_bytes > MAX_ROW_BYTES:
            raise csv.Error(f"a row is at most {MAX_ROW_BYTES} bytes")
        return line.decode(errors="surrogateescape")


def _read_csv(lines: Iterable[bytes]) -> Rows:
    csv.field_size_limit(grammar.MAX_VALUE_BYTES)
    reader = _RowReader(_without_byte_order_mark(lines))
    rows = csv.reader(reader, strict=True)
    while True:
        reader.begin_row()
        try:
            row = next(rows)
            if row and not (reader.first == 1 and row == _HEADER):
                yield _parse_row(row)
        except StopIteration:
            return
        except (csv.Error, InvalidWordError) as error:
            yield BadRow(reader.first, _csv_reason(error))


def _csv_reason(error: Exception) -> str:
    text = str(error)
    if text == "unexpected end of data":
        return "a quote is opened in this row and not closed"
    if text.startswith("new-line character seen in unquoted field"):
        return "a carriage return is in no quotes, and no newline follows it"
    if text.startswith("field larger than field limit"):
        return f"a value is at most {grammar.MAX_VALUE_BYTES} bytes, a field here has more"
    return text


def _parse_row(row: list[str]) -> Record:
    if len(row) != 2:
        hint = "; a comma separates them" if len(row) == 1 else ""
        raise InvalidWordError(f"a row is a key and a value, the fields here are {len(row)}{hint}")
    return _record(row[0], row[1])


def _write_csv(records: Iterable[Record]) -> Iterator[bytes]:
    buffer = StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(_HEADER)
    for key, value, _ in records:
        yield _take(buffer)
        writer.writerow([word.decode(errors="surrogateescape") for word in (key, value)])
    yield _take(buffer)


def _take(buffer: StringIO) -> bytes:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text.encode(errors="surrogateescape")


# JSON lines.

_BASE64 = "_base64"
_MEMBERS = {"key", "value", "key" + _BASE64, "value" + _BASE64, "until"}


def _read_jsonl(lines: Iterable[bytes]) -> Rows:
    for number, line in enumerate(_without_byte_order_mark(lines), 1):
        if not line.strip():
            continue
        try:
            yield _parse_json(line)
        except (ValueError, RecursionError) as error:  # InvalidWordError is a ValueError
            yield BadRow(number, _json_reason(error))


def _json_reason(error: Exception) -> str:
    match error:
        case UnicodeDecodeError():
            return f"byte {error.start + 1} is not UTF-8"
        case json.JSONDecodeError():
            return f"not JSON: {error.msg} at character {error.pos + 1}"
        case RecursionError():
            return f"not a record: {json_reason(error)}"
    return json_reason(error)


def _parse_json(line: bytes) -> Record:
    text = line.rstrip(b"\r\n").decode()
    data = json.loads(text, object_pairs_hook=_members)
    if not isinstance(data, dict):
        raise ValueError(  # noqa: TRY004  (the content of a file, not the type of an argument)
            'a line is {"key": "...", "value": "..."}'
        )
    if unknown := data.keys() - _MEMBERS:
        raise ValueError(f"'{_shown(min(unknown))}' is not a member of a record")
    until = data.get("until")
    if until is not None and (type(until) is not int or not 0 <= until < 10**15):
        raise ValueError("'until' is milliseconds since the epoch, of at most 15 digits")
    return _record(_member(data, "key"), _member(data, "value"), until)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON.

    Raises:
        ValueError: a name is given twice, and one value would be lost.

    """
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        name = next(name for i, name in enumerate(names) if names.index(name) < i)
        raise ValueError(f"'{_shown(name)}' is given twice")
    return data


def _shown(name: str) -> str:
    return printable_line(name.encode(errors="backslashreplace"), 24)


def _member(data: dict[str, Any], name: Literal["key", "value"]) -> bytes:
    plain, encoded = data.get(name), data.get(name + _BASE64)
    if (plain is None) == (encoded is None):
        raise ValueError(f"a record has one of '{name}' and '{name}{_BASE64}'")
    if not isinstance(plain if encoded is None else encoded, str):
        raise ValueError(f"the {name} is a string")  # noqa: TRY004
    if encoded is None:
        try:
            return str(plain).encode()
        except UnicodeEncodeError as error:
            reason = "half of a surrogate pair, which is not text"
            raise ValueError(f"the {name} has {reason}; bytes are in '{name}{_BASE64}'") from error
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"'{name}{_BASE64}' is not base64") from error


def _write_jsonl(records: Iterable[Record]) -> Iterator[bytes]:
    for record in records:
        data: dict[str, str | int] = {}
        for name, word in (("key", record.key), ("value", record.value)):
            try:
                data[name] = word.decode()
            except UnicodeDecodeError:
                data[name + _BASE64] = base64.b64encode(word).decode("ascii")
        if record.until is not None:
            data["until"] = record.until
        yield json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


# KEY=VALUE.

_SPACES = rb"[ \t]*+"
_ENV_LINE = re.compile(
    rb"%b(?:export[ \t]++)?(%b|[^=\"]*+)%b=%b(.*)" % (_SPACES, grammar.QUOTED, _SPACES, _SPACES),
    re.DOTALL,
)
_PLAIN_KEY = re.compile(rb"(?!export[ \t]|%b)[^\0-\x20=\"#;'\x7f]++" % _BYTE_ORDER_MARK)
_PLAIN_VALUE = re.compile(rb"[A-Za-z0-9_./:@%+,=-]*+")
_QUOTED = re.compile(grammar.QUOTED)


def _read_env(lines: Iterable[bytes]) -> Rows:
    for number, raw in enumerate(_without_byte_order_mark(lines), 1):
        line = raw.strip(b" \t\r\n")
        if not line or line.startswith((b"#", b";")):
            continue
        try:
            yield _parse_assignment(line)
        except InvalidWordError as error:
            yield BadRow(number, str(error))


def _parse_assignment(line: bytes) -> Record:
    match = _ENV_LINE.fullmatch(line)
    if match is None:
        raise InvalidWordError(f"expected KEY=VALUE, not '{printable_line(line, 24)}'")
    key, value = match.groups()
    value = _unquote(value)
    return _record(grammar.unquote(key) if key.startswith(b'"') else key.rstrip(b" \t"), value)


def _unquote(value: bytes) -> bytes:
    if value.startswith(b"'"):
        if len(value) < 2 or not value.endswith(b"'") or b"'" in value[1:-1]:
            raise InvalidWordError("a value that begins with ' ends with the next '")
        return value[1:-1]
    if not value.startswith(b'"'):
        return value
    if not _QUOTED.fullmatch(value):
        raise InvalidWordError(
            'a value that begins with " ends with the next ", and its escapes are '
            r"\" \\ \n \r \t \0 \xHH"
        )
    return grammar.unquote(value)


def _write_env(records: Iterable[Record]) -> Iterator[bytes]:
    for key, value, _ in records:
        yield b"%b=%b\n" % (
            key if _PLAIN_KEY.fullmatch(key) else _quote(key),
            value if _PLAIN_VALUE.fullmatch(value) else _quote(value),
        )


def _quote(word: bytes) -> bytes:
    """Return a word in quotes, with the escapes of the command language."""
    spelling = grammar.spell(word)
    if spelling.startswith(b'"'):
        return spelling
    return b'"%b"' % word.replace(b"\\", rb"\\").replace(b'"', rb"\"")


FORMATS = {
    "csv": Format(_read_csv, _write_csv, (b".csv",)),
    "jsonl": Format(_read_jsonl, _write_jsonl, (b".jsonl", b".ndjson")),
    "env": Format(_read_env, _write_env, (b".env", b".conf")),
}
"""Every format by its name."""


def format_of(path: bytes) -> Format | None:
    """Return the format whose suffix a file's name has; None if it has none."""
    return next((each for each in FORMATS.values() if path.endswith(each.suffixes)), None)
