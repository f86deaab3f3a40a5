"""Data directories on the command line: results, messages and exit statuses."""

import os
import re
import signal
from pathlib import Path

import pytest

from kvs import Store
from kvs.text import pluralize
from tests.helpers import (
    LONG_WAIT,
    Start,
    content,
    end,
    kvs,
    only_line,
    run_reporting,
    started,
    until,
    write_jobs,
)
from tests.journal.builders import Files, JournalBuilder, contents, files, put


def segments() -> tuple[JournalBuilder, JournalBuilder]:
    first = JournalBuilder().group(b"WRITE [(b,1)]\n", 1).group(b"WRITE [(a,2)(c,3)]\n", 1)
    return first, first.next().group(b"DELETE [c]\n", 1)


@pytest.fixture(name="data")
def _data(tmp_path: Path) -> Path:
    return put(tmp_path / "data", files(*segments()))


@pytest.fixture(name="damaged")
def _damaged(data: Path) -> Path:
    first = data / "0000000001.journal"
    first.write_bytes(first.read_bytes().replace(b"(b,1)", b"(b,7)"))
    return data


def test_check_prints_the_sizes(data: Path) -> None:
    before = contents(data)
    ended = kvs("check", data)
    size = sum(map(len, before.values()))
    assert (ended.status, ended.stderr) == (0, b"")
    assert ended.stdout.decode() == (
        f"{data}: revision 3, 2 pairs, {size} bytes: no snapshot, "
        f"2 segments of the journal of {size} bytes\n"
    )
    with open(data / "0000000002.journal", "ab") as file:
        file.write(b"# group")
    ended = kvs("check", data)
    assert ended.status == 0
    assert ended.stdout.decode().split("\n")[0] == (
        f"{data}/0000000002.journal: the file ends within the header of a group: the incomplete "
        f"group at byte {len(segments()[1].data)} will be truncated at the next start (7 bytes)"
    )
    assert kvs("compact", data).status == 0
    ended = kvs("check", data)
    assert re.fullmatch(
        rf"{data}: revision 3, 2 pairs, \d+ bytes: a snapshot of \d+ bytes, "
        r"1 segment of the journal of \d+ bytes\n",
        ended.stdout.decode(),
    )


def test_check_prints_the_first_damage_and_changes_nothing(damaged: Path) -> None:
    before = contents(damaged)
    ended = kvs("check", damaged)
    assert (ended.status, ended.stderr) == (1, b"")
    at = segments()[0].ends[0]
    assert ended.stdout.decode() == (
        f"{damaged}/0000000001.journal: at byte {at}: a group does not match its checksum\n"
    )
    assert contents(damaged) == before


@pytest.mark.parametrize("command", ["run", "serve", "dump", "compact", "backup"])
def test_corrupt_data_is_refused_with_the_remedy(
    damaged: Path, tmp_path: Path, command: str
) -> None:
    before = contents(damaged)
    jobs = write_jobs(tmp_path / "jobs", {"a": "SHOW\n"})
    arguments = {
        "run": ("run", jobs, "--data", damaged),
        "serve": ("serve", jobs, "1", "1", tmp_path / "fifo", "--data", damaged),
        "backup": ("backup", damaged, tmp_path / "x.bck"),
    }.get(command, (command, damaged))
    ended = kvs(*arguments)
    assert ended.status == 1
    assert only_line(ended) == (
        f"kvs {command}: {damaged}/0000000001.journal: at byte {segments()[0].ends[0]}: a group "
        "does not match its checksum; nothing was loaded or changed (nothing comes before it: "
        "begin a new data directory with 'kvs restore' from a backup)"
    )
    assert contents(damaged) == before
    assert [path.name for path in jobs.iterdir()] == ["a.job"]
    assert not (tmp_path / "x.bck").exists()


def test_repair_needs_cut_and_reports_the_loss(damaged: Path) -> None:
    before = contents(damaged)
    ended = kvs("repair", damaged)
    assert ended.status == 2
    assert only_line(ended) == (
        f"kvs repair: {damaged}: a repair changes the journal: confirm with "
        f"'kvs repair --cut {damaged}'; 'kvs check {damaged}' shows the damage"
    )
    assert contents(damaged) == before
    ended = kvs("repair", "--cut", damaged)
    first, second = segments()
    cut = len(first.data) - first.ends[0] + len(second.data)
    assert (ended.status, ended.stderr) == (1, b"")
    assert ended.stdout.decode() == (
        f"{damaged}/0000000001.journal: at byte {first.ends[0]}: a group does not match its "
        f"checksum\ncut there: {cut} bytes moved to "
        f"{damaged}/0000000001.journal.cut, {damaged}/0000000002.journal.cut\n"
        f"{damaged}: at revision 0; all changes are lost, at least up to revision 3\n"
    )
    ended = kvs("repair", "--cut", damaged)
    assert (ended.status, ended.stdout.decode()) == (
        0,
        f"{damaged}: nothing is damaged, and nothing was cut\n",
    )


