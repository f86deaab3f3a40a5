"""Changes of shared state that nothing interrupts.

A signal handler and a finalizer run between two instructions of Python, in the middle of whatever
their thread executes, and may call back into the same object; a handler may also raise there, as
Ctrl-C does. A lock cannot protect against its own thread: it deadlocks, or is left locked. So
shared state is changed by `atomically`: everything is computed first, and then changed in one call
into C, before or after which the handler runs, but never within.

Rules for the steps:

- Each step is implemented in C and calls nothing that is implemented in Python.
- No step creates an object that the garbage collector tracks, a tuple or an iterator for instance:
  CPython 3.11 collects at such an allocation, and runs finalizers.
  `map` therefore calls functions of `operator`, not methods such as ``list.__setitem__``, for which
  CPython makes a tuple of the arguments; a `partial` has that tuple already.
- What the steps were computed from may be out of date by now. So the first step checks that it is
  not, and raises `ValueError` if it is (``partial(items.index, first, 0, 1)``); the caller computes
  them again. No thread ever waits for another, so none can wait for ever.

This rests on the interpreter's lock (GIL), which one call into C does not release.
"""

from collections import deque
from collections.abc import Callable
from operator import call

Step = Callable[[], object]
"""Implemented in C: a method of a built-in type, or a `functools.partial` of one."""

exhaust = deque[object](maxlen=0).extend
"""Exhaust an iterator in C and store nothing (the "consume" recipe of itertools)."""


def atomically(*steps: Step) -> None:
    """Call every step, in order, in one call into C. Any thread; see the rules above.

    Raises:
        ValueError: the first step refused, and no other was called.
        MemoryError: a step could not be carried out, and those behind it were not called.

    """
    exhaust(map(call, steps))
