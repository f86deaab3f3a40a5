"""What a forked child inherits, and must not use.

A child has a copy of its parent's memory and descriptors, but none of its other threads. So an
object that belongs to the parent (a store, a session) compares the fork generation in which it was
created with that of the process, and raises an exception. Descriptors with an effect beyond the
process are closed in the child as soon as fork(2) returns there: a lock of flock(2) lasts, and a
pipe has no end of file, until the last copy of the descriptor is closed.

This applies to children of `os.fork` and of functions that call it. A program that the child
executes has none of these descriptors, because all are opened with O_CLOEXEC.
"""

import contextlib
import os
import select
from collections import deque
from collections.abc import MutableSequence
from functools import partial

from kvs.concurrency.atomic import atomically
from kvs.errors import InheritedByForkError

Group = deque[int] | deque[select.epoll]
"""Descriptors of one owner, or epoll objects, which close their own descriptor."""

_generation = 0
_closed_in_children: dict[int, None] = {}
_groups_closed_in_children: dict[int, Group] = {}
"""Groups by their identity, `id`."""


def generation() -> int:
    """Return the number of forks between the first process and this one."""
    return _generation


def inherited_error() -> InheritedByForkError:
    """Return the exception for the use of an object that belongs to the parent."""
    return InheritedByForkError(os.getpid())


def close_in_children(descriptor: int) -> int:
    """Close `descriptor` at once in every child forked from now on; return it. Any thread."""
    _closed_in_children[descriptor] = None
    return descriptor


def close(descriptor: int) -> None:
    """Close in this process a descriptor given to `close_in_children`. Any thread.

    Raises:
        OSError: close(2) failed.

    """
    atomically(partial(_closed_in_children.pop, descriptor, None), partial(os.close, descriptor))


def close_once(opened: MutableSequence[int], descriptor: int) -> None:
    """Close a descriptor and remove it from `opened`, unless it is not there any more.

    Any thread, also within a call of the same thread: a number is never closed a second time, when
    it may be another file's.

    Raises:
        OSError: close(2) failed.

    """
    with contextlib.suppress(ValueError):
        atomically(
            partial(opened.remove, descriptor),
            partial(_closed_in_children.pop, descriptor, None),
            partial(os.close, descriptor),
        )


def close_group_in_children(group: Group) -> None:
    """Close in every child forked from now on what `group` contains at the fork. Any thread.

    The owner opens and adds, or closes and removes, each descriptor in one call into C
    (`kvs.concurrency.atomic`). So no child closes a number that already is another file's.
    """
    _groups_closed_in_children[id(group)] = group


def stop_closing_group(group: Group) -> None:
    """Undo `close_group_in_children`. Any thread."""
    _groups_closed_in_children.pop(id(group), None)


def _in_child() -> None:
    global _generation  # noqa: PLW0603
    _generation += 1
    for descriptor in _closed_in_children:
        with contextlib.suppress(OSError):  # closed without a call of this module
            os.close(descriptor)
    _closed_in_children.clear()
    for group in _groups_closed_in_children.values():
        while group:
            item = group.pop()
            with contextlib.suppress(OSError):
                if isinstance(item, int):
                    os.close(item)
                else:
                    item.close()
    _groups_closed_in_children.clear()


os.register_at_fork(after_in_child=_in_child)
