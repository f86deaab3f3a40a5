"""A forked child cannot harm the store that it inherits, and never hangs."""

import copy
import gc
import os
import pickle
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

import pytest

from kvs import (
    Change,
    DataSettings,
    DirectoryLockedError,
    InheritedByForkError,
    Store,
    StoreClosedError,
)
from kvs.store.core import StoreCore
from kvs.store.subscriptions import Subscriptions
from kvs.store.watch import Reader
from tests.helpers import until
from tests.journal.fake_storage import Gate, install

pytestmark = pytest.mark.usefixtures("each_engine")

SECONDS = 30

USES: dict[str, Callable[[Store, Path], object]] = {
    "execute": lambda store, _: store.execute(b"SHOW\n"),
    "write": lambda store, _: store.write({"a": "2"}),
    "read": lambda store, _: store.read(["a"]),
    "delete": lambda store, _: store.delete([]),
    "items": lambda store, _: store.items(),
    "keys": lambda store, _: store.keys(),
    "get": lambda store, _: store.get("a"),
    "update": lambda store, _: store.update(["a"], lambda _: {}),
    "add": lambda store, _: store.add({"n": 1}),
    "count": lambda store, _: store.count("a"),
    "clear": lambda store, _: store.clear("a"),
    "__getitem__": lambda store, _: store["a"],
    "__setitem__": lambda store, _: store.__setitem__("a", "3"),
    "__delitem__": lambda store, _: store.__delitem__("a"),
    "__contains__": lambda store, _: "a" in store,
    "__iter__": lambda store, _: iter(store),
    "__len__": lambda store, _: len(store),
    "revision": lambda store, _: store.revision,
    "watch": lambda store, _: store.watch(["a"]),
    "compact": lambda store, _: store.compact(),
    "backup": lambda store, path: store.backup(path / "x.bck"),
    "restore": lambda store, path: store.restore(path / "none.bck"),
    "run_jobs": lambda store, path: store.run_jobs(path),
    "commit_point": lambda store, _: store.commit_point(),
}
USES_OF_CORE: dict[str, Callable[[Store, Path], object]] = {
    "check_open": lambda store, _: store._core.check_open(),
    "pairs": lambda store, _: store._core.pairs,
    "load": lambda store, _: store._core.load({}),
    "after_commit": lambda store, _: store._core.after_commit(1),
    "add_subscriptions": lambda store, _: store._core.add_subscriptions(Subscriptions(Change)),
    "subscribe": lambda store, _: store._core.subscribe(
        store._subscriptions, Reader(held=False).outbox, b"a"
    ),
    "fork_snapshot": lambda store, _: store._core.fork_snapshot(cast(Any, None)),
    "throttle": lambda store, _: store._core.throttle(),
    "add_origin": lambda store, _: store._core.add_origin(b"session", b"x"),
    "peek": lambda store, _: store._core.peek([b"a"]),
    "record_job": lambda store, _: store._core.record_job(lambda _: b""),
}
USES_AFTER_CLOSE: dict[str, Callable[[Store, Path], object]] = {
    "recovered": lambda store, _: store.recovered,
    "failure": lambda store, _: store.failure,
    "on_failure": lambda store, _: store.on_failure(print)(),
}
USES_OF_CORE_AFTER_CLOSE: dict[str, Callable[[Store, Path], object]] = {
    "unsubscribe": lambda store, _: store._core.unsubscribe(
        store._subscriptions, Reader(held=False).outbox, b"a"
    ),
    "unsubscribe_all": lambda store, _: store._core.unsubscribe_all(
        store._subscriptions, Reader(held=False).outbox
    ),
    "remove_subscriptions": lambda store, _: store._core.remove_subscriptions(
        Subscriptions(Change)
    ),
    "remove_origin": lambda store, _: store._core.remove_origin(2),
    "mark": lambda store, _: store._core.mark,
    "is_persistent": lambda store, _: store._core.is_persistent,
    "syncs_to_disk": lambda store, _: store._core.syncs_to_disk,
}
"""Uses that report on what was executed before, or end what was begun."""
ALL_USES = USES | USES_AFTER_CLOSE | USES_OF_CORE | USES_OF_CORE_AFTER_CLOSE


