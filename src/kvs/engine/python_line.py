"""Lines of the Python engine, computed beside the table: their output, and the steps of a change.

Invariants:

- An attempt must change nothing, as it is made again if the table changes meanwhile.
- Values are in canonical spelling, as they are in the table.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from heapq import heappush
from itertools import repeat
from operator import ior
from types import MappingProxyType
from typing import NamedTuple

from kvs.concurrency.atomic import Step, exhaust
from kvs.engine.interface import MAX_UNTIL
from kvs.engine.python_table import Table, keys_with, until_of, value_until, word_of
from kvs.language import grammar
from kvs.language.grammar import (
    MISSING_KEY,
    MISSING_VALUE,
    NUMBER,
    parse_steps,
    spell,
    spell_all,
    spell_value,
)
from kvs.language.output_format import format_changes, format_clear
from kvs.posix.clock import now_ms

_BETWEEN_MISSING = b",%b)(" % MISSING_KEY
_MIN_NUMBER, _MAX_NUMBER = -(1 << 63), (1 << 63) - 1

NetChanges = Mapping[bytes, bytes | None]
"""Keys and what they are after a line, None for a missing one, in the order in which WRITE, ADD or
DELETE first named them."""


class Effect(NamedTuple):
    """What a line does to the table that it was computed from."""

    steps: Sequence[Step] = ()
    """Steps that make the change; none if the line changes nothing."""
    net_changes: NetChanges = MappingProxyType({})
    record: bytes = b""
    """The change as a line; empty if changes are not recorded."""
    output: bytes | None = b""
    """None if the output is too long."""
    changes_ascend: bool = False
    """Whether changes are in ascending order of the keys, and not in that of `net_changes`."""


Attempt = Callable[[Table, bool], Effect | None]
"""Computes the effect of a line on a table, with its record if the flag is set; returns None if
another thread has disturbed it."""


def format_answer(keys: Sequence[bytes], values: Sequence[bytes]) -> bytes:
    """Return ``[(k1,v1)(k2,v2)]`` and a newline, of words as they are spelled."""
    return b"[(" + b")(".join(map(b",".join, zip(keys, values, strict=True))) + b")]\n"


def answer_bytes(keys: Sequence[bytes], values: Sequence[bytes]) -> int:
    """Return the length of `format_answer`, which may be too long to be formatted."""
    return sum(map(len, keys)) + sum(map(len, values)) + 3 * len(keys) + 3


def attempt_of(kind: int, arguments: bytes, max_output_bytes: int) -> Attempt | None:
    """Return the attempt at a line other than WRITE and READ; None if the line needs none.

    `arguments` is what the group `kind` of the line matched.
    """
    if kind == grammar.DELETE:
        keys = grammar.split_keys(arguments)
        return partial(_attempt_delete, keys, b'"' in arguments, max_output_bytes)
    if kind == grammar.STEPS:
        return partial(_attempt_steps, StepsLine(arguments), max_output_bytes)
    if kind == grammar.COUNT:
        return partial(_attempt_count, grammar.parse_listing(arguments).prefixes)
    if kind == grammar.CLEAR:
        return partial(_attempt_clear, grammar.parse_listing(arguments).prefixes)
    if kind == grammar.EXPIRE:
        return partial(attempt_expire, int(arguments), None)
    return None


def attempt_write(
    written: dict[bytes, bytes], line: bytes, table: Table, is_recording: bool
) -> Effect:
    """Attempt a WRITE of pairs that do not expire; `line` is its record as it was given."""
    if is_recording and not line.endswith(b"\n"):  # the last line of a script
        line += b"\n"
    return Effect([partial(ior, table, written)], written, line)


def _attempt_delete(
    keys: Sequence[bytes],
    has_quotes: bool,
    max_output_bytes: int,
    table: Table,
    is_recording: bool,
) -> Effect:
    existing = dict.fromkeys(filter(table.__contains__, keys))
    output = b""
    if len(existing) < len(keys):
        unnamed = existing.copy()  # a key that is named again is missing by then
        missing = [key for key in keys if unnamed.pop(key, key) is not None]
        if missing:
            missing.sort()
            if has_quotes:
                missing = spell_all(missing, spell)
            output = b"[(%b,%b)]\n" % (_BETWEEN_MISSING.join(missing), MISSING_KEY)
            if len(output) > max_output_bytes:
                return Effect(output=None)
    return _removal(existing, output, table, is_recording)


def _attempt_steps(
    line: "StepsLine", max_output_bytes: int, table: Table, is_recording: bool
) -> Effect:
    output, changes = line.compute(table, max_output_bytes)
    written = {key: value for key, value in changes.items() if value is not None}
    removed = [key for key, value in changes.items() if value is None]
    steps: list[Step] = []
    if entries := table.new_entries(written):
        # First: if there is too little memory for the pairs, these entries are stale.
        steps.append(partial(exhaust, map(heappush, repeat(table.expiry_heap), entries)))
    if written:
        steps.append(partial(ior, table, written))
    if removed:
        steps.append(partial(exhaust, map(table.pop, removed)))
    return Effect(steps, changes, _record(changes, is_recording), output)


def _attempt_count(prefixes: Sequence[bytes], table: Table, _is_recording: bool) -> Effect:
    number = len(keys_with(table, prefixes)) if prefixes else len(table)
    return Effect(output=b"%d\n" % number)


def _attempt_clear(prefixes: Sequence[bytes], table: Table, is_recording: bool) -> Effect:
    keys = keys_with(table, prefixes)
    output = b"%d\n" % len(keys)
    if not keys:
        return Effect(output=output)
    return Effect(
        [partial(exhaust, map(table.pop, keys))],
        dict.fromkeys(keys),
        format_clear(prefixes) if is_recording else b"",
        output,
        changes_ascend=True,
    )


def attempt_expire(
    now_ms: int,
    limit: int | None,
    table: Table,
    is_recording: bool,
    *,
    removed: list[bytes] | None = None,
) -> Effect | None:
    """Attempt to remove the pairs that are due; also return their keys in `removed`."""
    keys = table.keys_due(now_ms, limit)
    if keys is None:
        return None
    keys.sort()
    if removed is not None:
        removed[:] = keys
    return _removal(dict.fromkeys(keys), b"", table, is_recording)


def _removal(
    existing: dict[bytes, None], output: bytes, table: Table, is_recording: bool
) -> Effect:
    if not existing:
        return Effect(output=output)
    remove = partial(exhaust, map(table.pop, existing))
    return Effect([remove], existing, _record(existing, is_recording), output)


def _record(changes: NetChanges, is_recording: bool) -> bytes:
    """Return the line that makes the changes; no bytes if there is none to record."""
    if not is_recording or not changes:
        return b""
    return format_changes((key, word_of(value), until_of(value)) for key, value in changes.items())


class _Step(NamedTuple):
    """One step with the values that it writes."""

    name: bytes
    keys: list[bytes]
    values: list[bytes]
    until: int | None


class _Failed(Exception):
    """The condition does not hold, or an ADD is not possible: the line changes nothing."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.keys = keys


