"""Properties of the compiled engine alone: hash, threads, memory, forked children."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import kvs.engine
from kvs.engine.interface import ChangeBatch, Engine, JobCursor, TableView
from kvs.engine.python import PythonEngine
from kvs.engine.selection import COMPILED
from kvs.language.grammar import MAX_KEY_BYTES, MAX_VALUE_BYTES
from tests.engine.engines import (
    NewEngine,
    engine_called,
    run,
    take_all_batches,
    take_batches,
)
from tests.helpers import SECONDS


@pytest.fixture(name="create_engine", scope="module")
def _create_engine() -> NewEngine:
    return engine_called(COMPILED)


# Hash.


def test_hash_equals_siphash_of_interpreter(create_engine: NewEngine) -> None:
    """CPython uses SipHash-1-3 since 3.11, with a key of zeros if PYTHONHASHSEED is 0."""
    from kvs.engine._compiled import siphash

    if sys.hash_info.algorithm != "siphash13" or sys.hash_info.cutoff:
        pytest.skip("this interpreter uses another hash")
    rng = random.Random(0)
    texts = [rng.randbytes(size) for size in range(1, 65)]
    program = "import sys, json; print([hash(bytes(t)) for t in json.load(sys.stdin)])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps([list(text) for text in texts]),
        env={"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    ours = [siphash((0, 0), text) for text in texts]
    assert [number % 2**64 for number in json.loads(done.stdout)] == ours
    assert siphash((0, 1), texts[9]) != ours[9] != siphash((1, 0), texts[9])


def test_keys_that_collide_under_unkeyed_hashes(
    create_engine: NewEngine,
) -> None:
    """All of these words collide under djb2 and similar hashes: their pairs have equal sums."""
    pieces = [b"Ez", b"FY", b"G8"]
    keys = [
        b"".join(pieces[number // 3**place % 3] for place in range(9)) for number in range(3**9)
    ]
    engine = create_engine()
    for start in range(0, len(keys), 100):
        pairs = b"".join(b"(%b,%d)" % (key, start) for key in keys[start : start + 100])
        run(engine, b"WRITE [%b]\n" % pairs)
    assert len(engine) == len(keys)
    assert engine.get(keys) == [b"%d" % (number // 100 * 100) for number in range(len(keys))]


# Threads.


def test_recorded_order_explains_concurrent_reads(
    create_engine: NewEngine,
) -> None:
    """Calls of several batches interleave in the order of the recorded lines.

    Every READ must return the values as of some revision. These revisions must be in order within a
    call, and not before the revision at which the call began.
    """
    engine = create_engine()
    engine.start_recording(0)
    keys = [b"k%d" % number for number in range(6)]
    start = threading.Barrier(4)

    def work(number: int) -> list[tuple[int, bytes, int]]:
        rng = random.Random(number)
        start.wait(SECONDS)
        seen = []
        for call in range(60):
            lines = []
            for line in range(150):
                named = rng.sample(keys, 3)
                if rng.random() < 0.5:
                    value = b"%d.%d.%d" % (number, call, line)
                    lines.append(
                        b"WRITE [" + b"".join(b"(%b,%b)" % (k, value) for k in named) + b"]"
                    )
                else:
                    lines.append(b"READ [" + b",".join(named) + b"]")
            began = engine.revision
            result = engine.execute(b"\n".join(lines), 0, 10**6)
            assert result.revision <= engine.revision
            seen.append((began, result.output, result.revision))
        return seen

    with ThreadPoolExecutor(4) as pool:
        calls = [call for seen in pool.map(work, range(4)) for call in seen]
    states = _states(engine, keys)
    for began, output, ended in calls:
        revision = began
        for line in output.splitlines():
            while not _agrees(states[revision], line):
                revision += 1
                assert revision <= ended, line


def _states(engine: Engine, keys: list[bytes]) -> list[dict[bytes, bytes]]:
    """Return the values after each revision."""
    states = [dict.fromkeys(keys, b"KVSERROR")]
    for batch in take_batches(engine):
        for line in batch.lines.splitlines():
            pairs = [pair.split(b",") for pair in line[8:-2].split(b")(")]
            states.append(states[-1] | dict(pairs))
    assert len(states) == engine.revision + 1
    return states


def _agrees(state: dict[bytes, bytes], line: bytes) -> bool:
    pairs = (pair.split(b",") for pair in line[2:-2].split(b")("))
    return all(state[key] == value for key, value in pairs)


def test_batches_are_complete_and_in_order_under_load(
    create_engine: NewEngine,
) -> None:
    """Formatting a long READ takes long after the engine's lock was released."""
    engine = create_engine()
    engine.start_recording(0)
    published: dict[int | None, bytes] = {0: b"", 1: b""}
    revision = 0

    def check(batches: list[ChangeBatch]) -> None:
        nonlocal revision
        for batch in batches:
            published[batch.job] += batch.output
            assert batch.lines.count(b"\n") == batch.change_count
            revision += batch.change_count
            assert batch.revision == revision

    def work(job: int) -> bytes:
        keys = b",".join(b"%d-%d" % (job, number) for number in range(900))
        reads = 2 * (b"READ [%b]\n" % keys)
        script = b"WRITE [(%d-1,1)(%d-2,2)]\n%bDELETE [%d-1]\n" % (job, job, reads, job)
        outputs = [engine.execute(script, 0, 10**6, JobCursor(job, 0)).output for _ in range(150)]
        return b"".join(outputs)

    def look(view: TableView) -> None:
        seen.append(view.revision)
        check(take_batches(engine))

    seen: list[int] = []
    with ThreadPoolExecutor(2) as pool:
        workers = [pool.submit(work, job) for job in published if job is not None]
        while not all(worker.done() for worker in workers):
            check(take_batches(engine))
            engine.with_locked_view(look)
            assert seen[-1] == revision
        check(take_all_batches(engine))
        assert [worker.result(SECONDS) for worker in workers] == [published[0], published[1]]
    assert revision == engine.revision == 600