def in_child(action: Callable[[], object]) -> int:
    """Call `action` in a forked child; return 0, 1 if the store rejects it, 9 for another error.

    An alarm kills a child that hangs.
    """
    child = os.fork()
    if not child:
        status = 9
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SECONDS)
            action()
            status = 0
        except InheritedByForkError:
            status = 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store() if request.param == "memory" else Store(tmp_path / "d")


@pytest.mark.parametrize("act", ["backup", "compact"])
def test_thread_local_objects_are_not_finalized_in_a_child(tmp_path: Path, act: str) -> None:
    """CPython drops them in a child of another thread: a finalizer would remove parent's files."""
    local = threading.local()
    local.directory = tempfile.TemporaryDirectory()
    variable: ContextVar[tempfile.TemporaryDirectory[str]] = ContextVar("directory")
    token = variable.set(tempfile.TemporaryDirectory())
    with Store(tmp_path / "d") as store:
        USES[act](store, tmp_path)
    assert Path(local.directory.name).exists()
    assert Path(variable.get().name).exists()
    local.directory.cleanup()
    variable.get().cleanup()
    variable.reset(token)


def test_uses_are_all_methods_of_the_store_and_its_core() -> None:
    public = {name for name in dir(Store) if not name.startswith("_")}
    dunders = {"__getitem__", "__setitem__", "__delitem__", "__contains__", "__iter__", "__len__"}
    assert USES.keys() | USES_AFTER_CLOSE.keys() == public - {"close"} | dunders
    core = {name for name in dir(StoreCore) if not name.startswith("_")}
    assert core - {"close"} <= ALL_USES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("use", ALL_USES)
def test_every_use_in_a_child_is_rejected(store: Store, tmp_path: Path, use: str) -> None:
    with store, store.watch(["a"]) as watch:
        store.write({"a": "1"})

        def use_after_close() -> None:
            store.close()
            ALL_USES[use](store, tmp_path)

        assert in_child(lambda: ALL_USES[use](store, tmp_path)) == 1
        assert in_child(use_after_close) == 1
        assert in_child(lambda: watch.next(SECONDS)) == 1
        store.write({"a": "3"})
        assert store.read(["a"]) == {b"a": b"3"}
        assert [watch.next(SECONDS) for _ in range(2)] == [Change(b"a", b"1"), Change(b"a", b"3")]


def test_wait_of_the_parent_does_not_continue_in_a_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    install(monkeypatch, gate)
    with Store(tmp_path / "d", DataSettings(fsync="always")) as store:
        with gate.shut():
            store.execute(b"WRITE [(a,1)]\n")
            point = store.commit_point()
            gate.wait_until_held()
            assert not point.is_committed
            assert in_child(point.wait) == 1
            assert in_child(lambda: point.is_committed) == 1
            assert in_child(lambda: point.on_commit(print)) == 1
        point.wait()
        assert point.is_committed


def test_close_in_a_child_does_not_close_the_parents_store(tmp_path: Path) -> None:
    with Store(tmp_path / "d") as store:
        watch = store.watch(["a"])
        store.write({"a": "1"})

        def leave() -> None:
            with store, watch:
                pass
            store.close()

        assert in_child(leave) == 0
        with pytest.raises(DirectoryLockedError, match="in use by this process"):
            Store(tmp_path / "d")
        store.write({"a": "2"})
        watch.close()
    with Store(tmp_path / "d") as again:
        assert again.read(["a"]) == {b"a": b"2"}


