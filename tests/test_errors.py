"""Errors are one printable line each, whatever bytes they tell of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs import errors
from kvs.text import pluralize, printable


@given(st.binary())
def test_any_bytes_are_shown_on_one_printable_line(raw: bytes) -> None:
    assert printable(raw).isprintable()


@given(st.binary(), st.binary())
def test_different_bytes_are_shown_differently(one: bytes, other: bytes) -> None:
    assert (printable(one) == printable(other)) == (one == other)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"jobs/one.job", "jobs/one.job"),
        ("jobs/größe.job", "jobs/größe.job"),
        (b"a\nb\t\x1b[31m\0", r"a\nb\t\x1b[31m\x00"),
        (b"\xff\xfe", r"\xff\xfe"),
        (b"back\\slash", r"back\\slash"),
        ("\u202eevil", r"\u202eevil"),
    ],
)
def test_what_does_not_print_is_escaped(raw: bytes | str, text: str) -> None:
    assert printable(raw) == text


def test_what_is_counted_is_one_or_many() -> None:
    assert [pluralize(number, "pair") for number in range(3)] == ["0 pairs", "1 pair", "2 pairs"]


def test_what_is_too_long_is_cut() -> None:
    assert printable(b"x" * 10, 10) == "x" * 10
    assert printable(b"x" * 11, 10) == "x" * 10 + "..."


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.InvalidCommandError("j/a.job", 7, 11, "why"), "j/a.job:7:11: why"),
        (errors.JobError("j/a.job", "why"), "j/a.job: why"),
        (errors.SnapshotError("a.bck", "why"), "a.bck: no snapshot was written: why"),
        (errors.BackupError("a.job", 3, 2, "why"), "a.job:3: snapshot 2 failed: why"),
        (errors.BackupReadError("a.bck", "why"), "a.bck: cannot read the backup: why"),
        (errors.BackupFormatError("a.bck", 4, "why"), "a.bck:4: why; nothing was restored"),
        (errors.JobsDirectoryError("j", "why"), "j: why"),
        (
            errors.DirectoryLockedError("j", 12),
            "j: process 12 is at work in this directory; wait for it to end, or stop it",
        ),
        (
            errors.DirectoryLockedError("j", None),
            "j: another process is at work in this directory; wait for it to end, or stop it",
        ),
    ],
)
def test_every_error_is_one_sentence(error: errors.KvsError, text: str) -> None:
    assert str(error) == text
    assert hash(error) is not None