def test_repair_reports_its_action_in_every_case(data: Path) -> None:
    first, second = segments()
    pairs = b"WRITE [(a,2)(b,1)]\n"
    snapshot = JournalBuilder("snapshot", 2, 2).group(pairs, 0).group(b"# end 2\n", 0)

    def repaired(damaged: Files) -> tuple[int, list[str]]:
        put(data, damaged)
        ended = kvs("repair", data, "--cut")
        assert ended.stderr == b""
        return ended.status, ended.stdout.decode().replace(f"{data}/", "").splitlines()[1:]

    broken = snapshot.data[:-1]
    assert repaired({**files(first, second), snapshot.name: broken}) == (0, [
        f"set aside: {len(broken)} bytes moved to {snapshot.name}.cut",
        f"{data}: at revision 3; nothing is lost: the journal before the snapshot was complete",
    ])  # fmt: skip
    assert repaired(files(snapshot)) == (0, [
        "no bytes to save; a new, empty file replaces it",
        f"{data}: at revision 2; later changes are lost; their number is unknown",
    ])  # fmt: skip
    assert repaired({first.name: first.data[:40]}) == (1, [
        f"cut there: 40 bytes moved to {first.name}.cut",
        f"{data}: at revision 0; all changes are lost; their number is unknown",
    ])  # fmt: skip
    last = second.data[:-2] + b"~\n"
    assert repaired({**files(first), second.name: last}) == (0, [
        f"cut there: {len(last) - 83} bytes moved to {second.name}.cut",
        f"{data}: at revision 2; later changes are lost, at least up to revision 3",
    ])  # fmt: skip


def test_restore_reads_the_output_of_dump(data: Path, tmp_path: Path) -> None:
    before = contents(data)
    ended = kvs("dump", data)
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"(a, 2)\n(b, 1)\n", b"")
    assert contents(data) == before
    (tmp_path / "x.bck").write_bytes(ended.stdout)
    ended = kvs("restore", tmp_path / "x.bck", tmp_path / "new")
    assert (ended.status, ended.stdout) == (0, b"")
    assert ended.lines == [f"{tmp_path}/new: 2 pairs, at revision 1"]
    assert kvs("dump", tmp_path / "new").stdout == b"(a, 2)\n(b, 1)\n"
    ended = kvs("restore", tmp_path / "x.bck", data)
    assert (ended.status, only_line(ended)) == (
        2,
        f"kvs restore: {data}: not empty: a backup can be restored only into a new or empty data "
        "directory",
    )
    assert contents(data) == before


def test_restore_refuses_a_malformed_backup(tmp_path: Path) -> None:
    (tmp_path / "x.bck").write_bytes(b"(a, 1)\nnonsense\n")
    ended = kvs("restore", tmp_path / "x.bck", tmp_path / "new")
    assert ended.status == 1
    assert only_line(ended).startswith(f"kvs restore: {tmp_path}/x.bck:2: ")
    ended = kvs("restore", tmp_path / "none.bck", tmp_path / "new")
    assert ended.status == 2
    assert only_line(ended) == (
        f"kvs restore: {tmp_path}/none.bck: cannot read the backup: No such file or directory"
    )
    assert not (tmp_path / "new").exists()


def test_refused_backup_creates_no_data_directory(tmp_path: Path) -> None:
    (tmp_path / "x.bck").write_bytes(b"(a, 1)\nnonsense\n")
    jobs = write_jobs(tmp_path / "jobs", {"a": "SHOW\n"})
    for backup, status in (("x.bck", 1), ("none.bck", 2)):
        for command in (("run", jobs), ("serve", jobs, "1", "1", tmp_path / "fifo")):
            ended = kvs(*command, "--data", tmp_path / "new", "--restore", tmp_path / backup)
            assert (ended.status, backup in only_line(ended)) == (status, True)
    assert {path.name for path in tmp_path.iterdir()} == {"x.bck", "jobs"}
    assert [path.name for path in jobs.iterdir()] == ["a.job"]


