"""Every engine returns what the model returns, and the compiled one the same as the reference."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvs.engine.interface import (
    NO_EXPIRY,
    ChangeBatch,
    Engine,
    ExecuteResult,
    JobCursor,
    KeyChange,
    TableView,
)
from kvs.engine.python import PythonEngine
from kvs.engine.selection import COMPILED, PYTHON
from kvs.language import grammar
from kvs.language.diagnostics import check
from kvs.language.output_format import HELP
from tests.engine.engines import (
    NewEngine,
    engine_called,
    execute_all,
    take_all_batches,
    take_batches,
)
from tests.model import Model
from tests.strategies import FUTURE, KEYS, PAST, engine_scripts, random_command

UNTILS = FUTURE + PAST
budgets = st.sampled_from([0, 1, 30, 500, 65536])
PIECES = [
    *b"WRITE READ DELETE SHOW WAIT WAIT0 BACKUP HELP [ ] ( ) , # KVSERROR KVSMISSING".split(),
    *b'IF ADD COUNT CLEAR EXPIRE AFTER LIMIT UNTIL UNTIL FOR999999999999999 " \\'.split(),
    *[b" ", b"\t", b"\r", b"\n", b"\0", b"\n", b"WRITE[(a,b)]\n", b"9" * 10, *KEYS],
    *[b"[a]", b"[(a,1)]", b'"', b'[""]', b"\\x61", b"7"],
]
texts = st.one_of(
    engine_scripts,
    st.binary(max_size=200),
    st.lists(engine_scripts, max_size=10).map(b"\n".join),
    st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join),
)


@pytest.fixture(scope="module")
def engine_pair() -> "EnginePair":
    return EnginePair()


@pytest.fixture(scope="module", params=[PYTHON, COMPILED])
def create_engine(request: pytest.FixtureRequest) -> NewEngine:
    """Return the class of each engine in turn."""
    return engine_called(request.param)


class EnginePair:
    """Creates pairs of engines, the reference first."""

    def __init__(self) -> None:
        self._compiled = engine_called(COMPILED)

    def __call__(self) -> tuple[Engine, Engine]:
        return PythonEngine(), self._compiled()


def contents(batches: list[ChangeBatch]) -> list[object]:
    """Return the fields of change batches; the revision of a batch without lines is undefined."""
    return [
        (
            batch.changes,
            batch.lines,
            batch.change_count,
            batch.revision if batch.change_count or batch.job is not None else None,
            batch.job,
            batch.offset,
            batch.output,
            batch.marker,
        )
        for batch in batches
    ]


def observable_state(engine: Engine, results: list[ExecuteResult]) -> tuple[object, ...]:
    return (
        results,
        contents(take_batches(engine)),
        engine.has_batches,
        engine.revision,
        len(engine),
        engine.items(),
        engine.items([b"a", b"", b"k"], b"a", 3),
        engine.get([*KEYS, b"", b"missing", b"y" * 41]),
        engine.next_expiry,
    )


def run_model(model: Model, script: bytes) -> None:
    """Run a script in a model that keeps only what this script does."""
    model.output, model.invalid, model.commands = b"", [], 0
    model.records, model.changes = [], []
    model.run(script)


def require_equal(engine: Engine, model: Model) -> None:
    assert engine.revision == model.revision
    assert engine.items() == sorted(model.pairs.items())
    assert len(engine) == len(model.pairs)
    assert engine.next_expiry == min(model.untils.values(), default=NO_EXPIRY)


@pytest.mark.slow
@given(st.lists(engine_scripts, max_size=4), budgets, st.booleans())
@settings(max_examples=200)
def test_scripts_equal_the_model(
    create_engine: NewEngine, scripts_in_order: list[bytes], budget: int, is_job: bool
) -> None:
    """To the byte: output, records, changes, pairs, times; and which lines are invalid."""
    engine, model = create_engine(), Model(HELP)
    engine.start_recording(0)
    for key in KEYS[::2]:
        engine.watch(key)
    for script in scripts_in_order:
        run_model(model, script)
        results = execute_all(engine, script, budget, 3 if is_job else None)
        assert b"".join(result.output for result in results) == model.output
        assert sum(result.commands for result in results) == model.commands
        found = [diagnostic for result in results for diagnostic in result.diagnostics]
        assert found == check(script).diagnostics
        assert [script.count(b"\n", 0, each.offset) + 1 for each in found] == model.invalid
        batches = take_all_batches(engine)
        assert b"".join(batch.lines for batch in batches) == b"".join(model.records)
        watched = [change for change in model.changes if change[0] in KEYS[::2]]
        assert [change for batch in batches for change in batch.changes] == watched
        require_equal(engine, model)


@pytest.mark.parametrize("seed", range(3))
def test_expiry_in_any_portions_equals_the_model(create_engine: NewEngine, seed: int) -> None:
    """Each pair has a time of its own, so that the earliest are the same in every engine."""
    rng = random.Random(seed)
    engine, model = create_engine(), Model()
    engine.start_recording(0)
    times = list(range(2000))
    rng.shuffle(times)
    for _ in range(600):
        key = b"k%d" % rng.randrange(200)
        kind = rng.random()
        if kind < 0.7 and times:
            line = b"WRITE [(%b,1)] UNTIL %d\n" % (key, times.pop())
        elif kind < 0.9:
            line = rng.choice([b"WRITE [(%b,1)]\n", b"DELETE [%b]\n", b"ADD [(%b,1)]\n"]) % key
        else:
            line = b""
            now, limit = rng.randrange(2000), rng.randint(1, 20)
            assert engine.expire(now, limit) == model.expire(now, limit)
        model.output = b""
        model.run(line)
        assert b"".join(result.output for result in execute_all(engine, line)) == model.output
        require_equal(engine, model)
    lines = b"".join(batch.lines for batch in take_all_batches(engine))
    assert lines == b"".join(model.records)


BIG = b"v" * grammar.MAX_VALUE_BYTES
READ_16 = b"READ [" + b",".join([b"k"] * 16) + b"]"
TOO_LONG = [
    READ_16,
    b"READ [%b] READ [%b]" % ((b",".join([b"k"] * 8),) * 2),
    b"WRITE [(x,1)] DELETE [k] WRITE [(k,%b)] %b" % (BIG, READ_16),
    b"IF [%b] WRITE [(x,1)]" % (b"(k,KVSERROR)" * 16),
    b"WRITE [(n,KV)] %b ADD [(x,1)]" % READ_16,
    b"WRITE [(n,KV)] ADD [%b]" % (b"(k,1)" * 16),
]


@pytest.mark.slow
@pytest.mark.parametrize("line", TOO_LONG, ids=range(len(TOO_LONG)))
def test_line_with_too_long_an_output_changes_nothing(
    create_engine: NewEngine, line: bytes
) -> None:
    engine = create_engine()
    execute_all(engine, b"WRITE [(k,%b)]" % BIG)
    script = b"WRITE [(a,1)]\n \t%b\nREAD [a,x,n]\n" % line
    offset = script.index(b" \t")
    [result] = execute_all(engine, script, 1 << 40)
    reason = "the output of a line is at most 268435456 bytes, this one has more"
    assert [(each.offset, each.column, each.reason) for each in result.diagnostics] == [
        (offset, 3, reason)
    ]
    assert result.output == b"[(a,1)(n,KVSERROR)(x,KVSERROR)]\n"
    assert (result.commands, result.lines, engine.revision) == (2, 3, 2)


@pytest.mark.slow
def test_output_of_exactly_the_limit_is_written(create_engine: NewEngine) -> None:
    engine = create_engine()
    room = grammar.MAX_OUTPUT_BYTES - 15 * (len(BIG) + 4) - len(b"[(m,)]\n")
    for extra in (0, 1):
        execute_all(engine, b"WRITE [(k,%b)(m,%b)]" % (BIG, BIG[: room + extra]))
        [result] = execute_all(engine, b"READ [%b,m]" % b",".join([b"k"] * 15), 1 << 40)
        assert len(result.output) == (0 if extra else grammar.MAX_OUTPUT_BYTES)
        assert len(result.diagnostics) == extra
    unlimited = engine.execute(b"READ [%b,m]" % b",".join([b"k"] * 15), 0, 0, limits=False)
    assert len(unlimited.output) == grammar.MAX_OUTPUT_BYTES + 1
    assert (unlimited.diagnostics, unlimited.commands) == ([], 1)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [b"", b"\r\n"])
def test_line_over_64_mib_is_refused(create_engine: NewEngine, ending: bytes) -> None:
    engine = create_engine()
    for extra in (0, 1):
        line = b"READ [a" + b" " * (grammar.MAX_LINE_BYTES + extra - 8) + b"]" + ending
        result = engine.execute(line, 0, 0)
        reason = "a line is at most 67108864 bytes, this one has 67108865"
        found = [(each.column, each.reason) for each in result.diagnostics]
        assert found == ([(1, reason)] if extra else [])
    assert engine.execute(line, 0, 0, limits=False).output == b"[(a,KVSERROR)]\n"
    assert engine.execute(b"#" + line, 0, 0).diagnostics == []


@pytest.mark.slow
@pytest.mark.parametrize("size", range(1, 43))
def test_words_of_any_size_near_end_of_script(engine_pair: EnginePair, size: int) -> None:
    """Words are read many bytes at a time, but never beyond the end of the script."""
    lines = []
    for byte in bytes(range(1, 34)) + b"(-\\^\x7f\x80\xa9\xff":
        word = b"k" * (size - 1) + bytes([byte])
        lines += [b"WRITE [(%b,v)(k,%b)]" % (word, word), b"READ [%b,k]" % word]
    for distance in range(20):
        scripts = [line + b" " * distance for line in lines]
        expected, found = ([execute_all(each, line) for line in scripts] for each in engine_pair())
        assert found == expected


def test_sorted_output_of_few_and_many_keys(engine_pair: EnginePair) -> None:
    rng = random.Random(1)
    names = [b"k" * rng.randrange(12) + b"%d" % rng.randrange(30) for _ in range(60)]
    for count in [*range(1, 12), 60]:
        lines = [b"READ [" + b",".join(rng.choices(names, k=count)) + b"]\n" for _ in range(200)]
        expected, found = (execute_all(each, b"".join(lines)) for each in engine_pair())
        assert found == expected


@pytest.mark.slow
@given(
    st.lists(texts, max_size=4),
    budgets,
    st.sampled_from(["", "r", "rm", "m"]),
    st.sets(st.sampled_from(KEYS)),
)
@settings(max_examples=200)
def test_random_scripts(
    engine_pair: EnginePair,
    texts_in_order: list[bytes],
    budget: int,
    options: str,
    watched: set[bytes],
) -> None:
    """With and without recorded lines (r), job calls (m) and watched keys."""
    found = []
    for engine in engine_pair():
        if "r" in options:
            engine.start_recording(7)
        for key in sorted(watched):
            assert not engine.watch(key)
        job = 3 if "m" in options else None
        found.append(
            [
                observable_state(engine, execute_all(engine, text, budget, job))
                for text in texts_in_order
            ]
        )
    assert found[0] == found[1]


def random_lines(rng: random.Random, count: int, keys: int) -> Iterator[bytes]:
    names = [b"k%d" % number for number in range(keys)]
    for _ in range(count):
        kind = rng.random()
        some = rng.choices(names, k=rng.randint(1, 12))
        if kind < 0.4:
            pairs = [(name, b"v" * rng.choice([1, 40, 41, 9000])) for name in some]
            yield b"WRITE [" + b"".join(b"(%b,%b)" % pair for pair in pairs) + b"]\n"
        elif kind < 0.5:
            yield b"DELETE [" + b",".join(some) + b"]\n"
        else:
            line = random_command(rng, UNTILS, names)
            if not line.strip().startswith((b"SHOW", b"CLEAR", b"EXPIRE")) or rng.random() < 0.03:
                yield line + b"\n"


@pytest.mark.parametrize("keys", [5, 300, 20_000])
def test_long_random_script(engine_pair: EnginePair, keys: int) -> None:
    """Long enough to split segments of the table, and to free and reuse records."""
    rng = random.Random(keys)
    script = b"".join(random_lines(rng, 6_000, keys))
    found = []
    for engine in engine_pair():
        engine.start_recording(0)
        for number in range(0, keys, 3):
            engine.watch(b"k%d" % number)
        found.append(observable_state(engine, execute_all(engine, script, 65536)))
    assert found[0] == found[1]


def test_write_of_many_pairs(engine_pair: EnginePair) -> None:
    rng = random.Random(1)
    pairs = [b"(key%d,%d)" % (rng.randrange(60_000), number) for number in range(50_000)]
    script = b"WRITE [" + b"".join(pairs) + b"]\nREAD [key1,key2,key3]\nSHOW\n"
    one, other = (observable_state(engine, execute_all(engine, script)) for engine in engine_pair())
    assert one == other


Step = tuple[str, bytes]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("execute"), engine_scripts),
        st.tuples(st.just("job call"), engine_scripts),
        st.tuples(st.sampled_from(["watch", "unwatch", "get"]), st.sampled_from(KEYS)),
        st.tuples(
            st.sampled_from(["take", "take all", "replace", "view", "record", "expire"]),
            st.just(b""),
        ),
    ),
    max_size=25,
)


def perform(engine: Engine, steps_in_order: list[Step]) -> Iterator[object]:
    watched: list[bytes] = []
    for number, (action, argument) in enumerate(steps_in_order):
        match action:
            case "execute":
                yield execute_all(engine, argument)
            case "job call":
                yield engine.execute(argument, 0, 65536, JobCursor(number, 10))
            case "watch":
                watched.append(argument)
                yield engine.watch(argument, number + 1), contents(take_batches(engine))
            case "unwatch" if argument in watched:
                watched.remove(argument)
                engine.unwatch(argument)
                yield contents(take_batches(engine))
            case "get":
                yield engine.get([argument, *KEYS])
            case "take":
                yield engine.has_batches, contents(take_batches(engine))
            case "take all":
                yield contents(take_all_batches(engine)), engine.has_batches
            case "replace":
                values = [b"%d" % number, b"", b"KVSERROR", b"x y"]
                pairs = {key: values[len(key) % 4] for key in KEYS[number % 3 :]}
                yield engine.replace(pairs, dict.fromkeys(KEYS[4 : 4 + number % 3], number))
            case "expire":
                yield engine.expire(number, 10), engine.next_expiry
            case "record":
                engine.start_recording(number)
            case "view":
                yield from view_contents(engine)
    yield observable_state(engine, [])


def view_contents(engine: Engine) -> Iterator[object]:
    seen: list[object] = []
    copy = PythonEngine()

    def look(view: TableView) -> None:
        seen.append(contents(take_batches(engine)))
        seen.extend([view.revision, len(view), b"".join(view.listing())])
        seen.append(b"".join(view.listing(expiries=True)))
        execute_all(copy, b"".join(view.writes()))

    engine.with_locked_view(look)
    yield seen
    yield copy.items()
    yield copy.execute(b"SHOW UNTIL", 0, 0).output == seen[-1]


@pytest.mark.slow
@given(steps)
def test_random_calls_in_any_order(engine_pair: EnginePair, steps_in_order: list[Step]) -> None:
    one, other = (list(perform(engine, steps_in_order)) for engine in engine_pair())
    assert one == other


def test_key_named_twice_in_command_has_one_change(engine_pair: EnginePair) -> None:
    found: list[list[KeyChange]] = []
    for engine in engine_pair():
        for key in (b"a", b"b"):
            engine.watch(key)
        execute_all(engine, b"WRITE [(b,1)(x,1)(a,2)(b,3)]\nDELETE [a,q,a,b]\nWRITE [(a,4)]\n")
        found.append([change for each in take_batches(engine) for change in each.changes])
    expected = [(b"b", b"3"), (b"a", b"2"), (b"a", None), (b"b", None), (b"a", b"4")]
    assert found == [expected, expected]
