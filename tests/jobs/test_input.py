"""Blocks contain whole lines, memory is bounded, and a shrinking file is detected."""

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.jobs import input as job_input
from kvs.jobs.input import FileShrankError, line_blocks
from kvs.language.diagnostics import FINAL_BYTES, check
from kvs.language.grammar import MAX_LINE_BYTES
from tests.strategies import scripts


def read(path: Path) -> Iterator[bytes]:
    file = os.open(path, os.O_RDONLY)
    try:
        yield from line_blocks(file)
    finally:
        os.close(file)


@given(script=scripts(), block=st.integers(1, 50))
def test_scripts_join_to_the_file_and_end_at_newlines(
    tmp_path_factory: pytest.TempPathFactory, script: bytes, block: int
) -> None:
    path = tmp_path_factory.mktemp("blocks") / "x.job"
    path.write_bytes(script)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_input, "BLOCK", block)
        parts = list(read(path))
    assert b"".join(parts) == script
    assert all(part.endswith(b"\n") for part in parts[:-1])
    assert b"" not in parts


@pytest.mark.parametrize(
    "line",
    [b"# " + b"x" * 5_000_000, b"\0" * 5_000_000, b"READ [a " + b"x" * 5_000_000, b"y" * 5_000_000],
)
@pytest.mark.parametrize("end", [b"\nSHOW\nREAD [\n", b"\n", b""])
def test_long_invalid_line_is_shortened_without_a_difference(
    tmp_path: Path, line: bytes, end: bytes
) -> None:
    (tmp_path / "x.job").write_bytes(b"SHOW\n" + line + end)
    parts = list(read(tmp_path / "x.job"))
    assert max(map(len, parts)) < 2_000_000
    seen = b"".join(parts)
    assert seen.startswith(b"SHOW\n")
    assert seen.endswith(end)
    diagnostics = [(each.column, each.reason) for each in check(seen).diagnostics]
    whole = check(b"SHOW\n" + line + end).diagnostics
    assert diagnostics == [(each.column, each.reason) for each in whole]


def test_valid_line_is_whole_however_long(tmp_path: Path) -> None:
    line = b"WRITE [" + b"(key,value)" * 400_000 + b"]\n"
    (tmp_path / "x.job").write_bytes(line + b"SHOW")
    assert list(read(tmp_path / "x.job")) == [line, b"SHOW"]


def test_word_in_quotes_is_whole_though_its_end_is_far(tmp_path: Path) -> None:
    line = b'WRITE [(key,"%b")]\n' % (rb"READ [\0" * 1_000_000)
    (tmp_path / "x.job").write_bytes(line + b"SHOW")
    assert list(read(tmp_path / "x.job")) == [line, b"SHOW"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "filler", "rest"),
    [
        (b"SHOW", b" ", b""),
        (b"READ [a", b" ", b"]"),
        (b'WRITE [(a,"', b"x", b'")]'),
        (b'WRITE [(a,"', b"x", b""),
        (b"", b" ", b""),
        (b"", b" ", b"\r"),
        (b"", b" ", b"\r#"),
        (b"", b" ", b"# comment"),
        (b"", b" ", b"SHOW"),
    ],
)
def test_no_more_is_stored_of_a_line_than_its_verdict_needs(
    tmp_path: Path, start: bytes, filler: bytes, rest: bytes
) -> None:
    line = start + filler * (MAX_LINE_BYTES + 10 * job_input.BLOCK) + rest + b"\n"
    (tmp_path / "x.job").write_bytes(line + b"READ [\n")
    seen = b"".join(read(tmp_path / "x.job"))
    assert len(seen) < FINAL_BYTES + 2 * job_input.BLOCK
    assert seen.endswith(b"\nREAD [\n")
    assert seen.count(b"\n") == 2
    whole = [(each.column, each.reason) for each in check(line).diagnostics]
    stored = [(each.column, each.reason) for each in check(seen).diagnostics]
    assert stored[:-1] == whole


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    with (tmp_path / "x.job").open("wb") as file:
        for _ in range(40):
            file.write(b"WRITE [(some-key,some-value)]\n" * 34_000)
            file.write(b"garbage" * 150_000)
            file.write(b"\n")
    assert (tmp_path / "x.job").stat().st_size > 80_000_000
    tracemalloc.start()
    try:
        lines = sum(part.count(b"\n") for part in read(tmp_path / "x.job"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert lines == 40 * 34_001
    assert peak < 12_000_000


def test_shrinking_file_is_detected_before_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "x.job"
    path.write_bytes(b"WAIT 1000000\n" * 100_000)
    for size in (700_001, 0):
        parts = read(path)
        next(parts)
        os.truncate(path, size)
        with pytest.raises(FileShrankError):
            list(parts)
        path.write_bytes(b"WAIT 1000000\n" * 100_000)


def test_growing_file_is_read_to_its_new_end(tmp_path: Path) -> None:
    path = tmp_path / "x.job"
    path.write_bytes(b"SHOW\n" * 100_000)
    parts = read(path)
    lines = next(parts).count(b"\n")
    with path.open("ab") as file:
        file.write(b"HELP\n" * 10)
    assert lines + sum(part.count(b"\n") for part in parts) == 100_010
