r"""The layout of a journal's files, as lines of the command language. Pure.

Laws:

- Every file is a job: lines of WRITE and DELETE, and comments. What proves the lines is in
  comments.
- A file begins with a head, a line that ends in its own checksum in every version of the form: what
  the file is, the version, its number, a revision, the store's mark, the last checksum of the
  segment before. The segments of a journal are numbered from 1 without a gap, and tell the revision
  before their first change. A snapshot has the number of the segment that goes on from it, and the
  revision that it shows.
- Then come groups. A group is a header of `GROUP_HEADER_BYTES` bytes and a body of whole lines,
  committed together. The header has the revisions before and after the group, the length of the
  body, the checksum of the body, and one of the header itself.
- A header's own checksum is chained: it begins with that of the header, or head, before it. So
  groups cannot be lost, moved or taken from elsewhere without being found out.
- Numbers are decimal, with leading zeros; checksums are CRC-32C (RFC 3720, appendix B.4), in hex.
"""

import re
from dataclasses import dataclass
from enum import Enum
from functools import reduce

from google_crc32c import extend as crc

VERSION = 1

STORE_DIGITS = 16


class FileKind(Enum):
    """What a file is."""

    JOURNAL = b"journal"
    """A segment of the journal: changes."""
    SNAPSHOT = b"snapshot"
    """Everything at one revision."""

    @property
    def suffix(self) -> bytes:
        """How the names of such files end."""
        return b"." + self.value


@dataclass(frozen=True, slots=True)
class FileHeader:
    """The first line of a file."""

    kind: FileKind
    number: int
    revision: int
    store: bytes
    """The mark of the store that the file belongs to: 16 hex digits, drawn when it was made."""
    previous: int = 0
    """The last checksum in the segment before, to which a segment belongs; else 0."""

    def encode(self) -> bytes:
        """Return the line."""
        start = b"# kvs %b %d %010d %020d %b %08x " % (
            self.kind.value, VERSION, self.number, self.revision, self.store, self.previous
        )  # fmt: skip
        return start + b"%08x\n" % crc(0, start)

    @property
    def name(self) -> bytes:
        """The name of the file."""
        return file_name(self.kind, self.number)


def file_name(kind: FileKind, number: int) -> bytes:
    """Return the name of a file."""
    return b"%010d%b" % (number, kind.suffix)


_HEAD = re.compile(
    rb"(# kvs (journal|snapshot) %d ([0-9]{10}) ([0-9]{20}) ([0-9a-f]{16}) ([0-9a-f]{8}) )"
    rb"([0-9a-f]{8})\n" % VERSION
)
_ANY_VERSION = re.compile(rb"# kvs (?:journal|snapshot) ([0-9]{1,9}) ")
_SEALED = re.compile(rb"([^\n]*)([0-9a-f]{8})\n")
FILE_HEADER_BYTES = 128
"""No head is longer, of any version."""

_NAME = re.compile(rb"([0-9]{10})\.(journal|snapshot)")


class InvalidFileHeader(ValueError):
    """The first line of a file is no head; its text says why."""


class UnsupportedVersion(InvalidFileHeader):
    """It is one, of another version of the form."""


def decode_file_header(start: bytes) -> tuple[FileHeader, int, int]:
    """Return the head at the start of a file, its length, and its checksum.

    Raises:
        InvalidFileHeader: it is none.
        UnsupportedVersion: it is of another version.

    """
    version = _ANY_VERSION.match(start)
    if version is None:
        raise InvalidFileHeader("it does not begin as a file of a journal does")
    sealed = _SEALED.match(start)
    if (
        int(version[1]) != VERSION
        and sealed is not None
        and crc(0, sealed[1]) == int(sealed[2], 16)
    ):
        raise UnsupportedVersion(
            f"it is of version {int(version[1])} of the form; this kvs reads {VERSION}"
        )
    found = _HEAD.match(start)
    if found is None:
        raise InvalidFileHeader("its first line is damaged")
    text, kind, number, revision, store, previous, checksum = found.groups()
    if int(checksum, 16) != crc(0, text):
        raise InvalidFileHeader("its first line does not match its checksum")
    head = FileHeader(FileKind(kind), int(number), int(revision), store, int(previous, 16))
    return head, found.end(), int(checksum, 16)


def kind_and_number(name: bytes) -> tuple[FileKind, int] | None:
    """Return what the name of a file says; None if it is no file of a journal."""
    found = _NAME.fullmatch(name)
    return None if found is None else (FileKind(found[2]), int(found[1]))


@dataclass(frozen=True, slots=True)
class GroupHeader:
    """What stands before the lines of a group."""

    before: int
    after: int
    length: int
    """Of the body, in bytes."""
    checksum: int
    """Of the body."""


_GROUP = re.compile(rb"(# group ([0-9]{20}) ([0-9]{20}) ([0-9]{12}) ([0-9a-f]{8}) )([0-9a-f]{8})\n")
_TEMPLATE = b"# group %b %b %b %b %b\n" % (
    b"0" * 20, b"0" * 20, b"0" * 12, b"f" * 8, b"f" * 8
)  # fmt: skip
GROUP_HEADER_BYTES = len(_TEMPLATE)

_ALLOWED_BYTES = {ord("0"): b"0123456789", ord("f"): b"0123456789abcdef"}


def encode_group_header(chain: int, before: int, after: int, *body: bytes) -> tuple[bytes, int]:
    """Return the header of a group, and its checksum.

    The header before has the checksum `chain`; the pieces of `body` stand one behind the other.
    """
    start = b"# group %020d %020d %012d %08x " % (
        before, after, sum(map(len, body)), reduce(crc, body, 0)
    )  # fmt: skip
    checksum = crc(chain, start)
    return start + b"%08x\n" % checksum, checksum


def decode_group_header(chain: int, header: bytes) -> tuple[GroupHeader, int] | None:
    """Return a header and its checksum; None if it does not prove itself."""
    found = _GROUP.fullmatch(header)
    if found is None or int(found[6], 16) != crc(chain, found[1]):
        return None
    before, after, length = (int(found[number]) for number in (2, 3, 4))
    return GroupHeader(before, after, length, int(found[5], 16)), int(found[6], 16)


def claimed_checksum(line: bytes) -> int | None:
    """Return the checksum that a header states, proved or not; None if it is no header."""
    found = _GROUP.fullmatch(line)
    return None if found is None else int(found[6], 16)


def is_header_prefix(start: bytes) -> bool:
    """Tell whether `start` may be how a header begins that was not written to its end."""
    return all(
        byte in _ALLOWED_BYTES.get(shape, bytes([shape]))
        for byte, shape in zip(start, _TEMPLATE, strict=False)
    )


def body_matches(header: GroupHeader, body: bytes) -> bool:
    """Tell whether `body` is what the header was written for."""
    return len(body) == header.length and bool(crc(0, body) == header.checksum)


_END = re.compile(rb"# end ([0-9]{1,20})\n")


def encode_trailer(pairs: int) -> bytes:
    """Return the body of the last group of a snapshot of so many pairs."""
    return b"# end %d\n" % pairs


def decode_trailer(body: bytes) -> int | None:
    """Return how many pairs a snapshot has that ends so; None if this is not its end."""
    found = _END.fullmatch(body)
    return None if found is None else int(found[1])
