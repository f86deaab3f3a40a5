"""Start the program in a way that a command line cannot; see `tests.helpers.command`."""

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
    """Run the program once: as another user it may not be able to read its own modules."""
    import kvs.cli
    import kvs.cli.client
    import kvs.cli.serve

    with (
        tempfile.TemporaryDirectory() as place,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        kvs.cli.main(["run", place, "--report", os.path.join(place, "report.json")])
        kvs.cli.main(["lint", place])


def become(uid: int) -> None:
    """Give all rights of root away."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def stop_children_at(point: str) -> None:
    """Let every child stop itself; `tests.helpers.Start.children_stop` says at which point."""
    parent, fork, fsync = os.getpid(), os.fork, os.fsync

    def forked() -> int:
        pid = fork()
        if not pid:
            os.kill(os.getpid(), signal.SIGSTOP)
        elif point == "fork":
            threading.Event().wait()
        return pid

    def synced(file: int) -> None:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGSTOP)
        fsync(file)

    if point == "sync":
        os.fsync = synced  # type: ignore[assignment]
    else:
        os.fork = forked


def main(wishes: dict[str, Any], arguments: list[str]) -> int:
    """Do what is wished, and be the program."""
    if wishes["terminal"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in wishes["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    if wishes["uid"] is not None:
        import_everything()
    for which, limit in wishes["limits"]:
        resource.setrlimit(which, (limit, limit))
    if wishes["uid"] is not None:
        become(wishes["uid"])
    elif wishes["children_stop"] is None:
        os.execv(sys.executable, [sys.executable, "-m", "kvs", *arguments])
    if wishes["children_stop"] is not None:
        stop_children_at(wishes["children_stop"])

    import kvs.cli

    return kvs.cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1]), sys.argv[2:]))
