"""The command line: arguments in, exit status out.

Exit status: 0 success, 1 failure, 2 wrong usage, 128 plus the signal's number after a signal.
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
"""A command of the program: takes the parsed arguments and returns the exit status."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with `arguments`, by default those of the process; return its exit status."""
    _fill_standard_descriptors()
    atexit.register(flush_at_exit)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if ignored, no exit status is reported
    # Forking in a process with threads is safe here: docs/explanation/signals-and-forks.md.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    program = "kvs"
    try:
        options, unknown = _parser().parse_known_args(arguments)
        if options.command is not None:
            program = f"kvs {options.command}"
        if unknown:
            # After an unknown option, its value may be in the place of a known argument.
            wrong = [argument for argument in unknown if argument.startswith("-")] or unknown
            _Parser(prog=program).error(f"unrecognized arguments: {' '.join(wrong)}")
        if options.command is None:
            _Parser(prog=program).error("the following arguments are required: COMMAND")
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
    """Open /dev/null as descriptor 0, 1 or 2 where it is closed.

    Otherwise one of our files could get the number, and a message written to stderr end up in it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


class _Parser(argparse.ArgumentParser):
    """A parser that reports wrong usage in one line."""

    def error(self, message: str) -> NoReturn:
        line = message if message.isprintable() else printable(message)
        print_error(f"{self.prog}: {line}; see '{self.prog} --help'")
        sys.exit(2)

    def _print_message(self, message: str, _file: object = None) -> None:
        """Write help or the version to stdout; a failed write is an error, as for any result."""
        print_result(message.rstrip("\n"))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="kvs",
        description="A key-value store for one machine's programs and scripts.",
        epilog="Exit status: 0 success, 1 failure, 2 wrong usage, 130 or 143 after Ctrl-C or "
        "SIGTERM.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"kvs {VERSION} (engine: {engine_name()})"
    )
    # Not required for argparse, which would not name an unknown option that is given instead.
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_run_arguments(
        commands.add_parser("run", help="run a directory of job files", allow_abbrev=False)
    )
    _add_lint_arguments(commands.add_parser("lint", help="check job files", allow_abbrev=False))
    _add_client_arguments(
        commands.add_parser(
            "client", help="send commands to a server, and watch keys", allow_abbrev=False
        )
    )
    _add_serve_arguments(
        commands.add_parser("serve", help="run jobs and serve sessions", allow_abbrev=False)
    )
    _add_maintenance_commands(commands)
    _add_transfer_commands(commands)
    return parser


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run every job (NAME.job) of a directory against one store, a new one or that of --data. "
        "Jobs start in order of name and run in parallel. NAME.job writes NAME.out, and its n-th "
        "BACKUP writes NAME-n.bck. Exits when all jobs and backups are finished. Ctrl-C or SIGTERM "
        "shuts down gracefully; a second signal exits at once."
    )
    parser.set_defaults(load=_lazy_action("run"))
    parser.add_argument("directory", type=_path, metavar="JOBS_DIR", help="the jobs directory")
    parser.add_argument(
        "--threads", metavar="N", type=_positive, default=usable_cpu_count(),
        help="maximum jobs running in parallel (default: one per core, here %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--backups", metavar="N", type=_positive, default=Settings.backups,
        help="maximum backups written in parallel (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--restore", metavar="FILE.bck", type=_path, help="load the pairs of this backup first"
    )
    _add_data_arguments(parser)
    parser.add_argument(
        "--resume", action="store_true",
        help="resume the jobs that the data directory has a checkpoint of, and skip finished ones",
    )  # fmt: skip
    parser.add_argument(
        "--report",
        metavar="FILE.json",
        type=_path,
        help="write the result of every job to this file, as JSON",
    )
    parser.add_argument(
        "--quiet", action="store_true",
        help="show only errors, and whether the data directory is new or was truncated",
    )  # fmt: skip


def _add_lint_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Report every invalid line: file, line, column (in bytes, from 1), reason, and the line "
        "with a caret under the column. Runs and changes nothing."
    )
    parser.set_defaults(load=_lazy_action("lint"))
    parser.add_argument(
        "paths",
        metavar="JOBS_DIR_OR_FILE",
        type=_path,
        nargs="+",
        help="a directory with job files, or one file",
    )


def _add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run the jobs of a directory, including those added later, and serve clients over named "
        "pipes, all against one store, until SIGTERM or Ctrl-C; a second signal exits at once. "
        "SIGUSR1 ends all sessions and nothing else. Logs to stderr. The positional arguments "
        "are those of a server in C, from a course project, which kvs serve can replace."
    )
    defaults = ServerSettings()
    parser.set_defaults(load=_lazy_action("serve"))
    parser.add_argument("directory", type=_path, metavar="JOBS_DIR", help="the jobs directory")
    parser.add_argument(
        "threads", metavar="MAX_THREADS", type=_positive, help="maximum jobs running in parallel"
    )
    parser.add_argument(
        "backups", metavar="BACKUPS_MAX", type=_positive, help="maximum backups written in parallel"
    )
    parser.add_argument("fifo", type=_path, metavar="FIFO", help="the registration pipe to create")
    parser.add_argument(
        "--max-sessions", metavar="S", type=_positive, default=defaults.sessions,
        help="maximum sessions; further clients wait (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--fifo-mode", metavar="MODE", type=_mode, default=defaults.fifo_mode,
        help="permissions of the registration pipe: 600, or 620, 602 or 622, which allow its "
        "group, others or both to connect, and to execute any command (default: 600)",
    )  # fmt: skip
    parser.add_argument(
        "--outbox-bytes", metavar="N", type=_positive, default=defaults.outbox_bytes,
        help="maximum bytes of unread notifications of a client; a slower client is disconnected "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--outbox-total-bytes", metavar="N", type=_positive, default=defaults.outbox_total_bytes,
        help="the same limit for all clients together (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--reply-total-bytes", metavar="N", type=_positive, default=defaults.reply_total_bytes,
        help="maximum bytes of unread replies to scripts of all clients together; a script waits "
        "for memory, or is stopped (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--restore", metavar="FILE.bck", type=_path, help="load the pairs of this backup first"
    )
    _add_data_arguments(parser)
    parser.add_argument(
        "--once", action="store_true", help="run only the jobs present at the start"
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
        help="store the data in this directory, which is created if needed",
    )
    parser.add_argument(
        "--fsync", choices=FSYNC_MODES,
        help="when changes are synced to disk: before any result that depends on them is released, "
        "within an interval, or when the kernel chooses to (default: always)",
    )  # fmt: skip
    parser.add_argument(
        "--fsync-interval", metavar="SECONDS", type=_seconds,
        help="with --fsync interval: maximum seconds between a change and its sync, 0.001 to 3600 "
        "(default: 1)",
    )  # fmt: skip
    _add_keep_argument(parser)


def _add_keep_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-segments", metavar="N", type=_positive,
        help="segments of the journal that a compaction keeps for kvs history and kvs restore "
        "--at, and what their replay needs (default: 0)",
    )  # fmt: skip


def _add_maintenance_commands(commands: "argparse._SubParsersAction[_Parser]") -> None:
    """Add the commands for a data directory that no process has open."""
    for name, summary in (
        ("check", "verify all checksums of a data directory, and change nothing"),
        ("dump", "write the pairs of a data directory, as SHOW does"),
        ("compact", "rewrite the journal of a data directory as a snapshot"),
    ):
        parser = commands.add_parser(name, help=summary, allow_abbrev=False)
        parser.description = summary[0].upper() + summary[1:] + "."
        parser.set_defaults(load=_lazy_action(name, "maintenance"))
        parser.add_argument("directory", type=_path, metavar="DIR", help="the data directory")
        if name == "compact":
            _add_keep_argument(parser)
    parser = commands.add_parser(
        "history", help="list the changes of a key in a data directory", allow_abbrev=False
    )
    parser.description = (
        "List every change of a key in a data directory, which no process may have open, oldest "
        "first, as far back as the journal reaches. A line has the revision, the time in UTC, who "
        "made the change, and the value, or (removed), separated by tabs. If the journal begins "
        "with a snapshot, the first line is what the snapshot has: a value, or (missing). What is "
        "unknown is -."
    )
    parser.set_defaults(load=_lazy_action("history"))
    parser.add_argument("directory", type=_path, metavar="DIR", help="the data directory")
    parser.add_argument("key", metavar="KEY", help="the key, without quotes of the language")
    parser = commands.add_parser(
        "backup", help="write a backup of a data directory", allow_abbrev=False
    )
    parser.description = (
        "Write all pairs of a data directory to a file from which 'kvs restore' creates a data "
        "directory. The file ends with a checksum, so that damage is found. It is replaced when "
        "it is complete. The data directory is not changed."
    )
    parser.set_defaults(load=_lazy_action("backup", "maintenance"))
    parser.add_argument("directory", type=_path, metavar="DIR", help="the data directory")
    parser.add_argument("file", type=_path, metavar="FILE.bck", help="the file to write")
    parser = commands.add_parser(
        "repair", help="cut a corrupt journal at its first damage", allow_abbrev=False
    )
    parser.description = (
        "Cut the journal of a data directory at its first damage. The bytes cut off are saved in "
        "files beside it. A corrupt snapshot is set aside, if the files before it still exist and "
        "are intact. Reports what was lost."
    )
    parser.set_defaults(load=_lazy_action("repair", "maintenance"))
    parser.usage = "%(prog)s [-h] --cut DIR"
    parser.add_argument("--cut", action="store_true", help="confirm the cut")
    parser.add_argument("directory", type=_path, metavar="DIR", help="the data directory")
    parser = commands.add_parser(
        "restore", help="create a data directory from a backup, or from the past of another one",
        allow_abbrev=False,
    )  # fmt: skip
    parser.description = (
        "Create a data directory that holds the pairs of a backup; or, with --at, the pairs that "
        "another data directory, which no process may have open, held in the past."
    )
    parser.set_defaults(load=_lazy_action("restore", "maintenance"))
    parser.add_argument(
        "--at", metavar="REVISION_OR_TIME", type=_moment,
        help="right after this revision, or right before the first change after this time: ISO "
        "8601, in local time unless it ends in Z or an offset, or milliseconds since the epoch and "
        "ms, such as 1790000000000ms",
    )  # fmt: skip
    parser.add_argument(
        "file", type=_path, metavar="SOURCE", help="the backup, or with --at a data directory"
    )
    parser.add_argument("directory", type=_path, metavar="DIR", help="a new or empty directory")


def _add_transfer_commands(commands: "argparse._SubParsersAction[_Parser]") -> None:
    """Add the commands that compare pairs, and exchange them with other programs."""
    parser = commands.add_parser(
        "diff", help="compare backups and data directories", allow_abbrev=False
    )
    parser.description = (
        "Write the lines of WRITE and DELETE that turn OLD into NEW, in order of the keys, so that "
        "a job of them makes the changes. Each is a backup, or a data directory that no process "
        "may have open. Exit status: 0 equal, 1 different, 2 an error."
    )
    parser.set_defaults(load=_lazy_action("diff"))
    for name, summary in (("old", "the pairs before"), ("new", "the pairs after")):
        parser.add_argument(
            name, type=_path, metavar=name.upper(), help=f"{summary}: a backup or a data directory"
        )
    parser = commands.add_parser(
        "import", help="write the pairs of a CSV, JSON or KEY=VALUE file", allow_abbrev=False
    )
    parser.description = (
        "Write the pairs of a file into a data directory, which is created if it does not exist "
        "and which no process may have open. A regular file is checked first, and nothing is "
        "imported if a line is invalid. Other input is imported as it arrives, up to the first "
        "invalid line. The pairs are written in changes of at most 256 pairs and about 1 MiB."
    )
    parser.set_defaults(load=_lazy_action("import_", "transfer"))
    parser.add_argument("file", type=_path, metavar="FILE", help="the file; - is standard input")
    parser.add_argument("directory", type=_path, metavar="DIR", help="the data directory")
    _add_format_argument(parser)
    parser = commands.add_parser(
        "export", help="write all pairs as CSV, JSON or KEY=VALUE", allow_abbrev=False
    )
    parser.description = (
        "Write all pairs of a data directory, which no process may have open, in order of the "
        "keys. A file is replaced when it is complete. Only jsonl keeps the times at which pairs "
        "expire."
    )
    parser.set_defaults(load=_lazy_action("export", "transfer"))
    parser.add_argument("directory", type=_path, metavar="DIR", help="the data directory")
    parser.add_argument(
        "file", type=_path, metavar="FILE", nargs="?", default="-",
        help="the file; - is standard output (default: -)",
    )  # fmt: skip
    _add_format_argument(parser)


def _add_format_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format", choices=("csv", "jsonl", "env"),
        help="csv: rows of key and value; jsonl: an object with key and value on each line; env: "
        "KEY=VALUE (default: by the end of FILE: .csv, .jsonl or .ndjson, .env or .conf; "
        "required where that is none of these, as for -)",
    )  # fmt: skip


def _lazy_action(name: str, module: str | None = None) -> Callable[[], Action]:
    """Return a function that imports and returns the command `name`.

    Importing only the command that runs makes every command start faster.
    """

    def load() -> Action:
        action: Action = getattr(import_module(f"kvs.cli.{module or name}"), name)
        return action

    return load


def _seconds(text: str) -> float:
    """Return a duration in seconds from a decimal number."""
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
    """Return a path; refuse an empty one, such as an unset variable of the shell gives."""
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
        "Open a session with a server. Executes the lines of standard input: SUBSCRIBE [key], "
        "UNSUBSCRIBE [key], DELAY milliseconds, DISCONNECT, and every command of a job but BACKUP. "
        "Prints the server's replies, and (key,value) or (key,DELETED) for each change of a "
        "subscribed key. On a terminal it is a console with history, completion and help. Exits at "
        "DISCONNECT or the end of the input; with status 1 if the server ends the session."
    )
    parser.set_defaults(load=_lazy_action("client"))
    parser.add_argument(
        "id", metavar="ID", help="the client's ID: 1 to 15 letters, digits, - and _"
    )
    parser.add_argument("fifo", type=_path, metavar="FIFO", help="the server's registration pipe")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds,
        help="maximum seconds until the server answers the connect, 0.001 to 3600 (default: wait "
        "as long as the server exists)",
    )  # fmt: skip


def _moment(text: str) -> tuple[str, int]:
    """Return ``revision`` or ``time``, and the revision or the milliseconds since the epoch."""
    if match := re.fullmatch("([0-9]{1,99})(ms)?", text):
        return "time" if match[2] else "revision", int(match[1])
    from datetime import UTC, datetime, timedelta

    try:
        since_epoch = datetime.fromisoformat(text).astimezone(UTC) - datetime.fromtimestamp(0, UTC)
        return "time", since_epoch // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            "a revision or a time is needed, such as 17, 2026-09-21T14:00:00Z or "
            f"1790000000000ms, not '{text}'"
        ) from None


def _positive(text: str) -> int:
    """Return a whole number of 1 or more."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= 1):
        raise argparse.ArgumentTypeError(
            f"a whole number from 1 to 999999999 is needed, not '{text}'"
        )
    return int(text)
