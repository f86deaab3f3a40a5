"""Job records as comments: to the byte, and replayed."""

from hypothesis import given
from hypothesis import strategies as st

from kvs.journal import job_records
from kvs.journal.job_records import FileVersion, JobKey, JobRecord, JobRegistry
from kvs.language import grammar

KEY = JobKey(b"a.b", 64512, 1234)
VERSION = FileVersion(64513, 5678, 46, 1700000000000000000)

outputs = st.lists(st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b"")), max_size=4).map(
    lambda lines: b"".join(line + b"\n" for line in lines)
)


def test_lines_have_exact_bytes() -> None:
    job = JobRecord(7, KEY, VERSION)
    assert job_records.encode_started(job) == (
        b"# job 7 is 612e62 64512 1234 64513 5678 46 1700000000000000000\n"
    )
    assert job_records.encode_started(JobRecord(8, JobKey(b"", 1, 2), FileVersion(3, 4, 5, 6))) == (
        b"# job 8 is - 1 2 3 4 5 6\n"
    )
    assert job_records.encode_progress(7, 123, b"[(a,1)]\n\nx\n") == (
        b"# job 7 at 123 11\n#>[(a,1)]\n#>\n#>x\n"
    )
    assert job_records.encode_progress(7, 123, b"") == b"# job 7 at 123 0\n"
    assert job_records.encode_backup_written(7, 2) == b"# job 7 wrote 2\n"
    assert job_records.encode_done(7) == b"# job 7 done\n"
    assert job_records.encode_forgotten(7) == b"# job 7 forgotten\n"


def test_snapshot_lines_have_the_current_state() -> None:
    jobs = JobRegistry()
    job = jobs.begin(KEY, VERSION)
    jobs[1].advance(10, b"one\n")
    jobs[1].advance(20, b"two\n")
    jobs[1].backups |= {3, 1}
    jobs[1].synced_to(4)
    assert b"".join(jobs.lines()) == job_records.encode_started(job) + (
        b"# job 1 wrote 1\n# job 1 wrote 3\n# job 1 from 20 4 4\n#>two\n"
    )
    job.finished()
    assert b"".join(jobs.lines()).endswith(b"wrote 3\n# job 1 from 20 0 8\n# job 1 done\n")


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("bacws fd"), outputs), max_size=30))
def test_replayed_records_equal_the_originals(steps: list[tuple[int, str, bytes]]) -> None:
    """From the lines of any history, or from the lines of a snapshot at its end."""
    jobs, lines, numbers = JobRegistry(), b"", {}
    for index, step, output in steps:
        key = JobKey(b"job%d" % index, 1, 2)
        job = jobs.find(key)
        if job is None or step == "b":
            job = jobs.begin(key, VERSION)
            numbers[index] = job.number
            lines += job_records.encode_started(job)
        if job.done:
            continue
        if step in "ac":
            job.advance(job.offset + 5, output)
            lines += b"WRITE [(a,# job 1 done)]\n"
            lines += job_records.encode_progress(job.number, job.offset, output)
        elif step == "w":
            job.backups.add(len(job.backups) + 1)
            lines += job_records.encode_backup_written(job.number, len(job.backups))
        elif step == "s":
            job.synced_to(job.written)
        elif step == "f":
            jobs.forget(job)
            lines += job_records.encode_forgotten(job.number)
        elif step == "d":
            job.finished()
            lines += job_records.encode_done(job.number)
    from_lines, from_snapshot = JobRegistry(), JobRegistry()
    from_lines.replay(lines)
    from_snapshot.replay(b"".join(jobs.lines()))
    for index in range(10):
        key = JobKey(b"job%d" % index, 1, 2)
        job = jobs.find(key)
        for other in (from_lines, from_snapshot):
            replayed = other.find(key)
            assert (replayed is None) == (job is None)
            if job is None or replayed is None:
                continue
            assert replayed.recovered
            assert (replayed.number, replayed.version, replayed.done) == (
                job.number,
                VERSION,
                job.done,
            )
            assert (replayed.offset, replayed.backups) == (job.offset, job.backups)
            assert replayed.written == job.written
            assert b"".join(replayed.output).endswith(b"".join(job.output))
    assert jobs.begin(JobKey(b"new", 1, 2), VERSION).number > max(numbers.values(), default=0)


@given(outputs)
def test_every_line_is_a_comment_of_the_language(output: bytes) -> None:
    lines = job_records.encode_started(JobRecord(1, KEY, VERSION)) + job_records.encode_progress(
        1, 2, output
    )
    assert [match for match in grammar.LINE.finditer(lines) if match.lastindex] == []


def test_done_job_matches_by_size_and_time_only() -> None:
    job = JobRecord(1, KEY, VERSION)
    assert job.matches(VERSION)
    assert not job.matches(VERSION._replace(inode=1))
    job.finished()
    assert job.matches(VERSION._replace(inode=1, filesystem=2))
    assert not job.matches(VERSION._replace(size=47))
    assert not job.matches(VERSION._replace(modified=1))


def test_new_record_replaces_one_with_the_same_key() -> None:
    jobs = JobRegistry()
    first = jobs.begin(KEY, VERSION)
    other = jobs.begin(KEY._replace(inode=99), VERSION)
    second = jobs.begin(KEY, VERSION)
    assert (first.number in jobs, second.number in jobs) == (False, True)
    assert jobs.in_directory(64512, 1234) == [second]
    assert jobs.in_directory(64512, 99) == [other]
    assert not second.recovered
    jobs.replay(job_records.encode_progress(first.number, 5, b""))  # of a record that was replaced
    assert second.offset == 0
