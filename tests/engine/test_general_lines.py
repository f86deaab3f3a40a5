"""Lines of the compiled engine's general path: limits, and memory, of which little is enough."""

import pytest

from kvs.engine.interface import Engine, ExecuteResult
from kvs.engine.selection import COMPILED
from tests.engine.engines import NewEngine, engine_called, output_of_child, take_batches

MIB = 1 << 20
TOO_LONG = "the output of a line is at most 268435456 bytes, this one has more"


@pytest.fixture(name="create_engine", scope="module")
def _create_engine() -> NewEngine:
    return engine_called(COMPILED)


def execute(engine: Engine, script: bytes, *, limits: bool = True) -> ExecuteResult:
    return engine.execute(script, 0, 1 << 40, limits=limits)


# Outputs over the limit.


@pytest.fixture(name="large", scope="module")
def _large(create_engine: NewEngine) -> Engine:
    """Return an engine with a value of 16 MiB and one of 16 MiB that takes 32 in quotes."""
    engine = create_engine()
    execute(engine, b"WRITE [(k,%b)(text,x)]\n" % (b"v" * 16 * MIB))
    execute(engine, b'WRITE [(q,"%b")(a,1)]\n' % (b"\\n" * 16 * MIB))
    assert len(engine) == 4
    return engine


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        b"READ [%b]" % b",".join([b"k"] * 16),
        b"READ [%b%b]" % (b"a," * 20_000, b",".join([b"k"] * 16)),
        b"READ [%b] READ [a]" % b",".join([b"q"] * 8),
        b"WRITE [(a,2)] READ [%b]" % b",".join([b"k"] * 16),
        b"DELETE [a] READ [k] READ [%b]" % b",".join([b"k"] * 15),
        b"DELETE [%bb]" % (b"b," * 20 * MIB),
        b"READ [%bb]" % (b"b," * 24 * MIB),
    ],
    ids=["read", "long read", "quoted", "write", "delete", "long delete", "missing"],
)
def test_line_with_too_long_output_changes_nothing(large: Engine, line: bytes) -> None:
    before = large.revision
    result = execute(large, b"READ [a]\n  %b\nREAD [a]\n" % line)
    assert result.output == b"[(a,1)]\n[(a,1)]\n"
    assert result.commands == 2
    assert [(each.column, each.reason) for each in result.diagnostics] == [(3, TOO_LONG)]
    assert large.revision == before


@pytest.mark.slow
def test_longest_output_is_written(large: Engine) -> None:
    pairs = b"(k,%b)" % (b"v" * 16 * MIB)
    result = execute(large, b"READ [%b] READ [a]\n" % b",".join([b"k"] * 15))
    assert result.output == b"[%b]\n[(a,1)]\n" % (pairs * 15)
    assert not result.diagnostics


@pytest.mark.slow
def test_failed_line_writes_its_answer_alone(large: Engine) -> None:
    """The READ before the failed ADD would be too long, but is not written."""
    result = execute(large, b"READ [%b] ADD [(text,1)]\n" % b",".join([b"k"] * 16))
    assert (result.output, result.diagnostics) == (b"NOT [(text,x)]\n", [])


@pytest.mark.slow
def test_output_without_limits(large: Engine) -> None:
    result = execute(large, b"READ [%b]\n" % b",".join([b"k"] * 16), limits=False)
    assert len(result.output) > 256 * MIB
    assert not result.diagnostics


# Lines over the limit.


@pytest.mark.slow
@pytest.mark.parametrize("line", [b"READ [a%b]", b'READ ["a"%b]', b"SHOW%b"])
def test_length_of_line_is_limited(create_engine: NewEngine, line: bytes) -> None:
    def of_size(size: int) -> bytes:
        return line % (b" " * (size - len(line) + 2))

    engine = create_engine()
    script = of_size(64 * MIB + 1) + b"\nREAD [b]\n"
    result = execute(engine, script)
    reason = "a line is at most 67108864 bytes, this one has 67108865"
    assert [(each.column, each.reason) for each in result.diagnostics] == [(1, reason)]
    assert (result.output, result.commands) == (b"[(b,KVSERROR)]\n", 1)
    assert engine.check(script).diagnostics == result.diagnostics
    assert execute(engine, of_size(64 * MIB) + b"\r\n").commands == 1
    assert execute(engine, script, limits=False).commands == 2


@pytest.mark.slow
def test_length_of_comment_is_not_limited(create_engine: NewEngine) -> None:
    script = b" #" + b"x" * 65 * MIB
    assert not execute(create_engine(), script).diagnostics


# Memory.

