"""Recovery of a directory: intact, cut, changed, and with foreign files."""

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
    JournalBuilder,
    Naive,
    contents,
    crc,
    damage,
    files,
    put,
    read,
)

PAIRS = b"WRITE [(a,1)(b,2)]\n"


def history() -> list[JournalBuilder]:
    """Return two segments, a snapshot of both, and the two segments behind it."""
    first = JournalBuilder().group(b"WRITE [(a,1)]\n", 1).group(b"WRITE [(b,2)]\n", 1)
    second = first.next().group(b"WRITE [(c,3)]\nDELETE [c]\n", 2)
    snapshot = JournalBuilder("snapshot", 3, 4).group(PAIRS, 0).group(b"# end 2\n", 0)
    third = second.next().group(b"WRITE [(d,4)]\n", 1)
    return [first, second, snapshot, third, third.next().group(b"DELETE [a]\n", 1)]


def after_the_snapshot() -> Files:
    return files(*history()[2:])


def before_the_snapshot() -> Files:
    return files(*history()[:2])


def test_segments_are_read_from_1_on_without_a_snapshot(tmp_path: Path) -> None:
    state, pairs = read(put(tmp_path / "d", before_the_snapshot()))
    first, second = history()[:2]
    assert pairs == {b"a": b"1", b"b": b"2"}
    assert (state.revision, state.changes, state.pairs) == (4, 4, 2)
    assert (state.snapshot, state.snapshot_bytes, state.segments) == (None, 0, [1, 2])
    assert state.journal_bytes == len(first.data) + len(second.data)
    assert (state.store_id, state.torn) == (first.store, None)
    assert (state.last_checksum, state.end) == (second.chain, len(second.data))


def test_files_before_the_newest_snapshot_are_ignored(tmp_path: Path) -> None:
    made = {**files(*history()), "0000000001.journal": b"nonsense", "0000000002.snapshot": b""}
    state, pairs = read(put(tmp_path / "d", made))
    snapshot, third, last = history()[2:]
    assert pairs == {b"b": b"2", b"d": b"4"}
    assert (state.revision, state.changes, state.segments) == (6, 2, [3, 4])
    assert (state.snapshot, state.snapshot_bytes) == (3, len(snapshot.data))
    assert state.journal_bytes == len(third.data) + len(last.data)


def test_job_records_and_progress_see_every_group(tmp_path: Path) -> None:
    put(tmp_path / "d", after_the_snapshot())
    naive, calls = Naive(), []
    with DataDirectory(tmp_path / "d") as directory:
        Recovery(directory, naive, naive.bodies.append, lambda *sizes: calls.append(sizes)).read()
    assert naive.bodies == [PAIRS, b"WRITE [(d,4)]\n", b"DELETE [a]\n"]
    size = sum(map(len, after_the_snapshot().values()))
    assert [of_all for _, of_all in calls] == [size] * 3
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1][0] <= size


@pytest.mark.parametrize("made", [before_the_snapshot(), after_the_snapshot()])
@pytest.mark.slow
def test_file_cut_at_any_byte_is_torn_or_damaged(tmp_path: Path, made: Files) -> None:
    intact, _ = read(put(tmp_path / "d", made))
    last = max(name for name in made if name.endswith("journal"))
    ends = next(made.ends for made in history() if made.name == last)
    for name, data in made.items():
        for length in range(len(data)):
            put(tmp_path / "d", {**made, name: data[:length]})
            if name != last or length < ends[0]:
                file, offset, _ = damage(tmp_path / "d")
                assert (file >= name, offset <= length) == (True, True)
                continue
            state, _ = read(tmp_path / "d")
            end = max(end for end in ends if end <= length)
            assert state.end == end
            assert state.revision < intact.revision
            if length > end:
                assert state.torn is not None
                assert (state.torn.offset, state.torn.bytes) == (end, length - end)
                assert state.torn.file == f"{tmp_path}/d/{name}"
            else:
                assert state.torn is None


def refused_if_changed(directory: Path, made: Files, name: str, at: int, byte: int) -> None:
    file = directory / name
    data = made[name]
    file.write_bytes(data[:at] + bytes([byte]) + data[at + 1 :])
    naive = Naive()
    with DataDirectory(directory) as opened, pytest.raises(CorruptionError) as caught:
        Recovery(opened, naive, naive.bodies.append, lambda _done, _all: None).read()
    assert (caught.value.path, caught.value.offset <= at) == (str(file), True), (at, byte)


@pytest.mark.parametrize("made", [before_the_snapshot(), after_the_snapshot()])
@pytest.mark.slow
def test_changed_bit_is_damage_with_file_and_offset(tmp_path: Path, made: Files) -> None:
    directory = put(tmp_path / "d", made)
    for name, data in made.items():
        for at, byte in enumerate(data):
            for other in {byte ^ 1 << at % 8, 0, 0xFF, ord("0"), ord("\n")} - {byte}:
                refused_if_changed(directory, made, name, at, other)
        (directory / name).write_bytes(data)
    read(directory)