@contextmanager
def busy(engine: Engine, threads: int = 3) -> Iterator[None]:
    """Run threads that execute commands for the duration of the block."""
    over = threading.Event()
    script = b"".join(
        b"WRITE [(a%d,1)(b%d,2)]\nREAD [a%d,c%d]\nDELETE [a%d]\n" % ((n % 997,) * 5)
        for n in range(1500)
    )

    def work() -> None:
        while not over.is_set():
            engine.execute(script, 0, 10**6)

    with ThreadPoolExecutor(threads) as pool:
        workers = [pool.submit(work) for _ in range(threads)]
        try:
            yield
        finally:
            over.set()
        for worker in workers:
            worker.result(SECONDS)


@pytest.mark.slow
def test_forked_children_can_list_table_under_load(
    create_engine: NewEngine,
) -> None:
    engine = create_engine()
    run(engine, b"WRITE [(x,1)(y,2)]\n")

    def fork(view: TableView) -> None:
        pid = os.fork()
        if pid:
            children.append((pid, view.revision))
            return
        status = 1
        try:
            copy = create_engine()
            run(copy, b"".join(view.writes()))
            listing = b"".join(view.listing())
            is_equal = listing.count(b"\n") == len(view) and b"(x, 1)\n(y, 2)\n" in listing
            is_equal = is_equal and run(copy, b"SHOW\n") == listing
            status = 0 if is_equal else 2
        finally:
            os._exit(status)

    children: list[tuple[int, int]] = []
    with busy(engine):
        for _ in range(100):
            engine.with_locked_view(fork)
            pid, _ = children[-1]
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len({revision for _, revision in children}) > 50


def test_every_method_returns_under_load(create_engine: NewEngine) -> None:
    """Including methods that hold the engine's lock and need the interpreter's, or vice versa."""
    engine = create_engine()
    seen: list[int] = []
    with busy(engine):
        for number in range(100):
            engine.watch(b"a%d" % number)
            engine.with_locked_view(lambda view: seen.append(len(b"".join(view.listing()))))
            engine.unwatch(b"a%d" % number)
            take_batches(engine)
            assert engine.get([b"missing"]) == [None]
            engine.replace({b"q": b"1"})
    assert len(seen) == 100


# Views, and rejected arguments.


def test_view_is_invalid_after_call(create_engine: NewEngine) -> None:
    views: list[TableView] = []
    engine = create_engine()
    engine.with_locked_view(views.append)
    for use in (lambda: len(views[0]), lambda: list(views[0].listing()), views[0].writes):
        with pytest.raises(ValueError, match="no longer valid"):
            use()


def test_failing_view_call_unlocks_engine_and_loses_no_batch(create_engine: NewEngine) -> None:
    engine = create_engine()
    engine.start_recording(0)
    run(engine, b"WRITE [(a,1)]\n")

    def fail(_view: TableView) -> None:
        raise OSError("no child")

    with pytest.raises(OSError, match="no child"):
        engine.with_locked_view(fail)
    assert [batch.lines for batch in take_batches(engine)] == [b"WRITE [(a,1)]\n"]


@pytest.mark.parametrize(
    "pair", [(b"", b"v"), (b"k" * 1025, b"v"), (b"k", b"v" * ((1 << 24) + 1))], ids=len
)
def test_replace_rejects_invalid_words(create_engine: NewEngine, pair: tuple[bytes, bytes]) -> None:
    engine = create_engine()
    run(engine, b"WRITE [(a,1)]\n")
    with pytest.raises(ValueError, match=r"a (key|value) must have"):
        engine.replace(dict([pair]))
    assert engine.items() == [(b"a", b"1")]
    assert engine.revision == 1


# Memory.

