"""``kvs import`` and ``kvs export`` for real: results, messages and exit statuses."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from kvs import Store
from kvs.cli.transfer import BATCH_BYTES, MAX_REPORTED_ROWS
from tests.helpers import KVS, SECONDS, Argument, Ended, kvs, only_line

PAIRS = {b"a": b"1", b"two words": b'say "hi",\n', b"\xff": b"\0", b"empty": b""}


def fed(data: bytes, *arguments: Argument) -> Ended:
    """Run the program with `data` in a pipe as its input."""
    done = subprocess.run(
        [*KVS, *arguments], input=data, capture_output=True, timeout=SECONDS, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def imported(directory: Path) -> dict[bytes, bytes]:
    with Store(directory) as store:
        return dict(store.items())


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl", "p.ndjson", ".env", "p.conf"])
def test_exported_file_is_imported_again(tmp_path: Path, name: str) -> None:
    with Store(tmp_path / "one") as store:
        store.write(PAIRS)
    file = tmp_path / name
    file.write_text("old")
    ended = kvs("export", tmp_path / "one", file)
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"", b"")
    ended = kvs("import", file, tmp_path / "two")
    assert (ended.status, ended.stdout) == (0, b"")
    assert only_line(ended) == f"{tmp_path}/two: 4 pairs imported, at revision 1"
    assert imported(tmp_path / "two") == PAIRS
    assert sorted(os.listdir(tmp_path)) == sorted([name, "one", "two"])


def test_standard_streams_need_a_format(tmp_path: Path) -> None:
    data = tmp_path / "d"
    ended = fed(b"A=1\nB=2\nA=3\n", "import", "-", data, "--format", "env")
    assert (ended.status, only_line(ended)) == (0, f"{data}: 3 pairs imported, at revision 1")
    ended = kvs("export", data, "--format", "csv")
    assert (ended.status, ended.stdout) == (0, b"key,value\r\nA,3\r\nB,2\r\n")
    for arguments in (("import", "-", data), ("export", data), ("export", data, tmp_path / "x")):
        ended = kvs(*arguments)
        assert ended.status == 2
        assert only_line(ended).endswith(
            ": its name does not tell the format: give --format (csv, jsonl, env)"
        )


def test_file_with_an_invalid_line_imports_nothing(tmp_path: Path) -> None:
    file = tmp_path / "p.env"
    file.write_bytes(b"A=1\nB\nC=3\n" + MAX_REPORTED_ROWS * b"D\n")
    ended = kvs("import", file, tmp_path / "d")
    assert (ended.status, ended.stdout) == (1, b"")
    assert ended.lines[0] == f"{file}:2: expected KEY=VALUE, not 'B'"
    assert len(ended.lines) == MAX_REPORTED_ROWS + 2
    assert ended.lines[-2:] == [
        f"{file}: 1 more are invalid",
        f"kvs import: {file}: 1001 invalid lines; nothing was imported",
    ]
    assert not (tmp_path / "d").exists()


def test_stream_with_an_invalid_line_stops_there(tmp_path: Path) -> None:
    ended = fed(b"A=1\nB=2\nC\nD=4\n", "import", "-", tmp_path / "d", "--format", "env")
    assert ended.status == 1
    assert ended.lines == [
        "stdin:3: expected KEY=VALUE, not 'C'",
        f"{tmp_path}/d: 2 pairs imported before that, at revision 1",
    ]
    assert imported(tmp_path / "d") == {b"A": b"1", b"B": b"2"}


def test_stream_is_committed_in_batches_as_it_arrives(tmp_path: Path) -> None:
    fifo = tmp_path / "p.env"
    os.mkfifo(fifo)
    value = b"v" * 1000

    def feed() -> None:
        with open(fifo, "wb") as file:
            file.writelines(b"k%d=%b\n" % (number, value) for number in range(5000))

    feeder = threading.Thread(target=feed)
    feeder.start()
    ended = kvs("import", fifo, tmp_path / "d")
    feeder.join()
    assert ended.status == 0
    with Store(tmp_path / "d") as store:
        assert len(store) == 5000
        assert store.revision >= 5000 * 1000 // BATCH_BYTES


def test_expiries_are_exported_and_imported_as_json(tmp_path: Path) -> None:
    line = b'{"key":"a","value":"1","until":99999999999999}\n{"key":"b","value":"2"}\n'
    ended = fed(line, "import", "-", tmp_path / "d", "--format", "jsonl")
    assert ended.status == 0
    assert kvs("export", tmp_path / "d", "--format", "jsonl").stdout == line


def test_unusable_paths_are_wrong_usage(tmp_path: Path) -> None:
    ended = kvs("import", tmp_path / "none.csv", tmp_path / "d")
    assert (ended.status, only_line(ended)) == (
        2,
        f"kvs import: {tmp_path}/none.csv: cannot read it: No such file or directory",
    )
    ended = kvs("export", tmp_path / "d", tmp_path / "x.csv")
    assert (ended.status, only_line(ended)) == (
        2,
        f"kvs export: {tmp_path}/d: cannot open the data directory: No such file or directory",
    )
    assert os.listdir(tmp_path) == []


def test_failed_export_leaves_the_old_file(tmp_path: Path) -> None:
    with Store(tmp_path / "d") as store:
        store.write(PAIRS)
    (tmp_path / "x.csv").mkdir()
    ended = kvs("export", tmp_path / "d", tmp_path / "x.csv")
    assert ended.status == 1
    assert only_line(ended).startswith(f"kvs export: {tmp_path}/x.csv: not written: ")
    assert sorted(os.listdir(tmp_path)) == ["d", "x.csv"]


def test_directory_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"a,1\n")
    with Store(tmp_path / "d"):
        for arguments in (("import", tmp_path / "x.csv", tmp_path / "d"),
                          ("export", tmp_path / "d", tmp_path / "y.csv")):  # fmt: skip
            ended = kvs(*arguments)
            assert ended.status == 1
            assert "in use by process" in only_line(ended)