@pytest.mark.stress
@pytest.mark.parametrize("made", [before_the_snapshot(), after_the_snapshot()])
def test_changed_byte_of_any_value_is_damage(tmp_path: Path, made: Files) -> None:
    directory = put(tmp_path / "d", made)
    for name, data in made.items():
        for at, byte in enumerate(data):
            for other in set(range(256)) - {byte}:
                refused_if_changed(directory, made, name, at, other)
        (directory / name).write_bytes(data)


def test_zeros_are_torn_only_behind_the_last_segment(
    tmp_path: Path,
) -> None:
    made = before_the_snapshot()
    first, second = history()[:2]
    for count in (*range(1, 100), 4096, 10_000):
        put(tmp_path / "d", {**made, second.name: second.data + bytes(count)})
        state, pairs = read(tmp_path / "d")
        assert (pairs, state.torn and state.torn.bytes) == ({b"a": b"1", b"b": b"2"}, count)
        put(tmp_path / "d", {**made, first.name: first.data + bytes(count)})
        assert damage(tmp_path / "d")[:2] == (first.name, len(first.data))
    snapshot = history()[2]
    put(tmp_path / "d", {**after_the_snapshot(), snapshot.name: snapshot.data + bytes(8)})
    assert damage(tmp_path / "d")[:2] == (snapshot.name, len(snapshot.data))


@pytest.mark.parametrize("missing", ["0000000001.journal", "0000000002.journal"])
def test_missing_segment_is_damage(tmp_path: Path, missing: str) -> None:
    made = {**files(*history()[:2]), **files(history()[1].next().group(b"DELETE [a]\n", 1))}
    del made[missing]
    reason = "this segment of the journal is missing"
    if missing == "0000000001.journal":
        reason += ", or else 0000000002.snapshot"
    assert damage(put(tmp_path / "d", made)) == (missing, 0, reason)


@pytest.mark.parametrize(
    ("missing", "reported", "other"),
    [
        ("0000000003.snapshot", "0000000001.journal", ", or else 0000000003.snapshot"),
        ("0000000003.journal", "0000000003.journal", ""),
    ],
)
def test_snapshot_and_its_segment_need_each_other(
    tmp_path: Path, missing: str, reported: str, other: str
) -> None:
    made = after_the_snapshot()
    del made[missing]
    reason = "this segment of the journal is missing"
    assert damage(put(tmp_path / "d", made)) == (reported, 0, reason + other)
    put(tmp_path / "d", files(history()[2]))
    assert damage(tmp_path / "d") == ("0000000003.journal", 0, reason)


RESTORE = "begin a new data directory with 'kvs restore' from a backup"
CUT = "'kvs repair --cut' keeps everything before it"


@pytest.mark.parametrize(
    ("missing", "damaged", "advice"),
    [
        ("", (3, 100), CUT),
        ("", (0, 200), CUT),
        ("", (0, 100), f"nothing comes before it: {RESTORE}"),
        ("", (0, 20), f"nothing comes before it: {RESTORE}"),
        ("", (2, 100), "'kvs repair --cut' removes it, if the older files are intact"),
        (
            "0000000001.journal 0000000002.journal",
            (2, 100),
            f"everything later depends on it: {RESTORE}",
        ),
        ("0000000001.journal 0000000002.journal", (3, 100), CUT),
        ("0000000003.journal", None, f"put the file back, or else {CUT}"),
        ("0000000001.journal 0000000003.snapshot", None, f"put the file back, or else {RESTORE}"),
    ],
)
def test_advice_is_what_repair_does(
    tmp_path: Path, missing: str, damaged: tuple[int, int] | None, advice: str
) -> None:
    """A repair keeps changes, or refuses, as the advice says."""
    made = files(*history())
    if damaged is not None:
        file = history()[damaged[0]]
        made[file.name] = file.data[: damaged[1]] + b"~" + file.data[damaged[1] + 1 :]
        if damaged[0] < 2:
            del made["0000000003.snapshot"]
    for name in missing.split():
        del made[name]
    with pytest.raises(CorruptionError) as caught:
        read(put(tmp_path / "d", made))
    assert caught.value.advice == advice
    try:
        result = maintenance.repair(tmp_path / "d")
    except CorruptionError:
        assert RESTORE in advice
        assert contents(tmp_path / "d") == made
    else:
        assert result is not None
        assert (RESTORE in advice) == (result.revision == 0)
        assert maintenance.check(tmp_path / "d").revision == result.revision


def test_swapped_segments_are_damage(tmp_path: Path) -> None:
    first, second = history()[:2]
    put(tmp_path / "d", {first.name: second.data, second.name: first.data})
    assert damage(tmp_path / "d") == (
        first.name, 0, "it is 0000000002.journal, under another name",
    )  # fmt: skip
    put(tmp_path / "d", {**before_the_snapshot(), "0000000003.journal": second.data})
    assert damage(tmp_path / "d") == (
        "0000000003.journal", 0, "it is 0000000002.journal, under another name",
    )  # fmt: skip
    put(tmp_path / "d", {**after_the_snapshot(), "0000000003.snapshot": history()[3].data})
    assert damage(tmp_path / "d") == (
        "0000000003.snapshot", 0, "it is 0000000003.journal, under another name",
    )  # fmt: skip


