r"""The layout of a journal's files, as lines of the command language. Pure.

Invariants:

- Every file is a job: lines of WRITE and DELETE, and comments. Headers and checksums are in
  comments.
- A file begins with a file header, one line: the kind of the file, the version of the format, its
  number, a revision, the ID of the store, the last checksum of the previous segment, and the
  checksum of the line, which ends the line in every version of the format.
- The segments of a journal must be numbered from 1 without a gap. A segment's file header has the
  revision before its first change. A snapshot has its own revision, and the number of the segment
  that continues it.
- Groups follow. A group is a header of `GROUP_HEADER_BYTES` bytes and a body of whole lines, which
  were committed together. The header has the revisions before and after the group, the length and
  the checksum of the body, and the checksum of the header.
- The checksums of headers are chained: the checksum of a group header continues that of the header
  before it. So a group that is missing, moved, or copied from elsewhere is always detected.
- Numbers are decimal, with leading zeros; checksums are CRC-32C (RFC 3720, appendix B.4), in hex.
"""

import re
from dataclasses import dataclass
from enum import Enum
from functools import reduce

from google_crc32c import extend as crc

VERSION = 1
"""Version of the format that this code writes, and the only one that it reads."""

STORE_DIGITS = 16
"""Hex digits of a store's ID."""


class FileKind(Enum):
    """The kind of a file."""

    JOURNAL = b"journal"
    """A segment of the journal: changes."""
    SNAPSHOT = b"snapshot"
    """All pairs and all job records at one revision."""

    @property
    def suffix(self) -> bytes:
        """Suffix of the names of such files."""
        return b"." + self.value


@dataclass(frozen=True, slots=True)
class FileHeader:
    """The first line of a file."""

    kind: FileKind
    number: int
    revision: int
    """Revision before the first change of a segment, or of the contents of a snapshot."""
    store_id: bytes
    """ID of the store that the file belongs to: `STORE_DIGITS` hex digits, random."""
    previous_checksum: int = 0
    """Last checksum of the previous segment; 0 in the first segment and in a snapshot."""

    def encode(self) -> bytes:
        """Return the line."""
        start = b"# kvs %b %d %010d %020d %b %08x " % (
            self.kind.value, VERSION, self.number, self.revision, self.store_id,
            self.previous_checksum,
        )  # fmt: skip
        return start + b"%08x\n" % crc(0, start)

    @property
    def name(self) -> bytes:
        """Name of the file."""
        return file_name(self.kind, self.number)


def file_name(kind: FileKind, number: int) -> bytes:
    """Return the name of the file of this kind and number."""
    return b"%010d%b" % (number, kind.suffix)


_FILE_HEADER = re.compile(
    rb"(# kvs (journal|snapshot) %d ([0-9]{10}) ([0-9]{20}) ([0-9a-f]{16}) ([0-9a-f]{8}) )"
    rb"([0-9a-f]{8})\n" % VERSION
)
_ANY_VERSION = re.compile(rb"# kvs (?:journal|snapshot) ([0-9]{1,9}) ")
_SEALED = re.compile(rb"([^\n]*)([0-9a-f]{8})\n")
FILE_HEADER_BYTES = 128
"""Maximum length of a file header, of any version of the format."""

_NAME = re.compile(rb"([0-9]{10})\.(journal|snapshot)")


class InvalidFileHeader(ValueError):
    """The first line of a file is not a valid file header; the text says why."""


class UnsupportedVersion(InvalidFileHeader):
    """The file header is valid, but of another version of the format."""


def decode_file_header(start: bytes) -> tuple[FileHeader, int, int]:
    """Return the file header at the start of a file, its length in bytes, and its checksum.

    Raises:
        InvalidFileHeader: the file does not begin with a valid file header.
        UnsupportedVersion: the file header is of another version of the format.

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
            f"it has version {int(version[1])} of the format; this kvs reads version {VERSION}"
        )
    match = _FILE_HEADER.match(start)
    if match is None:
        raise InvalidFileHeader("its first line is damaged")
    text, kind, number, revision, store_id, previous, checksum = match.groups()
    if int(checksum, 16) != crc(0, text):
        raise InvalidFileHeader("its first line does not match its checksum")
    header = FileHeader(FileKind(kind), int(number), int(revision), store_id, int(previous, 16))
    return header, match.end(), int(checksum, 16)


def kind_and_number(name: bytes) -> tuple[FileKind, int] | None:
    """Return the kind and the number of the file `name`; None if it is not a journal's."""
    match = _NAME.fullmatch(name)
    return None if match is None else (FileKind(match[2]), int(match[1]))


@dataclass(frozen=True, slots=True)
class GroupHeader:
    """The line before the body of a group."""

    before: int
    """Revision before the group."""
    after: int
    """Revision after the group."""
    length: int
    """Length of the body in bytes."""
    checksum: int
    """Checksum of the body."""


_GROUP = re.compile(rb"(# group ([0-9]{20}) ([0-9]{20}) ([0-9]{12}) ([0-9a-f]{8}) )([0-9a-f]{8})\n")
_TEMPLATE = b"# group %b %b %b %b %b\n" % (
    b"0" * 20, b"0" * 20, b"0" * 12, b"f" * 8, b"f" * 8
)  # fmt: skip
GROUP_HEADER_BYTES = len(_TEMPLATE)

_ALLOWED_BYTES = {ord("0"): b"0123456789", ord("f"): b"0123456789abcdef"}
"""Bytes that a header may have in place of a byte of the template; all others are fixed."""


def encode_group_header(
    previous_checksum: int, before: int, after: int, *body: bytes
) -> tuple[bytes, int]:
    """Return the header of a group whose body is the concatenation of `body`, and its checksum.

    `previous_checksum` is the checksum of the header before it.
    """
    start = b"# group %020d %020d %012d %08x " % (
        before, after, sum(map(len, body)), reduce(crc, body, 0)
    )  # fmt: skip
    checksum = crc(previous_checksum, start)
    return start + b"%08x\n" % checksum, checksum


def decode_group_header(previous_checksum: int, line: bytes) -> tuple[GroupHeader, int] | None:
    """Return the group header in `line`, and its checksum; None if the checksum does not match."""
    match = _GROUP.fullmatch(line)
    if match is None or int(match[6], 16) != crc(previous_checksum, match[1]):
        return None
    before, after, length = (int(match[number]) for number in (2, 3, 4))
    return GroupHeader(before, after, length, int(match[5], 16)), int(match[6], 16)


def claimed_checksum(line: bytes) -> int | None:
    """Return the checksum in a group header, valid or not; None if `line` is not a group header."""
    match = _GROUP.fullmatch(line)
    return None if match is None else int(match[6], 16)


def is_header_prefix(start: bytes) -> bool:
    """Return whether a group header that was written in part may be `start`."""
    return all(
        byte in _ALLOWED_BYTES.get(shape, bytes([shape]))
        for byte, shape in zip(start, _TEMPLATE, strict=False)
    )


def body_matches(header: GroupHeader, body: bytes) -> bool:
    """Return whether the length and the checksum of `body` are those in the header."""
    return len(body) == header.length and bool(crc(0, body) == header.checksum)


_END = re.compile(rb"# end ([0-9]{1,20})\n")


def encode_trailer(pairs: int) -> bytes:
    """Return the body of the last group of a snapshot that has `pairs` pairs."""
    return b"# end %d\n" % pairs


def decode_trailer(body: bytes) -> int | None:
    """Return the number of pairs in the last group of a snapshot; None if `body` is another's."""
    match = _END.fullmatch(body)
    return None if match is None else int(match[1])
