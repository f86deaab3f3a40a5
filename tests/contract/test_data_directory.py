"""Files of a data directory: golden files that are opened, and the bytes that are written."""

import os
import re
import signal
import stat
from pathlib import Path

import pytest

from tests.contract.golden import (
    GOLDEN_GROUPS,
    GOLDEN_JOURNAL,
    GOLDEN_SEGMENT,
    GOLDEN_SNAPSHOT,
    MARK,
    SECOND_SEGMENT,
    SEGMENT,
    SNAPSHOT,
    THIRD_SEGMENT,
    THIRD_SNAPSHOT,
    journal_file,
    journal_head,
)
from tests.contract.pipes import Client, serving
from tests.contract.program import content, ended_by, kvs, lines_of, write_jobs


def data_directory(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(mode=0o700)
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


def golden(tmp_path: Path) -> Path:
    return data_directory(tmp_path / "data", {SEGMENT: GOLDEN_JOURNAL})


def names(directory: Path) -> list[str]:
    return sorted(name for name in os.listdir(directory) if name != "kvs.reserve")


def mark_of(directory: Path, name: str) -> bytes:
    """Return the mark of the store, which is drawn anew for each."""
    head = re.match(rb"# kvs \w+ 2 [0-9]{10} [0-9]{20} ([0-9a-f]{16}) ", content(directory / name))
    assert head
    return head[1]


def rebuilt(head: bytes, data: bytes) -> bytes:
    """Return the file of `head` with the groups and the times of `data`, of version 2."""
    groups = re.findall(
        rb"# group (\d{20}) (\d{20}) \d{12} (\d{15}) \w{8} \w{8}\n((?:(?!# group ).*\n)*)", data
    )
    parts = [(int(before), int(after), body) for before, after, _, body in groups]
    return journal_file(head, *parts, times=[time for _, _, time, _ in groups])


def dump(directory: Path) -> bytes:
    ended = kvs("dump", directory)
    assert (ended.returncode, ended.stderr) == (0, b"")
    return ended.stdout


def comments_and_records(data: bytes) -> list[bytes]:
    """Return the lines behind the head, without the group headers."""
    return [line for line in data.split(b"\n")[1:-1] if not line.startswith(b"# group ")]


def run(data: Path, jobs: Path, *options: str) -> None:
    ended = kvs("run", "--quiet", "--threads", "1", "--data", data, *options, jobs)
    assert (ended.returncode, ended.stdout) == (0, b""), ended


def test_golden_journal_is_that_of_the_document() -> None:
    assert journal_file(journal_head(MARK, 1), *GOLDEN_GROUPS) == GOLDEN_JOURNAL


def test_golden_journal_is_opened(tmp_path: Path) -> None:
    data = golden(tmp_path)
    assert dump(data) == b"(a, (()\n(c, 3)\n"
    assert kvs("check", data).returncode == 0
    assert content(data / SEGMENT) == GOLDEN_JOURNAL
    jobs = write_jobs(tmp_path / "jobs", a=b"SHOW\nREAD [b]\n")
    run(data, jobs)
    assert content(jobs / "a.out") == b"(a, (()\n(c, 3)\n[(b,KVSERROR)]\n"
    assert content(data / SEGMENT) == GOLDEN_JOURNAL
    assert content(data / SECOND_SEGMENT).startswith(b"# kvs journal 2 ")
    assert dump(data) == b"(a, (()\n(c, 3)\n"


def test_golden_snapshot_with_job_records_is_opened(tmp_path: Path) -> None:
    files = {SNAPSHOT: GOLDEN_SNAPSHOT, SECOND_SEGMENT: GOLDEN_SEGMENT}
    data = data_directory(tmp_path / "data", files)
    assert dump(data) == b"(pump, 14)\n"
    assert kvs("check", data).returncode == 0


def test_restore_and_sessions_write_the_golden_records(tmp_path: Path) -> None:
    backup, data = tmp_path / "b.bck", tmp_path / "data"
    backup.write_bytes(b"(a, 1)\n(b, 2)\n")
    ended = kvs("restore", backup, data)
    assert (ended.returncode, ended.stdout) == (0, b"")
    assert names(data) == [SEGMENT]
    mark = mark_of(data, SEGMENT)
    written = content(data / SEGMENT)
    assert written == rebuilt(journal_head(mark), written)
    assert comments_and_records(written) == [b"# restore", GOLDEN_GROUPS[0][2].rstrip(b"\n")]
    with serving("--data", data) as server:
        client = Client(server, "a").connect()
        for script in (GOLDEN_GROUPS[1][2], b"READ [a]\nDELETE [zz]\n", GOLDEN_GROUPS[2][2]):
            client.execute(script)
        assert content(data / ".kvs.lock") == b"%d\n" % server.process.pid
        assert content(server.jobs / ".kvs.lock") == b"%d\n" % server.process.pid
        assert names(data) == [".kvs.lock", SEGMENT]
        for command in ("check", "dump", "compact"):
            refused = kvs(command, data)
            assert (refused.returncode, refused.stdout) == (1, b"")
            assert str(server.process.pid) in "".join(lines_of(refused.stderr))
        client.close()
        assert ended_by(server.process, signal.SIGTERM) == 0
    assert names(data) == [SEGMENT]
    written = content(data / SEGMENT)
    assert written == rebuilt(journal_head(mark), written)
    records = [line for line in comments_and_records(written) if not line.startswith(b"#")]
    assert records == [*(body.rstrip(b"\n") for _, _, body in GOLDEN_GROUPS[:2]), b"DELETE [b]"]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in data.iterdir()}
    assert (modes, stat.S_IMODE(data.stat().st_mode)) == ({0o600}, 0o700)
    reserve = (data / "kvs.reserve").stat().st_size
    assert 0 < reserve <= 1 << 20


