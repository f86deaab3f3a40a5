"""The core of a store: commands, budgets, cursors, an empty store to load, and a closed one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kvs.engine.interface import JobCursor, StopReason
from kvs.errors import StoreClosedError, StoreNotEmptyError
from kvs.store.core import StoreCore
from kvs.store.subscriptions import Outbox, Subscriptions

pytestmark = pytest.mark.usefixtures("each_engine")

LINE = b"WRITE [(a,1)]\n"

NewStore = Callable[[], StoreCore]


@pytest.fixture(name="open_store", params=["memory", "data"])
def _open_store(request: pytest.FixtureRequest, tmp_path: Path) -> NewStore:
    """A function that opens a store in memory, or always the same data directory."""
    return StoreCore if request.param == "memory" else lambda: StoreCore(tmp_path / "data")


def test_script_is_executed_in_parts_of_a_budget(open_store: NewStore) -> None:
    script = LINE + b"READ [a]\n" * 3 + b"WAIT 5\nDELETE [a]\nBACKUP\n"
    with open_store() as store:
        offset, reasons, output = 0, list[StopReason](), b""
        while offset < len(script):
            result = store.execute(script, offset, budget=10)
            assert result.offset > offset
            offset, output = result.offset, output + result.output
            reasons.append(result.reason)
        assert output == b"[(a,1)]\n" * 3 + b"Waiting...\n"
        assert [reason for reason in reasons if reason is not StopReason.BUDGET] == [
            StopReason.WAIT,
            StopReason.BACKUP,
        ]
        assert (store.revision, store.items(), len(store)) == (2, [], 0)


@pytest.mark.parametrize(("start", "budget"), [(-1, 0), (len(LINE) + 1, 0), (0, -1)])
def test_position_outside_of_the_script_is_rejected(
    open_store: NewStore, start: int, budget: int
) -> None:
    with open_store() as store:
        with pytest.raises(ValueError, match="is out of range"):
            store.execute(LINE, start, budget)
        assert (store.execute(LINE, len(LINE)).commands, store.revision) == (0, 0)


def test_cursor_of_an_unknown_job_is_rejected(tmp_path: Path) -> None:
    with StoreCore(tmp_path / "data") as store:
        with pytest.raises(ValueError, match="job 3 of the cursor is not known"):
            store.execute(LINE, cursor=JobCursor(3, 0))
        assert store.revision == 0


def test_loaded_pairs_are_one_change(open_store: NewStore) -> None:
    with open_store() as store:
        assert store.load({b"b": b"2", b"a": b"1"}) == 1
        assert store.items() == [(b"a", b"1"), (b"b", b"2")]
        assert store.get([b"b", b"c"]) == [b"2", None]


def test_pairs_are_loaded_only_into_unchanged_data(open_store: NewStore) -> None:
    with open_store() as store:
        store.execute(LINE)
        if store.is_persistent:
            with pytest.raises(StoreNotEmptyError):
                store.load({b"b": b"2"})
            assert store.items() == [(b"a", b"1")]
        else:
            assert store.load({b"b": b"2"}) == 2
            assert store.items() == [(b"b", b"2")]


def test_data_directory_is_opened_with_its_changes(tmp_path: Path) -> None:
    for number in range(3):
        with StoreCore(tmp_path / "data") as store:
            assert store.recovered is not None
            assert (store.revision, store.recovered.new) == (number, number == 0)
            store.execute(b"WRITE [(a,%d)]\n" % number)


def test_store_in_memory_has_nothing_of_a_directory() -> None:
    with StoreCore() as store:
        assert (store.recovered, store.failure, store.compact()) == (None, None, None)
        assert (store.is_persistent, store.syncs_to_disk) == (False, False)
        with pytest.raises(ValueError, match="has no records of jobs"):
            store.record_job(lambda _: b"")


def test_closed_store_executes_nothing(open_store: NewStore) -> None:
    store = open_store()
    subscriptions: Subscriptions[bytes] = Subscriptions(lambda key, _: key)
    outbox: Outbox[bytes] = Outbox(lambda: None, held=store.is_persistent)
    store.add_subscriptions(subscriptions)
    store.subscribe(subscriptions, outbox, b"a")
    for _ in range(2):
        store.close()
    uses: list[Callable[[], object]] = [
        lambda: store.execute(LINE),
        lambda: store.get([b"a"]),
        lambda: store.subscribe(subscriptions, outbox, b"b"),
        lambda: store.revision,
        store.commit_point,
        store.compact,
    ]
    for use in uses:
        with pytest.raises(StoreClosedError):
            use()
    assert store.unsubscribe(subscriptions, outbox, b"a")
    with open_store() as again:
        assert again.revision == 0