SCARCE = """
import resource, sys
from kvs.engine._compiled import CompiledEngine
what, spare_bytes = sys.argv[1], int(sys.argv[2])
engine = CompiledEngine()
def take_batches(engine):
    engine.move_batches(taken := [])
    return taken
engine.start_recording(0)
engine.watch(b"key1")
pairs = [b"(key%d,%040d)" % (n, n) for n in range(300_000)]
long = b"WRITE [(a,1)]\\nWRITE [%b]" % b"".join(pairs)
lines = [b"WRITE [%b]\\n" % b"".join(pairs[at:at + 50]) for at in range(0, len(pairs), 50)]
script = b"".join(lines)
show = b"WRITE [(q,1)]\\nSHOW\\n"
with open("/proc/self/statm") as statm:
    mapped = int(statm.read().split()[0]) * resource.getpagesize()
limit = mapped + spare_bytes
hard_limit = resource.getrlimit(resource.RLIMIT_AS)[1]
resource.setrlimit(resource.RLIMIT_AS, (limit, hard_limit))
failures = 0
offset = 0
try:
    if what == "long":
        engine.execute(long, 0, 1 << 40)
    while offset < len(script):
        offset = engine.execute(script, offset, 65536).offset
        if what == "batches":
            take_batches(engine)
    engine.execute(show, 0, 65536)
except MemoryError:
    failures += 1
resource.setrlimit(resource.RLIMIT_AS, (hard_limit, hard_limit))
assert failures == 1
revision = engine.revision
batches = take_batches(engine)
if what == "long":
    assert revision == 1 and engine.items() == [(b"a", b"1")]
else:
    # Whole commands, and those that are recorded.
    assert len(engine) == 50 * revision
    if what != "batches":
        assert sum(each.change_count for each in batches) == revision
        again = CompiledEngine()
        for each in batches:
            again.execute(each.lines, 0, 1 << 40)
        assert again.items() == engine.items()
engine.execute(b"WRITE [(key1,2)]\\n", 0, 65536)
assert engine.revision == revision + 1
assert [each.changes for each in take_batches(engine)] == [[(b"key1", b"2")]]
print("good")
"""


NATIVE = Path(__file__).parent / "native"
INCLUDED = Path(kvs.engine.__file__).parent / "native"
ALLOCATORS = ("mmap", "mremap", "calloc", "realloc", "_Znwm")
"""Functions that `storage.cpp` makes fail; the last is C++'s operator new."""


@pytest.fixture(name="storage", scope="module")
def _storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build `native/storage.cpp`; return the program."""
    compiler = shutil.which("g++")
    if not compiler or sys.platform != "linux":
        pytest.skip("needs g++ and GNU ld")
    program = tmp_path_factory.mktemp("native") / "storage"
    flags = ["-std=c++17", "-O1", "-pthread", f"-I{INCLUDED}"]
    wrapped = [f"-Wl,--wrap={name}" for name in ALLOCATORS]
    command = [compiler, *flags, *wrapped, str(NATIVE / "storage.cpp"), "-o", str(program)]
    subprocess.run(command, check=True, timeout=4 * SECONDS)
    return program


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", [[], pytest.param(["churn"], marks=pytest.mark.stress)], ids=["model", "churn"]
)
def test_storage_agrees_with_model_and_frees_memory(storage: Path, part: list[str]) -> None:
    """After any change of sizes, memory is at most 1.5 times the pairs in use, and 32 MiB."""
    done = subprocess.run(
        [storage, *part], check=False, capture_output=True, text=True, timeout=4 * SECONDS
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "spare_bytes"),
    [("long", 12_000_000), ("long", 28_000_000), ("batches", 12_000_000), ("all", 12_000_000)],
)
def test_memory_error_undoes_one_command_only(
    create_engine: NewEngine, what: str, spare_bytes: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCARCE, what, str(spare_bytes)],
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "good\n", "")


# Beginnings of lines.


@pytest.mark.parametrize(
    ("head", "filler", "count", "expected"),
    [
        (b"WRITE [(a", b",", 1, True),
        (b"WRITE [(a,1)(b,", b"v", 100_000, True),
        (b'WRITE [(a,"', b"v,", 50_000, True),
        (b" IF [(a,1)] WRITE [(b,", b"v", 100_000, True),
        (b"READ [", b"key,", 30_000, True),
        (b"READ [a]", b" x", 1, False),
        (b"READ [", b"k", MAX_KEY_BYTES + 1, False),
        (b"WRITE [(a,", b"v", MAX_VALUE_BYTES + 1, False),
        (b"ADD [(a,", b"x", 30, False),
        (b"#", b"x", 30, False),
    ],
)
def test_beginning_of_a_line_that_may_be_valid_is_unfinished(
    create_engine: NewEngine, head: bytes, filler: bytes, count: int, *, expected: bool
) -> None:
    beginning = head + filler * count
    assert create_engine().is_unfinished(beginning) == expected
    assert not PythonEngine.is_unfinished(beginning)