def test_compact_writes_a_snapshot_and_a_new_segment(tmp_path: Path) -> None:
    data = golden(tmp_path)
    assert kvs("compact", data).returncode == 0
    assert names(data) == [THIRD_SEGMENT, THIRD_SNAPSHOT]
    head = b"# kvs snapshot 2 0000000003 00000000000000000003 %b 00000000 " % MARK
    bodies = [b"WRITE [(a,(()(c,3)]", b"WRITE [(c,3)(a,(()]"]
    written = content(data / THIRD_SNAPSHOT)
    assert written == rebuilt(head, written)
    records = comments_and_records(written)
    assert records in [[body, b"# end 2"] for body in bodies]
    head = b"# kvs journal 2 0000000003 00000000000000000003 %b " % MARK
    assert content(data / THIRD_SEGMENT).startswith(head)
    assert dump(data) == b"(a, (()\n(c, 3)\n"


def job_identity(jobs: Path, name: str) -> bytes:
    """Return what a job record says of a job: name, directory, and what its file is."""
    file, number = (jobs / f"{name}.job").stat(), os.statvfs(jobs).f_fsid
    fields = number, jobs.stat().st_ino, number, file.st_ino, file.st_size, file.st_mtime_ns
    return name.encode().hex().encode() + b"".join(b" %d" % value for value in fields)


def test_jobs_are_recorded_with_progress_and_output(tmp_path: Path) -> None:
    text = b"WRITE [(pump,14)(valve,120)]\nREAD [pump]\nDELETE [valve,hose]\n# end\n"
    jobs, data = write_jobs(tmp_path / "jobs", stock=text), tmp_path / "data"
    run(data, jobs)
    assert names(data) == [SEGMENT]
    lines = comments_and_records(content(data / SEGMENT))
    assert lines == [
        b"# job 1 is " + job_identity(jobs, "stock"),
        b"# origin job stock",
        b"WRITE [(pump,14)(valve,120)]",
        b"DELETE [valve]",
        b"# job 1 at 67 32",
        b"#>[(pump,14)]",
        b"#>[(hose,KVSMISSING)]",
        b"# job 1 done",
    ]
    written = content(data / SEGMENT)
    assert written == rebuilt(journal_head(mark_of(data, SEGMENT)), written)


