"""The past of a data directory: versions of a key, and the state at every revision and time."""

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.errors import CorruptionError, DataDirectoryError, DirectoryLockedError
from kvs.settings import DataSettings
from kvs.store import history as history_module
from kvs.store.core import StoreCore
from kvs.store.history import (
    RESTORED,
    SNAPSHOT,
    KeyVersion,
    format_time,
    history,
    state_at_revision,
    state_at_time,
)
from tests.journal.builders import TIME_MS, JournalBuilder, contents, files, put
from tests.model import Model
from tests.strategies import FUTURE, KEYS, random_line

pytestmark = pytest.mark.usefixtures("each_engine")

State = tuple[dict[bytes, bytes], dict[bytes, int]]


def versions(directory: Path, key: bytes = b"a") -> list[tuple[int, bytes | None]]:
    """Return revision and value of each version of a key."""
    return [(each.revision, each.value) for each in history(directory, key)]


def random_journal(seed: int) -> tuple[list[JournalBuilder], list[State], list[tuple[int, bytes]]]:
    """Return segments of random lines, the state at each revision, and revision and changed key."""
    rng, model = Random(seed), Model()
    segments = [JournalBuilder()]
    states: list[State] = [({}, {})]
    changed: list[tuple[int, bytes]] = []
    body, count = b"", 0
    for _ in range(rng.randrange(60)):
        before, known = model.revision, len(model.changes)
        model.run(random_line(rng, FUTURE))
        changed += [(model.revision, key) for key, _ in model.changes[known:]]
        if model.revision > before:
            states.append((dict(model.pairs), dict(model.untils)))
            body += b"# origin library 1\n" + model.records[-1]
            count += 1
        if count and rng.random() < 0.5:
            segments[-1].group(body, count)
            body, count = b"", 0
            if rng.random() < 0.3:
                segments.append(segments[-1].next())
    segments[-1].group(body, count)
    return segments, states, changed


@given(seed=st.integers(0, 2**64 - 1))
def test_versions_and_states_are_those_of_the_model(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    segments, states, changed = random_journal(seed)
    data = put(tmp_path_factory.mktemp("history") / "d", files(*segments))
    for revision, state in enumerate(states):
        assert state_at_revision(data, revision) == state
    for key in {*KEYS[:3], *(key for _, key in changed)}:
        expected = [
            KeyVersion(
                revision, TIME_MS, b"library 1", states[revision][0].get(key),
                states[revision][1].get(key),
            )
            for revision, named in changed
            if named == key
        ]  # fmt: skip
        assert list(history(data, key)) == expected


@pytest.mark.parametrize("renew_bytes", [1, history_module.RENEW_BYTES])
def test_history_is_bounded_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renew_bytes: int
) -> None:
    monkeypatch.setattr(history_module, "RENEW_BYTES", renew_bytes)
    snapshot = JournalBuilder("snapshot", 2, 7)
    snapshot.group(b"WRITE [(ab,1)(b,2)]\nWRITE [(a,1)] UNTIL 5\n", 0).group(b"WRITE [(c,1)]\n", 0)
    first = JournalBuilder(number=2, revision=7)
    first.group(b"WRITE [(aa,1)(ab,2)]\nCLEAR [b]\n", 2).group(b'CLEAR ["a"]\n', 1)
    first.group(b"WRITE [(x,1)(a,2)(y,3)] UNTIL 9\nDELETE [a,x]\nDELETE [ab]\n", 3)
    put(tmp_path / "d", files(snapshot.group(b"# end 4\n", 0), first))
    assert list(history(tmp_path / "d", b"a")) == [
        KeyVersion(7, TIME_MS, SNAPSHOT, b"1", 5),
        KeyVersion(10, TIME_MS, b"", None, None),
        KeyVersion(11, TIME_MS, b"", b"2", 9),
        KeyVersion(12, TIME_MS, b"", None, None),
    ]
    assert versions(tmp_path / "d", b"z") == [(7, None)]


def test_snapshot_without_changes_after_it_has_a_version(tmp_path: Path) -> None:
    with StoreCore(tmp_path / "d") as store:
        store.execute(b"WRITE [(a,1)]\n")
        store.compact()
    [version] = history(tmp_path / "d", b"a")
    assert (version.revision, version.origin, version.value) == (1, SNAPSHOT, b"1")
    assert version.time_ms > TIME_MS // 2