class StepsLine:
    """A line of steps. Any thread."""

    def __init__(self, text: bytes) -> None:
        """Parse a valid line, without its ending. Read the clock if the line has a FOR."""
        condition, steps = parse_steps(text)
        self._condition = [
            (key, None if value is None else spell_value(value)) for key, value in condition
        ]
        has_for = any(step.for_ms is not None for step in steps)
        now = now_ms() if has_for else 0
        self._steps: list[_Step] = []
        for step in steps:
            until = step.until
            if step.for_ms is not None:
                until = min(now + step.for_ms, MAX_UNTIL)
            values = spell_all(step.values)
            if step.name == b"WRITE" and until is not None:
                values = [value_until(value, until) for value in values]
            self._steps.append(_Step(step.name, step.keys, values, until))

    def compute(
        self, table: Mapping[bytes, bytes], max_output_bytes: int
    ) -> tuple[bytes | None, NetChanges]:
        """Return the output and the changes of the line.

        The output is None if it has more than `max_output_bytes`; then the line changes nothing.
        """
        overlay = _Overlay(table, max_output_bytes)
        try:
            overlay.require(self._condition)
            for step in self._steps:
                overlay.execute(step)
        except _Failed as failure:
            values = overlay.values_of(failure.keys)
            overlay = _Overlay(table, max_output_bytes)
            overlay.write(failure.keys, values, b"NOT ")
        output = overlay.output()
        return output, {} if output is None else overlay.net_changes()