@pytest.mark.slow
def test_finished_job_and_its_backup_are_left_alone(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", a=b"WRITE [(k,1)]\nBACKUP\nWRITE [(k,2)]\nREAD [k]\n")
    data = tmp_path / "data"
    run(data, jobs)
    assert b"# job 1 wrote 1" in comments_and_records(content(data / SEGMENT))
    (jobs / "a.out").write_bytes(b"[(k,9)]\n")
    before = content(data / SEGMENT)
    write_jobs(jobs, b=b"READ [k]\n")
    run(data, jobs, "--resume")
    assert content(jobs / "a.out") == b"[(k,9)]\n"
    assert content(jobs / "b.out") == b"[(k,2)]\n"
    assert content(jobs / "a-1.bck") == b"(k, 1)\n"
    added = comments_and_records(b"\n" + content(data / SEGMENT).removeprefix(before))
    assert added[0] == b"# job 2 is " + job_identity(jobs, "b")
    assert [line for line in added if b"job 1" in line] == []
    (jobs / "a.job").write_bytes(b"READ [k]\nREAD [k]\n")
    run(data, jobs, "--resume")
    assert content(jobs / "a.out") == b"[(k,2)]\n[(k,2)]\n"


def test_unfinished_job_is_resumed_behind_its_record(tmp_path: Path) -> None:
    text = b"WRITE [(k,1)]\nREAD [k]\nDELETE [k]\nREAD [k]\nBACKUP\n"
    jobs = write_jobs(tmp_path / "jobs", a=text)
    (jobs / "a.out").write_bytes(b"[(k,1)]\nnot committed")
    notes = b"# job 1 is " + job_identity(jobs, "a") + b"\n"
    body = b"WRITE [(k,1)]\n# job 1 at 23 8\n#>[(k,1)]\n"
    unfinished = journal_file(journal_head(MARK, 1), (0, 0, notes), (0, 1, body))
    data = data_directory(tmp_path / "data", {SEGMENT: unfinished})
    run(data, jobs, "--resume")
    assert content(jobs / "a.out") == b"[(k,1)]\n[(k,KVSERROR)]\n"
    assert content(jobs / "a-1.bck") == b""
    assert content(data / SEGMENT) == unfinished
    records = comments_and_records(unfinished + b"\n" + content(data / SECOND_SEGMENT))
    assert records.count(b"WRITE [(k,1)]") == 1
    assert [line for line in records if b" is " in line] == [notes.strip()]
    assert b"# job 1 done" in records


@pytest.mark.slow
def test_damage_is_refused_and_cut_by_repair(tmp_path: Path) -> None:
    data = golden(tmp_path)
    damaged = GOLDEN_JOURNAL.replace(b"DELETE [b,", b"DELETE [c,")
    (data / SEGMENT).write_bytes(damaged)
    for command in ("check", "dump", "compact"):
        refused = kvs(command, data)
        assert (refused.returncode, refused.stdout.count(b"(")) == (1, 0)
    assert content(data / SEGMENT) == damaged
    ended = kvs("repair", "--cut", data)
    assert ended.returncode == 0
    assert names(data) == [SEGMENT, f"{SEGMENT}.cut", SECOND_SEGMENT]
    assert comments_and_records(content(data / SECOND_SEGMENT))[0].startswith(b"# mark ")
    kept = journal_file(journal_head(MARK, 1), *GOLDEN_GROUPS[:2])
    assert content(data / SEGMENT) == kept
    assert content(data / f"{SEGMENT}.cut") == damaged.removeprefix(kept)
    assert dump(data) == b"(a, (()\n(b, 2)\n(c, 3)\n"


def test_torn_end_is_dropped_at_a_start(tmp_path: Path) -> None:
    data = golden(tmp_path)
    for torn in (GOLDEN_JOURNAL[:-3], GOLDEN_JOURNAL[:-40], GOLDEN_JOURNAL[:-15] + b"\0" * 15):
        (data / SEGMENT).write_bytes(torn)
        assert dump(data) == b"(a, (()\n(b, 2)\n(c, 3)\n"


def test_unfinished_restore_is_refused(tmp_path: Path) -> None:
    data = data_directory(tmp_path / "data", {"restore.unfinished": b""})
    for command in ("check", "run --quiet --data"):
        jobs = [tmp_path] if command != "check" else []
        assert kvs(*command.split(), data, *jobs).returncode == 2
    assert names(data) == ["restore.unfinished"]


def test_other_version_is_refused(tmp_path: Path) -> None:
    data = golden(tmp_path)
    head = journal_head(MARK).replace(b"journal 2", b"journal 9")
    (data / SEGMENT).write_bytes(journal_file(head))
    assert kvs("check", data).returncode == 2
    assert content(data / SEGMENT) == journal_file(head)
