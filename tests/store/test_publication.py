"""The order of changes: published once, by whichever call comes first, behind its marker."""

import pytest

from kvs.engine.interface import DEFAULT_BUDGET_BYTES, Engine
from kvs.engine.selection import create_engine
from kvs.store.publication import Publication
from kvs.store.subscriptions import Outbox, Subscriptions

pytestmark = pytest.mark.usefixtures("each_engine")

Item = tuple[bytes, bytes | None]


class Published:
    """An engine in memory, its publication, and one outbox that counts its wake-ups."""

    def __init__(self) -> None:
        self.engine: Engine = create_engine()
        self.publication = Publication(self.engine, None)
        self.subscriptions: Subscriptions[Item] = Subscriptions(lambda key, value: (key, value))
        self.publication.add_subscriptions(self.subscriptions)
        self.wake_ups = 0
        self.outbox: Outbox[Item] = Outbox(self._wake, held=False)

    def execute(self, script: bytes) -> None:
        """Execute `script` without publishing its changes."""
        self.engine.execute(script, 0, DEFAULT_BUDGET_BYTES, None)

    def subscribe(self, key: bytes) -> bool:
        return self.publication.subscribe(self.subscriptions, self.outbox, key)

    def unsubscribe(self, key: bytes) -> bool:
        return self.publication.unsubscribe(self.subscriptions, self.outbox, key)

    def take(self) -> list[Item]:
        return self.outbox.take(100)

    def _wake(self) -> None:
        self.wake_ups += 1


@pytest.fixture(name="published")
def _published() -> Published:
    return Published()


def test_changes_are_published_once_and_in_order(published: Published) -> None:
    published.subscribe(b"a")
    published.execute(b"WRITE [(a,1)(b,1)]\nWRITE [(a,2)]\n")
    published.execute(b"DELETE [a]\n")
    assert published.take() == []
    for _ in range(2):
        published.publication.publish()
    assert published.take() == [(b"a", b"1"), (b"a", b"2"), (b"a", None)]
    published.publication.publish()
    assert (published.take(), published.wake_ups) == ([], 1)


def test_subscription_begins_behind_unpublished_changes(published: Published) -> None:
    published.subscribe(b"b")
    published.execute(b"WRITE [(a,1)(b,1)]\n")
    assert published.subscribe(b"a")
    published.execute(b"WRITE [(a,2)]\n")
    published.publication.publish()
    assert published.take() == [(b"b", b"1"), (b"a", b"2")]


def test_second_subscription_to_a_key_changes_nothing(published: Published) -> None:
    assert [published.subscribe(b"a") for _ in range(2)] == [False, False]
    published.execute(b"WRITE [(a,1)]\n")
    published.publication.publish()
    assert published.take() == [(b"a", b"1")]
    assert [published.unsubscribe(b"a") for _ in range(2)] == [True, False]


def test_changes_before_the_end_of_a_subscription_arrive(published: Published) -> None:
    published.subscribe(b"a")
    published.execute(b"WRITE [(a,1)]\n")
    assert published.unsubscribe(b"a")
    published.execute(b"WRITE [(a,2)]\n")
    published.publication.publish()
    assert published.take() == [(b"a", b"1")]


def test_all_subscriptions_of_an_outbox_end_together(published: Published) -> None:
    for key in (b"a", b"b"):
        published.subscribe(key)
    published.publication.unsubscribe_all(published.subscriptions, published.outbox)
    published.execute(b"WRITE [(a,1)(b,1)]\n")
    published.publication.publish()
    assert (published.take(), dict(published.outbox.keys)) == ([], {})


def test_failed_subscription_leaves_nothing(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(published.publication, "publish", fail)
        with pytest.raises(KeyboardInterrupt):
            published.subscribe(b"a")
    published.publication.publish()
    published.execute(b"WRITE [(a,1)]\n")
    published.publication.publish()
    assert (published.take(), dict(published.outbox.keys)) == ([], {})


def test_store_in_memory_appends_nothing(published: Published) -> None:
    published.execute(b"WRITE [(a,1)]\n")
    assert published.publication.appended_count() == 0