def test_child_can_close_a_store_that_its_parent_is_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    install(monkeypatch, gate)
    store = Store(tmp_path / "d")
    with gate.shut():
        store.execute(b"WRITE [(a,1)]\n")
        gate.wait_until_held()
        closing = threading.Thread(target=store.close)
        closing.start()
        until(lambda: refused(store))
        assert in_child(store.close) == 0
    closing.join(SECONDS)
    assert not closing.is_alive()
    assert in_child(store.close) == 0


def refused(store: Store) -> bool:
    try:
        store.commit_point()
    except StoreClosedError:
        return True
    return False


def test_child_can_open_its_own_store(tmp_path: Path) -> None:
    def use() -> None:
        with Store(tmp_path / "other") as own:
            own.write({"b": "1"})
            own.compact()

    with Store(tmp_path / "d") as store:
        store.write({"a": "1"})
        assert in_child(use) == 0
    with Store(tmp_path / "other") as other:
        assert other.items() == [(b"b", b"1")]


def test_child_that_lives_longer_does_not_lock_the_directory(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    forked, tell_forked = os.pipe()
    grandparent = os.fork()
    if not grandparent:
        store = Store(tmp_path / "d")
        store.write({"a": "1"})
        if not os.fork():
            os.close(write_end)
            os.write(tell_forked, b"x")
            os.read(read_end, 1)  # until the test has ended
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(grandparent, 0)
    assert os.read(forked, 1) == b"x"
    with Store(tmp_path / "d") as again:
        assert again.items() == [(b"a", b"1")]
    for end in (write_end, read_end, forked, tell_forked):
        os.close(end)


@pytest.mark.slow
def test_child_does_not_hang_beside_threads_of_its_parent(
    tmp_path: Path, often_switching: None
) -> None:
    stopping = threading.Event()

    def write(store: Store, number: int) -> None:
        while not stopping.is_set():
            store.write({f"k{number}": "1", "shared": "2"})
            store.delete([f"k{number}"])

    with Store(tmp_path / "d") as store:
        threads = [threading.Thread(target=write, args=(store, number)) for number in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(30):
                assert in_child(lambda: store.write({"a": "1"})) == 1
                assert in_child(store.close) == 0
        finally:
            stopping.set()
            for thread in threads:
                thread.join()


def test_closed_store_rejects_calls_and_ends_its_watches(store: Store, tmp_path: Path) -> None:
    watch = store.watch(["a"])
    ended: list[object] = []

    def read() -> None:
        try:
            ended.extend(watch)
        except StoreClosedError as error:
            ended.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    store.write({"a": "1"})
    store.close()
    reader.join(SECONDS)
    assert [type(each) for each in ended] == [Change, StoreClosedError]
    for use in USES.values():
        with pytest.raises(StoreClosedError):
            use(store, tmp_path)
    for use in USES_AFTER_CLOSE.values():
        use(store, tmp_path)
    store.close()


def collected(action: Callable[[], None]) -> list[str]:
    """Return the warnings of finalizers that run after `action`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
        gc.collect()
    return [str(each.message) for each in caught if each.category is ResourceWarning]


def test_unreferenced_store_is_closed(tmp_path: Path) -> None:
    def drop() -> None:
        Store(tmp_path / "d").write({"a": "1"})

    assert collected(drop) == [f"unclosed store with the data directory {tmp_path / 'd'}"]
    with Store(tmp_path / "d") as again:
        assert again.items() == [(b"a", b"1")]


def test_unreferenced_watch_is_closed(store: Store) -> None:
    def drop() -> None:
        for _ in range(3):
            store.watch(["a"])

    with store:
        assert collected(drop) == ["unclosed watch"] * 3
        store.write({"a": "1"})
        assert not store._readers
        assert not store._subscriptions._by_key


def test_store_and_watch_cannot_be_copied(store: Store) -> None:
    with store, store.watch(["a"]) as watch:
        for what in (store, watch):
            for make in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="cannot"):
                    make(what)
