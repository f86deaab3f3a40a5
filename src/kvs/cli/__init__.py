"""The command line: arguments in, exit status out.

Exit status: 0 all well, 1 something in the work failed, 2 wrong usage, 128 and the signal's number
when a signal ended the work.
"""

import argparse
import atexit
import io
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn

from kvs._version import VERSION
from kvs.cli.signals import keyboard_interrupt_on_sigint
from kvs.cli.stdio import StdoutClosed, UsageError, flush_at_exit, print_error, print_result
from kvs.engine.selection import engine_name
from kvs.errors import EngineUnavailableError, KvsError
from kvs.settings import (
    FIFO_MODES,
    FSYNC_MODES,
    MAX_FSYNC_INTERVAL_SECONDS,
    ServerSettings,
    Settings,
    usable_cpu_count,
)
from kvs.text import printable

Action = Callable[[argparse.Namespace], int]
"""A command: it is given the options, and returns the exit status."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with `arguments`, by default the process's; return its exit status."""
    _fill_standard_descriptors()
    atexit.register(flush_at_exit)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited as ignored, it would hide endings
    # Forking beside threads is safe here: docs/design.md says why.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    program = "kvs"
    try:
        options, others = _parser().parse_known_args(arguments)
        program = f"kvs {options.command}"
        if others:
            _Parser(prog=program).error(f"unrecognized arguments: {' '.join(others)}")
        action: Action = options.load()
        with keyboard_interrupt_on_sigint():
            return action(options)
    except StdoutClosed:
        return 1
    except (UsageError, EngineUnavailableError) as error:
        print_error(f"{program}: {error}")
        return 2
    except KvsError as error:
        print_error(f"{program}: {error}")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _fill_standard_descriptors() -> None:
    """Keep 0, 1 and 2 from our files: what somebody writes to stderr could end in the journal."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free


class _Parser(argparse.ArgumentParser):
    """Tells of wrong usage in one line."""

    def error(self, message: str) -> NoReturn:
        line = message if message.isprintable() else printable(message)
        print_error(f"{self.prog}: {line}; see '{self.prog} --help'")
        sys.exit(2)

    def _print_message(self, message: str, _file: object = None) -> None:
        """Write help or the version: results as any other, which may not be lost in silence."""
        print_result(message.rstrip("\n"))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="kvs",
        description="A key-value store for one machine's programs and scripts.",
        epilog="Exit status: 0 all well, 1 something in the work failed, 2 wrong usage, 130 or "
        "143 ended by Ctrl-C or SIGTERM.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"kvs {VERSION} (engine: {engine_name()})"
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, title="commands"
    )
    _add_run_arguments(
        commands.add_parser("run", help="run a directory of job files", allow_abbrev=False)
    )
    _add_lint_arguments(commands.add_parser("lint", help="check job files", allow_abbrev=False))
    _add_client_arguments(
        commands.add_parser("client", help="talk to a server, or watch it", allow_abbrev=False)
    )
    _add_serve_arguments(
        commands.add_parser("serve", help="run jobs and serve sessions", allow_abbrev=False)
    )
    _add_maintenance_commands(commands)
    return parser


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run every job (NAME.job) of a directory against one store, a new one or that of --data, "
        "in order of name, some at the same time. NAME.job gives NAME.out, and its n-th BACKUP "
        "gives NAME-n.bck. Ends when all jobs and snapshots have ended. Ctrl-C or SIGTERM stops in "
        "good order; a second one leaves at once."
    )
    parser.set_defaults(load=_lazy_action("run"))
    parser.add_argument("directory", type=_path, metavar="JOBS_DIR", help="the directory of jobs")
    parser.add_argument(
        "--threads", metavar="N", type=_positive, default=usable_cpu_count(),
        help="jobs running at the same time, at most (default: the cores, here %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--backups", metavar="N", type=_positive, default=Settings.backups,
        help="snapshots being written at the same time, at most (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--restore", metavar="FILE.bck", type=_path, help="begin with the pairs of this snapshot"
    )
    _add_data_arguments(parser)
    parser.add_argument(
        "--resume", action="store_true",
        help="go on with jobs that the data directory knows, and leave alone those that are done",
    )  # fmt: skip
    parser.add_argument(
        "--report",
        metavar="FILE.json",
        type=_path,
        help="write what came of every job to this file, as JSON",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="no progress and no table; errors are still told"
    )


def _add_lint_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Tell of every line that is no valid command: file, line, column (in bytes, from 1), "
        "reason, and the line with a caret under the place. Runs and changes nothing."
    )
    parser.set_defaults(load=_lazy_action("lint"))
    parser.add_argument(
        "paths",
        metavar="JOBS_DIR_OR_FILE",
        type=_path,
        nargs="+",
        help="a directory of jobs, or one file",
    )


def _add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run the jobs of a directory, also those that come into it, and serve clients over named "
        "pipes against the same store, until SIGTERM or Ctrl-C; a second one leaves at once. "
        "SIGUSR1 ends all sessions and nothing else. Logs to stderr."
    )
    defaults = ServerSettings()
    parser.set_defaults(load=_lazy_action("serve"))
    parser.add_argument("directory", type=_path, metavar="JOBS_DIR", help="the directory of jobs")
    parser.add_argument(
        "threads", metavar="MAX_THREADS", type=_positive, help="jobs at the same time, at most"
    )
    parser.add_argument(
        "backups", metavar="BACKUPS_MAX", type=_positive, help="snapshots at once, at most"
    )
    parser.add_argument(
        "fifo", type=_path, metavar="FIFO", help="the registration pipe, which is made"
    )
    parser.add_argument(
        "--max-sessions", metavar="S", type=_positive, default=defaults.sessions,
        help="sessions at the same time, at most; others wait (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--fifo-mode", metavar="MODE", type=_mode, default=defaults.fifo_mode,
        help="permissions of the registration pipe: 600, or 620, 602 or 622, which let its group, "
        "others or both connect, and execute any command (default: 600)",
    )  # fmt: skip
    parser.add_argument(
        "--outbox-bytes", metavar="N", type=_positive, default=defaults.outbox_bytes,
        help="a client this far behind its notifications is disconnected (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--outbox-total-bytes", metavar="N", type=_positive, default=defaults.outbox_total_bytes,
        help="the same for all clients together (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--reply-total-bytes", metavar="N", type=_positive, default=defaults.reply_total_bytes,
        help="replies of all scripts together; a script waits for room, or is stopped "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--restore", metavar="FILE.bck", type=_path, help="begin with the pairs of this snapshot"
    )
    _add_data_arguments(parser)
    parser.add_argument(
        "--once", action="store_true", help="run only the jobs that are there at the start"
    )
    parser.add_argument(
        "--log-level", metavar="LEVEL", default="info",
        choices=("debug", "info", "warning", "error"),
        help="debug, info, warning or error (default: %(default)s)",
    )  # fmt: skip


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        metavar="DIR",
        type=_path,
        help="keep the store in this directory, which is made if need be",
    )
    parser.add_argument(
        "--fsync", choices=FSYNC_MODES,
        help="when changes are synced to disk: before anything that depends on them is told, "
        "within an interval, or when the kernel comes to it (default: always)",
    )  # fmt: skip
    parser.add_argument(
        "--fsync-interval", metavar="SECONDS", type=_seconds,
        help="with --fsync interval: so many seconds after the change, at the latest, 0.001 to "
        "3600 (default: 1)",
    )  # fmt: skip


def _add_maintenance_commands(commands: "argparse._SubParsersAction[_Parser]") -> None:
    """Describe the commands that look after a data directory that nobody has open."""
    for name, what in (
        ("check", "verify all of a data directory, and change nothing"),
        ("dump", "write the pairs of a data directory, as SHOW does"),
        ("compact", "make the journal of a data directory short"),
    ):
        parser = commands.add_parser(name, help=what, allow_abbrev=False)
        parser.description = what[0].upper() + what[1:] + "."
        parser.set_defaults(load=_lazy_action(name, "maintenance"))
        parser.add_argument("directory", type=_path, metavar="DIR", help="the data directory")
    parser = commands.add_parser(
        "repair", help="cut a damaged journal at its first damage", allow_abbrev=False
    )
    parser.description = (
        "Cut the journal of a data directory at its first damage. What is cut off is kept in files "
        "beside it. A damaged snapshot is put aside, if the files before it are still there, and "
        "whole. Tells what was lost."
    )
    parser.set_defaults(load=_lazy_action("repair", "maintenance"))
    parser.add_argument("--cut", action="store_true", required=True, help="yes, cut")
    parser.add_argument("directory", type=_path, metavar="DIR", help="the data directory")
    parser = commands.add_parser(
        "restore", help="begin a data directory with a backup", allow_abbrev=False
    )
    parser.description = "Make a data directory that begins with the pairs of a backup."
    parser.set_defaults(load=_lazy_action("restore", "maintenance"))
    parser.add_argument("file", type=_path, metavar="FILE.bck", help="the backup")
    parser.add_argument("directory", type=_path, metavar="DIR", help="a new or empty directory")


def _lazy_action(name: str, module: str | None = None) -> Callable[[], Action]:
    """Return what loads the command `name`, once it is the one: the others do not wait for it."""

    def load() -> Action:
        action: Action = getattr(import_module(f"kvs.cli.{module or name}"), name)
        return action

    return load


def _seconds(text: str) -> float:
    """Take a length of time, as a decimal number of seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.001 <= seconds <= MAX_FSYNC_INTERVAL_SECONDS:
        raise argparse.ArgumentTypeError(
            f"seconds are 0.001 to {MAX_FSYNC_INTERVAL_SECONDS}, not '{text}'"
        )
    return seconds


