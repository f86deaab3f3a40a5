"""The reader accepts the exact bytes of a backup, and refuses others with line and reason."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.errors import BackupFormatError, BackupReadError
from kvs.language.output_format import format_listing
from kvs.snapshot import reader
from kvs.snapshot.reader import load
from tests.strategies import values, words

BAD = [
    (b"(a, 1)", 1, "the last line has no newline"),
    (b"(a, 1)\n(b, 2", 2, "the last line has no newline"),
    (b"(a, 1)\n(b, 2", 2, "cut short"),
    (b"(a, 1)\n\n(b, 2)\n", 2, "expected '(key, value)', not ''"),
    (b"(a, 1)\n(a, 2)\n", 2, "key 'a' does not ascend from 'a'"),
    (b"(b, 1)\n(a, 2)\n", 2, "key 'a' does not ascend from 'b'"),
    (b"(a,1)\n", 1, "not '(a,1)'"),
    (b"(a,  1)\n", 1, "expected"),
    (b"(a, 1) \n", 1, "expected"),
    (b"(a, 1)\r\n", 1, r"not '(a, 1)\r'"),
    (b" (a, 1)\n", 1, "expected"),
    (b"(a, KVSERROR)\n", 1, "KVSERROR is reserved"),
    (b"(a, KVSMISSING)\n", 1, "KVSMISSING is reserved"),
    (b"(, 1)\n", 1, "expected"),
    (b"(%b, 1)\n" % (b"k" * 41), 1, "expected"),
    (b"(a, %b)\n" % (b"v" * 41), 1, "expected"),
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
    assert load(os.fsencode(path)) == pairs


def test_backup_of_many_blocks_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = {b"key%06d" % number: b"v%d" % number for number in range(3000)}
    (tmp_path / "x.bck").write_bytes(b"".join(format_listing(sorted(pairs.items()))))
    for block in (1, 7, 100, 4096):
        monkeypatch.setattr(reader, "BLOCK", block)
        assert load(os.fsencode(tmp_path / "x.bck")) == pairs


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
            assert len(load(os.fsencode(path))) == cut // 7
        else:
            with pytest.raises(BackupFormatError) as caught:
                load(os.fsencode(path))
            assert caught.value.line == cut // 7 + 1


def test_unreadable_file_has_a_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in [
        ("none", "No such file"),
        ("", "not a regular file"),
        ("pipe", "not a regular"),
    ]:
        with pytest.raises(BackupReadError, match=reason):
            load(os.fsencode(tmp_path / name))
