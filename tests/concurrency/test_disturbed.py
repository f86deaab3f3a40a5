"""A store disturbed at every instruction: by an exception, or by a call of the same thread.

A signal handler and a finalizer run between two instructions of Python. A trace function runs
there, too: so each test executes an action once per instruction of it, and disturbs it there.
"""

import gc
import itertools
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

import kvs
from kvs import Change, DataSettings, Store, StoreClosedError
from kvs.store.watch import Watch
from tests.opcodes import Interrupted, at_opcode, raise_interrupted

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("each_engine")]

SOURCE = os.path.dirname(kvs.__file__)
SECONDS = 30.0


at_instruction = partial(at_opcode, places=(SOURCE,), handling=True)


class Disturbed(Exception):
    """Raised at an instruction."""


def at_each_instruction(
    store: Store, action: Callable[[], object], disturb: Callable[[], object], step: int = 1
) -> int:
    """Call `action` for each `step`-th of its instructions, and `disturb` there; return the count.

    After each, another write publishes what an exception left unpublished.
    """
    for number in itertools.count(step=step):
        try:
            is_reached = at_instruction(number, disturb, action)
        except Disturbed:
            is_reached = True
        if not is_reached:
            return number
        store.write({"settled": str(number)})
    raise AssertionError


def disturb() -> None:
    raise Disturbed