class _Overlay:
    """What the steps of a line have changed and written so far, in front of the table."""

    def __init__(self, table: Mapping[bytes, bytes], max_output_bytes: int) -> None:
        self._table = table
        self._changed: dict[bytes, bytes | None] = {}
        self._output: list[bytes] = []
        self._bytes_left = max_output_bytes

    def require(self, condition: Sequence[tuple[bytes, bytes | None]]) -> None:
        if not all(self._value(key) == expected for key, expected in condition):
            raise _Failed([key for key, _ in condition])

    def execute(self, step: _Step) -> None:
        if step.name == b"WRITE":
            self._changed.update(zip(step.keys, step.values, strict=True))
        elif step.name == b"READ":
            self.write(step.keys, self.values_of(step.keys))
        elif step.name == b"DELETE":
            self._delete(step.keys)
        else:
            self._add(step)

    def _delete(self, keys: Sequence[bytes]) -> None:
        missing = []
        for key in keys:
            if self._value(key) is None:
                missing.append(key)
            self._changed[key] = None
        if missing:
            self.write(missing, [MISSING_KEY] * len(missing))

    def _add(self, step: _Step) -> None:
        sums: dict[bytes, int] = {}
        for key, addend in zip(step.keys, step.values, strict=True):
            before = sums[key] if key in sums else _number(self._value(key))
            if before is None or not _MIN_NUMBER <= before + int(addend) <= _MAX_NUMBER:
                raise _Failed(step.keys)
            sums[key] = before + int(addend)
        for key, number in sums.items():
            until = until_of(self._value(key)) if step.until is None else step.until
            self._changed[key] = value_until(b"%d" % number, until)
        self.write(step.keys, self.values_of(step.keys))

    def _value(self, key: bytes) -> bytes | None:
        return self._changed[key] if key in self._changed else self._table.get(key)

    def values_of(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return the values as READ writes them."""
        found = map(self._value, keys)
        return [MISSING_VALUE if value is None else value for value in found]

    def write(self, keys: Sequence[bytes], values: Sequence[bytes], heading: bytes = b"") -> None:
        """Write an answer in ascending order of the keys, unless the output is too long by then."""
        order = sorted(range(len(keys)), key=keys.__getitem__)
        spelled = spell_all([keys[index] for index in order], spell)
        self._bytes_left -= len(heading) + answer_bytes(spelled, values)
        if self._bytes_left >= 0:
            values = [values[index] for index in order]
            self._output.append(heading + format_answer(spelled, values))

    def output(self) -> bytes | None:
        """Return the output; None if it is too long."""
        return b"".join(self._output) if self._bytes_left >= 0 else None

    def net_changes(self) -> NetChanges:
        """Return the changes, without the keys that are missing before and after the line."""
        return {
            key: value
            for key, value in self._changed.items()
            if value is not None or key in self._table
        }


def _number(value: bytes | None) -> int | None:
    """Return the number that a value spells, 0 of a missing key, or None if it spells none."""
    if value is None:
        return 0
    return int(value) if NUMBER.fullmatch(value) else None
