"""Watches: every change of a watched key, in order, until the watch ends."""

import threading

import pytest

from kvs import InvalidWordError, Store
from kvs.errors import SlowConsumerError
from kvs.store.watch import Change

pytestmark = pytest.mark.usefixtures("each_engine")

SECONDS = 30.0


def test_watch_returns_changes_of_its_keys_in_order() -> None:
    store = Store()
    with store.watch(["a", b"b"]) as watch:
        store.write([("a", "1"), ("x", "1"), ("b", "2"), ("a", "3")])
        store.execute(
            b"WRITE [(b,4)(b,5)]\nREAD [a]\nDELETE [x,b,b,a]\nDELETE [a]\nWRITE [(a,6)]\n"
        )
        store.delete(["a", "a", "x"])
        expected = [
            (b"a", b"3"), (b"b", b"2"), (b"b", b"5"), (b"b", None), (b"a", None), (b"a", b"6"),
            (b"a", None),
        ]  # fmt: skip
        assert [watch.next(0) for _ in expected] == [Change(*pair) for pair in expected]
        assert watch.next(0) is None
    store.write({"a": "7"})
    assert watch.next(0) is None


def test_restore_changes_each_watched_key_old_or_new(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("x") / "x.bck"
    store = Store()
    store.write({"kept": "1", "new": "2"})
    store.backup(path)
    store.delete(["new"])
    store.write({"old": "3"})
    with store.watch(["kept", "new", "old", "never"]) as watch:
        store.restore(path)
        changes = [watch.next(0) for _ in range(4)]
    assert changes == [Change(b"kept", b"1"), Change(b"new", b"2"), Change(b"old", None), None]


def test_watch_blocks_until_a_change_or_its_close() -> None:
    store = Store()
    watch = store.watch(["a"])
    seen: list[Change] = []
    reader = threading.Thread(target=lambda: seen.extend(watch))
    reader.start()
    store.write({"a": "1"})
    store.write({"a": "2"})
    second = store.watch(["a"])
    store.write({"a": "3"})
    assert second.next(SECONDS) == Change(b"a", b"3")
    second.close()
    watch.close()
    reader.join(SECONDS)
    assert not reader.is_alive()
    assert seen[:1] == [Change(b"a", b"1")]


def test_invalid_words_are_not_watched() -> None:
    with pytest.raises(InvalidWordError):
        Store().watch(["x" * 1025])


@pytest.mark.slow
def test_slow_watch_is_closed_and_no_other() -> None:
    store = Store()
    script = b"WRITE [(a,1)]\n" * 1000
    with store.watch(["a"]) as slow, store.watch(["a"]) as quick:
        for _ in range(110):
            store.execute(script)
            assert len([quick.next(0) for _ in range(1000)]) == 1000
        with pytest.raises(SlowConsumerError):
            slow.next(0)
        assert quick.next(0) is None