def test_origin_is_that_of_each_change(tmp_path: Path) -> None:
    with StoreCore(tmp_path / "d", DataSettings(segment_bytes=1)) as store:
        session = store.add_origin(b"session", b"/tmp/c one")
        for number, origin in enumerate((0, session, session, 0)):
            store.execute(b"WRITE [(a,%d)(b,2)]\n" % number, origin=origin)
        store.execute(b"WRITE [(a,7)] UNTIL 1\n")
        store.commit_point().wait()
        store.execute(b"EXPIRE 5\n", origin=session)
    library = b"library %d" % os.getpid()
    *found, last = [(each.origin, each.value) for each in history(tmp_path / "d", b"a")]
    assert found == [
        (library, b"0"),
        (b'session "/tmp/c one"', b"1"),
        (b'session "/tmp/c one"', b"2"),
        (library, b"3"),
        (library, b"7"),
    ]
    assert last in {(b"expiry", None), (b'session "/tmp/c one"', None)}


def test_restore_is_one_version_of_each_key(tmp_path: Path) -> None:
    with StoreCore(tmp_path / "d") as store:
        store.load({b"a": b"1", b"b": b"2" * (2 << 20)}, {b"a": 10**14})
        store.execute(b"WRITE [(b,3)]\n")
    [version] = history(tmp_path / "d", b"a")
    assert (version.revision, version.origin) == (1, RESTORED)
    assert (version.value, version.until) == (b"1", 10**14)
    assert versions(tmp_path / "d", b"b") == [(1, b"2" * (2 << 20)), (2, b"3")]
    pairs, expiries = state_at_revision(tmp_path / "d", 1)
    assert pairs == {b"a": b"1", b"b": b"2" * (2 << 20)}
    assert expiries == {b"a": 10**14}


def test_old_segments_have_neither_times_nor_origins(tmp_path: Path) -> None:
    old = JournalBuilder(version=1).group(b"WRITE [(a,1)]\n", 1).group(b"DELETE [a]\n", 1)
    data = put(tmp_path / "d", files(old))
    expected = [KeyVersion(1, 0, b"", b"1", None), KeyVersion(2, 0, b"", None, None)]
    assert list(history(data, b"a")) == expected
    assert format_time(0) == "-"
    with pytest.raises(DataDirectoryError, match=r"the journal has no times; give a revision$"):
        state_at_time(data, TIME_MS)
    with StoreCore(data) as store:
        store.execute(b"WRITE [(a,3)]\n")
    *before, version = history(data, b"a")
    assert before == expected
    assert version.time_ms > 0
    assert state_at_time(data, version.time_ms) == ({b"a": b"3"}, {})
    with pytest.raises(DataDirectoryError) as caught:
        state_at_time(data, version.time_ms - 1)
    assert caught.value.reason == (
        f"the journal reaches back to {format_time(version.time_ms)}, with revision 3"
    )


def test_old_word_is_refused_before_the_revision_too(tmp_path: Path) -> None:
    old = JournalBuilder(version=1).group(b'WRITE [(a,"1)]\nDELETE [a]\n', 2)
    data = put(tmp_path / "d", files(old))
    with pytest.raises(DataDirectoryError, match="another meaning"):
        state_at_revision(data, 1)
    with pytest.raises(DataDirectoryError, match="another meaning"):
        versions(data)


def test_torn_tail_is_no_change(tmp_path: Path) -> None:
    whole = JournalBuilder().group(b"WRITE [(a,1)]\n", 1)
    torn = JournalBuilder().group(b"WRITE [(a,1)]\n", 1).group(b"WRITE [(a,2)]\n", 1)
    for cut in range(1, len(torn.data) - len(whole.data) + 1):
        data = put(tmp_path / "d", {torn.name: torn.data[:-cut]})
        before = contents(data)
        assert versions(data) == [(1, b"1")]
        assert state_at_time(data, TIME_MS) == ({b"a": b"1"}, {})
        with pytest.raises(DataDirectoryError, match=r"the journal reaches to revision 1$"):
            state_at_revision(data, 2)
        assert contents(data) == before


