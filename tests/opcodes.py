"""Doing something at a given bytecode of KVS: as a signal handler or a finalizer does."""

import dis
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

Trace = Callable[[FrameType, str, Any], Any]
CLIENT = ("/kvs/client/", "/kvs/atomic.py", "/kvs/forks.py", "/kvs/wire/")
"""The modules of the client."""

HANDLING = {dis.opmap[name] for name in ("PUSH_EXC_INFO", "COPY", "POP_EXCEPT", "RERAISE")}
"""CPython handles no signal before these. An exception there would stay the one being handled, and
with it all objects of its frames, for the rest of the thread.
"""


class Interrupted(BaseException):
    """What a signal handler raises."""


LOOKING = {
    number
    for name, number in dis.opmap.items()
    if name.startswith(("CALL", "RESUME", "JUMP_BACKWARD")) and "NO_INTERRUPT" not in name
}
"""CPython handles signals behind these alone."""


def at_opcode(
    number: int,
    act: Callable[[], object],
    work: Callable[[], object],
    places: tuple[str, ...] = CLIENT,
    *,
    looking: bool = False,
    handling: bool = False,
) -> bool:
    """Call `work`, and `act` in it before the `number`-th bytecode; return if it has so many.

    Bytecodes count in the modules whose paths hold one of `places`, in this thread; with `looking`,
    only those before which CPython handles signals; with `handling`, those of exception handling as
    well, where finalizers run. `act` may raise.
    """
    count = 0

    def local(before: int | None) -> Trace:
        """Return what counts in one frame: none is referred to, so that it ends when it should."""

        def each(frame: FrameType, event: str, _: object) -> Trace:
            nonlocal before, count
            if event == "opcode":
                opcode = frame.f_code.co_code[frame.f_lasti]
                if (handling or opcode not in HANDLING) and (before in LOOKING or not looking):
                    count += 1
                    if count == number + 1:
                        act()
                before = opcode
            return each

        return each

    def trace(frame: FrameType, event: str, _: object) -> Trace | None:
        if count > number or not any(place in frame.f_code.co_filename for place in places):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return local(None)

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return count > number


def raise_interrupted() -> None:
    """Do what Ctrl-C does."""
    raise Interrupted