PEAK = """
import sys
from kvs.engine._compiled import CompiledEngine
kind = sys.argv[1]
SIZE = 8 << 20
def distinct(form, bytes_each):
    return b"".join(form % number for number in range(SIZE // bytes_each))
line = {
    "read": b"READ [" + b"a," * (SIZE // 2) + b"a] READ [a]",
    "pairs": b"IF [" + b"(a,1)" * (SIZE // 5) + b"] READ [a]",
    "distinct keys": b"READ [" + distinct(b"%x,", 6) + b"a] READ [a]",
    "distinct pairs": b"ADD [" + distinct(b"(%x,1)", 9) + b"] UNTIL 5",
    "prefixes": b"COUNT [" + b"a," * (SIZE // 2) + b"b]",
    "value": b'WRITE [(a,"' + b"\\\\n" * (SIZE // 2) + b'")]',
    "unclosed pairs": b"IF [" + b"(a,1)" * (SIZE // 5),
    "bad end": b"ADD [" + distinct(b"(%x,1)", 9) + b"] UNTIL",
}[kind] + b"\\n"
engine = CompiledEngine()
engine.execute(b"WRITE [(a,1)] READ [a]\\nREAD [\\n", 0, 65536)
CompiledEngine.check(b"READ [\\n")
def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # from now on, VmHWM is a new one
before = status("VmRSS")
CompiledEngine.check(line)
checked = status("VmHWM") - before
output = len(engine.execute(line, 0, 65536).output)
executed = status("VmHWM") - before - output
print(round(checked / len(line), 2), round(executed / len(line), 2))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "max_ratio"),
    [
        ("read", 1),
        ("pairs", 15),
        ("distinct keys", 60),
        ("distinct pairs", 60),
        ("prefixes", 40),
        ("value", 2),
        ("unclosed pairs", 0.3),
        ("bad end", 0.3),
    ],
)
def test_memory_of_general_line_is_limited(kind: str, max_ratio: float) -> None:
    engine_called(COMPILED)
    checked, executed = map(float, output_of_child(PEAK, kind).split())
    assert checked < 0.3
    assert executed < max_ratio


SCARCE = """
import resource, sys
from kvs.engine._compiled import CompiledEngine
kind = sys.argv[1]
names = [b"key%d" % number for number in range(20_000)]
stored = 100_000 if kind in ("clear", "expire") else 7_000
old = [b"(key%d,%d)" % (3 * number, number) for number in range(stored)]
pairs = b"".join(b'(%b,"%050d a")' % (name, at) for at, name in enumerate(names))
line = {
    "write": b"WRITE [%b] UNTIL 7" % pairs,
    "steps": b"IF [(key0,0)(new,KVSERROR)] READ [%b] WRITE [%b] DELETE [key1,nothing]"
    % (b",".join(names), pairs),
    "add": b"ADD [%b] UNTIL 7" % b"".join(b"(%b,1)" % name for name in names),
    "large": b"READ [key0] "
    + b" ".join(b"WRITE [(%b,%b)]" % (name, b"v" * 20_000) for name in names[:100]),
    "clear": b"CLEAR [key]",
    "expire": b"EXPIRE 5",
}[kind]
soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_AS)
outcomes = set()
for spare_bytes in range(0, 40_000_000, 200_000):
    engine = CompiledEngine()
    engine.start_recording(0)
    engine.watch(b"key3")
    for at in range(0, len(old), 100):
        engine.execute(b"WRITE [%b] UNTIL 5" % b"".join(old[at:at + 100]), 0, 65536)
    before = engine.items(), engine.revision
    engine.move_batches([])
    with open("/proc/self/statm") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + spare_bytes, hard_limit))
    try:
        done = engine.execute(line, 0, 1 << 40)
    except MemoryError:
        done = None
    resource.setrlimit(resource.RLIMIT_AS, (soft_limit, hard_limit))
    engine.move_batches(batches := [])
    outcomes.add(done is not None)
    if done is None:
        assert (engine.items(), engine.revision) == before
        assert not any(each.changes or each.lines for each in batches)
        continue
    assert engine.revision == before[1] + 1
    replayed = CompiledEngine()
    replayed.replace(dict(before[0]), {key: 5 for key, _ in before[0]})
    replayed.execute(b"".join(each.lines for each in batches), 0, 1 << 40)
    assert replayed.items() == engine.items()
    if outcomes == {False, True}:
        break
assert outcomes == {False, True}, outcomes
print("good")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["write", "steps", "add", "large", "clear", "expire"])
def test_general_line_with_too_little_memory_changes_nothing(kind: str) -> None:
    """With more and more memory, the line fails in each of its steps until it succeeds."""
    engine_called(COMPILED)
    assert output_of_child(SCARCE, kind) == "good\n"


# Expiry.


def test_expire_removes_earliest_pairs_first(create_engine: NewEngine) -> None:
    engine = create_engine()
    engine.start_recording(0)
    engine.watch(b"c")
    execute(engine, b"WRITE [(a,1)] UNTIL 30 WRITE [(b,2)] UNTIL 20 WRITE [(c,3)] UNTIL 10\n")
    take_batches(engine)
    assert engine.next_expiry == 10
    assert engine.expire(9, 5) == 0
    assert engine.expire(30, 2) == 2
    [batch] = take_batches(engine)
    assert (batch.lines, batch.change_count) == (b"DELETE [b,c]\n", 1)
    assert (list(batch.changes), batch.revision) == ([(b"c", None)], 2)
    assert (engine.next_expiry, engine.items()) == (30, [(b"a", b"1")])


@pytest.mark.slow
def test_expire_of_many_pairs_removes_those_of_least_time(create_engine: NewEngine) -> None:
    engine = create_engine()
    pairs = {b"k%d" % number: b"v" for number in range(20_000)}
    untils = {key: number * 7919 % 20_011 for number, key in enumerate(pairs)}
    engine.replace(dict(pairs), dict(untils))
    times = sorted(untils.values())
    for start in range(0, 15_000, 3_000):
        assert engine.next_expiry == times[start]
        assert engine.expire(times[-1], 3_000) == 3_000
    assert {untils[key] for key, _ in engine.items()} == set(times[15_000:])
