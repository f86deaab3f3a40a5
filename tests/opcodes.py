"""Doing something at a given bytecode of KVS: as a signal handler or a finalizer does."""

import dis
import sys
from collections.abc import Callable
from threading import get_ident
from types import CodeType, FrameType
from typing import Any

Trace = Callable[[FrameType, str, Any], Any]
TOOL = 4
"""A tool number of sys.monitoring that no other tool uses."""

CLIENT = (
    "/kvs/client/",
    "/kvs/concurrency/atomic.py",
    "/kvs/concurrency/forks.py",
    "/kvs/posix/fifos.py",
    "/kvs/protocol/",
)
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

    def step(opcode: int, before: int | None) -> bool:
        """Count a bytecode; return whether more are to be counted."""
        nonlocal count
        if (handling or opcode not in HANDLING) and (before in LOOKING or not looking):
            count += 1
            if count == number + 1:
                act()
        return count <= number

    _call_counting(step, work, places)
    return count > number


Counting = Callable[[int, int | None], bool]
"""Called with each opcode and the one before it in its frame; returns whether more may come."""


if sys.version_info >= (3, 12):

    def _call_counting(step: Counting, work: Callable[[], object], places: tuple[str, ...]) -> None:
        """Call `work`, and `step` before each bytecode: sys.settrace leaves some out here."""
        monitoring = sys.monitoring
        thread = get_ident()
        codes: dict[CodeType, bytes] = {}
        before: dict[int, int] = {}
        """The last opcode of each frame, by its id: none is referred to."""

        def each(code: CodeType, offset: int) -> object:
            if code not in codes:
                if not any(place in code.co_filename for place in places):
                    return monitoring.DISABLE
                codes[code] = code.co_code
            if get_ident() == thread:
                frame = id(sys._getframe(1))
                opcode = codes[code][offset]
                last = before.get(frame) if offset else None
                before[frame] = opcode
                if not step(opcode, last):
                    monitoring.set_events(TOOL, 0)
            return None

        monitoring.use_tool_id(TOOL, "at_opcode")
        try:
            monitoring.register_callback(TOOL, monitoring.events.INSTRUCTION, each)
            monitoring.restart_events()
            monitoring.set_events(TOOL, monitoring.events.INSTRUCTION)
            work()
        finally:
            monitoring.set_events(TOOL, 0)
            monitoring.free_tool_id(TOOL)

else:

    def _call_counting(step: Counting, work: Callable[[], object], places: tuple[str, ...]) -> None:
        """Call `work`, and `step` before each bytecode."""
        is_over = False

        def local(before: int | None) -> Trace:
            """Return what counts in one frame, which is not referred to: it ends when it should."""

            def each(frame: FrameType, event: str, _: object) -> Trace:
                nonlocal before, is_over
                if event == "opcode":
                    opcode = frame.f_code.co_code[frame.f_lasti]
                    is_over = not step(opcode, before)
                    before = opcode
                return each

            return each

        def trace(frame: FrameType, event: str, _: object) -> Trace | None:
            if is_over or not any(place in frame.f_code.co_filename for place in places):
                return None
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            return local(None)

        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(None)


def raise_interrupted() -> None:
    """Do what Ctrl-C does."""
    raise Interrupted
