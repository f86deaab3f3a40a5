"""Tests of sessions, run as a user whose pipe budget is exhausted; see `test_small_pipes.py`."""

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


class LogLines(logging.Handler):
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
        with contextlib.suppress(PermissionError):  # over the budget
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
    log = LogLines()
    logging.getLogger("kvs.server").addHandler(log)
    with serving() as served:
        for number in range(3):
            client = Client(served, f"c{number}").connected()
            assert fcntl.fcntl(client.open["not"], fcntl.F_GETPIPE_SZ) <= size
        assert len(log.lines) == 1, log.lines
        assert f"new pipes hold {size} bytes instead of 65536" in log.lines[0]
        for order in test_session.ORDERS.values():
            test_session.check_order(served, order)
    test_changes.test_changes_of_several_writers_arrive_once_in_order()
    test_changes.test_changes_of_one_command_arrive_together_in_order()
    test_changes.test_slow_consumer_is_disconnected_alone()
    test_changes.test_resubscribing_during_changes_loses_nothing()
    test_session.test_a_hundred_connects_at_once_share_few_sessions()
    for test in (
        test_session.test_requests_arrive_together_and_in_pieces,
        test_session.test_oversized_script_is_read_to_its_end_and_refused,
        test_session.test_reply_larger_than_the_pipe_delays_no_other_session,
    ):
        with serving() as served:
            test(served)
    print("all well")


if __name__ == "__main__":
    main(int(sys.argv[1]))
