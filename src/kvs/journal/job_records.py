r"""Job records: how far each job has run, as comments in the journal. Pure.

Invariants:

- A job must have a record with a number before it runs: its name, its directory, and the version of
  its file.
- A checkpoint must have the output since the previous checkpoint. So the contents of the output
  file are known, however much of them has reached the disk.
- A checkpoint must be in one group with the changes before it: both are durable, or neither.

The lines, each of them a comment of the command language::

    # job 7 is 612e6a6f62 64512 1234 64512 5678 46 1700000000000000000
    # job 7 at 123 18
    #>[(a,1)(b,2)]
    # job 7 wrote 1
    # job 7 done

- ``is``: job 7 has started. Its name in hex; filesystem and inode of its directory; filesystem,
  inode, size, and modification time in nanoseconds of its file.
- ``at``: a checkpoint. The job has executed its first 123 bytes, and written 18 bytes of output
  since the previous checkpoint, which follow, one comment to a line.
- ``wrote``: backup 1 of the job is on disk.
- ``done``: the job is done, and all of its output is on disk.
- ``forgotten``: the record was removed.

A snapshot of the store has ``from`` in place of ``at``. Its last number is the size in bytes of the
output that was synced; the output after it follows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from kvs.concurrency.atomic import Step, atomically

_JOB = b"# job "
"""Start of the lines of a record."""

_OUTPUT = b"#>"
"""Start of the lines of output."""

MAX_RECORD_BYTES = 512
"""Maximum bytes of the lines of one job without backups, its name in hex and its output excluded;
also of the line of one backup."""


class JobKey(NamedTuple):
    """The identity of a job: its name and its directory."""

    name: bytes
    """File name of the job without its suffix."""
    filesystem: int
    """Filesystem of the directory."""
    inode: int
    """Inode of the directory."""


class FileVersion(NamedTuple):
    """The version of a job's file: its identity, size and modification time."""

    filesystem: int
    inode: int
    size: int
    modified: int
    """Modification time in nanoseconds."""


@dataclass(slots=True)
class JobRecord:
    """How far one job has run."""

    number: int
    key: JobKey
    version: FileVersion
    """Version of the job's file when the job started."""
    offset: int = 0
    """Bytes of the job executed."""
    line: int = 1
    """Number of the line at which the call began that executes the job, for the origin of its
    changes. Set by the thread of the job."""
    synced: int = 0
    """Bytes of output that are on disk."""
    output: list[bytes] = field(default_factory=list)
    """Output after the first `synced` bytes."""
    backups: set[int] = field(default_factory=set)
    """Numbers of the backups that are on disk."""
    done: bool = False
    recovered: bool = False
    """Whether the record was read from a data directory and no run has looked it up since."""

    @property
    def written(self) -> int:
        """Bytes of output written."""
        return self.synced + sum(map(len, self.output))

    def matches(self, version: FileVersion) -> bool:
        """Return whether `version` is the file's version; for a done job, by size and time only."""
        first = 2 if self.done else 0
        return self.version[first:] == version[first:]

    def synced_to(self, size: int) -> None:
        """Note that the first `size` bytes of the output are on disk."""
        rest = b"".join(self.output)[size - self.synced :]
        self.output = [rest] if rest else []
        self.synced = size

    def advance(self, offset: int, output: bytes) -> None:
        """Move the checkpoint to `offset`; `output` is the output since the previous checkpoint."""
        atomically(*self.advance_steps(offset, output))

    def advance_steps(self, offset: int, output: bytes) -> list[Step]:
        """Return the steps of `advance`, for `kvs.concurrency.atomic`."""
        steps: list[Step] = [partial(setattr, self, "offset", offset)]
        return [*steps, partial(self.output.append, output)] if output else steps

    def finished(self) -> None:
        """Note that the job is done, and all of its output on disk."""
        self.done = True
        self.synced = self.written
        self.output = []


