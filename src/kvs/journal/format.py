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
- Groups follow. A group is a header of `group_header_bytes` bytes and a body of whole lines, which
  were committed together. The header has the revisions before and after the group, the length of
  the body, the time, the checksum of the body, and the checksum of the header.
- The checksums of headers are chained: the checksum of a group header continues that of the header
  before it. So a group that is missing, moved, or copied from elsewhere is always detected.
- Numbers are decimal, with leading zeros; checksums are CRC-32C (RFC 3720, appendix B.4), in hex.
- Group headers of version 1 have no time, and a word of version 1 may begin with a quotation mark
  without being quoted (`find_old_word`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from google_crc32c import extend as crc

from kvs.posix import clock

VERSION = 2
"""Version of the format that this code writes."""

READABLE_VERSIONS = (1, VERSION)
"""Versions of the format that this code reads."""

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
    version: int = VERSION
    """Version of the format of the file."""

    def encode(self) -> bytes:
        """Return the line."""
        start = b"# kvs %b %d %010d %020d %b %08x " % (
            self.kind.value, self.version, self.number, self.revision, self.store_id,
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
    rb"(# kvs (journal|snapshot) ([0-9]) ([0-9]{10}) ([0-9]{20}) ([0-9a-f]{16}) ([0-9a-f]{8}) )"
    rb"([0-9a-f]{8})\n"
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
        UnsupportedVersion: the file header is of a version that this code cannot read.

    """
    version = _ANY_VERSION.match(start)
    if version is None:
        raise InvalidFileHeader("it does not begin as a file of a journal does")
    sealed = _SEALED.match(start)
    if (
        int(version[1]) not in READABLE_VERSIONS
        and sealed is not None
        and crc(0, sealed[1]) == int(sealed[2], 16)
    ):
        raise UnsupportedVersion(
            f"it has version {int(version[1])} of the format; this kvs reads versions "
            f"{' and '.join(map(str, READABLE_VERSIONS))}"
        )
    match = _FILE_HEADER.match(start)
    if match is None or int(match[3]) not in READABLE_VERSIONS:
        raise InvalidFileHeader("its first line is damaged")
    text, kind, form, number, revision, store_id, previous, checksum = match.groups()
    if int(checksum, 16) != crc(0, text):
        raise InvalidFileHeader("its first line does not match its checksum")
    header = FileHeader(
        FileKind(kind), int(number), int(revision), store_id, int(previous, 16), int(form)
    )
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
    time_ms: int
    """Time at which the group was written, in milliseconds since the epoch; 0 in version 1. For
    people: nothing that is read depends on it."""
    checksum: int
    """Checksum of the body."""


_GROUP = re.compile(
    rb"(# group ([0-9]{20}) ([0-9]{20}) ([0-9]{12})(?: ([0-9]{15}))? ([0-9a-f]{8}) )([0-9a-f]{8})\n"
)
_MAX_TIME_MS = 10**15 - 1
_START_OF_TEMPLATE = b"# group %b %b %b " % (b"0" * 20, b"0" * 20, b"0" * 12)
_TEMPLATES = {
    1: _START_OF_TEMPLATE + b"ffffffff ffffffff\n",
    2: _START_OF_TEMPLATE + b"000000000000000 ffffffff ffffffff\n",
}
"""The shape of a group header, by the version of the format."""

_ALLOWED_BYTES = {ord("0"): b"0123456789", ord("f"): b"0123456789abcdef"}
"""Bytes that a header may have in place of a byte of the template; all others are fixed."""


def group_header_bytes(version: int) -> int:
    """Return the length of a group header."""
    return len(_TEMPLATES[version])


def now_ms() -> int:
    """Return the time for the header of a group, in milliseconds since the epoch."""
    return min(max(0, clock.now_ms()), _MAX_TIME_MS)


def encode_group_header(
    previous_checksum: int, before: int, after: int, time_ms: int, body: Iterable[bytes]
) -> tuple[bytes, int, int]:
    """Return the header of a group with the pieces `body`, its checksum, and the body's length.

    `previous_checksum` is the checksum of the header before it.
    """
    length = body_checksum = 0
    for piece in body:
        length += len(piece)
        body_checksum = crc(body_checksum, piece)
    start = b"# group %020d %020d %012d %015d %08x " % (
        before, after, length, time_ms, body_checksum,
    )  # fmt: skip
    checksum = crc(previous_checksum, start)
    return start + b"%08x\n" % checksum, checksum, length


def decode_group_header(previous_checksum: int, line: bytes) -> tuple[GroupHeader, int] | None:
    """Return the group header in `line`, and its checksum; None if the checksum does not match."""
    match = _GROUP.fullmatch(line)
    if match is None or int(match[7], 16) != crc(previous_checksum, match[1]):
        return None
    before, after, length, time_ms = (int(match[number] or 0) for number in (2, 3, 4, 5))
    return GroupHeader(before, after, length, time_ms, int(match[6], 16)), int(match[7], 16)


def claimed_checksum(line: bytes) -> int | None:
    """Return the checksum in a group header, valid or not; None if `line` is not a group header."""
    match = _GROUP.fullmatch(line)
    return None if match is None else int(match[7], 16)


def is_header_prefix(start: bytes, version: int = VERSION) -> bool:
    """Return whether a group header that was written in part may be `start`."""
    return all(
        byte in _ALLOWED_BYTES.get(shape, bytes([shape]))
        for byte, shape in zip(start, _TEMPLATES[version], strict=False)
    )


_OLD_WORD = re.compile(
    rb"[ \t]*+(?!#)(?:WRITE[ \t]*+\[[ \t]*+\([ \t]*+|DELETE[ \t]*+\[[ \t]*+|"
    rb'[^\n]*?(?:\)[ \t]*+\(|,)[ \t]*+)"'
)


def find_old_word(body: bytes) -> int | None:
    """Return the offset of a line of version 1 with a word that begins with ``"``, or None.

    Such a word is quoted in version 2, and stands for another one.
    """
    start = 0
    while (quote := body.find(b'"', start)) >= 0:
        line = body.rfind(b"\n", 0, quote) + 1
        start = body.find(b"\n", quote) + 1 or len(body)
        if _OLD_WORD.match(body, line, start):
            return line
    return None


RESTORE = b"# restore\n"
"""Start of the body of a group whose lines are one change together. It may be of any length; no
other group is longer than it must be."""


@dataclass(frozen=True, slots=True)
class StoreMark:
    """The mark of a store: revisions of one mark are one history, see `encode`."""

    mark: bytes
    """`STORE_DIGITS` hex digits, random; at first the ID of the store."""
    is_open: bool = False
    """Whether a process that commits changes before they are synced has not closed the store."""

    def encode(self) -> bytes:
        """Return the line from which on this is the mark, the first one of its group."""
        return b"# mark %b %b\n" % (self.mark, b"open" if self.is_open else b"closed")


_MARK = re.compile(rb"# mark ([0-9a-f]{16}) (open|closed)\n")


def decode_mark(body: bytes) -> StoreMark | None:
    """Return the mark with which the body of a group begins; None if it begins otherwise."""
    match = _MARK.match(body)
    return None if match is None else StoreMark(match[1], match[2] == b"open")


MAX_TRAILER_BYTES = len("# end ") + 20 + 1
"""Maximum length of the body of the last group of a snapshot."""

_END = re.compile(rb"# end ([0-9]{1,20})\n")


def encode_trailer(pairs: int) -> bytes:
    """Return the body of the last group of a snapshot that has `pairs` pairs."""
    return b"# end %d\n" % pairs


def decode_trailer(body: bytes) -> int | None:
    """Return the number of pairs in the last group of a snapshot; None if `body` is another's."""
    match = _END.fullmatch(body)
    return None if match is None else int(match[1])
