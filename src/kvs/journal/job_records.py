r"""How far jobs came, as comments in the journal. Pure.

Laws:

- A job is noted with a number when it begins: by its name, its directory, and what its file was.
- Each note of how far it came has the output that it wrote since the note before. So what its
  output file must hold is known, whatever of it has reached the disk.
- A note stands in one group with the changes that it tells of: both are durable, or neither.

The lines, each of them a comment of the command language::

    # job 7 is 612e6a6f62 64512 1234 64512 5678 46 1700000000000000000
    # job 7 at 123 18
    #>[(a,1)(b,2)]
    # job 7 wrote 1
    # job 7 done

A job is known by its name in hex, filesystem and inode of its directory, and those, size and
time of change of its file, in nanoseconds. ``at``: it has carried out its first 123 bytes, and
written 18 bytes since the note before, which follow, a line for each line of them.
``encode_snapshot_written``: its first snapshot is on disk. In a snapshot of the store ``from``
stands in the place of ``at``, with how much of the output was synced before what follows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from kvs.concurrency.atomic import Step, atomically

_JOB = b"# job "
_OUTPUT = b"#>"

MAX_RECORD_BYTES = 512
"""The notes of a job take no more, but for its name in hex and its output."""


class JobKey(NamedTuple):
    """Which job it is: its name in its directory."""

    name: bytes
    """Without its ending."""
    filesystem: int
    inode: int
    """Of the directory."""


class FileVersion(NamedTuple):
    """What a job's file was when the job began."""

    filesystem: int
    inode: int
    size: int
    modified: int
    """In nanoseconds."""


@dataclass(slots=True)
class JobRecord:
    """What is known of a job."""

    number: int
    key: JobKey
    version: FileVersion
    offset: int = 0
    """How much of it was carried out, in bytes."""
    synced: int = 0
    """How much of its output is known to be on disk, in bytes."""
    output: list[bytes] = field(default_factory=list)
    """The output behind that."""
    snapshots: set[int] = field(default_factory=set)
    """The numbers of those that are on disk."""
    done: bool = False
    recovered: bool = False
    """It was read from a data directory, and nobody has asked for it since."""

    @property
    def written(self) -> int:
        """How long its output is, in bytes."""
        return self.synced + sum(map(len, self.output))

    def matches(self, version: FileVersion) -> bool:
        """Tell whether a file is what it was: for a job that is done, its size and time tell."""
        return self.version[2 if self.done else 0 :] == version[2 if self.done else 0 :]

    def synced_to(self, size: int) -> None:
        """Take in that the first `size` bytes of its output are on disk."""
        rest = b"".join(self.output)[size - self.synced :]
        self.output = [rest] if rest else []
        self.synced = size

    def advance(self, offset: int, output: bytes) -> None:
        """Take in how far it came, and what it wrote since it was last noted."""
        atomically(*self.advance_steps(offset, output))

    def advance_steps(self, offset: int, output: bytes) -> list[Step]:
        """Return the steps of `encode_progress`."""
        steps: list[Step] = [partial(setattr, self, "offset", offset)]
        return [*steps, partial(self.output.append, output)] if output else steps

    def finished(self) -> None:
        """Take in that it is done, and all of its output on disk."""
        self.done = True
        self.synced = self.written
        self.output = []