class JobRegistry:
    """The records of all jobs, one to a key. Locking: the caller's."""

    def __init__(self) -> None:
        self._by_number: dict[int, JobRecord] = {}
        self._by_key: dict[JobKey, JobRecord] = {}
        self._last_number = 0

    def begin(self, key: JobKey, version: FileVersion) -> JobRecord:
        """Add the record of a job that starts; return it. It replaces one with the same key."""
        return self._add(JobRecord(self._last_number + 1, key, version))

    def find(self, key: JobKey) -> JobRecord | None:
        """Return the record of a job; None if there is none."""
        return self._by_key.get(key)

    def __contains__(self, number: int) -> bool:
        """Return whether there is a record with this number."""
        return number in self._by_number

    def __getitem__(self, number: int) -> JobRecord:
        """Return the record with this number."""
        return self._by_number[number]

    def forget(self, job: JobRecord) -> None:
        """Remove a record."""
        self._by_number.pop(job.number, None)
        if self._by_key.get(job.key) is job:
            del self._by_key[job.key]

    def in_directory(self, filesystem: int, inode: int) -> list[JobRecord]:
        """Return the records of the jobs of a directory."""
        return [job for key, job in self._by_key.items() if key[1:] == (filesystem, inode)]

    def _add(self, job: JobRecord) -> JobRecord:
        previous = self._by_key.get(job.key)
        if previous is not None:
            self.forget(previous)
        self._by_number[job.number] = self._by_key[job.key] = job
        self._last_number = max(self._last_number, job.number)
        return job

    # Lines of the journal.

    def replay(self, lines: bytes) -> None:
        """Apply the records among the lines of a group."""
        remaining = _lines_with_records(lines)
        for line in remaining:
            if line.startswith(_JOB):
                self._replay_record(line.split()[2:], remaining)

    def _replay_record(self, words: list[bytes], following: Iterator[bytes]) -> None:
        number, kind, *arguments = words
        if kind == b"is":
            name, *numbers = arguments
            filesystem, inode, *version = map(int, numbers)
            key = JobKey(bytes.fromhex(name.decode().strip("-")), filesystem, inode)
            self._add(JobRecord(int(number), key, FileVersion(*version), recovered=True))
        job = self._by_number.get(int(number))
        if job is None:  # replaced by a later record with the same key
            return
        if kind == b"at":
            job.advance(int(arguments[0]), _decode_output(int(arguments[1]), following))
        elif kind == b"from":
            job.synced = int(arguments[2])
            job.advance(int(arguments[0]), _decode_output(int(arguments[1]), following))
        elif kind == b"wrote":
            job.backups.add(int(arguments[0]))
        elif kind == b"done":
            job.finished()
        elif kind == b"forgotten":
            self.forget(job)

    def max_dump_bytes(self) -> int:
        """Return an upper bound of the bytes of `lines`. Any thread."""
        bound = 0
        for job in list(self._by_number.values()):
            bound += MAX_RECORD_BYTES + 2 * len(job.key.name) + MAX_RECORD_BYTES * len(job.backups)
            bound += sum(len(text) + 2 * text.count(b"\n") for text in list(job.output))
        return bound

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of all records, for a snapshot of the store."""
        for job in self._by_number.values():
            yield encode_started(job)
            for number in sorted(job.backups):
                yield encode_backup_written(job.number, number)
            yield _encode_checkpoint(job.number, job.offset, b"".join(job.output), job.synced)
            if job.done:
                yield encode_done(job.number)


def _lines_with_records(lines: bytes) -> Iterator[bytes]:
    """Yield every record among `lines` with its output, and few other lines; copy no others."""
    if b"#" not in lines:  # most groups; a search for one byte is several times as fast
        return
    end = -1
    while True:
        if not lines.startswith((_JOB, _OUTPUT), end + 1):
            end = lines.find(b"\n" + _JOB, max(end, 0))
            if end < 0:
                return
        start = end + 1
        end = lines.find(b"\n", start)
        yield lines[start:end]


def encode_started(job: JobRecord) -> bytes:
    """Return the line of the start of `job`."""
    numbers = (job.key.filesystem, job.key.inode, *job.version)
    words = b" ".join(b"%d" % number for number in numbers)
    # A name may be empty; a word of the line may not.
    return b"# job %d is %b %b\n" % (job.number, job.key.name.hex().encode() or b"-", words)


def encode_progress(number: int, offset: int, output: bytes) -> bytes:
    """Return the lines of a checkpoint; `output` is the output since the previous checkpoint."""
    return _encode_checkpoint(number, offset, output, None)


def encode_backup_written(number: int, backup: int) -> bytes:
    """Return the line that a backup of a job is on disk."""
    return b"# job %d wrote %d\n" % (number, backup)


def encode_done(number: int) -> bytes:
    """Return the line that a job is done, and all of its output on disk."""
    return b"# job %d done\n" % number


def encode_forgotten(number: int) -> bytes:
    """Return the line that the record of a job was removed."""
    return b"# job %d forgotten\n" % number


def _encode_checkpoint(number: int, offset: int, output: bytes, synced: int | None) -> bytes:
    words = b"at %d %d" % (offset, len(output))
    if synced is not None:
        words = b"from %d %d %d" % (offset, len(output), synced)
    return b"# job %d %b\n" % (number, words) + _encode_output(output)


def _encode_output(output: bytes) -> bytes:
    """Return a comment for each line of `output`, which ends with a newline or is empty."""
    return output and _OUTPUT + output[:-1].replace(b"\n", b"\n" + _OUTPUT) + b"\n"


def _decode_output(size: int, following: Iterator[bytes]) -> bytes:
    """Return `size` bytes of output from the lines that follow a checkpoint, and consume these."""
    parts: list[bytes] = []
    while size > 0:
        line = next(following)[len(_OUTPUT) :] + b"\n"
        parts.append(line)
        size -= len(line)
    return b"".join(parts)
