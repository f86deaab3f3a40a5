"""The subscriptions of a session: valid keys only, and an end in several turns."""

from collections.abc import Iterator

import pytest

from kvs.language.grammar import spell
from kvs.protocol import frames
from kvs.server.subscriptions import SessionSubscriptions
from kvs.store.core import StoreCore
from kvs.store.subscriptions import Outbox, Subscriptions
from tests.server.fake_loop import FakeLoop


class Turns(FakeLoop):
    """A loop each of whose turns is over after one removal."""

    is_turn_over = True


class Subscriber:
    """The subscriptions of one session, its store and its outbox."""

    def __init__(self) -> None:
        self.store = StoreCore()
        self.loop = Turns()
        self.outbox: Outbox[bytes] = Outbox(lambda: None, held=False)
        shared = Subscriptions(frames.encode_notification)
        self.store.add_subscriptions(shared)
        self.keys = SessionSubscriptions(self.outbox, shared, self.store, self.loop)

    def changes(self, script: bytes) -> list[tuple[bytes, bytes]]:
        """Execute `script`; return what the session is notified of."""
        self.store.execute(script)
        return [frames.decode_notification(item) for item in self.outbox.take(100)]


@pytest.fixture(name="subscriber")
def _subscriber() -> Iterator[Subscriber]:
    subscriber = Subscriber()
    yield subscriber
    subscriber.loop.close()


def test_add_returns_whether_the_key_exists(subscriber: Subscriber) -> None:
    subscriber.store.execute(b"WRITE [(a,1)]\n")
    assert [subscriber.keys.add(key) for key in (b"a", b"b")] == [True, False]
    assert subscriber.changes(b"WRITE [(b,2)(c,3)]\nDELETE [a]\n") == [
        (b"b", b"2"),
        (b"a", frames.DELETED),
    ]


@pytest.mark.parametrize("key", [b"a b", b"a,)]", b'"', b"x" * 40, b"\xff\n"])
def test_key_of_any_bytes_is_subscribed(subscriber: Subscriber, key: bytes) -> None:
    assert subscriber.keys.add(key) is False
    assert subscriber.changes(b"WRITE [(%b,v)]\n" % spell(key)) == [(key, b"v")]
    assert subscriber.keys.add(key) is True


def test_value_that_does_not_fit_is_notified_as_changed(subscriber: Subscriber) -> None:
    subscriber.keys.add(b"a")
    assert subscriber.changes(b'WRITE [(a,%b)]\nWRITE [(a,"")]\nDELETE [a]\n' % (b"v" * 41)) == [
        (b"a", frames.CHANGED),
        (b"a", b""),
        (b"a", frames.DELETED),
    ]


@pytest.mark.parametrize("key", [b"", b"x" * 41, b"a\0"])
def test_key_that_does_not_fit_is_not_subscribed(subscriber: Subscriber, key: bytes) -> None:
    assert subscriber.keys.add(key) is False
    assert dict(subscriber.outbox.keys) == {}


def test_removed_key_is_not_notified(subscriber: Subscriber) -> None:
    subscriber.keys.add(b"a")
    assert [subscriber.keys.remove(b"a") for _ in range(2)] == [True, False]
    assert subscriber.changes(b"WRITE [(a,1)]\n") == []


def test_clear_takes_as_many_turns_as_it_needs(subscriber: Subscriber) -> None:
    for key in (b"a", b"b", b"c"):
        subscriber.keys.add(key)
    ends: list[bool] = []
    subscriber.keys.clear(lambda: ends.append(True))
    turns = 0
    while subscriber.loop.calls:
        assert ends == []
        turns += subscriber.loop.run_calls()
    assert (turns, ends) == (3, [True])
    assert subscriber.changes(b"WRITE [(a,1)(b,1)(c,1)]\n") == []
