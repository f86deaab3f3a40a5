"""Text for messages is one printable line, whatever the bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.text import pluralize, printable, printable_line


@given(st.binary())
def test_printable_gives_one_line_for_any_bytes(raw: bytes) -> None:
    assert printable(raw).isprintable()


@given(st.binary(), st.binary())
def test_printable_is_injective(one: bytes, other: bytes) -> None:
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
def test_printable_escapes_unprintable_characters(raw: bytes | str, text: str) -> None:
    assert printable(raw) == text


@given(st.binary())
def test_printable_line_is_printable_and_keeps_backslashes(raw: bytes) -> None:
    assert printable_line(raw).isprintable()
    assert printable_line(b"\\" + raw) == "\\" + printable_line(raw)


def test_printable_line_cuts_at_its_limit() -> None:
    assert printable_line(rb"a\b\c", 5) == r"a\b\c"
    assert printable_line(rb"a\b\c", 4) == r"a\b\..."


def test_pluralize_adds_s_except_for_one() -> None:
    assert [pluralize(number, "pair") for number in range(3)] == ["0 pairs", "1 pair", "2 pairs"]


def test_printable_cuts_at_its_limit() -> None:
    assert printable(b"x" * 10, 10) == "x" * 10
    assert printable(b"x" * 11, 10) == "x" * 10 + "..."