def test_missing_jobs_directory_creates_no_data_directory(tmp_path: Path) -> None:
    for command in (("run", tmp_path / "no"), ("serve", tmp_path / "no", "1", "1", tmp_path / "f")):
        ended = kvs(*command, "--data", tmp_path / "new")
        assert ended.status == 2
        assert only_line(ended) == (
            f"kvs {command[0]}: {tmp_path}/no: cannot open the jobs directory: "
            "No such file or directory"
        )
    assert list(tmp_path.iterdir()) == []


def test_compact_reports_the_sizes(data: Path) -> None:
    with open(data / "0000000002.journal", "ab") as file:
        file.write(bytes(100))
    size = sum(map(len, contents(data).values()))
    ended = kvs("compact", data)
    assert ended.status == 0
    assert ended.lines == [
        f"kvs compact: {data}/0000000002.journal: the file ends in zeros: the incomplete group at "
        f"byte {len(segments()[1].data)} was truncated (100 bytes)"
    ]
    [line] = ended.stdout.decode().split("\n")[:-1]
    written = sum(map(len, contents(data).values()))
    assert line == (f"{data}: {size} bytes have become {written}; 2 pairs at revision 3")
    assert set(contents(data)) == {"0000000003.snapshot", "0000000003.journal"}


def test_backup_has_a_frame_and_is_restored(data: Path, tmp_path: Path) -> None:
    before = contents(data)
    file = tmp_path / "x.bck"
    file.write_text("old")
    ended = kvs("backup", data, file)
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"", b"")
    lines = file.read_bytes().splitlines()
    assert lines[:-1] == [b"# kvs backup 2", b"(a, 2)", b"(b, 1)"]
    assert lines[-1].startswith(b"# end 3 2 ")
    assert kvs("restore", file, tmp_path / "new").status == 0
    assert kvs("dump", tmp_path / "new").stdout == b"(a, 2)\n(b, 1)\n"
    assert contents(data) == before


def test_backup_is_what_the_library_writes(tmp_path: Path) -> None:
    with Store(tmp_path / "d") as store:
        store.execute(
            b'WRITE [(a,"b c")] UNTIL 999999999999999 WRITE [(long,%b)]\n' % (b"1" * 9**6)
        )
        store.backup(tmp_path / "library.bck")
    assert kvs("backup", tmp_path / "d", tmp_path / "command.bck").status == 0
    assert content(tmp_path / "command.bck") == content(tmp_path / "library.bck")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("none/x.bck", "No such file or directory"), (".", "it is not a regular file")],
)
def test_backup_that_cannot_be_written_is_reported(
    data: Path, tmp_path: Path, name: str, reason: str
) -> None:
    file = f"{tmp_path}/{name}"
    ended = kvs("backup", data, file)
    assert (ended.status, only_line(ended)) == (1, f"kvs backup: {file}: not written: {reason}")
    assert list(tmp_path.iterdir()) == [data]


@pytest.mark.parametrize("command", ["check", "dump", "compact", "repair", "backup"])
def test_directory_without_a_journal_is_wrong_usage(tmp_path: Path, command: str) -> None:
    (tmp_path / "empty").mkdir(mode=0o700)
    after = (tmp_path / "x.bck",) if command == "backup" else ()
    ended = kvs(command, tmp_path / "empty", *after)
    assert (ended.status, only_line(ended)) == (
        2,
        f"kvs {command}: {tmp_path}/empty: not a data directory: it has no journal",
    )
    ended = kvs(command, tmp_path / "none", *after)
    assert (ended.status, only_line(ended)) == (
        2,
        f"kvs {command}: {tmp_path}/none: cannot open the data directory: "
        "No such file or directory",
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]


def test_run_reports_the_recovered_state(tmp_path: Path) -> None:
    data = tmp_path / "data"
    jobs = write_jobs(tmp_path / "jobs", {"a": "READ [k]\nWRITE [(k,1)]\n"})
    for number in range(3):
        ended = kvs("run", jobs, "--data", data)
        assert ended.status == 0
        recovered = (
            rf"kvs run: {data}: at revision {number}, {pluralize(min(number, 1), 'pair')}; "
            rf"replayed {pluralize(number, 'command')} of the journal in \d+\.\d{{3}} s"
        )
        new = f"kvs run: {data}: a new data directory"
        [line] = ended.lines
        assert re.fullmatch(recovered if number else new, line)
        value = b"1" if number else b"KVSERROR"
        assert content(jobs / "a.out") == b"[(k,%b)]\n" % value
    [segment] = data.glob("*.journal")
    with open(segment, "ab") as file:
        file.write(b"#")
    ended = kvs("run", jobs, "--data", data)
    assert ended.status == 0
    assert ended.lines[0].endswith("was truncated (1 byte)")
    assert len(ended.lines) == 2


