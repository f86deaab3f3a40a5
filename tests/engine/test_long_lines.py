"""Lines of very many words: same results in both engines, atomic, in bounded memory."""

import random
from collections.abc import Iterator

import pytest

from kvs.engine.python import PythonEngine
from kvs.engine.selection import COMPILED
from kvs.language import diagnostics
from tests.engine.engines import engine_called, execute_all, output_of_child
from tests.engine.test_equal import observable_state

pytestmark = pytest.mark.slow

WORDS = 20_000
"""More than the compiled engine has in memory at a time."""

BREAKS = [
    b" ", b"\t", b"\r", b"\0", b"\x01", b"\x1f", b",", b")", b"]", b"[", b"(", b",,", b"))", b"()",
    b"x" * 41, b"x" * 1100, b'"', b'""', b'\\', b"\\n", b"KVSERROR", b"KVSMISSING", b"#",
    b",KVSERROR)", b",KVSMISSING )", b"\n", b"]\n", b"", b" ,", b", ", b") (", b" ) ( ", b"]]",
]  # fmt: skip


def words(rng: random.Random, count: int) -> list[bytes]:
    """Return words of any size, many of them equal or with a long common prefix."""
    heads = [b"", b"k", b"prefix-01234567", b"\xff\x80", b"(", b"\x01", b"x" * 33]
    few = rng.choice([3, 500, 10**6])
    return [rng.choice(heads) + b"%d" % rng.randrange(few) for _ in range(count)]


def line(rng: random.Random, name: bytes) -> bytes:
    keys = words(rng, WORDS)
    if rng.random() < 0.3:
        keys = [b'"%b\\n"' % key if rng.random() < 0.1 else key for key in keys]
    blank = rng.choice([b"", b"", b" ", b"\t "])
    if name == b"WRITE":
        pairs = zip(keys, words(rng, WORDS), strict=True)
        if rng.random() < 0.3:
            name = b"DELETE [k1,k2] ADD [(n,1)] UNTIL 5" + name
        body = blank.join(b"(%b,%b%b)" % (key, blank, value) for key, value in pairs)
    else:
        body = (blank + b",").join(keys)
    return name + blank + b"[" + body + b"]"


def broken(rng: random.Random, text: bytes) -> bytes:
    """Return `text` with bytes inserted or removed near its start, near its end or anywhere."""
    near = rng.choice([30, 3000, len(text)])
    at = rng.choice([rng.randrange(near), len(text) - rng.randrange(near)])
    return text[:at] + rng.choice(BREAKS) + text[at + rng.choice([0, 0, 1, 5]) :]


def scripts(rng: random.Random) -> Iterator[bytes]:
    for name in (b"WRITE", b"READ", b"DELETE", b"WRITE", b"READ"):
        good = line(rng, name)
        yield good + rng.choice([b"", b"\n", b"\r\n", b" \n", b"\nREAD [k1]\n", b"\n" * 70])
        yield b"READ [k1,k2]\n" + broken(rng, good) + b"\nWRITE [(k1,v)]\nDELETE [k2,k2]\n"
        yield good[:-1]


@pytest.mark.parametrize("options", ["", "r", "rm", "w", "rw", "rmw"])
@pytest.mark.parametrize("seed", range(2))
def test_long_lines_in_both_engines(options: str, seed: int) -> None:
    """With and without recorded lines (r), job calls (m) and watched keys (w)."""
    found = []
    for engine in (PythonEngine(), engine_called(COMPILED)()):
        rng = random.Random(f"{options}{seed}")
        if "r" in options:
            engine.start_recording(7)
        if "w" in options:
            for key in (b"k1", b"k2", b"prefix-012345671", b"1"):
                engine.watch(key)
        job = 3 if "m" in options else None
        budget = rng.choice([0, 65536, 10**9])
        found.append(
            [observable_state(engine, execute_all(engine, s, budget, job)) for s in scripts(rng)]
        )
    for expected, got in zip(*found, strict=True):
        assert got == expected


@pytest.mark.parametrize("seed", range(6))
def test_compiled_check_of_long_lines_equals_reference(seed: int) -> None:
    check = engine_called(COMPILED)().check
    rng = random.Random(seed)
    for script in scripts(rng):
        for _ in range(6):
            each = broken(rng, script)
            assert check(each) == diagnostics.check(each)


@pytest.mark.parametrize("seed", range(6))
def test_unfinished_line_has_no_final_verdict(seed: int) -> None:
    is_unfinished = engine_called(COMPILED)().is_unfinished
    rng = random.Random(seed)
    unfinished = 0
    for script in scripts(rng):
        for line in broken(rng, script).splitlines():
            beginning = line[: rng.randrange(len(line) + 1)]
            if is_unfinished(beginning):
                unfinished += 1
                assert not diagnostics.verdict_is_final(beginning), beginning
    assert unfinished


