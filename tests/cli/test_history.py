"""``kvs history`` for real: its lines, messages and exit statuses."""

from pathlib import Path

import pytest

from kvs import Store
from tests.helpers import kvs, only_line
from tests.journal.builders import JournalBuilder, contents, files, put

SHOWN_TIME = "2026-09-21T14:13:20.123Z"


def test_history_prints_a_line_for_each_change(tmp_path: Path) -> None:
    body = (
        b'# origin job stock\nWRITE [(a,1)]\nWRITE [(a,"two words\\n")] UNTIL 1790000009999\n'
        b"# origin expiry\nDELETE [a]\n"
    )
    data = put(tmp_path / "d", files(JournalBuilder().group(body, 3)))
    before = contents(data)
    ended = kvs("history", data, "a")
    assert (ended.status, ended.stderr) == (0, b"")
    assert ended.stdout.decode().splitlines() == [
        f"1\t{SHOWN_TIME}\tjob stock\t1",
        f'2\t{SHOWN_TIME}\tjob stock\t"two words\\n" UNTIL 1790000009999',
        f"3\t{SHOWN_TIME}\texpiry\t(removed)",
    ]
    ended = kvs("history", data, "b")
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"", b"")
    assert contents(data) == before


def test_history_begins_with_what_the_snapshot_has(tmp_path: Path) -> None:
    snapshot = JournalBuilder("snapshot", 2, 7).group(b"WRITE [(a,1)]\n", 0)
    snapshot.group(b"# end 1\n", 0)
    second = JournalBuilder(number=2, revision=7).group(b"WRITE [(b,2)]\n", 1)
    data = put(tmp_path / "d", files(snapshot, second))
    assert kvs("history", data, "a").stdout.decode() == f"7\t{SHOWN_TIME}\tsnapshot\t1\n"
    assert kvs("history", data, "b").stdout.decode() == (
        f"7\t{SHOWN_TIME}\tsnapshot\t(missing)\n8\t{SHOWN_TIME}\t-\t2\n"
    )


def test_unknown_time_and_origin_are_dashes(tmp_path: Path) -> None:
    data = put(tmp_path / "d", files(JournalBuilder(version=1).group(b"WRITE [(a,1)]\n", 1)))
    assert kvs("history", data, "a").stdout == b"1\t-\t-\t1\n"


def test_value_in_brackets_is_not_taken_for_a_removal(tmp_path: Path) -> None:
    with Store(tmp_path / "d") as store:
        store.write({"a\tkey": "(removed)"})
    [line] = kvs("history", tmp_path / "d", "a\tkey").stdout.splitlines()
    assert line.split(b"\t")[3:] == [b'"(removed)"']


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "a key has at least 1 byte, this one is empty"),
        ("k" * 1025, f"'{'k' * 24}...': a key is at most 1024 bytes, this one has 1025"),
    ],
)
def test_key_of_invalid_size_is_wrong_usage(tmp_path: Path, key: str, reason: str) -> None:
    ended = kvs("history", tmp_path / "d", key)
    assert (ended.status, only_line(ended)) == (2, f"kvs history: {reason}")


def test_history_of_damage_ends_with_an_error(tmp_path: Path) -> None:
    first = JournalBuilder().group(b"WRITE [(a,1)]\n", 1)
    damaged = JournalBuilder().group(b"WRITE [(a,1)]\n", 1).group(b"WRITE [(a,2)]\n", 1)
    data = put(tmp_path / "d", {first.name: damaged.data.replace(b"(a,2)", b"(a,3)")})
    ended = kvs("history", data, "a")
    assert ended.status == 1
    assert ended.stdout.decode() == f"1\t{SHOWN_TIME}\t-\t1\n"
    [line] = ended.lines
    assert line.startswith(
        f"kvs history: {data}/{first.name}: at byte {len(first.data)}: a group does not match"
    )


def test_directory_in_use_or_without_a_journal_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path / "d") as store:
        store.write({"a": "1"})
        ended = kvs("history", tmp_path / "d", "a")
    assert ended.status == 1
    assert "in use by process" in only_line(ended)
    ended = kvs("history", tmp_path / "none", "a")
    assert (ended.status, only_line(ended)) == (
        2,
        f"kvs history: {tmp_path}/none: cannot open the data directory: No such file or directory",
    )
