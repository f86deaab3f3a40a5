"""Recovery: what a directory holds, whole, cut, changed, and with files that do not belong."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kvs.errors import CorruptionError, DataDirectoryError
from kvs.journal.directory import DataDirectory
from kvs.journal.recovery import Recovery
from kvs.store import maintenance
from tests.journal.builders import (
    OTHER,
    Files,
    Made,
    Naive,
    contents,
    crc,
    damage,
    files,
    put,
    read,
)

PAIRS = b"WRITE [(a,1)(b,2)]\n"


def history() -> list[Made]:
    """Return two segments that a snapshot of both, and its segment, have followed."""
    first = Made().group(b"WRITE [(a,1)]\n", 1).group(b"WRITE [(b,2)]\n", 1)
    second = first.next().group(b"WRITE [(c,3)]\nDELETE [c]\n", 2)
    snapshot = Made("snapshot", 3, 4).group(PAIRS, 0).group(b"# end 2\n", 0)
    third = second.next().group(b"WRITE [(d,4)]\n", 1)
    return [first, second, snapshot, third, third.next().group(b"DELETE [a]\n", 1)]


def after_the_snapshot() -> Files:
    return files(*history()[2:])


def before_it() -> Files:
    return files(*history()[:2])


def test_segments_are_read_from_the_first_on_without_a_snapshot(tmp_path: Path) -> None:
    found, pairs = read(put(tmp_path / "d", before_it()))
    first, second = history()[:2]
    assert pairs == {b"a": b"1", b"b": b"2"}
    assert (found.revision, found.changes, found.pairs) == (4, 4, 2)
    assert (found.snapshot, found.snapshot_bytes, found.segments) == (None, 0, [1, 2])
    assert found.journal_bytes == len(first.data) + len(second.data)
    assert (found.store, found.torn) == (first.store, None)
    assert (found.chain, found.end) == (second.chain, len(second.data))


def test_the_newest_snapshot_and_what_follows_are_read_and_nothing_older(tmp_path: Path) -> None:
    made = {**files(*history()), "0000000001.journal": b"nonsense", "0000000002.snapshot": b""}
    found, pairs = read(put(tmp_path / "d", made))
    snapshot, third, last = history()[2:]
    assert pairs == {b"b": b"2", b"d": b"4"}
    assert (found.revision, found.changes, found.segments) == (6, 2, [3, 4])
    assert (found.snapshot, found.snapshot_bytes) == (3, len(snapshot.data))
    assert found.journal_bytes == len(third.data) + len(last.data)


def test_every_group_is_given_to_who_notes_with_the_progress(tmp_path: Path) -> None:
    put(tmp_path / "d", after_the_snapshot())
    naive, told = Naive(), []
    with DataDirectory(tmp_path / "d") as folder:
        Recovery(folder, naive, naive.noted.append, lambda *both: told.append(both)).read()
    assert naive.noted == [PAIRS, b"WRITE [(d,4)]\n", b"DELETE [a]\n"]
    size = sum(map(len, after_the_snapshot().values()))
    assert [of_all for _, of_all in told] == [size] * 3
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] <= size


@pytest.mark.parametrize("made", [before_it(), after_the_snapshot()])
@pytest.mark.slow
def test_cut_anywhere_it_is_a_prefix_that_tells_of_the_rest_or_is_refused(
    tmp_path: Path, made: Files
) -> None:
    whole, _ = read(put(tmp_path / "d", made))
    last = max(name for name in made if name.endswith("journal"))
    ends = next(each for each in history() if each.name == last).ends
    for name, data in made.items():
        for length in range(len(data)):
            put(tmp_path / "d", {**made, name: data[:length]})
            if name != last or length < ends[0]:
                file, offset, _ = damage(tmp_path / "d")
                assert (file >= name, offset <= length) == (True, True)
                continue
            found, _ = read(tmp_path / "d")
            end = max(end for end in ends if end <= length)
            assert found.end == end
            assert found.revision < whole.revision
            if length > end:
                assert found.torn is not None
                assert (found.torn.offset, found.torn.bytes) == (end, length - end)
                assert found.torn.file == f"{tmp_path}/d/{name}"
            else:
                assert found.torn is None


def refused_if_changed(directory: Path, made: Files, name: str, at: int, byte: int) -> None:
    file = directory / name
    data = made[name]
    file.write_bytes(data[:at] + bytes([byte]) + data[at + 1 :])
    naive = Naive()
    with DataDirectory(directory) as folder, pytest.raises(CorruptionError) as told:
        Recovery(folder, naive, naive.noted.append, lambda _done, _all: None).read()
    assert (told.value.file, told.value.offset <= at) == (str(file), True), (at, byte)


@pytest.mark.parametrize("made", [before_it(), after_the_snapshot()])
@pytest.mark.slow
def test_a_changed_bit_anywhere_is_refused_with_file_and_offset(
    tmp_path: Path, made: Files
) -> None:
    directory = put(tmp_path / "d", made)
    for name, data in made.items():
        for at, byte in enumerate(data):
            for other in {byte ^ 1 << at % 8, 0, 0xFF, ord("0"), ord("\n")} - {byte}:
                refused_if_changed(directory, made, name, at, other)
        (directory / name).write_bytes(data)
    read(directory)


@pytest.mark.stress
@pytest.mark.parametrize("made", [before_it(), after_the_snapshot()])
def test_a_changed_byte_anywhere_is_refused_whatever_it_becomes(
    tmp_path: Path, made: Files
) -> None:
    directory = put(tmp_path / "d", made)
    for name, data in made.items():
        for at, byte in enumerate(data):
            for other in set(range(256)) - {byte}:
                refused_if_changed(directory, made, name, at, other)
        (directory / name).write_bytes(data)


def test_zeros_behind_the_last_segment_are_dropped_and_told_behind_others_refused(
    tmp_path: Path,
) -> None:
    made = before_it()
    first, second = history()[:2]
    for count in (*range(1, 100), 4096, 10_000):
        put(tmp_path / "d", {**made, second.name: second.data + bytes(count)})
        found, pairs = read(tmp_path / "d")
        assert (pairs, found.torn and found.torn.bytes) == ({b"a": b"1", b"b": b"2"}, count)
        put(tmp_path / "d", {**made, first.name: first.data + bytes(count)})
        assert damage(tmp_path / "d")[:2] == (first.name, len(first.data))
    snapshot = history()[2]
    put(tmp_path / "d", {**after_the_snapshot(), snapshot.name: snapshot.data + bytes(8)})
    assert damage(tmp_path / "d")[:2] == (snapshot.name, len(snapshot.data))


@pytest.mark.parametrize("missing", ["0000000001.journal", "0000000002.journal"])
def test_a_missing_segment_is_told(tmp_path: Path, missing: str) -> None:
    made = {**files(*history()[:2]), **files(history()[1].next().group(b"DELETE [a]\n", 1))}
    del made[missing]
    reason = "this segment of the journal is missing"
    if missing == "0000000001.journal":
        reason += ", or else 0000000002.snapshot"
    assert damage(put(tmp_path / "d", made)) == (missing, 0, reason)


@pytest.mark.parametrize(
    ("missing", "told", "other"),
    [
        ("0000000003.snapshot", "0000000001.journal", ", or else 0000000003.snapshot"),
        ("0000000003.journal", "0000000003.journal", ""),
    ],
)
def test_what_goes_on_from_a_snapshot_is_nothing_without_it_nor_it_without_that(
    tmp_path: Path, missing: str, told: str, other: str
) -> None:
    made = after_the_snapshot()
    del made[missing]
    reason = "this segment of the journal is missing"
    assert damage(put(tmp_path / "d", made)) == (told, 0, reason + other)
    put(tmp_path / "d", files(history()[2]))
    assert damage(tmp_path / "d") == ("0000000003.journal", 0, reason)


ANEW = "begin a new data directory with 'kvs restore' from a backup"
CUT = "'kvs repair --cut' keeps what comes before it"


@pytest.mark.parametrize(
    ("missing", "damaged", "advice"),
    [
        ("", (3, 100), CUT),
        ("", (0, 200), CUT),
        ("", (0, 100), f"nothing comes before it: {ANEW}"),
        ("", (0, 20), f"nothing comes before it: {ANEW}"),
        ("", (2, 100), "'kvs repair --cut' goes on without it, if what is older is whole"),
        (
            "0000000001.journal 0000000002.journal",
            (2, 100),
            f"all that follows depends on it: {ANEW}",
        ),
        ("0000000001.journal 0000000002.journal", (3, 100), CUT),
        ("0000000003.journal", None, f"put it back; else {CUT}"),
        ("0000000001.journal 0000000003.snapshot", None, f"put it back; else {ANEW}"),
    ],
)
def test_what_is_advised_does_work(
    tmp_path: Path, missing: str, damaged: tuple[int, int] | None, advice: str
) -> None:
    """That is, a repair keeps something, or refuses, as it says."""
    made = files(*history())
    if damaged is not None:
        each = history()[damaged[0]]
        made[each.name] = each.data[: damaged[1]] + b"~" + each.data[damaged[1] + 1 :]
        if damaged[0] < 2:
            del made["0000000003.snapshot"]
    for name in missing.split():
        del made[name]
    with pytest.raises(CorruptionError) as told:
        read(put(tmp_path / "d", made))
    assert told.value.advice == advice
    try:
        cut = maintenance.repair(tmp_path / "d")
    except CorruptionError:
        assert ANEW in advice
        assert contents(tmp_path / "d") == made
    else:
        assert cut is not None
        assert (ANEW in advice) == (cut.revision == 0)
        assert maintenance.check(tmp_path / "d").revision == cut.revision


def test_segments_under_each_others_names_are_told(tmp_path: Path) -> None:
    first, second = history()[:2]
    put(tmp_path / "d", {first.name: second.data, second.name: first.data})
    assert damage(tmp_path / "d") == (
        first.name, 0, "it is 0000000002.journal, under another name",
    )  # fmt: skip
    put(tmp_path / "d", {**before_it(), "0000000003.journal": second.data})
    assert damage(tmp_path / "d") == (
        "0000000003.journal", 0, "it is 0000000002.journal, under another name",
    )  # fmt: skip
    put(tmp_path / "d", {**after_the_snapshot(), "0000000003.snapshot": history()[3].data})
    assert damage(tmp_path / "d") == (
        "0000000003.snapshot", 0, "it is 0000000003.journal, under another name",
    )  # fmt: skip


def test_a_segment_of_another_store_or_of_another_past_is_told(tmp_path: Path) -> None:
    first, second = history()[:2]
    stranger = Made(number=2, revision=2, store=OTHER, previous=first.chain)
    assert damage(put(tmp_path / "d", files(first, stranger))) == (
        second.name, 0, "it belongs to another store",
    )  # fmt: skip
    ahead = Made(number=2, revision=3, previous=first.chain)
    assert damage(put(tmp_path / "d", files(first, ahead))) == (
        second.name, 0, "it goes on from revision 3, not from 2",
    )  # fmt: skip
    other_past = Made(number=2, revision=2, previous=first.chain ^ 1)
    assert damage(put(tmp_path / "d", files(first, other_past))) == (
        second.name, 0, "it does not go on from the segment before it",
    )  # fmt: skip


@pytest.mark.parametrize("act", [read, maintenance.check, maintenance.repair])
def test_a_newer_form_is_told_and_is_no_damage(
    tmp_path: Path, act: Callable[[Path], object]
) -> None:
    newer = b"# kvs journal 2 0000000002 something new "
    made = {**before_it(), "0000000002.journal": newer + b"%08x\n" % crc(newer)}
    put(tmp_path / "d", made)
    with pytest.raises(DataDirectoryError) as told:
        act(tmp_path / "d")
    assert str(told.value) == (
        f"{tmp_path}/d/0000000002.journal: at byte 0: it is of version 2 of the form; this kvs "
        "reads 1; use the kvs that wrote it"
    )
    assert contents(tmp_path / "d") == made


def test_a_foreign_file_is_told(tmp_path: Path) -> None:
    first, second = history()[:2]
    assert damage(put(tmp_path / "d", {**files(first), second.name: b"\x7fELF..."})) == (
        second.name, 0, "it does not begin as a file of a journal does",
    )  # fmt: skip
    assert damage(put(tmp_path / "d", {**files(first), second.name: b""})) == (
        second.name, 0, "it does not begin as a file of a journal does",
    )  # fmt: skip


def test_lines_that_do_not_lead_to_their_revision_are_told(tmp_path: Path) -> None:
    wrong = Made().group(b"WRITE [(a,1)]\n", 1).group(b"DELETE [b]\n", 1)
    reason = "the lines of the group do not lead to the revision that it tells"
    assert damage(put(tmp_path / "d", files(wrong))) == (wrong.name, wrong.ends[1], reason)
    gap = Made().group(b"WRITE [(a,1)]\n", 1)
    gap.revision += 1
    gap.group(b"WRITE [(a,1)]\n", 1)
    assert damage(put(tmp_path / "d", files(gap)))[:2] == (gap.name, gap.ends[1])


def test_a_snapshot_that_is_not_complete_or_goes_on_is_told(tmp_path: Path) -> None:
    segment = Made(number=3, revision=4)
    no_end = Made("snapshot", 3, 4).group(PAIRS, 0)
    assert damage(put(tmp_path / "d", files(no_end, segment))) == (
        no_end.name, len(no_end.data), "the snapshot is not complete",
    )  # fmt: skip
    less = Made("snapshot", 3, 4).group(PAIRS, 0).group(b"# end 3\n", 0)
    assert damage(put(tmp_path / "d", files(less, segment))) == (
        less.name, len(less.data), "the snapshot is not complete",
    )  # fmt: skip
    more = Made("snapshot", 3, 4).group(PAIRS, 0).group(b"# end 2\n", 0).group(PAIRS, 0)
    assert damage(put(tmp_path / "d", files(more, segment))) == (
        more.name, more.ends[2], "this group does not belong here",
    )  # fmt: skip


def test_a_file_that_cannot_be_read_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "d", before_it())

    def broken(_file: int, _size: int, _at: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(DataDirectoryError) as told:
        read(tmp_path / "d")
    assert str(told.value) == (
        f"{tmp_path}/d/0000000001.journal: cannot read it: Input/output error"
    )
    assert contents(tmp_path / "d") == before_it()
