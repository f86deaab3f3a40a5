"""Changes of shared state that nothing interrupts.

A signal handler or finalizer runs between two instructions of Python, in the middle of any call,
and may call the same object again; a handler may also raise there, as Ctrl-C does. A lock cannot
protect against its own thread: it deadlocks, or stays locked. So shared state is changed by
`atomically`: a change is computed first, and then made by one call into C. A handler runs before or
after that call, never within it.

Rules for the steps:

- Each step is implemented in C and calls nothing that is implemented in Python.
- No step creates an object that the garbage collector tracks, a tuple or an iterator for instance:
  CPython 3.11 collects at such an allocation, and runs finalizers.
  `map` therefore calls functions of `operator`, not methods such as ``list.__setitem__``, for which
  CPython makes a tuple of the arguments; a `partial` has that tuple already.
- The state that the steps were computed from may have changed. So the first step checks that it has
  not, and raises `ValueError` if it has (``partial(items.index, first, 0, 1)``); then the caller
  computes the steps again. No thread waits for another, so there is no deadlock.

This depends on the interpreter's lock (GIL), which one call into C does not release.
"""

from collections import deque
from collections.abc import Callable
from operator import call

Step = Callable[[], object]
"""Implemented in C: a method of a built-in type, or a `functools.partial` of one."""

exhaust = deque[object](maxlen=0).extend
"""Exhaust an iterator in C and store nothing (the "consume" recipe of itertools)."""


def atomically(*steps: Step) -> None:
    """Call every step, in order, in one call into C. Any thread; the module has the rules.

    Raises:
        ValueError: the first step raised it, and no other step was called.
        MemoryError: a step raised it, and the steps after it were not called.

    """
    exhaust(map(call, steps))