def test_quiet_run_reports_only_new_directories_and_torn_groups(tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = ("run", "--quiet", write_jobs(tmp_path / "jobs", {"a": "READ [k]\n"}), "--data", data)
    assert only_line(kvs(*command)) == f"kvs run: {data}: a new data directory"
    ended = kvs(*command)
    assert (ended.status, ended.stdout, ended.stderr) == (0, b"", b"")
    [segment] = data.glob("*.journal")
    with open(segment, "ab") as file:
        file.write(b"#")
    assert only_line(kvs(*command)).endswith("was truncated (1 byte)")


def test_resume_skips_finished_jobs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    jobs = write_jobs(tmp_path / "jobs", {"a": "WRITE [(k,1)]\nREAD [k]\n"})
    assert kvs("run", "--quiet", jobs, "--data", data).status == 0
    (jobs / "b.job").write_text("READ [k]\n")
    ended, report = run_reporting(jobs, "--data", data, "--resume")
    assert ended.status == 0
    assert [(job["name"], job["state"]) for job in report["jobs"]] == [
        ("a", "done before"),
        ("b", "done"),
    ]
    assert content(jobs / "b.out") == b"[(k,1)]\n"


def test_resume_continues_an_interrupted_job(tmp_path: Path) -> None:
    data, text = tmp_path / "data", f"WRITE [(k,1)]\nREAD [k]\n{LONG_WAIT}READ [k]\n"
    jobs = write_jobs(tmp_path / "jobs", {"a": text})
    for number in (signal.SIGTERM, signal.SIGKILL):
        (jobs / "a.out").unlink(missing_ok=True)
        with started("run", "--quiet", jobs, "--data", data, "--resume") as process:
            until(lambda: b"Waiting" in content(jobs / "a.out"))
            process.send_signal(number)
            assert end(process).status in {128 + number, -signal.SIGKILL}
        assert content(jobs / "a.out") == b"[(k,1)]\nWaiting...\n"
    times = (jobs / "a.job").stat()
    (jobs / "a.job").write_text(text.replace("3600000", "0000001"))
    os.utime(jobs / "a.job", ns=(times.st_atime_ns, times.st_mtime_ns))
    ended, report = run_reporting(jobs, "--data", data, "--resume")
    assert (ended.status, report["jobs"][0]["state"]) == (0, "done")
    assert report["jobs"][0]["commands"] == 4
    assert content(jobs / "a.out") == b"[(k,1)]\nWaiting...\n[(k,1)]\n"
    with Store(data) as store:
        assert (store.revision, store.items()) == (1, [(b"k", b"1")])


def test_second_process_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    data = tmp_path / "data"
    jobs = write_jobs(tmp_path / "jobs", {"a": LONG_WAIT})
    other = write_jobs(tmp_path / "other", {"a": "READ [k]\n"})
    with started("run", "--quiet", jobs, "--data", data) as process:
        until(lambda: b"Waiting" in content(jobs / "a.out"))
        for arguments in [
            ("run", "--quiet", other, "--data", data),
            ("serve", other, "1", "1", tmp_path / "fifo", "--data", data),
            ("check", data),
            ("dump", data),
            ("backup", data, tmp_path / "x.bck"),
            ("compact", data),
            ("repair", "--cut", data),
        ]:
            ended = kvs(*arguments)
            assert (ended.status, only_line(ended)) == (
                1,
                f"kvs {arguments[0]}: {data}: in use by process {process.pid}; "
                "wait until it ends, or stop it",
            )
        process.terminate()
        assert end(process).status == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--fsync", "always"), "--fsync needs --data"),
        (("--fsync-interval", "2"), "--fsync-interval needs --data and --fsync interval"),
        (("--data", "new", "--fsync-interval", "2"), "--fsync-interval needs --fsync interval"),
        (
            ("--data", "new", "--fsync", "always", "--fsync-interval", "2"),
            "--fsync-interval needs --fsync interval",
        ),
        (("--resume",), "--resume needs --data"),
        (("--keep-segments", "2"), "--keep-segments needs --data"),
    ],
)
def test_options_without_data_are_wrong_usage(
    tmp_path: Path, option: tuple[str, ...], message: str
) -> None:
    ended = kvs("run", write_jobs(tmp_path / "jobs", {}), *option, how=Start(cwd=tmp_path))
    assert (ended.status, only_line(ended)) == (2, f"kvs run: {message}")
    assert list(tmp_path.iterdir()) == [tmp_path / "jobs"]


