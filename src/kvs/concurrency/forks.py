"""What a forked child inherits, and must not use.

A child has a copy of its parent's memory and descriptors, but none of its other threads. So an
object that belongs to the parent (a store, a session) compares the generation in which it was made
with that of the process, and refuses. Descriptors that would go on to affect others from within the
child (a lock of flock(2) lasts until its last descriptor is closed, a pipe has no end while a
child has it open) are closed in the child, as soon as fork(2) has returned there.

Concerns children made by `os.fork` and what calls it; a program that is executed by the child has
none of these descriptors, as all are opened with O_CLOEXEC.
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
"""Descriptors of one owner, or epoll instances, which close their own."""

_generation = 0
_closed_in_children: dict[int, None] = {}
_groups_closed_in_children: dict[int, Group] = {}
"""Groups by their identity (`id`)."""


def generation() -> int:
    """Return how often the process was forked on its way from the first one to this one."""
    return _generation


def inherited_error() -> InheritedByForkError:
    """Return the error for the use of an object that belongs to the parent."""
    return InheritedByForkError(os.getpid())


def close_in_children(descriptor: int) -> int:
    """Close `descriptor` at once in every child forked from now on; return it. Any thread."""
    _closed_in_children[descriptor] = None
    return descriptor


def close(descriptor: int) -> None:
    """Close, in this process, a descriptor given to `close_in_children`. Any thread.

    Raises:
        OSError: as close(2) does.

    """
    atomically(partial(_closed_in_children.pop, descriptor, None), partial(os.close, descriptor))


def close_once(opened: MutableSequence[int], descriptor: int) -> None:
    """Close a descriptor that `opened` holds, and remove it from there, unless that is done.

    Any thread, also within itself: its number is never closed twice, when it is another file's.

    Raises:
        OSError: as close(2) does.

    """
    with contextlib.suppress(ValueError):
        atomically(
            partial(opened.remove, descriptor),
            partial(_closed_in_children.pop, descriptor, None),
            partial(os.close, descriptor),
        )


def close_group_in_children(group: Group) -> None:
    """Close what `group` holds at the time, in every child forked from now on. Any thread.

    The owner adds and removes descriptors as it opens and closes them, each in one call into C (see
    `kvs.concurrency.atomic`), so no child closes a number that has another use by then.
    """
    _groups_closed_in_children[id(group)] = group


def stop_closing_group(group: Group) -> None:
    """End what `close_group_in_children` began. Any thread."""
    _groups_closed_in_children.pop(id(group), None)


def _in_child() -> None:
    global _generation  # noqa: PLW0603
    _generation += 1
    for descriptor in _closed_in_children:
        with contextlib.suppress(OSError):  # closed by somebody who does not know of this
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
