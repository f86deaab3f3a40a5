"""Calling a function at a given bytecode of KVS, as a signal handler or a finalizer is called."""

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
"""Parts of the paths of the modules that a client executes."""

EXCEPTION_OPCODES = {dis.opmap[name] for name in ("PUSH_EXC_INFO", "COPY", "POP_EXCEPT", "RERAISE")}
"""Opcodes before which CPython handles no signals. An exception there would remain the one being
handled, and keep all objects of its frames alive, until the thread ends.
"""


class Interrupted(BaseException):
    """The exception that a simulated signal handler raises."""


SIGNAL_CHECKS = {
    number
    for name, number in dis.opmap.items()
    if name.startswith(("CALL", "RESUME", "JUMP_BACKWARD")) and "NO_INTERRUPT" not in name
}
"""Opcodes behind which CPython handles signals; it handles none elsewhere."""


def at_opcode(
    number: int,
    act: Callable[[], object],
    work: Callable[[], object],
    places: tuple[str, ...] = CLIENT,
    *,
    looking: bool = False,
    handling: bool = False,
) -> bool:
    """Call `work`, and call `act` before its `number`-th bytecode; return whether that exists.

    Counts the bytecodes of this thread in the modules whose paths contain one of `places`; with
    `looking`, only those before which CPython handles signals; with `handling`, also those of
    exception handling, where finalizers run. `act` may raise.
    """
    count = 0

    def step(opcode: int, before: int | None) -> bool:
        """Count a bytecode; return whether to count the next one."""
        nonlocal count
        is_counted = handling or opcode not in EXCEPTION_OPCODES
        if is_counted and (before in SIGNAL_CHECKS or not looking):
            count += 1
            if count == number + 1:
                act()
        return count <= number

    _call_counting(step, work, places)
    return count > number


Counting = Callable[[int, int | None], bool]
"""Called with each opcode and the previous one of its frame; returns whether to continue."""


if sys.version_info >= (3, 12):

    def _call_counting(step: Counting, work: Callable[[], object], places: tuple[str, ...]) -> None:
        """Call `work`, and `step` before each bytecode; sys.settrace omits some of them."""
        monitoring = sys.monitoring
        thread = get_ident()
        codes: dict[CodeType, bytes] = {}
        previous: dict[int, int] = {}
        """The last opcode of each frame, by the frame's id: a reference would extend its life."""

        def on_instruction(code: CodeType, offset: int) -> object:
            if code not in codes:
                if not any(place in code.co_filename for place in places):
                    return monitoring.DISABLE
                codes[code] = code.co_code
            if get_ident() == thread:
                frame = id(sys._getframe(1))
                opcode = codes[code][offset]
                last = previous.get(frame) if offset else None
                previous[frame] = opcode
                if not step(opcode, last):
                    monitoring.set_events(TOOL, 0)
            return None

        monitoring.use_tool_id(TOOL, "at_opcode")
        try:
            monitoring.register_callback(TOOL, monitoring.events.INSTRUCTION, on_instruction)
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
            """Return a trace function for one frame, without a reference that extends its life."""

            def on_event(frame: FrameType, event: str, _: object) -> Trace:
                nonlocal before, is_over
                if event == "opcode":
                    opcode = frame.f_code.co_code[frame.f_lasti]
                    is_over = not step(opcode, before)
                    before = opcode
                return on_event

            return on_event

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
    """Raise `Interrupted`, as the handler of Ctrl-C raises KeyboardInterrupt."""
    raise Interrupted