def test_data_directory_writable_by_others_is_refused(data: Path, tmp_path: Path) -> None:
    data.chmod(0o777)
    ended = kvs("run", write_jobs(tmp_path / "jobs", {}), "--data", data)
    assert (ended.status, only_line(ended)) == (
        2,
        f"kvs run: {data}: is writable by other users; run 'chmod go-w {data}'",
    )


def test_backup_is_restored_into_new_data_only(data: Path, tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", {"a": "SHOW\n"})
    (tmp_path / "x.bck").write_bytes(b"(k, 1)\n")
    new = tmp_path / "new"
    assert kvs("run", "--quiet", jobs, "--data", new, "--restore", tmp_path / "x.bck").status == 0
    assert content(jobs / "a.out") == b"(k, 1)\n"
    assert kvs("dump", new).stdout == b"(k, 1)\n"
    ended = kvs("run", "--quiet", jobs, "--data", data, "--restore", tmp_path / "x.bck")
    assert (ended.status, ended.lines[-1]) == (
        2,
        f"kvs run: {data}: not empty: a backup can be restored only into a new or empty data "
        "directory",
    )
    assert kvs("dump", data).stdout == b"(a, 2)\n(b, 1)\n"


def test_restore_at_a_moment_creates_a_store_of_its_own(tmp_path: Path) -> None:
    first = JournalBuilder().group(b"WRITE [(a,1)(b,2)] UNTIL 99999999999999\n", 1)
    first.group(b"DELETE [b]\n", 1)
    data = put(tmp_path / "d", files(first))
    before = contents(data)
    moments = {"1": 2, "2": 1, "2026-09-21T14:13:20.123Z": 1, "1790000000123ms": 1, "2090-01-01": 1}
    for number, (moment, pairs) in enumerate(moments.items()):
        new = tmp_path / f"new{number}"
        ended = kvs("restore", "--at", moment, data, new)
        assert (ended.status, only_line(ended)) == (
            0,
            f"{new}: {pluralize(pairs, 'pair')}, at revision 1",
        )
        assert kvs("dump", new).stdout.startswith(b"(a, 1) UNTIL 99999999999999\n")
        assert content(new / first.name).split()[6] != content(data / first.name).split()[6]
    assert contents(data) == before


@pytest.mark.parametrize(
    ("moment", "reason"),
    [
        ("3", "{data}: the journal reaches to revision 2"),
        (
            "2026-09-21T16:13:20.122+02:00",
            "{data}: the journal reaches back to 2026-09-21T14:13:20.123Z, with revision 2",
        ),
        *(
            (
                moment,
                "argument --at: a revision or a time is needed, such as 17, 2026-09-21T14:00:00Z "
                f"or 1790000000000ms, not '{moment}'; see 'kvs restore --help'",
            )
            for moment in ("yesterday", "", "-1", "2026-13-01", "0001-01-01", "9ms9")
        ),
    ],
)
def test_restore_at_no_moment_of_the_journal_is_refused(
    data: Path, tmp_path: Path, moment: str, reason: str
) -> None:
    put(data, files(JournalBuilder().group(b"WRITE [(a,1)]\nWRITE [(a,2)]\n", 2)))
    ended = kvs("restore", f"--at={moment}", data, tmp_path / "new")
    assert (ended.status, only_line(ended)) == (2, f"kvs restore: {reason.format(data=data)}")
    assert not (tmp_path / "new").exists()


def test_kept_segments_are_checked_and_reach_back(tmp_path: Path) -> None:
    data, jobs = tmp_path / "d", tmp_path / "jobs"
    for number in range(4):
        write_jobs(jobs, {"a": f"WRITE [(k,{number})]\n"})
        options = ("--data", data, "--keep-segments", "1")
        assert kvs("run", "--quiet", jobs, *options).status == 0
        assert kvs("compact", "--keep-segments", "1", data).status == 0
    assert [name.split(".")[0] for name in contents(data)].count("0000000004") == 2
    assert min(contents(data)) == "0000000004.journal"
    ended = kvs("check", data)
    assert (ended.status, ended.stdout.endswith(b", 1 older segment\n")) == (0, True)
    lines = kvs("history", data, "k").stdout.splitlines()
    assert [line.split(b"\t")[::3] for line in lines] == [[b"3", b"2"], [b"4", b"3"]]
    older = data / "0000000004.journal"
    older.write_bytes(older.read_bytes().replace(b"(k,3)", b"(k,9)"))
    ended = kvs("check", data)
    assert ended.status == 1
    assert b"does not match its checksum (only the history needs this file)\n" in ended.stdout
    assert kvs("dump", data).stdout == b"(k, 3)\n"
    assert kvs("compact", data).status == 0
    assert set(contents(data)) == {"0000000006.journal", "0000000006.snapshot"}
