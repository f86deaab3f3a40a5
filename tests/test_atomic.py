"""Changes in one call into C."""

import gc
from collections import deque
from functools import partial

import pytest

from kvs.atomic import atomically


def test_steps_run_in_order_up_to_the_first_that_refuses() -> None:
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