def test_damage_is_raised_after_the_versions_before_it(tmp_path: Path) -> None:
    first = JournalBuilder().group(b"WRITE [(a,1)]\n", 1)
    second = first.next().group(b"WRITE [(a,2)]\n", 1)
    damaged = second.data.replace(b"(a,2)", b"(a,3)")
    data = put(tmp_path / "d", {first.name: first.data, second.name: damaged})
    found = history(data, b"a")
    assert next(found).value == b"1"
    with pytest.raises(CorruptionError):
        next(found)
    assert state_at_revision(data, 0) == ({}, {})
    with pytest.raises(CorruptionError):
        state_at_revision(data, 2)


@pytest.mark.parametrize(
    "act",
    [
        lambda path: list(history(path, b"a")),
        lambda path: state_at_revision(path, 1),
        lambda path: state_at_time(path, TIME_MS),
    ],
)
def test_locked_directory_is_refused(tmp_path: Path, act: Callable[[Path], object]) -> None:
    with StoreCore(tmp_path / "d"), pytest.raises(DirectoryLockedError):
        act(tmp_path / "d")
    put(tmp_path / "empty", {})
    with pytest.raises(DataDirectoryError, match="not a data directory: it has no journal"):
        act(tmp_path / "empty")


def timed() -> list[JournalBuilder]:
    """Return three segments and a snapshot before the second, with times of their own."""
    first = JournalBuilder(time_ms=1000).group(b"WRITE [(a,1)]\nWRITE [(a,2)]\n", 2)
    snapshot = JournalBuilder("snapshot", 2, 2, time_ms=1500)
    snapshot.group(b"WRITE [(a,2)]\n", 0).group(b"# end 1\n", 0)
    second = first.next()
    second.time_ms = 2000
    second.group(b"WRITE [(a,3)]\n", 1)
    third = second.next()
    third.time_ms = 3000
    return [first, snapshot, second, third.group(b"DELETE [a]\n", 1)]


def test_state_at_a_time_is_that_before_the_next_change(tmp_path: Path) -> None:
    data = put(tmp_path / "d", files(*timed()))
    for time_ms, value in ((1000, b"2"), (1700, b"2"), (2000, b"3"), (2999, b"3")):
        assert state_at_time(data, time_ms) == ({b"a": value}, {})
    for time_ms in (3000, 10**17):
        assert state_at_time(data, time_ms) == ({}, {})
    with pytest.raises(DataDirectoryError) as caught:
        state_at_time(data, 999)
    assert caught.value.reason == (
        "the journal reaches back to 1970-01-01T00:00:01.000Z, with revision 2"
    )


def test_replay_begins_at_the_last_snapshot_before(tmp_path: Path) -> None:
    first, *others = timed()
    damaged = first.data.replace(b"(a,2)", b"(a,9)")
    data = put(tmp_path / "d", {**files(*others), first.name: damaged})
    assert state_at_revision(data, 2) == state_at_time(data, 1500) == ({b"a": b"2"}, {})
    assert state_at_revision(data, 3) == state_at_time(data, 2000) == ({b"a": b"3"}, {})
    with pytest.raises(CorruptionError):
        state_at_revision(data, 1)
    with pytest.raises(CorruptionError):
        state_at_time(data, 1499)


def test_journal_without_its_beginning_reaches_to_the_snapshot(tmp_path: Path) -> None:
    data = put(tmp_path / "d", files(*timed()[1:]))
    assert versions(data) == [(2, b"2"), (3, b"3"), (4, None)]
    with pytest.raises(DataDirectoryError) as caught:
        state_at_revision(data, 1)
    assert str(caught.value) == f"{data}: the journal reaches back to revision 2"
    with pytest.raises(DataDirectoryError) as caught:
        state_at_time(data, 1499)
    assert caught.value.reason == (
        "the journal reaches back to 1970-01-01T00:00:01.500Z, with revision 2"
    )


def test_times_are_shown_in_utc() -> None:
    assert format_time(TIME_MS) == "2026-09-21T14:13:20.123Z"
    assert format_time(10**15 - 1) == format_time(10**14 * 3) == "9999-12-31T23:59:59.999Z"
