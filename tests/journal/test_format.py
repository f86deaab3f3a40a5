"""The format of a journal's files, to the byte."""

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.journal import format as journal_format
from kvs.journal.format import FileHeader, FileKind, InvalidFileHeader, UnsupportedVersion
from tests.journal.builders import STORE, JournalBuilder, crc

numbers = st.integers(0, 10**10 - 1)
revisions = st.integers(0, 10**20 - 1)
store_ids = st.binary(min_size=8, max_size=8).map(lambda raw: raw.hex().encode())
sums = st.integers(0, 2**32 - 1)
headers = st.builds(FileHeader, st.sampled_from(FileKind), numbers, revisions, store_ids, sums)


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_checksums_are_those_of_rfc_3720(data: bytes, checksum: int) -> None:
    assert google_crc32c.value(data) == checksum
    assert crc(data) == checksum


def test_headers_have_exact_bytes() -> None:
    file_header = FileHeader(FileKind.JOURNAL, 7, 1234, STORE, 0xBEEF)
    assert file_header.encode() == (
        b"# kvs journal 1 0000000007 00000000000000001234 0123456789abcdef 0000beef 2044ac12\n"
    )
    assert file_header.name == b"0000000007.journal"
    body = b"WRITE [(a,1)]\n"
    header, chain = journal_format.encode_group_header(0xBEEF, 1234, 1235, body)
    assert header == (
        b"# group 00000000000000001234 00000000000000001235 000000000014 e8c40ea3 0746a579\n"
    )
    assert chain == 0x0746A579
    assert len(header) == journal_format.GROUP_HEADER_BYTES


@given(headers)
def test_file_header_round_trip(file_header: FileHeader) -> None:
    line = file_header.encode()
    made = JournalBuilder(
        file_header.kind.name.lower(),
        file_header.number,
        file_header.revision,
        file_header.store_id,
        file_header.previous_checksum,
    )
    assert line == made.data
    assert file_header.name == made.name.encode()
    assert journal_format.decode_file_header(line + b"# group ...") == (
        file_header,
        len(line),
        made.chain,
    )
    assert len(line) <= journal_format.FILE_HEADER_BYTES
    assert journal_format.kind_and_number(file_header.name) == (
        file_header.kind,
        file_header.number,
    )


@pytest.mark.slow
@given(sums, revisions, revisions, st.binary(max_size=100))
def test_group_header_needs_the_previous_checksum(
    chain: int, before: int, after: int, body: bytes
) -> None:
    header, checksum = journal_format.encode_group_header(chain, before, after, body)
    decoded = journal_format.decode_group_header(chain, header)
    assert decoded == (journal_format.GroupHeader(before, after, len(body), crc(body)), checksum)
    assert journal_format.decode_group_header(chain ^ 1, header) is None
    assert journal_format.body_matches(decoded[0], body)
    assert not journal_format.body_matches(decoded[0], body + b"x")
    assert all(
        journal_format.is_header_prefix(header[:length]) for length in range(len(header) + 1)
    )


def test_changed_byte_in_a_header_is_detected() -> None:
    file_header = FileHeader(FileKind.SNAPSHOT, 7, 1234, STORE).encode()
    header, _ = journal_format.encode_group_header(5, 1, 2, b"x")
    for at in range(len(file_header)):
        for byte in set(range(256)) - {file_header[at]}:
            with pytest.raises(InvalidFileHeader):
                journal_format.decode_file_header(
                    file_header[:at] + bytes([byte]) + file_header[at + 1 :]
                )
    for at in range(len(header)):
        for byte in set(range(256)) - {header[at]}:
            assert (
                journal_format.decode_group_header(
                    5, header[:at] + bytes([byte]) + header[at + 1 :]
                )
                is None
            )


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"", "it does not begin as a file of a journal does"),
        (b"PK\3\4", "it does not begin as a file of a journal does"),
        (b"# kvs journal 1 00", "its first line is damaged"),
        (b"# kvs journal 2 more\n", "its first line is damaged"),
        (b"# kvs snapshot 17 ", "its first line is damaged"),
        (
            FileHeader(FileKind.JOURNAL, 1, 0, STORE)
            .encode()
            .replace(b"1 0000000001", b"1 0000000002"),
            "its first line does not match its checksum",
        ),
    ],
)
def test_invalid_file_header_has_a_reason(start: bytes, reason: str) -> None:
    with pytest.raises(InvalidFileHeader) as caught:
        journal_format.decode_file_header(start)
    assert str(caught.value) == reason


@pytest.mark.parametrize(("kind", "version"), [("journal", 2), ("snapshot", 17)])
def test_other_version_is_detected_by_its_checksum(kind: str, version: int) -> None:
    line = f"# kvs {kind} {version} whatever ".encode()
    with pytest.raises(UnsupportedVersion) as caught:
        journal_format.decode_file_header(line + b"%08x\nmore" % crc(line))
    assert str(caught.value) == f"it has version {version} of the format; this kvs reads version 1"
    with pytest.raises(InvalidFileHeader) as damaged:
        journal_format.decode_file_header(line + b"%08x\nmore" % (crc(line) ^ 1))
    assert str(damaged.value) == "its first line is damaged"


@pytest.mark.parametrize(
    "name",
    [b"1.journal", b"00000000001.journal", b"0000000001.Journal", b"0000000001.journal.cut",
     b"0000000001.snapshot\n", b".kvs.lock", b"x0000000001.journal"],
)  # fmt: skip
def test_other_file_names_are_ignored(name: bytes) -> None:
    assert journal_format.kind_and_number(name) is None


@given(st.binary(min_size=1, max_size=90))
def test_header_prefix_is_recognized(start: bytes) -> None:
    template = (
        b"# group " + b"0" * 20 + b" " + b"0" * 20 + b" " + b"0" * 12 + b" ffffffff ffffffff\n"
    )
    fits = all(
        byte in (b"0123456789" if place == ord("0") else b"0123456789abcdef")
        if place in b"0f"
        else byte == place
        for byte, place in zip(start, template, strict=False)
    )
    assert journal_format.is_header_prefix(start) == fits


@given(st.integers(0, 10**20 - 1))
def test_trailer_round_trip(pairs: int) -> None:
    assert journal_format.encode_trailer(pairs) == b"# end %d\n" % pairs
    assert journal_format.decode_trailer(journal_format.encode_trailer(pairs)) == pairs
    assert journal_format.decode_trailer(b"# end %d\nWRITE [(a,1)]\n" % pairs) is None
