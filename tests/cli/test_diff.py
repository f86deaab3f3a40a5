"""``kvs diff`` for real: its lines, messages and exit statuses."""

import os
import subprocess
from pathlib import Path

from kvs import Store
from tests.helpers import KVS, SECONDS, kvs, only_line, write_jobs


def test_output_of_diff_is_a_job(tmp_path: Path) -> None:
    old, new, jobs = tmp_path / "old", tmp_path / "new.bck", tmp_path / "jobs"
    with Store(old) as store:
        store.write({"a": "1", "b": "two words", "c": "3"})
    new.write_bytes(b'(a, 1)\n(b, "2 words") UNTIL 99999999999999\n(d, 4)\n')
    ended = kvs("diff", old, new)
    assert (ended.status, ended.stderr) == (1, b"")
    assert ended.stdout == (
        b'WRITE [(b,"2 words")] UNTIL 99999999999999\nDELETE [c]\nWRITE [(d,4)]\n'
    )
    assert kvs("run", "--quiet", "--data", old, write_jobs(jobs, {"a": ended.stdout})).status == 0
    ended = kvs("diff", old, new)
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"", b"")


def test_trouble_has_status_2(tmp_path: Path) -> None:
    (tmp_path / "one.bck").write_bytes(b"(a, 1)\n")
    (tmp_path / "bad.bck").write_bytes(b"(a, 1)\nnonsense\n")
    (tmp_path / "empty").mkdir(mode=0o700)
    with Store(tmp_path / "used") as store:
        store.write({"a": "1"})
        for name, reason in {
            "none.bck": "cannot read the backup: No such file or directory",
            "empty": "not a data directory: it has no journal",
            "bad.bck": "expected '(key, value)', not 'nonsense'",
            "used": "in use by process",
        }.items():
            for arguments in (("one.bck", name), (name, "one.bck")):
                ended = kvs("diff", *(tmp_path / argument for argument in arguments))
                assert ended.status == 2
                line = only_line(ended)
                assert line.startswith(f"kvs diff: {tmp_path}/{name}")
                assert reason in line
    assert kvs("diff", tmp_path / "one.bck").status == 2


def test_closed_stdout_has_status_2_without_a_message(tmp_path: Path) -> None:
    (tmp_path / "one.bck").write_bytes(b"(a, 1)\n")
    (tmp_path / "two.bck").write_bytes(b"(a, 2)\n")
    command: list[str | Path] = [*KVS, "diff", tmp_path / "one.bck", tmp_path / "two.bck"]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, timeout=SECONDS, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (2, b"")
