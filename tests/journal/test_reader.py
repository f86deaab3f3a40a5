"""One file of a journal, read: cut anywhere, changed anywhere, with zeros behind it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.journal import format as journal_format
from kvs.journal.reader import PAGE, Group, JournalReader, TailState
from tests.journal.builders import Made

BODIES = [b"WRITE [(a,1)]\n", b"WRITE [(b,2)]\nDELETE [a]\n", b"# job 1 done\n"]
CHANGES = [1, 2, 0]


def small() -> Made:
    """Return a segment of three groups."""
    made = Made()
    for body, changes in zip(BODIES, CHANGES, strict=True):
        made.group(body, changes)
    return made


@contextmanager
def opened(data: bytes) -> Iterator[int]:
    """Yield a descriptor of a file in memory that holds `data`."""
    file = os.memfd_create("kvs-tests")
    try:
        os.write(file, data)
        yield file
    finally:
        os.close(file)


def scanned(data: bytes) -> tuple[JournalReader, list[Group]]:
    with opened(data) as file:
        scan = JournalReader(file)
        return scan, list(scan)


def test_groups_come_in_order_with_where_they_begin() -> None:
    made = small()
    scan, groups = scanned(made.data)
    assert [group.body for group in groups] == BODIES
    assert [(group.before, group.after) for group in groups] == [(0, 1), (1, 3), (3, 3)]
    assert [group.offset for group in groups] == made.ends[:-1]
    assert (scan.tail_state, scan.reason) == (TailState.CLEAN, "")
    assert (scan.end, scan.size, scan.chain) == (len(made.data), len(made.data), made.chain)


def test_cut_at_any_byte_what_is_left_is_a_prefix_of_the_groups() -> None:
    made = small()
    for length in range(len(made.data)):
        if length < made.ends[0]:
            with pytest.raises(journal_format.InvalidFileHeader):
                scanned(made.data[:length])
            continue
        scan, groups = scanned(made.data[:length])
        whole = [end for end in made.ends if end <= length]
        assert [group.body for group in groups] == BODIES[: len(whole) - 1]
        assert scan.end == whole[-1]
        if length == whole[-1]:
            assert scan.tail_state is TailState.CLEAN
            continue
        assert scan.tail_state is TailState.TORN
        in_header = length < whole[-1] + journal_format.GROUP_HEADER_BYTES
        assert scan.reason == "the file ends within " + (
            "the header of a group" if in_header else "a group"
        )


@pytest.mark.slow
def test_no_changed_byte_is_passed_over_or_taken_for_the_end() -> None:
    made = small()
    with opened(made.data) as file:
        for at in range(made.ends[0], len(made.data)):
            whole = [end for end in made.ends if end <= at]
            for byte in range(256):
                if byte == made.data[at]:
                    continue
                os.pwrite(file, bytes([byte]), at)
                scan = JournalReader(file)
                bodies = [group.body for group in scan]
                assert scan.tail_state is TailState.DAMAGED, (at, byte)
                assert (scan.end, bodies) == (whole[-1], BODIES[: len(whole) - 1])
                assert scan.reason
            os.pwrite(file, made.data[at : at + 1], at)
        assert JournalReader(file).head.number == 1


def test_zeros_from_any_byte_to_an_end_anywhere_are_a_torn_end() -> None:
    made = small()
    for start in range(made.ends[0], len(made.data) + 1):
        whole = [end for end in made.ends if end <= start]
        for end in {*range(start + 2, start + 6), len(made.data), start + PAGE, start + 3 * PAGE}:
            if end < start + 2:
                continue
            scan, groups = scanned(made.data[:start] + bytes(end - start))
            assert (scan.end, scan.tail_state) == (whole[-1], TailState.TORN), (start, end)
            assert [group.body for group in groups] == BODIES[: len(whole) - 1]
            assert scan.reason in {
                "the file ends in zeros",
                "the file ends within the header of a group",
                "the file ends within a group",
            }


def test_zeros_behind_the_last_group_are_a_torn_end_however_many() -> None:
    made = small()
    for count in range(1, 2 * journal_format.GROUP_HEADER_BYTES):
        scan, groups = scanned(made.data + bytes(count))
        assert [group.body for group in groups] == BODIES
        assert (scan.tail_state, scan.end) == (TailState.TORN, len(made.data)), count
        assert scan.reason == "the file ends in zeros"


def test_a_single_zero_at_the_end_of_a_group_is_a_torn_end_only_where_it_begins_a_page() -> None:
    for end in range(PAGE - 3, PAGE + 4):
        made = Made()
        room = end - made.ends[0] - journal_format.GROUP_HEADER_BYTES - 1
        made.group(b"#" * room + b"\n", 0)
        assert len(made.data) == end
        scan, groups = scanned(made.data[:-1] + b"\0")
        assert groups == []
        assert scan.tail_state is (TailState.TORN if (end - 1) % PAGE == 0 else TailState.DAMAGED)


def test_zeros_with_anything_behind_them_are_damage() -> None:
    made = small()
    for start in range(made.ends[0], len(made.data)):
        scan, _ = scanned(made.data[:start] + bytes(2 * PAGE) + b"x")
        assert scan.tail_state is TailState.DAMAGED
        assert scan.end == max(end for end in made.ends if end <= start)
    scan, _ = scanned(made.data + bytes(2 * PAGE) + b"x")
    assert (scan.tail_state, scan.reason) == (
        TailState.DAMAGED,
        "there are zeros where a group should be",
    )


def test_groups_that_are_lost_moved_or_of_another_file_are_damage() -> None:
    made = small()
    head, first, second, third = (
        made.data[start:end] for start, end in zip([0, *made.ends], made.ends, strict=False)
    )
    other = Made(store=b"0" * 16).group(BODIES[0], 1).data[made.ends[0] :]
    for data, end in [
        (head + second + third, len(head)),
        (head + first + third, len(head + first)),
        (head + second + first, len(head)),
        (head + first + first, len(head + first)),
        (head + other, len(head)),
    ]:
        scan, _ = scanned(data)
        assert (scan.tail_state, scan.end) == (TailState.DAMAGED, end)
        assert scan.reason == "the header of a group does not match its checksum"


def test_what_is_no_header_at_all_is_told_so() -> None:
    scan, _ = scanned(small().data + b"WRITE [(c,3)]\n")
    assert (scan.tail_state, scan.reason) == (
        TailState.DAMAGED,
        "a line that begins with '# group' should stand there",
    )
    flipped = bytearray(small().data)
    flipped[-2] ^= 1
    scan, _ = scanned(bytes(flipped))
    assert scan.reason == "a group does not match its checksum"


@given(st.lists(st.binary(max_size=300), max_size=6), st.data())
def test_whatever_is_written_over_a_file_only_whole_groups_of_it_come_out(
    bodies: list[bytes], data: st.DataObject
) -> None:
    made = Made()
    for body in bodies:
        made.group(body, 0)
    raw = bytearray(made.data)
    at = data.draw(st.integers(made.ends[0], len(raw)))
    new = data.draw(st.binary(max_size=20))
    raw[at : at + data.draw(st.integers(0, 20))] = new
    _, groups = scanned(bytes(raw))
    found = [group.body for group in groups]
    assert found == bodies[: len(found)]
