"""Changes in one call into C."""

import gc
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count, repeat
from operator import call, setitem

import pytest

from kvs.concurrency.atomic import Step, atomically, exhaust


def test_steps_run_in_order_up_to_the_first_that_raises() -> None:
    items = [1, 2]
    with pytest.raises(ValueError, match="not in list"):
        atomically(partial(items.append, 3), partial(items.index, 9), partial(items.append, 4))
    assert items == [1, 2, 3]


def test_no_collection_runs_between_steps() -> None:
    seen: list[bool] = []
    inside: deque[int] = deque()

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            seen.append(bool(inside))

    table: dict[bytes, bytes] = {}
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for number in range(2000):
            Cycle()
            pairs = {b"%d" % number: b"value"}
            atomically(partial(inside.append, 1), partial(table.update, pairs), partial(inside.pop))
    finally:
        gc.set_threshold(*threshold)
    assert len(table) == 2000
    assert seen
    assert not any(seen)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="CPython 3.12 collects between bytecodes")
@pytest.mark.parametrize(
    ("new_step", "collects"),
    [
        (lambda: partial([0].__setitem__, 0, 1), False),
        (lambda: partial([0].extend, [1]), False),
        (lambda: map(setitem, repeat([0]), repeat(0), count()).__next__, False),
        (lambda: map([0].__setitem__, repeat(0), count()).__next__, True),
    ],
    ids=["partial of a method", "partial of extend", "map of operator", "map of a method"],
)
def test_only_some_kinds_of_step_allocate_a_tracked_object(
    new_step: Callable[[], Step], collects: bool
) -> None:
    """CPython reuses a tuple of its free list without a collection; so the list is emptied."""
    collections: list[str] = []

    def collecting(phase: str, _: object) -> None:
        collections.append(phase)

    steps = map(call, [new_step()])
    threshold = gc.get_threshold()
    free = [tuple(range(length)) for length in (1, 2, 3) for _ in range(3000)]
    gc.callbacks.append(collecting)
    try:
        gc.set_threshold(1)
        exhaust(steps)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(collecting)
    assert free
    assert ("start" in collections) is collects
