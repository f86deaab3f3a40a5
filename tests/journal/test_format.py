"""The format of a journal's files, to the byte."""

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.journal import format as journal_format
from kvs.journal.format import (
    FileHeader,
    FileKind,
    InvalidFileHeader,
    StoreMark,
    UnsupportedVersion,
)
from tests.journal.builders import OTHER, STORE, JournalBuilder, crc

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
        b"# kvs journal 2 0000000007 00000000000000001234 0123456789abcdef 0000beef be8840ff\n"
    )
    assert file_header.name == b"0000000007.journal"
    body = b"WRITE [(a,1)]\n"
    header, chain, length = journal_format.encode_group_header(
        0xBEEF, 1234, 1235, 1_790_000_000_123, (body[:5], body[5:])
    )
    assert header == (
        b"# group 00000000000000001234 00000000000000001235 000000000014 001790000000123 "
        b"e8c40ea3 146d46b4\n"
    )
    assert (chain, length) == (0x146D46B4, len(body))
    assert len(header) == journal_format.group_header_bytes(2)


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
@given(sums, revisions, revisions, st.integers(0, 10**15 - 1), st.binary(max_size=100))
def test_group_header_needs_the_previous_checksum(
    chain: int, before: int, after: int, time_ms: int, body: bytes
) -> None:
    header, checksum, _ = journal_format.encode_group_header(chain, before, after, time_ms, [body])
    decoded = journal_format.decode_group_header(chain, header)
    expected = journal_format.GroupHeader(before, after, len(body), time_ms, crc(body))
    assert decoded == (expected, checksum)
    assert journal_format.decode_group_header(chain ^ 1, header) is None
    assert all(
        journal_format.is_header_prefix(header[:length]) for length in range(len(header) + 1)
    )


@pytest.mark.parametrize(
    ("now", "time_ms"), [(-5 * 10**9, 0), (1_999_999, 1), (10**22, 10**15 - 1)]
)
def test_time_fits_the_header(monkeypatch: pytest.MonkeyPatch, now: int, time_ms: int) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("time.time_ns", lambda: now)
    assert journal_format.now_ms() == time_ms


def test_group_header_of_version_1_has_no_time() -> None:
    made = JournalBuilder(version=1)
    chain, body = made.chain, b"WRITE [(a,1)]\n"
    header = made.group(body, 1).data[made.ends[0] : -len(body)]
    assert len(header) == journal_format.group_header_bytes(1)
    assert journal_format.decode_group_header(chain, header) == (
        journal_format.GroupHeader(0, 1, len(body), 0, crc(body)),
        made.chain,
    )
    assert journal_format.claimed_checksum(header) == made.chain
    assert all(journal_format.is_header_prefix(header[:n], 1) for n in range(len(header) + 1))


def test_changed_byte_in_a_header_is_detected() -> None:
    file_header = FileHeader(FileKind.SNAPSHOT, 7, 1234, STORE).encode()
    header, *_ = journal_format.encode_group_header(5, 1, 2, 3, [b"x"])
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
        (b"# kvs journal 1 more\n", "its first line is damaged"),
        (b"# kvs journal 3 more\n", "its first line is damaged"),
        (b"# kvs snapshot 17 ", "its first line is damaged"),
        (
            FileHeader(FileKind.JOURNAL, 1, 0, STORE)
            .encode()
            .replace(b"2 0000000001", b"2 0000000002"),
            "its first line does not match its checksum",
        ),
    ],
)
def test_invalid_file_header_has_a_reason(start: bytes, reason: str) -> None:
    with pytest.raises(InvalidFileHeader) as caught:
        journal_format.decode_file_header(start)
    assert str(caught.value) == reason


@pytest.mark.parametrize(("kind", "version"), [("journal", 3), ("snapshot", 17)])
def test_other_version_is_detected_by_its_checksum(kind: str, version: int) -> None:
    line = f"# kvs {kind} {version} whatever ".encode()
    with pytest.raises(UnsupportedVersion) as caught:
        journal_format.decode_file_header(line + b"%08x\nmore" % crc(line))
    assert str(caught.value) == (
        f"it has version {version} of the format; this kvs reads versions 1 and 2"
    )
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


@given(st.binary(min_size=1, max_size=110))
def test_header_prefix_is_recognized(start: bytes) -> None:
    template = b"# group %b %b %b %b ffffffff ffffffff\n" % (
        b"0" * 20,
        b"0" * 20,
        b"0" * 12,
        b"0" * 15,
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


@pytest.mark.parametrize(
    "line",
    [b'WRITE [("k,1)]', b'WRITE [(k,"1")]', b'  WRITE\t[ ( "k,1)]', b'WRITE [(a,b)\t( "k,1)]',
     b'WRITE [(a,b)(k, "x)]', b'DELETE ["k]', b'DELETE[ "k]', b'DELETE [a,"k]'],
)  # fmt: skip
def test_word_of_version_1_that_begins_with_a_quote_is_found(line: bytes) -> None:
    before = b'WRITE [(a",[(")(b,x"y")]\n#>[(a,"b")]\n # job, "x\n'
    assert journal_format.find_old_word(before + line + b"\nDELETE [a]\n") == len(before)


def test_other_quotes_of_version_1_are_not_found() -> None:
    lines = b'WRITE [([(",1)(a(",b")]\nDELETE [[",("]\n#>[(a,"b")]\n\t# WRITE [("k,1)]\n'
    assert journal_format.find_old_word(lines) is None


def test_mark_is_at_the_start_of_a_body() -> None:
    for mark in (StoreMark(STORE), StoreMark(OTHER, is_open=True)):
        line = mark.encode()
        assert journal_format.decode_mark(line + b"WRITE [(a,1)]\n") == mark
        assert journal_format.decode_mark(b"WRITE [(a,1)]\n" + line) is None
        assert journal_format.decode_mark(line[:-1]) is None
