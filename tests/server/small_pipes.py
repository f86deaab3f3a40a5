"""Tests of sessions, run as a user whose budget for pipes is used up; see `test_small_pipes.py`."""

import contextlib
import fcntl
import logging
import os
import resource
import sys
from pathlib import Path

from tests.failures.launch import become
from tests.server import test_changes, test_session
from tests.server.raw_client import Client, serving

USUAL_BYTES = 65536
MOST_PIPES = 500


class Told(logging.Handler):
    """What was logged as a warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def use_up_the_budget() -> int:
    """Make pipes, as large as they may be, until they are small; return what the next one holds."""
    largest = int(Path("/proc/sys/fs/pipe-max-size").read_text())
    for _ in range(MOST_PIPES):
        reader, _writer = os.pipe()
        size = fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ)
        if size < USUAL_BYTES:
            return size
        with contextlib.suppress(PermissionError):  # that would be more than the budget
            fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, largest)
    return USUAL_BYTES


def main(uid: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (4 * MOST_PIPES, 4 * MOST_PIPES))
    with serving():  # so that whatever is imported late is there
        pass
    become(uid)
    size = use_up_the_budget()
    if size == USUAL_BYTES:
        print("no budget")
        return
    told = Told()
    logging.getLogger("kvs.server").addHandler(told)
    with serving() as served:
        for number in range(3):
            client = Client(served, f"c{number}").connected()
            assert fcntl.fcntl(client.open["not"], fcntl.F_GETPIPE_SZ) <= size
        assert len(told.lines) == 1, told.lines
        assert f"new ones hold {size} bytes instead of 65536" in told.lines[0]
        for order in test_session.ORDERS.values():
            test_session.check_order(served, order)
    test_changes.test_every_change_of_several_writers_comes_once_and_in_the_order_of_revisions()
    test_changes.test_those_of_one_command_come_together_and_in_its_order()
    test_changes.test_a_client_that_does_not_keep_up_is_disconnected_and_nobody_else_notices()
    test_changes.test_subscribing_and_dropping_while_changes_go_by_loses_and_doubles_nothing()
    test_session.test_a_hundred_connects_at_once_and_few_places()
    for test in (
        test_session.test_requests_may_come_together_and_in_pieces,
        test_session.test_a_script_that_is_too_long_is_read_to_its_end_and_refused,
        test_session.test_a_reply_far_larger_than_the_pipe_holds_up_nobody,
    ):
        with serving() as served:
            test(served)
    print("all well")


if __name__ == "__main__":
    main(int(sys.argv[1]))
