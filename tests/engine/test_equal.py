"""The compiled engine returns the same as the reference, to the byte."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvs.engine.interface import ChangeBatch, Engine, ExecuteResult, JobCursor, KeyChange, TableView
from kvs.engine.python import PythonEngine
from kvs.engine.selection import COMPILED
from tests.engine.engines import engine_called, execute_all, take_all_batches, take_batches
from tests.strategies import scripts, words

KEYS = [b"a", b"b", b"c", b"key", b"(", b"x" * 40]
budgets = st.sampled_from([0, 1, 30, 500, 65536])
PIECES = [
    *b"WRITE READ DELETE SHOW WAIT WAIT0 BACKUP HELP [ ] ( ) , # KVSERROR KVSMISSING".split(),
    *[b" ", b"\t", b"\r", b"\n", b"\0", b"\n", b"WRITE[(a,b)]\n", b"9" * 10, *KEYS],
]
texts = st.one_of(
    scripts(),
    st.binary(max_size=200),
    st.lists(scripts(), max_size=20).map(b"\n".join),
    st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join),
)


@pytest.fixture(scope="module")
def engine_pair() -> "EnginePair":
    return EnginePair()


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
        engine.get([*KEYS, b"", b"missing", b"y" * 41]),
    )


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
@given(st.lists(texts, max_size=4), budgets, st.sampled_from(["", "r", "rm", "m"]), st.sets(words))
@settings(max_examples=300)
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
    for _ in range(count):
        names = [b"k%d" % rng.randrange(keys) for _ in range(rng.randint(1, 12))]
        kind = rng.random()
        if kind < 0.4:
            pairs = [(name, b"v" * rng.randint(1, 40)) for name in names]
            yield b"WRITE [" + b"".join(b"(%b,%b)" % pair for pair in pairs) + b"]\n"
        elif kind < 0.7:
            yield b"DELETE [" + b",".join(names) + b"]\n"
        elif kind < 0.97:
            yield b"READ [" + b",".join(names) + b"]\n"
        else:
            yield rng.choice([b"SHOW\n", b"SHOW \r\n", b"nonsense\n", b"\n", b"# no\n", b"HELP\n"])


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
        st.tuples(st.just("execute"), scripts()),
        st.tuples(st.just("job call"), scripts()),
        st.tuples(st.sampled_from(["watch", "unwatch", "get"]), st.sampled_from(KEYS)),
        st.tuples(st.sampled_from(["take", "take all", "replace", "view", "record"]), st.just(b"")),
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
                yield engine.replace(dict.fromkeys(KEYS[number % 3 :], b"%d" % number))
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
        execute_all(copy, b"".join(view.writes()))

    engine.with_locked_view(look)
    yield seen
    yield copy.items()


@pytest.mark.slow
@given(steps)
@settings(max_examples=200)
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
