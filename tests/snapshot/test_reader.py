"""The reader accepts the exact bytes of a backup, and refuses others with line and reason."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.errors import BackupFormatError, BackupReadError
from kvs.language import grammar
from kvs.language.output_format import format_listing
from kvs.snapshot import reader
from kvs.snapshot.frame import framed
from kvs.snapshot.reader import Backup, load
from tests.strategies import values, words

BAD = [
    (b"(a, 1)", 1, "the last line has no newline"),
    (b"(a, 1)\n(b, 2", 2, "the last line has no newline"),
    (b"(a, 1)\n(b, 2", 2, "cut short"),
    (b"(a, 1)\n\n(b, 2)\n", 2, "expected '(key, value)', not ''"),
    (b"(a, 1)\n(a, 2)\n", 2, "key 'a' is not greater than the key before it, 'a'"),
    (b"(b, 1)\n(a, 2)\n", 2, "key 'a' is not greater than the key before it, 'b'"),
    (b"(a,1)\n", 1, "not '(a,1)'"),
    (b"(a,  1)\n", 1, "expected"),
    (b"(a, 1) \n", 1, "expected"),
    (b"(a, 1)\r\n", 1, r"not '(a, 1)\r'"),
    (b" (a, 1)\n", 1, "expected"),
    (b"(a, KVSERROR)\n", 1, "KVSERROR is reserved"),
    (b"(a, KVSMISSING)\n", 1, "KVSMISSING is reserved"),
    (b"(, 1)\n", 1, "expected"),
    (b"(%b, 1)\n" % (b"k" * 1025), 1, "a key is at most 1024 bytes, this one has 1025"),
    (b'("%b", 1)\n' % (b" " * 1025), 1, "a key is at most 1024 bytes, this one has 1025"),
    (b'("", 1)\n', 1, "a key has at least 1 byte, this one is empty"),
    (b'(a, 1)\n("b", 2)\n', 2, "not in its canonical spelling: '(\"b\", 2)'"),
    (b'(a, "1")\n', 1, "not in its canonical spelling"),
    (b'(a, "\\t ")\n', 1, "not in its canonical spelling"),
    (b'(a, "\\x00")\n', 1, "not in its canonical spelling"),
    (b'(a, "x)\n', 1, "expected"),
    (b'(a, "x"y)\n', 1, "expected"),
    (b'(a, 1)\n("a", 2)\n', 2, "not in its canonical spelling"),
    (b"(a, 1) UNTIL 05\n", 1, "expected"),
    (b"(a, 1) UNTIL 1000000000000000\n", 1, "expected"),
    (b"(a, 1)  UNTIL 5\n", 1, "expected"),
    (b"# end 1 0 00000000\n", 1, "expected '(key, value)', not '# end"),
    (b"(a\0, 1)\n", 1, r"not '(a\x00, 1)'"),
    (b"\n", 1, "expected"),
    (b"x" * 3_000_000, 1, "expected"),
    (b"(a, 1)\n" + b"\0" * 3_000_000, 2, "expected"),
]


@pytest.mark.parametrize(("data", "line", "reason"), BAD)
def test_bytes_that_no_backup_has_are_refused(
    tmp_path: Path, data: bytes, line: int, reason: str
) -> None:
    (tmp_path / "x.bck").write_bytes(data)
    with pytest.raises(BackupFormatError) as caught:
        load(os.fsencode(tmp_path / "x.bck"))
    assert caught.value.line == line
    assert reason in caught.value.reason
    assert str(caught.value).isprintable()


@given(st.dictionaries(words, values, max_size=30))
def test_backup_round_trip(
    tmp_path_factory: pytest.TempPathFactory, pairs: dict[bytes, bytes]
) -> None:
    path = tmp_path_factory.mktemp("backup") / "x.bck"
    path.write_bytes(b"".join(format_listing(sorted(pairs.items()))))
    assert load(os.fsencode(path)).pairs == pairs


def test_backup_of_many_blocks_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = {b"key%06d" % number: b"v%d" % number for number in range(3000)}
    (tmp_path / "x.bck").write_bytes(b"".join(format_listing(sorted(pairs.items()))))
    for block in (1, 7, 100, 4096):
        monkeypatch.setattr(reader, "BLOCK", block)
        assert load(os.fsencode(tmp_path / "x.bck")).pairs == pairs


@given(cut=st.integers(0, 20), block=st.sampled_from([1, 3, 1 << 20]))
def test_backup_cut_within_a_line_is_refused(
    tmp_path_factory: pytest.TempPathFactory, cut: int, block: int
) -> None:
    backup = b"(a, 1)\n(b, 2)\n(c, 3)\n"
    path = tmp_path_factory.mktemp("backup") / "x.bck"
    path.write_bytes(backup[:cut])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "BLOCK", block)
        if cut % 7 == 0:
            assert len(load(os.fsencode(path)).pairs) == cut // 7
        else:
            with pytest.raises(BackupFormatError) as caught:
                load(os.fsencode(path))
            assert caught.value.line == cut // 7 + 1


EDGES = [b"\0", b'\n\r\\"', b"KVSERROR", b"\xff\t ", b"a b", b",)(]["]


@given(
    st.dictionaries(
        st.binary(min_size=1, max_size=20) | st.sampled_from(EDGES),
        st.tuples(
            st.binary(max_size=50) | st.sampled_from(EDGES), st.none() | st.integers(0, 10**15 - 1)
        ),
        max_size=20,
    ),
    st.booleans(),
)
def test_words_of_any_bytes_and_expiries_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    made: dict[bytes, tuple[bytes, int | None]],
    in_frame: bool,
) -> None:
    pairs = {key: value for key, (value, _) in made.items()}
    expiries = {key: until for key, (_, until) in made.items() if until is not None}
    blocks = format_listing(sorted(pairs.items()), expiries)
    path = tmp_path_factory.mktemp("backup") / "x.bck"
    path.write_bytes(b"".join(framed(7, len(pairs), blocks) if in_frame else blocks))
    assert load(os.fsencode(path)) == Backup(pairs, expiries, 7 if in_frame else None)


@pytest.mark.parametrize("piece", [1, 2, 3, 1 << 20])
@given(pairs=st.dictionaries(st.binary(min_size=1), st.binary()), until=st.none() | st.just(5))
def test_long_words_are_read_as_short_ones(
    tmp_path_factory: pytest.TempPathFactory,
    piece: int,
    pairs: dict[bytes, bytes],
    until: int | None,
) -> None:
    expiries = {} if until is None else dict.fromkeys(pairs, until)
    file = tmp_path_factory.mktemp("b") / "x.bck"
    file.write_bytes(b"".join(format_listing(sorted(pairs.items()), expiries)) if pairs else b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "LONG_BYTES", 0)
        patch.setattr(grammar, "PIECE_BYTES", piece)
        assert load(os.fsencode(file)) == Backup(pairs, expiries)


@pytest.mark.parametrize(
    "line",
    [
        b'(a, "")\n', b'("", 1)\n', b'(a, "b")\n', b'(a, "\\x20")\n', b'(a, "\\t")\n',
        b'("b", 1)\n', b"(a, KVSERROR)\n", b'(a, "KVSERROR")\n', b'(a, " \\0001\\n")\n',
        b'(a, " \\x0")\n', b'(a, " \\\\\\"")\n', b'(a, " \\\\\\")\n', b'("a b", "\\r")\n',
    ],
)  # fmt: skip
@pytest.mark.parametrize("piece", [1, 2, 3])
def test_long_line_is_checked_as_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, piece: int
) -> None:
    def loaded() -> Backup | str:
        try:
            return load(os.fsencode(file))
        except BackupFormatError as error:
            return str(error)

    file = tmp_path / "x.bck"
    file.write_bytes(line)
    expected = loaded()
    monkeypatch.setattr(reader, "LONG_BYTES", 0)
    monkeypatch.setattr(grammar, "PIECE_BYTES", piece)
    assert loaded() == expected


def test_longest_words_are_read(tmp_path: Path) -> None:
    pairs = {b"\\" * 1024: b'"' * (1 << 24), b"k" * 1024: b"v" * (1 << 24)}
    (tmp_path / "x.bck").write_bytes(b"".join(format_listing(sorted(pairs.items()))))
    assert load(os.fsencode(tmp_path / "x.bck")).pairs == pairs
    (tmp_path / "x.bck").write_bytes(b"(a, 1)\n(b, %b)\n" % (b"v" * ((1 << 24) + 1)))
    with pytest.raises(BackupFormatError) as caught:
        load(os.fsencode(tmp_path / "x.bck"))
    reason = "a value is at most 16777216 bytes, this one has 16777217"
    assert (caught.value.line, caught.value.reason) == (2, reason)


FRAMED = b"".join(framed(7, 2, [b"(a, 1)\n", b"(b, 2) UNTIL 5\n"]))


@pytest.mark.parametrize("block", [1, 3, 1 << 20])
def test_framed_backup_cut_anywhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(reader, "BLOCK", block)
    for length in range(1, len(FRAMED)):
        (tmp_path / "x.bck").write_bytes(FRAMED[:length])
        with pytest.raises(BackupFormatError):
            load(os.fsencode(tmp_path / "x.bck"))


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (FRAMED + b"(c, 3)\n", 5, "there is more behind the last line, '# end ...'"),
        (FRAMED + b"x", 5, "there is more behind the last line, '# end ...'"),
        (FRAMED[:22], 3, "the last line, '# end ...', is missing: the file was cut short"),
        (FRAMED.replace(b"(a, 1)", b"(a, 2)"), 4, "the lines before do not match the checksum"),
        (FRAMED.replace(b"(a, 1)\n", b""), 3, "there are 1 pairs, not 2"),
        (
            FRAMED.replace(b"backup 2", b"backup 3"),
            1,
            "expected '(key, value)', not '# kvs backup 3'",
        ),
    ],
)
def test_damaged_frame_is_refused(tmp_path: Path, data: bytes, line: int, reason: str) -> None:
    (tmp_path / "x.bck").write_bytes(data)
    with pytest.raises(BackupFormatError) as caught:
        load(os.fsencode(tmp_path / "x.bck"))
    assert (caught.value.line, caught.value.reason) == (line, reason)


def test_unreadable_file_has_a_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in [
        ("none", "No such file"),
        ("", "not a regular file"),
        ("pipe", "not a regular"),
    ]:
        with pytest.raises(BackupReadError, match=reason):
            load(os.fsencode(tmp_path / name))
