"""The compiled engine beside the reference: equal to the byte in everything that comes out."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvs.engine.interface import ChangeBatch, Engine, ExecuteResult, JobCursor, KeyChange, TableView
from kvs.engine.python import PythonEngine
from kvs.engine.selection import COMPILED
from tests.engine.engines import engine_called, pauses, take_all_effects, take_effects
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
def both() -> "Both":
    return Both()


class Both:
    """Makes pairs of new engines, the reference first."""

    def __init__(self) -> None:
        self._compiled = engine_called(COMPILED)

    def __call__(self) -> tuple[Engine, Engine]:
        return PythonEngine(), self._compiled()


def told(effects: list[ChangeBatch]) -> list[object]:
    """Return what effects say; a revision is that of lines, so without any it says nothing."""
    return [
        (
            each.changes,
            each.lines,
            each.change_count,
            each.revision if each.change_count or each.job is not None else None,
            each.job,
            each.offset,
            each.output,
            each.marker,
        )
        for each in effects
    ]


def everything(engine: Engine, found: list[ExecuteResult]) -> tuple[object, ...]:
    return (
        found,
        told(take_effects(engine)),
        engine.has_batches,
        engine.revision,
        len(engine),
        engine.items(),
        engine.get([*KEYS, b"", b"missing", b"y" * 41]),
    )


@pytest.mark.parametrize("size", range(1, 43))
def test_words_of_any_size_at_any_distance_from_the_end_give_the_same(
    both: Both, size: int
) -> None:
    """Words are read many bytes at a time, and never beyond the end of the script."""
    lines = []
    for byte in bytes(range(1, 34)) + b"(-\\^\x7f\x80\xa9\xff":
        word = b"k" * (size - 1) + bytes([byte])
        lines += [b"WRITE [(%b,v)(k,%b)]" % (word, word), b"READ [%b,k]" % word]
    for distance in range(20):
        scripts = [line + b" " * distance for line in lines]
        expected, found = ([pauses(each, line) for line in scripts] for each in both())
        assert found == expected


def test_few_and_many_keys_come_out_in_order(both: Both) -> None:
    rng = random.Random(1)
    names = [b"k" * rng.randrange(12) + b"%d" % rng.randrange(30) for _ in range(60)]
    for count in [*range(1, 12), 60]:
        lines = [b"READ [" + b",".join(rng.choices(names, k=count)) + b"]\n" for _ in range(200)]
        expected, found = (pauses(each, b"".join(lines)) for each in both())
        assert found == expected


@pytest.mark.slow
@given(st.lists(texts, max_size=4), budgets, st.sampled_from(["", "r", "rm", "m"]), st.sets(words))
@settings(max_examples=300)
def test_scripts_give_the_same(
    both: Both, several: list[bytes], budget: int, how: str, watched: set[bytes]
) -> None:
    """Whether lines are recorded, calls marked, keys watched, or not."""
    found = []
    for engine in both():
        if "r" in how:
            engine.start_recording(7)
        for key in sorted(watched):
            assert not engine.watch(key)
        job = 3 if "m" in how else None
        found.append([everything(engine, pauses(engine, text, budget, job)) for text in several])
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
def test_long_random_work_gives_the_same(both: Both, keys: int) -> None:
    """Long enough that segments of the table are split, and that records are freed and reused."""
    rng = random.Random(keys)
    script = b"".join(random_lines(rng, 6_000, keys))
    found = []
    for engine in both():
        engine.start_recording(0)
        for number in range(0, keys, 3):
            engine.watch(b"k%d" % number)
        found.append(everything(engine, pauses(engine, script, 65536)))
    assert found[0] == found[1]


def test_a_write_of_very_many_pairs_gives_the_same(both: Both) -> None:
    rng = random.Random(1)
    pairs = [b"(key%d,%d)" % (rng.randrange(60_000), number) for number in range(50_000)]
    script = b"WRITE [" + b"".join(pairs) + b"]\nREAD [key1,key2,key3]\nSHOW\n"
    one, other = (everything(engine, pauses(engine, script)) for engine in both())
    assert one == other


Step = tuple[str, bytes]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("execute"), scripts()),
        st.tuples(st.just("mark"), scripts()),
        st.tuples(st.sampled_from(["watch", "unwatch", "get"]), st.sampled_from(KEYS)),
        st.tuples(
            st.sampled_from(["take", "take all", "replace", "instant", "record"]), st.just(b"")
        ),
    ),
    max_size=25,
)


def carry_out(engine: Engine, wanted: list[Step]) -> Iterator[object]:
    watched: list[bytes] = []
    for number, (what, argument) in enumerate(wanted):
        match what:
            case "execute":
                yield pauses(engine, argument)
            case "mark":
                yield engine.execute(argument, 0, 65536, JobCursor(number, 10))
            case "watch":
                watched.append(argument)
                yield engine.watch(argument, number + 1), told(take_effects(engine))
            case "unwatch" if argument in watched:
                watched.remove(argument)
                engine.unwatch(argument)
                yield told(take_effects(engine))
            case "get":
                yield engine.get([argument, *KEYS])
            case "take":
                yield engine.has_batches, told(take_effects(engine))
            case "take all":
                yield told(take_all_effects(engine)), engine.has_batches
            case "replace":
                yield engine.replace(dict.fromkeys(KEYS[number % 3 :], b"%d" % number))
            case "record":
                engine.start_recording(number)
            case "instant":
                yield from seen_at_instant(engine)
    yield everything(engine, [])


def seen_at_instant(engine: Engine) -> Iterator[object]:
    seen: list[object] = []
    again = PythonEngine()

    def look(instant: TableView) -> None:
        seen.append(told(take_effects(engine)))
        seen.extend([instant.revision, len(instant), b"".join(instant.listing())])
        pauses(again, b"".join(instant.writes()))

    engine.with_locked_view(look)
    yield seen
    yield again.items()


@pytest.mark.slow
@given(steps)
@settings(max_examples=200)
def test_any_order_of_calls_gives_the_same(both: Both, wanted: list[Step]) -> None:
    one, other = (list(carry_out(engine, wanted)) for engine in both())
    assert one == other


def test_changes_of_one_command_come_as_one_each(both: Both) -> None:
    found: list[list[KeyChange]] = []
    for engine in both():
        for key in (b"a", b"b"):
            engine.watch(key)
        pauses(engine, b"WRITE [(b,1)(x,1)(a,2)(b,3)]\nDELETE [a,q,a,b]\nWRITE [(a,4)]\n")
        found.append([change for each in take_effects(engine) for change in each.changes])
    expected = [(b"b", b"3"), (b"a", b"2"), (b"a", None), (b"b", None), (b"a", b"4")]
    assert found == [expected, expected]
