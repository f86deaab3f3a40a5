"""Lines of the Python engine: effects computed beside the table, which they leave as it is."""

import pytest

from kvs.engine.python_line import StepsLine, answer_bytes, attempt_of, format_answer
from kvs.engine.python_table import Table, until_of, value_until
from kvs.language import grammar
from tests.strategies import NO_NUMBERS

MAX = 1 << 20


def compute(text: bytes, table: Table, max_bytes: int = MAX) -> tuple[bytes | None, object]:
    before = dict(table)
    output, changes = StepsLine(text).compute(table, max_bytes)
    assert (output, changes) == StepsLine(text).compute(table, max_bytes)
    assert table == before
    return output, changes


def test_steps_see_what_stands_before_them() -> None:
    table = Table({b"a": b"1"})
    line = b"READ [a,b] WRITE [(b,2)] ADD [(b,3)] DELETE [a] READ [b,a]"
    output = b"[(a,1)(b,KVSERROR)]\n[(b,5)]\n[(a,KVSERROR)(b,5)]\n"
    assert compute(line, table) == (output, {b"b": b"5", b"a": None})


def test_failed_line_writes_only_what_it_failed_at() -> None:
    table = Table({b"a": b"x", b"b": b'"y z"'})
    assert compute(b"IF [(b,z)(a,x)] WRITE [(c,1)] READ [a]", table) == (
        b'NOT [(a,x)(b,"y z")]\n',
        {},
    )
    assert compute(b"READ [a] WRITE [(n,1)] ADD [(n,1)(a,1)]", table) == (
        b"NOT [(a,x)(n,1)]\n",
        {},
    )


@pytest.mark.parametrize("stored", NO_NUMBERS)
def test_add_to_what_is_no_number_fails(stored: bytes) -> None:
    spelled = grammar.spell_value(stored)
    table = Table({b"a": spelled})
    assert compute(b"ADD [(a,0)]", table) == (b"NOT [(a,%b)]\n" % spelled, {})


@pytest.mark.parametrize("sign", [1, -1])
def test_sum_that_does_not_fit_fails(sign: int) -> None:
    last = 2**63 - 1 if sign > 0 else -(2**63)
    table = Table({b"a": b"%d" % (last - sign)})
    assert compute(b"ADD [(a,%d)]" % sign, table)[1] == {b"a": b"%d" % last}
    assert compute(b"ADD [(a,%d)(a,%d)]" % (sign, sign), table)[1] == {}
    assert compute(b"ADD [(a,%d)(a,%d)(a,%d)]" % (-sign, sign, sign), table)[1] != {}


def test_add_keeps_a_time_and_write_ends_it() -> None:
    table = Table({key: value_until(b"1", 5) for key in (b"a", b"b", b"c")})
    _, changes = StepsLine(b"ADD [(a,1)] WRITE [(b,1)] ADD [(c,1)] UNTIL 0").compute(table, MAX)
    assert {key: until_of(value) for key, value in changes.items()} == {
        b"a": 5,
        b"b": None,
        b"c": 0,
    }


def test_output_longer_than_allowed_is_none() -> None:
    table = Table({b"a": b"12"})
    line = b"READ [a] WRITE [(b,1)] READ [a,b]"
    output, changes = compute(line, table, MAX)
    assert output == b"[(a,12)]\n[(a,12)(b,1)]\n"
    assert compute(line, table, len(output)) == (output, changes)
    assert compute(line, table, len(output) - 1) == (None, {})


@pytest.mark.parametrize(("keys", "values"), [([b"a"], [b""]), ([b"a", b"bc"], [b"1", b"22"])])
def test_length_of_answer_is_known_in_advance(keys: list[bytes], values: list[bytes]) -> None:
    assert answer_bytes(keys, values) == len(format_answer(keys, values))


@pytest.mark.parametrize(
    "line", [b"DELETE [a,q]", b"CLEAR [a]", b"EXPIRE 5", b"IF [(a,1)] WRITE [(z,1)]", b"COUNT"]
)
def test_attempts_change_no_table(line: bytes) -> None:
    table = Table({b"a": value_until(b"1", 5), b"b": b"2"})
    match = grammar.LINE.match(line)
    assert match is not None
    assert match.lastindex is not None
    attempt = attempt_of(match.lastindex, match[match.lastindex], MAX)
    assert attempt is not None
    effects = [attempt(table, is_recording) for is_recording in (True, False)]
    assert [(key, until_of(value)) for key, value in table.items()] == [(b"a", 5), (b"b", None)]
    recorded, unrecorded = effects
    assert recorded is not None
    assert unrecorded is not None
    assert bool(recorded.record) == bool(recorded.steps) == (line != b"COUNT")
    assert unrecorded == recorded._replace(record=b"", steps=unrecorded.steps)
