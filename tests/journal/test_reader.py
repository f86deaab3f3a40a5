"""The reader of one file: cut at any byte, changed at any byte, with zeros behind it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.journal import format as journal_format
from kvs.journal import reader as reader_module
from kvs.journal.reader import PAGE, Group, JournalReader, TailState
from tests.journal.builders import JournalBuilder

BODIES = [b"WRITE [(a,1)]\n", b"WRITE [(b,2)]\nDELETE [a]\n", b"# job 1 done\n"]
CHANGES = [1, 2, 0]
HEADER_BYTES = journal_format.group_header_bytes(journal_format.VERSION)


def small() -> JournalBuilder:
    """Return a segment of three groups."""
    made = JournalBuilder()
    for body, changes in zip(BODIES, CHANGES, strict=True):
        made.group(body, changes)
    return made


@contextmanager
def opened(data: bytes) -> Iterator[int]:
    """Yield a descriptor of a file in memory with the contents `data`."""
    file = os.memfd_create("kvs-tests")
    try:
        os.write(file, data)
        yield file
    finally:
        os.close(file)


def read_all(data: bytes) -> tuple[JournalReader, list[Group]]:
    with opened(data) as file:
        reader = JournalReader(file)
        return reader, list(reader)


def test_groups_come_in_order_with_their_offsets() -> None:
    made = small()
    reader, groups = read_all(made.data)
    assert [b"".join(group.body) for group in groups] == BODIES
    assert [(group.before, group.after) for group in groups] == [(0, 1), (1, 3), (3, 3)]
    assert [group.offset for group in groups] == made.ends[:-1]
    assert (reader.tail_state, reader.reason) == (TailState.CLEAN, "")
    assert (reader.end, reader.size, reader.last_checksum) == (
        len(made.data),
        len(made.data),
        made.chain,
    )


def test_file_cut_at_any_byte_has_a_prefix_of_the_groups() -> None:
    made = small()
    for length in range(len(made.data)):
        if length < made.ends[0]:
            with pytest.raises(journal_format.InvalidFileHeader):
                read_all(made.data[:length])
            continue
        reader, groups = read_all(made.data[:length])
        whole = [end for end in made.ends if end <= length]
        assert [b"".join(group.body) for group in groups] == BODIES[: len(whole) - 1]
        assert reader.end == whole[-1]
        if length == whole[-1]:
            assert reader.tail_state is TailState.CLEAN
            continue
        assert reader.tail_state is TailState.TORN
        in_header = length < whole[-1] + HEADER_BYTES
        assert reader.reason == "the file ends within " + (
            "the header of a group" if in_header else "a group"
        )


@pytest.mark.slow
def test_changed_byte_is_damage_and_never_a_torn_tail() -> None:
    made = small()
    with opened(made.data) as file:
        for at in range(made.ends[0], len(made.data)):
            whole = [end for end in made.ends if end <= at]
            for byte in range(256):
                if byte == made.data[at]:
                    continue
                os.pwrite(file, bytes([byte]), at)
                reader = JournalReader(file)
                bodies = [b"".join(group.body) for group in reader]
                assert reader.tail_state is TailState.DAMAGED, (at, byte)
                assert (reader.end, bodies) == (whole[-1], BODIES[: len(whole) - 1])
                assert reader.reason
            os.pwrite(file, made.data[at : at + 1], at)
        assert JournalReader(file).header.number == 1


def test_zeros_from_any_byte_to_the_end_are_a_torn_tail() -> None:
    made = small()
    for start in range(made.ends[0], len(made.data) + 1):
        whole = [end for end in made.ends if end <= start]
        for end in {*range(start + 2, start + 6), len(made.data), start + PAGE, start + 3 * PAGE}:
            if end < start + 2:
                continue
            reader, groups = read_all(made.data[:start] + bytes(end - start))
            assert (reader.end, reader.tail_state) == (whole[-1], TailState.TORN), (start, end)
            assert [b"".join(group.body) for group in groups] == BODIES[: len(whole) - 1]
            assert reader.reason in {
                "the file ends in zeros",
                "the file ends within the header of a group",
                "the file ends within a group",
            }


def test_zeros_behind_the_last_group_are_a_torn_tail() -> None:
    made = small()
    for count in range(1, 2 * HEADER_BYTES):
        reader, groups = read_all(made.data + bytes(count))
        assert [b"".join(group.body) for group in groups] == BODIES
        assert (reader.tail_state, reader.end) == (TailState.TORN, len(made.data)), count
        assert reader.reason == "the file ends in zeros"


def test_single_zero_is_a_torn_tail_only_at_a_page_start() -> None:
    for end in range(PAGE - 3, PAGE + 4):
        made = JournalBuilder()
        padding = end - made.ends[0] - HEADER_BYTES - 1
        made.group(b"#" * padding + b"\n", 0)
        assert len(made.data) == end
        reader, groups = read_all(made.data[:-1] + b"\0")
        assert groups == []
        assert reader.tail_state is (TailState.TORN if (end - 1) % PAGE == 0 else TailState.DAMAGED)


def test_zeros_before_other_bytes_are_damage() -> None:
    made = small()
    for start in range(made.ends[0], len(made.data)):
        reader, _ = read_all(made.data[:start] + bytes(2 * PAGE) + b"x")
        assert reader.tail_state is TailState.DAMAGED
        assert reader.end == max(end for end in made.ends if end <= start)
    reader, _ = read_all(made.data + bytes(2 * PAGE) + b"x")
    assert (reader.tail_state, reader.reason) == (
        TailState.DAMAGED,
        "there are zeros where a group should be",
    )


def test_missing_moved_or_foreign_groups_are_damage() -> None:
    made = small()
    header, first, second, third = (
        made.data[start:end] for start, end in zip([0, *made.ends], made.ends, strict=False)
    )
    other = JournalBuilder(store=b"0" * 16).group(BODIES[0], 1).data[made.ends[0] :]
    for data, end in [
        (header + second + third, len(header)),
        (header + first + third, len(header + first)),
        (header + second + first, len(header)),
        (header + first + first, len(header + first)),
        (header + other, len(header)),
    ]:
        reader, _ = read_all(data)
        assert (reader.tail_state, reader.end) == (TailState.DAMAGED, end)
        assert reader.reason == "the header of a group does not match its checksum"


def test_damage_reason_names_what_is_invalid() -> None:
    reader, _ = read_all(small().data + b"WRITE [(c,3)]\n")
    assert (reader.tail_state, reader.reason) == (
        TailState.DAMAGED,
        "expected a group header ('# group ...')",
    )
    flipped = bytearray(small().data)
    flipped[-2] ^= 1
    reader, _ = read_all(bytes(flipped))
    assert reader.reason == "a group does not match its checksum"


@given(st.lists(st.binary(max_size=300), max_size=6), st.data())
def test_overwritten_file_yields_only_original_groups(
    bodies: list[bytes], data: st.DataObject
) -> None:
    made = JournalBuilder()
    for body in bodies:
        made.group(body, 0)
    raw = bytearray(made.data)
    at = data.draw(st.integers(made.ends[0], len(raw)))
    new = data.draw(st.binary(max_size=20))
    raw[at : at + data.draw(st.integers(0, 20))] = new
    _, groups = read_all(bytes(raw))
    read = [b"".join(group.body) for group in groups]
    assert read == bodies[: len(read)]


@pytest.mark.parametrize("block", [2, 7, 1 << 20])
def test_long_restore_is_read_in_whole_lines(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(reader_module, "LONG_BODY_BYTES", 0)
    monkeypatch.setattr(reader_module, "BLOCK", block)
    lines = [b"# restore\n", b"WRITE [(a,1)]\n", b"WRITE [(b,%b)]\n" % (b"2" * 30)]
    made = JournalBuilder().group(b"".join(lines), 1).group(b"DELETE [a]\n", 1)
    with opened(made.data) as file:
        reader = JournalReader(file)
        pieces = [(group.is_restore, list(group.body)) for group in reader]
    assert [is_restore for is_restore, _ in pieces] == [True, False]
    assert b"".join(pieces[0][1]) == b"".join(lines)
    assert all(piece.endswith(b"\n") for piece in pieces[0][1])
    assert (len(pieces[0][1]) == 1) == (block > 1000)
    for at in range(made.ends[0], made.ends[1]):
        changed = made.data[:at] + bytes([made.data[at] ^ 1]) + made.data[at + 1 :]
        changed_reader, groups = read_all(changed)
        assert (groups, changed_reader.tail_state) == ([], TailState.DAMAGED)