@pytest.mark.parametrize("size", [*range(60, 70), 127, 128, 129, 191, 192])
@pytest.mark.parametrize("name", [b"WRITE", b"READ"])
def test_check_of_list_that_ends_near_end_of_script(name: bytes, size: int) -> None:
    """Lists are read 64 bytes at a time, but never beyond the end of the script."""
    check = engine_called(COMPILED)().check
    item = b"(a,1)" if name == b"WRITE" else b"a,"
    for behind in (b"]", b"", b"]\n", b" ]", b"a]", b"\n", b",", b"(", b"(a", b"(a,", b"(a,1"):
        for before in (b"", b"x" * 5, b" "):
            script = name + b" [" + item * (size // len(item)) + before + behind
            for end in range(len(script) - 12, len(script) + 1):
                cut = script[:end]
                assert check(cut) == diagnostics.check(cut), cut


# Memory.

PEAK = """
import os, sys
from kvs.engine._compiled import CompiledEngine
kind = sys.argv[1]
SIZE = 12 << 20
head, item, tail = {
    "read": (b"READ [", b"a,", b"a]"),
    "read words": (b"READ [", b"abcdefgh,", b"a]"),
    "delete": (b"DELETE [", b"a,", b"a]"),
    "write": (b"WRITE [", b"(a,1)", b"]"),
    "unclosed read": (b"READ [", b"a,", b"a"),
    "unclosed write": (b"WRITE [", b"(a,1)", b""),
    "a word": (b"READ [", b"a", b"]"),
    "blanks": (b"READ [a", b" ", b""),
    "comment": (b"#", b"x", b""),
    "garbage": (b"", b"\\0", b""),
    "carriage returns": (b"READ [a]", b"\\r", b""),
}[kind]
script = head + item * (SIZE // len(item)) + tail + b"\\n"
engine = CompiledEngine()
engine.execute(b"WRITE [(a,1)]\\nREAD [\\n", 0, 65536)
CompiledEngine.check(b"READ [\\n")
def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # from now on, VmHWM is a new one
before = status("VmRSS")
CompiledEngine.check(script)
checked = status("VmHWM") - before
output = len(engine.execute(script, 0, 65536).output)
executed = status("VmHWM") - before - output
print(round(checked / len(script), 2), round(executed / len(script), 2))
"""


@pytest.mark.parametrize(
    ("kind", "max_ratio"),
    [
        ("read", 2.3),  # 4 bytes a word, the output once
        ("read words", 0.9),
        ("delete", 2.3),
        ("write", 0.4),
        ("unclosed read", 0.3),
        ("unclosed write", 0.3),
        ("a word", 0.3),
        ("blanks", 0.3),
        ("comment", 0.3),
        ("garbage", 0.3),
        ("carriage returns", 0.3),
    ],
)
def test_memory_of_long_line_is_few_bytes_per_word(kind: str, max_ratio: float) -> None:
    engine_called(COMPILED)
    checked, executed = map(float, output_of_child(PEAK, kind).split())
    assert checked < 0.3
    assert executed < max_ratio


SCARCE = """
import resource, sys
from kvs.engine._compiled import CompiledEngine
kind = sys.argv[1]
names = [b"key%d" % number for number in range(60_000)]
old = [b"(%b,old)" % name for name in names[::3]]
pairs = [b"(%b,%040d)" % (name, at) for at, name in enumerate(names)]
line = {
    "write": b"WRITE [%b]" % b"".join(pairs),
    "read": b"READ [%b]" % b",".join(names),
    "delete": b"DELETE [%b]" % b",".join(names),
}[kind]
soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_AS)
outcomes = set()
for spare_bytes in range(0, 12_000_000, 400_000):
    engine = CompiledEngine()
    engine.start_recording(0)
    engine.watch(b"key1")
    for at in range(0, len(old), 100):
        engine.execute(b"WRITE [%b]" % b"".join(old[at:at + 100]), 0, 65536)
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
    elif kind == "write":
        assert len(engine) == len(names) and engine.revision == before[1] + 1
        assert engine.get([b"key0", b"key59999"]) == [b"%040d" % 0, b"%040d" % 59999]
    elif kind == "delete":
        assert len(engine) == 0 and done.output.count(b"KVSMISSING") == 40_000
    else:
        assert done.output.count(b"old") == 20_000
assert outcomes == {False, True}, outcomes
print("good")
"""


@pytest.mark.parametrize("kind", ["write", "read", "delete"])
def test_long_line_with_too_little_memory_changes_nothing(kind: str) -> None:
    """With more and more memory, the line fails in each of its steps until it succeeds."""
    engine_called(COMPILED)
    assert output_of_child(SCARCE, kind) == "good\n"