def _path(text: str) -> str:
    """Take a path; an empty one, as a variable that is not set makes it, leads nowhere."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return text


def _mode(text: str) -> int:
    """Return the permissions of a registration pipe, written as chmod(1) takes them."""
    mode = int(text, 8) if re.fullmatch("0?[0-7]{3}", text) else 0
    if mode not in FIFO_MODES:
        raise argparse.ArgumentTypeError(
            "only the server may read the registration pipe: the mode is 600, 620 (its group may "
            f"connect), 602 (others may) or 622 (both may), not '{text}'"
        )
    return mode


def _add_client_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Open a session with a server. Carries out lines of standard input: SUBSCRIBE [key], "
        "UNSUBSCRIBE [key], DELAY milliseconds, DISCONNECT, and every command of a job but BACKUP. "
        "Prints the server's answers, and (key,value) or (key,DELETED) for each change of a "
        "subscribed key. On a terminal it is a console, with history, completion and help. Ends "
        "with DISCONNECT or the end of the input; with status 1 if the server ends the session."
    )
    parser.set_defaults(load=_lazy_action("client"))
    parser.add_argument(
        "id", metavar="ID", help="the client's name: 1 to 15 letters, digits, - and _"
    )
    parser.add_argument("fifo", type=_path, metavar="FIFO", help="the server's registration pipe")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds,
        help="give up if the server has not answered within so many seconds, 0.001 to 3600 "
        "(default: wait as long as the server is there)",
    )  # fmt: skip


def _positive(text: str) -> int:
    """Take a whole number of 1 or more; the error's text is shown to the person."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= 1):
        raise argparse.ArgumentTypeError(
            f"a whole number from 1 to 999999999 is needed, not '{text}'"
        )
    return int(text)