class JobRegistry:
    """All jobs that are known, the last of each place. Not thread-safe: its owner locks."""

    def __init__(self) -> None:
        self._by_number: dict[int, JobRecord] = {}
        self._by_key: dict[JobKey, JobRecord] = {}
        self._last = 0

    def begin(self, place: JobKey, version: FileVersion) -> JobRecord:
        """Note that a job begins, which replaces what was known of its place."""
        return self._add(JobRecord(self._last + 1, place, version))

    def find(self, place: JobKey) -> JobRecord | None:
        """Return what is known of a job."""
        return self._by_key.get(place)

    def __contains__(self, number: int) -> bool:
        """Tell whether the job with this number is known."""
        return number in self._by_number

    def __getitem__(self, number: int) -> JobRecord:
        """Return the job with this number."""
        return self._by_number[number]

    def forget(self, job: JobRecord) -> None:
        """Let nothing be known of it any more."""
        self._by_number.pop(job.number, None)
        if self._by_key.get(job.key) is job:
            del self._by_key[job.key]

    def in_directory(self, filesystem: int, inode: int) -> list[JobRecord]:
        """Return the jobs that are known of a directory."""
        return [job for place, job in self._by_key.items() if place[1:] == (filesystem, inode)]

    def _add(self, job: JobRecord) -> JobRecord:
        before = self._by_key.get(job.key)
        if before is not None:
            self.forget(before)
        self._by_number[job.number] = self._by_key[job.key] = job
        self._last = max(self._last, job.number)
        return job

    # As lines.

    def replay(self, lines: bytes) -> None:
        """Take in the notes among the lines of a group."""
        if _JOB not in lines:
            return
        notes = iter(lines.split(b"\n"))
        for line in notes:
            if line.startswith(_JOB):
                self._replay_record(line.split()[2:], notes)

    def _replay_record(self, words: list[bytes], following: Iterator[bytes]) -> None:
        number, what, *rest = words
        if what == b"is":
            name, *numbers = rest
            filesystem, inode, *version = map(int, numbers)
            place = JobKey(bytes.fromhex(name.decode().strip("-")), filesystem, inode)
            self._add(JobRecord(int(number), place, FileVersion(*version), recovered=True))
        job = self._by_number.get(int(number))
        if job is None:  # another began in its place
            return
        if what == b"at":
            job.advance(int(rest[0]), _output(int(rest[1]), following))
        elif what == b"from":
            job.synced = int(rest[2])
            job.advance(int(rest[0]), _output(int(rest[1]), following))
        elif what == b"wrote":
            job.snapshots.add(int(rest[0]))
        elif what == b"done":
            job.finished()
        elif what == b"forgotten":
            self.forget(job)

    def max_dump_bytes(self) -> int:
        """Return an upper bound of the bytes of `lines`; any thread may call it."""
        bound = 0
        for job in list(self._by_number.values()):
            bound += (
                MAX_RECORD_BYTES + 2 * len(job.key.name) + MAX_RECORD_BYTES * len(job.snapshots)
            )
            bound += sum(len(text) + 2 * text.count(b"\n") for text in list(job.output))
        return bound

    def lines(self) -> Iterator[bytes]:
        """Yield lines that tell all that is known."""
        for job in self._by_number.values():
            yield encode_started(job)
            for number in sorted(job.snapshots):
                yield encode_snapshot_written(job.number, number)
            yield _progress(job.number, job.offset, b"".join(job.output), job.synced)
            if job.done:
                yield encode_done(job.number)


def encode_started(job: JobRecord) -> bytes:
    """Return the note that `job` begins."""
    numbers = (job.key.filesystem, job.key.inode, *job.version)
    words = b" ".join(b"%d" % number for number in numbers)
    # A name may be empty, and a word of a note may not.
    return b"# job %d is %b %b\n" % (job.number, job.key.name.hex().encode() or b"-", words)


def encode_progress(number: int, offset: int, output: bytes) -> bytes:
    """Return the note that a job came to `offset` and has written `output` since its last note."""
    return _progress(number, offset, output, None)


def encode_snapshot_written(number: int, snapshot: int) -> bytes:
    """Return the note that a snapshot of a job is on disk."""
    return b"# job %d wrote %d\n" % (number, snapshot)


def encode_done(number: int) -> bytes:
    """Return the note that a job is done, and all of its output on disk."""
    return b"# job %d done\n" % number


def encode_forgotten(number: int) -> bytes:
    """Return the note that nothing of a job is to be known any more."""
    return b"# job %d forgotten\n" % number


def _progress(number: int, offset: int, output: bytes, synced: int | None) -> bytes:
    note = b"at %d %d" % (offset, len(output))
    if synced is not None:
        note = b"from %d %d %d" % (offset, len(output), synced)
    return b"# job %d %b\n" % (number, note) + _as_comments(output)


def _as_comments(output: bytes) -> bytes:
    """Return a comment for each line of `output`, which ends with a newline or is empty."""
    return output and _OUTPUT + output[:-1].replace(b"\n", b"\n" + _OUTPUT) + b"\n"


def _output(size: int, following: Iterator[bytes]) -> bytes:
    """Take as many of the lines that follow a note as hold `size` bytes of output."""
    parts: list[bytes] = []
    while size > 0:
        line = next(following)[len(_OUTPUT) :] + b"\n"
        parts.append(line)
        size -= len(line)
    return b"".join(parts)