@pytest.fixture(params=["memory", "always", "never"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        opened = Store()
    else:
        opened = Store(tmp_path / "d", DataSettings(fsync=request.param))
    with opened:
        yield opened


def reopened(store: Store, tmp_path: Path) -> list[tuple[bytes, bytes]]:
    """Close a store and return its pairs; if it is on disk, open it again and compare."""
    pairs = store.items()
    store.close()
    if not (tmp_path / "d").exists():
        return pairs
    with Store(tmp_path / "d") as again:
        assert again.items() == pairs
    return pairs


def rest(watch: Watch) -> list[Change]:
    return list(iter(lambda: watch.next(0), None))


def test_exception_at_any_instruction_keeps_changes_atomic(store: Store, tmp_path: Path) -> None:
    numbers = itertools.count()
    written: list[int] = []
    seen: list[Change] = []

    def write() -> None:
        written.append(next(numbers))
        store.write({"k": str(written[-1]), "l": str(written[-1])})

    with store.watch(["k", "l"]) as watch:
        assert at_each_instruction(store, write, disturb) > 100
        seen += rest(watch)
        store.write({"k": "end", "l": "end"})
        seen += rest(watch)
    values = [change.value for change in seen if change.key == b"k"]
    assert [change.value for change in seen if change.key == b"l"] == values
    assert values == list(dict.fromkeys(values))
    assert values[-1] == b"end"
    assert set(map(int, filter(None, values[:-1]))) <= set(written)
    assert reopened(store, tmp_path)[:2] == [(b"k", b"end"), (b"l", b"end")]


def test_write_at_any_instruction_of_a_write_is_published_once(
    store: Store, tmp_path: Path
) -> None:
    outer, inner = itertools.count(), itertools.count()
    revisions: list[int] = []

    def write() -> None:
        store.write({"o": str(next(outer))})

    def inside() -> None:
        revisions.append(store.write({"i": str(next(inner))}))
        assert store.read(["i"]) == {b"i": b"%d" % (len(revisions) - 1)}

    with store.watch(["o", "i"]) as watch:
        instructions = at_each_instruction(store, write, inside)
        changes = rest(watch)
    assert len(revisions) == instructions
    assert revisions == sorted(set(revisions))
    for key, last in ((b"o", instructions + 1), (b"i", instructions)):
        values = [change.value for change in changes if change.key == key]
        assert values == [b"%d" % number for number in range(last)]
    assert len(reopened(store, tmp_path)) == 3


@pytest.mark.parametrize(
    ("call", "step"),
    [
        (lambda store, _: store.read(["k"]), 1),
        (lambda store, _: store.items(), 1),
        (lambda store, _: store.watch(["k"]).close(), 3),
        (lambda store, _: store.delete(["k"]), 5),
        (lambda store, _: store.write({"x": "1"}, if_={"k": "1", "x": None}, for_=60), 5),
        (lambda store, _: store.add({"n": 1}), 5),
        (lambda store, _: store.count("k"), 5),
        (lambda store, path: store.backup(path / "k.bck"), 41),  # these fork a child
        (lambda store, _: store.compact(), 41),
    ],
    ids=["read", "items", "watch", "delete", "write", "add", "count", "backup", "compact"],
)
@pytest.mark.filterwarnings("ignore:unclosed watch:ResourceWarning")
def test_methods_survive_exceptions_and_calls_at_any_instruction(
    store: Store, tmp_path: Path, call: Callable[[Store, Path], object], step: int
) -> None:
    numbers = itertools.count()

    def action() -> None:
        call(store, tmp_path)

    def inside() -> None:
        store.write({"k": str(next(numbers))})

    at_each_instruction(store, action, inside, step)
    at_each_instruction(store, action, disturb, step)
    store.write({"k": "end"})
    assert store.read(["k"]) == {b"k": b"end"}
    with store.watch(["k"]) as watch:
        store.write({"k": "more"})
        assert watch.next(SECONDS) == Change(b"k", b"more")
    assert reopened(store, tmp_path)[0] == (b"k", b"more")


def test_close_at_any_instruction_of_a_write_closes_the_store(tmp_path: Path) -> None:
    acknowledged: list[int] = []
    for number in itertools.count():
        directory = tmp_path / f"d{number}"
        store = Store(directory, DataSettings(fsync="never"))

        def write(store: Store = store, number: int = number) -> None:
            with suppress(StoreClosedError):
                store.write({"k": "1"})
                acknowledged.append(number)

        is_reached = at_instruction(number * 97, store.close, write)
        store.close()
        with Store(directory) as again:
            if number in acknowledged:
                assert again.read(["k"]) == {b"k": b"1"}
        if not is_reached:
            break
    assert len(acknowledged) > 1


def test_close_finishes_after_an_exception_at_any_instruction(
    tmp_path: Path,
) -> None:
    stores = [Store(tmp_path / "d")]
    stores[0].write({"k": "1"})

    def close() -> None:
        stores[-1].close()

    def open_again() -> None:
        stores[-1].close()
        stores.append(Store(tmp_path / "d"))

    for number in itertools.count(step=7):
        try:
            if not at_instruction(number, disturb, close):
                break
        except Disturbed:
            open_again()
    with Store(tmp_path / "d") as again:
        assert again.read(["k"]) == {b"k": b"1"}


def test_finalizer_can_write_during_writes(store: Store) -> None:
    count = itertools.count()
    finished: list[int] = []

    class Written:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            store.write({f"f{next(count) % 50}": "x"})

    def write() -> None:
        for number in range(3000):
            Written()
            store.write({f"k{number % 50}": str(number)})
        gc.collect()
        finished.append(1)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(SECONDS * 4)
    assert finished == [1]


EVERYWHERE = ("/kvs/",)


def open_files() -> list[str]:
    """Return the paths of the descriptors of this process, but that of the listing itself."""
    paths = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            paths.append(os.readlink(f"/proc/self/fd/{number}"))
    return sorted(paths)


def children() -> set[str]:
    """Return the IDs of child processes of any thread that were not waited for."""
    numbers: set[str] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError):  # the thread has ended
            numbers.update(path.read_text().split())
    return numbers


@pytest.mark.filterwarnings("ignore:unclosed store:ResourceWarning")  # one that was just opened
@pytest.mark.parametrize("exists", [False, True])
def test_exception_at_any_bytecode_of_open_leaves_nothing_open(
    tmp_path: Path, exists: bool
) -> None:
    directory = tmp_path / "d"
    if exists:
        with Store(directory) as store:
            store.write({"k": "1"})
    interrupted = 0
    for number in itertools.count(step=3):
        if not exists:
            shutil.rmtree(directory, ignore_errors=True)
        before = open_files()
        work = partial(opened, directory)
        try:
            if not at_opcode(number, raise_interrupted, work, EVERYWHERE, looking=True):
                break
        except Interrupted:
            interrupted += 1
        if open_files() != before:
            gc.collect()
        assert open_files() == before
        Store(directory).close()
    assert interrupted > 30


def opened(directory: Path) -> None:
    """Open a store, and close it untraced."""
    store = Store(directory)
    sys.settrace(None)
    store.close()


def test_exception_at_any_bytecode_of_a_backup_leaves_nothing(tmp_path: Path) -> None:
    interrupted = 0
    with Store(tmp_path / "d") as store:
        store.write({"k": "1"})
        (tmp_path / "b").mkdir()
        others = children()
        for number in itertools.count():
            before = open_files()
            try:
                backup = partial(store.backup, tmp_path / "b" / "x.bck")
                if not at_opcode(number, raise_interrupted, backup, EVERYWHERE, looking=True):
                    break
            except Interrupted:
                interrupted += 1
            assert open_files() == before
            assert set(os.listdir(tmp_path / "b")) <= {"x.bck"}
            assert children() == others
    assert interrupted > 50
