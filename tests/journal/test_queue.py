"""The queue: one order, commits that are reported in time, segments, and the close."""

import threading
from pathlib import Path

import pytest

from kvs.errors import JournalWriteError, StoreClosedError
from kvs.settings import DataSettings
from tests.helpers import SECONDS, until
from tests.journal.builders import JournalBuilder, contents, files, read
from tests.journal.fake_storage import Fault, Gate
from tests.journal.open_journal import append_and_wait, open_journal, write_line


def test_commits_are_reported_in_order_and_not_before(tmp_path: Path) -> None:
    gate, calls = Gate(), []
    with open_journal(tmp_path / "d", gate) as (queue, _):
        with gate.shut():
            queue.append(write_line(0), 1, lambda: calls.append("append 0"))
            queue.on_commit(queue.appended_count, lambda: calls.append("on_commit 0"))
            queue.append(write_line(1), 1, lambda: calls.append("append 1"))
            queue.on_commit(queue.appended_count, lambda: calls.append("on_commit 1"))
            gate.wait_until_held()
            waits = [threading.Thread(target=queue.wait, args=(count,)) for count in (1, 2)]
            for thread in waits:
                thread.start()
            assert calls == []
            assert all(thread.is_alive() for thread in waits)
        for thread in waits:
            thread.join(SECONDS)
            assert not thread.is_alive()
        until(lambda: len(calls) == 4)
        for kind in ("append", "on_commit"):
            assert [call for call in calls if kind in call] == [f"{kind} 0", f"{kind} 1"]
        queue.on_commit(queue.appended_count, lambda: calls.append("at once"))
        assert calls[4:] == ["at once"]


def test_callback_exception_goes_to_excepthook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    raised: list[object] = []
    monkeypatch.setattr("threading.excepthook", lambda args: raised.append(args.exc_value))
    defect = RuntimeError("a defect of the caller")

    def fail(*_: object) -> None:
        raise defect

    with open_journal(tmp_path / "d", gate) as (queue, _):
        with gate.shut():
            queue.append(write_line(0), 1)
            queue.on_commit(queue.appended_count, fail)
        queue.wait(queue.appended_count)
        until(lambda: raised)
        queue.on_commit(queue.appended_count, fail)
        assert raised == [defect, defect]
        append_and_wait(queue, 1)
        assert queue.failure is None


def test_rotate_begins_a_segment_at_any_time(tmp_path: Path) -> None:
    with open_journal(tmp_path / "d") as (queue, _):
        queue.append(write_line(0), 1)
        assert queue.rotate()[:3] == (2, 1, 2)
        assert queue.rotate()[:3] == (3, 1, 3)
        queue.wait(queue.appended_count)
        assert {"0000000002.journal", "0000000003.journal"} <= set(contents(tmp_path / "d"))
        queue.append(write_line(1), 1)
    first = JournalBuilder().group(write_line(0), 1)
    assert contents(tmp_path / "d") == files(
        first, first.next(), first.next().next().group(write_line(1), 1)
    )


def test_full_segment_is_followed_by_the_next(tmp_path: Path) -> None:
    with open_journal(tmp_path / "d", settings=DataSettings(segment_bytes=200)) as (queue, _):
        append_and_wait(queue, *range(30))
    state, pairs = read(tmp_path / "d")
    assert pairs == {b"k": b"29"}
    assert (state.revision, len(state.segments) > 1) == (30, True)
    assert state.segments == list(range(1, len(state.segments) + 1))


def test_segment_size_includes_group_headers(tmp_path: Path) -> None:
    """With a group for every change, most bytes of a segment are headers."""
    settings = DataSettings("never", segment_bytes=10_000)
    with open_journal(tmp_path / "d", settings=settings) as (queue, _):
        append_and_wait(queue, *range(1000))
    *others, last = (len(data) for _, data in sorted(contents(tmp_path / "d").items()))
    assert len(others) > 5
    assert all(9_500 < size < 10_500 for size in others)
    assert last < 10_500


def test_held_queue_writes_nothing_behind_the_rotation(tmp_path: Path) -> None:
    with open_journal(tmp_path / "d", settings=DataSettings(segment_bytes=200)) as (queue, _):
        queue.pause()
        append_and_wait(queue, *range(20))  # rotations of full segments are not held
        rotation = queue.rotate()
        queue.append(write_line(20), 1)
        queue.wait(rotation.appended_count)
        assert not queue.is_committed(queue.appended_count)
        assert read(tmp_path / "d")[0].revision == 20
        queue.resume()
        queue.wait(queue.appended_count)
        queue.pause()
        queue.rotate()
        queue.append(write_line(21), 1)
    assert read(tmp_path / "d")[0].revision == 22  # close ends the pause


def test_release_without_hold_queues_no_wakeup(tmp_path: Path) -> None:
    with open_journal(tmp_path / "d") as (queue, _):
        for _ in range(3):
            queue.resume()
        assert queue._wakeups.empty()


def test_close_writes_pending_appends_and_refuses_later_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvs.journal.failure.TAMPER_CHECK_SECONDS", 10 * SECONDS)
    gate = Gate()
    with open_journal(tmp_path / "d", gate) as (queue, _):
        with gate.shut():
            queue.append(write_line(0), 1)
            gate.wait_until_held()
            queue.append(write_line(1), 1)
            closer = threading.Thread(target=queue.close)
            closer.start()
            until(lambda: queue._is_closing)
            assert closer.is_alive()
        closer.join(SECONDS)
        assert not closer.is_alive()
        for refused in (lambda: queue.append(write_line(2), 1), queue.rotate, queue.check):
            with pytest.raises(StoreClosedError):
                refused()
        queue.wait(queue.appended_count)
        queue.close()
    assert read(tmp_path / "d")[0].revision == 2


def test_appends_of_many_threads_keep_their_order(tmp_path: Path) -> None:
    with open_journal(tmp_path / "d", settings=DataSettings(segment_bytes=5000)) as (queue, _):

        def append(name: int) -> None:
            for number in range(200):
                queue.append(b"WRITE [(k%d,%d)]\n" % (name, number), 1)
                if number % 20 == 0:
                    queue.wait(queue.appended_count)

        threads = [threading.Thread(target=append, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
    state, pairs = read(tmp_path / "d")
    assert state.revision == 800
    assert pairs == {b"k%d" % name: b"199" for name in range(4)}
    lines = b"".join(data for name, data in sorted(contents(tmp_path / "d").items()))
    for name in range(4):
        offsets = [lines.index(b"WRITE [(k%d,%d)]\n" % (name, number)) for number in range(200)]
        assert offsets == sorted(offsets)


def test_reused_thread_ident_is_not_the_writer_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system gives the identifier of a thread that has ended to a new one."""
    fault = Fault()
    with open_journal(tmp_path / "d", fault) as (queue, _):
        fault.armed = True
        queue.append(write_line(0), 1)
        until(lambda: queue.failure and queue._has_ended)
        assert queue._writer_thread is not None
        ident = queue._writer_thread.ident
        monkeypatch.setattr("kvs.journal.queue.get_ident", lambda: ident)
        assert not queue.is_writer_thread
        with pytest.raises(JournalWriteError):
            queue.wait(1)
