"""Start the program in ways that a command line cannot; see `tests.helpers.command`."""

import contextlib
import fcntl
import json
import os
import resource
import signal
import sys
import tempfile
import termios
import threading
from typing import Any


def import_everything() -> None:
    """Run the program once, because another user may not be able to read its modules."""
    import kvs.cli
    import kvs.cli.client
    import kvs.cli.serve

    with (
        tempfile.TemporaryDirectory() as directory,
        open(os.devnull, "w") as null,
        contextlib.redirect_stdout(null),
        contextlib.redirect_stderr(null),
    ):
        kvs.cli.main(["run", directory, "--report", os.path.join(directory, "report.json")])
        kvs.cli.main(["lint", directory])


def become(uid: int) -> None:
    """Change to the user `uid`, without any group of root."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def stop_children_at(point: str) -> None:
    """Have every child stop itself at `point`, as `tests.helpers.Start.children_stop` says."""
    parent, fork, fsync = os.getpid(), os.fork, os.fsync

    def fork_stopped() -> int:
        pid = fork()
        if not pid:
            os.kill(os.getpid(), signal.SIGSTOP)
        elif point == "fork":
            threading.Event().wait()
        return pid

    def stop_and_sync(file: int) -> None:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGSTOP)
        fsync(file)

    if point == "sync":
        os.fsync = stop_and_sync  # type: ignore[assignment]
    else:
        os.fork = fork_stopped


def main(options: dict[str, Any], arguments: list[str]) -> int:
    """Apply `options`, and run the program."""
    if options["terminal"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in options["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    if options["uid"] is not None:
        import_everything()
    for which, limit in options["limits"]:
        resource.setrlimit(which, (limit, limit))
    if options["uid"] is not None:
        become(options["uid"])
    elif options["children_stop"] is None:
        os.execv(sys.executable, [sys.executable, "-m", "kvs", *arguments])
    if options["children_stop"] is not None:
        stop_children_at(options["children_stop"])

    import kvs.cli

    return kvs.cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1]), sys.argv[2:]))