def test_segment_of_another_history_is_damage(tmp_path: Path) -> None:
    first, second = history()[:2]
    foreign = JournalBuilder(number=2, revision=2, store=OTHER, previous=first.chain)
    assert damage(put(tmp_path / "d", files(first, foreign))) == (
        second.name, 0, "it belongs to another store",
    )  # fmt: skip
    ahead = JournalBuilder(number=2, revision=3, previous=first.chain)
    assert damage(put(tmp_path / "d", files(first, ahead))) == (
        second.name, 0, "it follows revision 3, not revision 2",
    )  # fmt: skip
    other_history = JournalBuilder(number=2, revision=2, previous=first.chain ^ 1)
    assert damage(put(tmp_path / "d", files(first, other_history))) == (
        second.name, 0, "it does not follow the segment before it",
    )  # fmt: skip


@pytest.mark.parametrize("act", [read, maintenance.check, maintenance.repair])
def test_newer_format_is_an_error_and_not_damage(
    tmp_path: Path, act: Callable[[Path], object]
) -> None:
    newer = b"# kvs journal 3 0000000002 something new "
    made = {**before_the_snapshot(), "0000000002.journal": newer + b"%08x\n" % crc(newer)}
    put(tmp_path / "d", made)
    with pytest.raises(DataDirectoryError) as caught:
        act(tmp_path / "d")
    assert str(caught.value) == (
        f"{tmp_path}/d/0000000002.journal: at byte 0: it has version 3 of the format; this "
        "kvs reads versions 1 and 2; use the version of kvs that wrote it"
    )
    assert contents(tmp_path / "d") == made


def test_foreign_file_is_damage(tmp_path: Path) -> None:
    first, second = history()[:2]
    assert damage(put(tmp_path / "d", {**files(first), second.name: b"\x7fELF..."})) == (
        second.name, 0, "it does not begin as a file of a journal does",
    )  # fmt: skip
    assert damage(put(tmp_path / "d", {**files(first), second.name: b""})) == (
        second.name, 0, "it does not begin as a file of a journal does",
    )  # fmt: skip


def test_lines_that_miss_their_revision_are_damage(tmp_path: Path) -> None:
    wrong = JournalBuilder().group(b"WRITE [(a,1)]\n", 1).group(b"DELETE [b]\n", 1)
    reason = "the lines of the group do not lead to the revision in its header"
    assert damage(put(tmp_path / "d", files(wrong))) == (wrong.name, wrong.ends[1], reason)
    gap = JournalBuilder().group(b"WRITE [(a,1)]\n", 1)
    gap.revision += 1
    gap.group(b"WRITE [(a,1)]\n", 1)
    assert damage(put(tmp_path / "d", files(gap)))[:2] == (gap.name, gap.ends[1])


def test_incomplete_snapshot_is_damage(tmp_path: Path) -> None:
    segment = JournalBuilder(number=3, revision=4)
    no_end = JournalBuilder("snapshot", 3, 4).group(PAIRS, 0)
    assert damage(put(tmp_path / "d", files(no_end, segment))) == (
        no_end.name, len(no_end.data), "the snapshot is not complete",
    )  # fmt: skip
    less = JournalBuilder("snapshot", 3, 4).group(PAIRS, 0).group(b"# end 3\n", 0)
    assert damage(put(tmp_path / "d", files(less, segment))) == (
        less.name, len(less.data), "the snapshot is not complete",
    )  # fmt: skip
    more = JournalBuilder("snapshot", 3, 4).group(PAIRS, 0).group(b"# end 2\n", 0).group(PAIRS, 0)
    assert damage(put(tmp_path / "d", files(more, segment))) == (
        more.name, more.ends[2], "unexpected group",
    )  # fmt: skip


def test_read_error_is_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "d", before_the_snapshot())

    def broken(_file: int, _size: int, _at: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(DataDirectoryError) as caught:
        read(tmp_path / "d")
    assert str(caught.value) == (
        f"{tmp_path}/d/0000000001.journal: cannot read it: Input/output error"
    )
    assert contents(tmp_path / "d") == before_the_snapshot()


def test_lines_of_a_restore_are_one_change(tmp_path: Path) -> None:
    restored = JournalBuilder().group(b"# restore\nWRITE [(a,1)]\nWRITE [(b,2)]\n", 1)
    state, pairs = read(put(tmp_path / "d", files(restored.group(b"DELETE [a]\n", 1))))
    assert (state.revision, state.changes, pairs) == (2, 2, {b"b": b"2"})
    put(tmp_path / "d", files(JournalBuilder().group(b"# restore\nWRITE [(a,1)]\n", 2)))
    assert damage(tmp_path / "d")[2] == (
        "the lines of the group do not lead to the revision in its header"
    )
