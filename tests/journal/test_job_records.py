"""How far jobs came, as comments: to the byte, and read back."""

from hypothesis import given
from hypothesis import strategies as st

from kvs.journal import job_records
from kvs.journal.job_records import FileVersion, JobKey, JobRecord, JobRegistry
from kvs.language import grammar

PLACE = JobKey(b"a.b", 64512, 1234)
VERSION = FileVersion(64513, 5678, 46, 1700000000000000000)

outputs = st.lists(st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b"")), max_size=4).map(
    lambda lines: b"".join(line + b"\n" for line in lines)
)


def test_the_lines_are_these_to_the_byte() -> None:
    job = JobRecord(7, PLACE, VERSION)
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
    assert job_records.encode_snapshot_written(7, 2) == b"# job 7 wrote 2\n"
    assert job_records.encode_done(7) == b"# job 7 done\n"
    assert job_records.encode_forgotten(7) == b"# job 7 forgotten\n"


def test_what_is_known_is_written_down_in_one_piece() -> None:
    jobs = JobRegistry()
    job = jobs.begin(PLACE, VERSION)
    jobs[1].advance(10, b"one\n")
    jobs[1].advance(20, b"two\n")
    jobs[1].snapshots |= {3, 1}
    jobs[1].synced_to(4)
    assert b"".join(jobs.lines()) == job_records.encode_started(job) + (
        b"# job 1 wrote 1\n# job 1 wrote 3\n# job 1 from 20 4 4\n#>two\n"
    )
    job.finished()
    assert b"".join(jobs.lines()).endswith(b"wrote 3\n# job 1 from 20 0 8\n# job 1 done\n")


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("bacws fd"), outputs), max_size=30))
def test_what_the_notes_tell_is_what_was_noted(steps: list[tuple[int, str, bytes]]) -> None:
    """Over any history, told as it went, or as a snapshot tells it at the end."""
    jobs, noted, numbers = JobRegistry(), b"", {}
    for which, step, output in steps:
        place = JobKey(b"job%d" % which, 1, 2)
        job = jobs.find(place)
        if job is None or step == "b":
            job = jobs.begin(place, VERSION)
            numbers[which] = job.number
            noted += job_records.encode_started(job)
        if job.done:
            continue
        if step in "ac":
            job.advance(job.offset + 5, output)
            noted += b"WRITE [(a,# job 1 done)]\n"
            noted += job_records.encode_progress(job.number, job.offset, output)
        elif step == "w":
            job.snapshots.add(len(job.snapshots) + 1)
            noted += job_records.encode_snapshot_written(job.number, len(job.snapshots))
        elif step == "s":
            job.synced_to(job.written)
        elif step == "f":
            jobs.forget(job)
            noted += job_records.encode_forgotten(job.number)
        elif step == "d":
            job.finished()
            noted += job_records.encode_done(job.number)
    as_they_went, at_the_end = JobRegistry(), JobRegistry()
    as_they_went.replay(noted)
    at_the_end.replay(b"".join(jobs.lines()))
    for which in range(10):
        place = JobKey(b"job%d" % which, 1, 2)
        job = jobs.find(place)
        for other in (as_they_went, at_the_end):
            same = other.find(place)
            assert (same is None) == (job is None)
            if job is None or same is None:
                continue
            assert same.recovered
            assert (same.number, same.version, same.done) == (job.number, VERSION, job.done)
            assert (same.offset, same.snapshots) == (job.offset, job.snapshots)
            assert same.written == job.written
            assert b"".join(same.output).endswith(b"".join(job.output))
    assert jobs.begin(JobKey(b"new", 1, 2), VERSION).number > max(numbers.values(), default=0)


@given(outputs)
def test_every_note_is_a_comment_of_the_command_language(output: bytes) -> None:
    notes = job_records.encode_started(JobRecord(1, PLACE, VERSION)) + job_records.encode_progress(
        1, 2, output
    )
    assert grammar.count_commands(notes) == 0
    assert [match for match in grammar.LINE.finditer(notes) if match.lastindex] == []


def test_a_file_is_still_the_same_by_what_it_is_and_when_done_by_size_and_time() -> None:
    job = JobRecord(1, PLACE, VERSION)
    assert job.matches(VERSION)
    assert not job.matches(VERSION._replace(inode=1))
    job.finished()
    assert job.matches(VERSION._replace(inode=1, filesystem=2))
    assert not job.matches(VERSION._replace(size=47))
    assert not job.matches(VERSION._replace(modified=1))


def test_jobs_are_known_by_their_place_alone() -> None:
    jobs = JobRegistry()
    first = jobs.begin(PLACE, VERSION)
    other = jobs.begin(PLACE._replace(inode=99), VERSION)
    second = jobs.begin(PLACE, VERSION)
    assert (first.number in jobs, second.number in jobs) == (False, True)
    assert jobs.in_directory(64512, 1234) == [second]
    assert jobs.in_directory(64512, 99) == [other]
    assert not second.recovered
    jobs.replay(
        job_records.encode_progress(first.number, 5, b"")
    )  # of one that nobody knows any more
    assert second.offset == 0
