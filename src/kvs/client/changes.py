"""A change, as a client is told of it."""

from kvs.protocol import frames, replies
from kvs.store.subscriptions import Change


def decode_change(told: replies.Notification) -> Change:
    """Return what a notification says.

    The protocol writes a key that was removed and one that was set to the very word ``DELETED``
    in the same bytes: both become a change with no value. Who has such values reads the key.
    """
    return Change(told.key, None if told.value == frames.DELETED else told.value)
