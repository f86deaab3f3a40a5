"""Subscriptions: every change of a subscribed key, once, in order, and bounded."""

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs import DataSettings, Store
from kvs.concurrency.atomic import atomically
from kvs.store import subscriptions as module
from kvs.store.core import StoreCore
from kvs.store.subscriptions import CHANGE_BYTES, Outbox, Subscriptions
from kvs.store.watch import Change, Reader
from tests.helpers import until
from tests.opcodes import at_opcode

pytestmark = pytest.mark.usefixtures("each_engine")

Item = tuple[bytes, bytes | None]


PUBLISHING = ("/kvs/store/publication.py", "/kvs/store/subscriptions.py")


def item(key: bytes, value: bytes | None) -> Item:
    return key, value


def ready_as(reader: Reader, expected: int) -> bool:
    return reader.outbox.available == expected


def test_commit_releases_changes_while_a_key_is_added(tmp_path: Path) -> None:
    with Store(tmp_path / "d", DataSettings(fsync="always")) as store:
        for number in itertools.count():
            reader = Reader(held=True)
            store._core.subscribe(store._subscriptions, reader.outbox, b"a")

            def write() -> None:
                store.write({"a": "1"})

            subscribe = partial(store._core.subscribe, store._subscriptions, reader.outbox, b"b")
            reached = at_opcode(number, write, subscribe, PUBLISHING)
            until(partial(ready_as, reader, reached))
            store._core.unsubscribe_all(store._subscriptions, reader.outbox)
            if not reached:
                break
    assert number > 20


def test_interrupted_subscribe_leaves_no_watched_key(monkeypatch: pytest.MonkeyPatch) -> None:
    store = StoreCore()
    subscriptions = Subscriptions(Change)
    store.add_subscriptions(subscriptions)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store._publication, "publish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.subscribe(subscriptions, Reader(held=False).outbox, b"a")
    store.execute(b"")
    with monkeypatch.context() as patch:
        patch.setattr(store._publication, "publish", lambda: None)
        store.execute(b"WRITE [(a,1)]\n")
        assert not store._engine.has_batches


def test_outbox_gets_no_change_after_unsubscribe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store()
    reader = Reader(held=False)
    store._core.subscribe(store._subscriptions, reader.outbox, b"a")
    publish = store._subscriptions.publish

    def end_after_computing(changes: Sequence[Item]) -> object:
        computed = publish(changes)
        store._subscriptions.unsubscribe(reader.outbox, b"a")  # as another thread may do then
        return computed

    monkeypatch.setattr(store._subscriptions, "publish", end_after_computing)
    store.write({"a": "1"})
    assert reader.outbox.added == 0


def publish(watchers: Subscriptions[Item], *changes: Item) -> set[Outbox[Item]]:
    """Put changes into outboxes, as the publication of a store does; return whom to wake."""
    steps, filled = watchers.publish(changes)
    atomically(*steps)
    return {*filled, *watchers.limit(filled)}


def test_outbox_over_its_bytes_of_words_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WORD_BYTES", 16_000)
    watchers = Subscriptions(item, word_bytes=lambda change: len(change[1] or b""))
    outbox = Outbox[Item](lambda: None, held=False)
    atomically(*watchers.subscribe(outbox, b"a"))
    for _ in range(50):
        publish(watchers, (b"a", b"v" * 10_000))
        assert outbox.take(1) == [(b"a", b"v" * 10_000)]
    publish(watchers, (b"a", b"v" * 100), (b"a", None))
    publish(watchers, (b"a", b"v" * 15_900))
    assert not outbox.overflowed
    for _ in range(20):
        publish(watchers, (b"a", b"v" * 100))
    assert outbox.overflowed


def test_total_limit_closes_the_longest_outbox() -> None:
    watchers = Subscriptions(item, outbox_bytes=10**9, total_bytes=1600 * CHANGE_BYTES)
    outboxes = [Outbox[Item](lambda: None, held=False) for _ in range(3)]
    for number, outbox in enumerate(outboxes):
        for key in range(number + 1):
            atomically(*watchers.subscribe(outbox, b"%d" % key))
    for _ in range(400):
        publish(watchers, (b"0", b"v"), (b"1", b"v"), (b"2", b"v"))
    assert [outbox.overflowed for outbox in outboxes] == [False, False, True]
    assert sum(map(len, outboxes)) <= 1600 + 1600 // 16 + 3 * 3


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["subscribe", "unsubscribe", "publish"]),
            st.integers(0, 2),
            st.sampled_from([b"a", b"b", b"c"]),
        )
    )
)
def test_subscriptions_agree_with_a_model(steps: list[tuple[str, int, bytes]]) -> None:
    watchers = Subscriptions(item)
    outboxes = [Outbox[Item](lambda: None, held=False) for _ in range(3)]
    model: dict[int, list[bytes]] = {number: [] for number in range(3)}
    expected: dict[int, list[bytes]] = {number: [] for number in range(3)}
    for what, number, key in steps:
        there = key in model[number]
        if what == "subscribe" and not there:
            atomically(*watchers.subscribe(outboxes[number], key))
            model[number].append(key)
        elif what == "unsubscribe" and there:
            assert watchers.unsubscribe(outboxes[number], key)
            model[number].remove(key)
        elif what == "publish":
            woken = publish(watchers, (key, b"v"))
            watching = {one for one in model if key in model[one]}
            assert woken == {outboxes[one] for one in watching}
            for one in watching:
                expected[one].append(key)
    for number, outbox in enumerate(outboxes):
        assert [key for key, _ in outbox.take(10**6)] == expected[number]
