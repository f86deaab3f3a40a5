"""The store on one thread: execute beside the naive model, and the library beside execute."""

import inspect
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from kvs import (
    BackupFormatError,
    BackupReadError,
    DataDirectoryError,
    ExecuteResult,
    InvalidWordError,
    JobsDirectoryError,
    KvsError,
    ServerNotFoundError,
    SnapshotError,
    StopReason,
    Store,
    ThreadStartError,
    connect,
)
from kvs.language.diagnostics import check
from kvs.language.output_format import HELP
from kvs.store.core import StoreCore
from tests.model import Model
from tests.strategies import scripts, values, words

pytestmark = pytest.mark.usefixtures("each_engine")


def execute_all(store: Store, script: bytes, budget: int = 65536) -> list[ExecuteResult]:
    pauses: list[ExecuteResult] = []
    offset = 0
    while offset < len(script):
        pauses.append(store.execute(script, offset, budget))
        assert pauses[-1].offset > offset
        offset = pauses[-1].offset
    return pauses


def output(store: Store, script: bytes) -> bytes:
    return b"".join(pause.output for pause in execute_all(store, script))


ROWS = [
    (b"WRITE [(a,1)(b,2)]\nREAD [b,a,c]", b"[(a,1)(b,2)(c,KVSERROR)]\n"),
    (b"WRITE [(a,1)(a,2)]\nREAD [a,a]", b"[(a,2)(a,2)]\n"),
    (b"WRITE [(a,1)]\nDELETE [a]\nREAD [a]", b"[(a,KVSERROR)]\n"),
    (b"WRITE [(a,1)]\nDELETE [c,a,b]", b"[(b,KVSMISSING)(c,KVSMISSING)]\n"),
    (b"WRITE [(a,1)]\nDELETE [a,a]", b"[(a,KVSMISSING)]\n"),
    (b"WRITE [(b,2)(a,1)(B,3)]\nSHOW", b"(B, 3)\n(a, 1)\n(b, 2)\n"),
    (b"SHOW", b""),
    (b"WAIT 0\nWAIT 00\nWAIT 5", b"Waiting...\n"),
    (b"HELP", HELP),
    (b"BACKUP\n# x\n\n \t\n\r\nBACKUP", b""),
    (b"WRITE [(a,1)]\r\nREAD [a]\r", b"[(a,1)]\n"),
    (b"WRITE [(a,1)]\nWRITE [(a,2)(b,KVSERROR)]\nREAD [a]", b"[(a,1)]\n"),
    (b"WRITE[( (,[ )]\nREAD[ ( ]", b"[((,[)]\n"),
    (b"WRITE [(\xff,1)(\x01,2)(z,3)]\nREAD [z,\xff,\x01]", b"[(\x01,2)(z,3)(\xff,1)]\n"),
]


@pytest.mark.parametrize(("script", "expected"), ROWS)
def test_each_command_of_the_language_gives_its_output(script: bytes, expected: bytes) -> None:
    assert output(Store(), script) == expected


@given(st.lists(scripts(), max_size=4), st.integers(0, 300))
def test_scripts_give_what_the_model_gives_for_any_budget(parts: list[bytes], budget: int) -> None:
    store, model = Store(), Model(HELP)
    for script in parts:
        model.output, model.invalid, model.commands = b"", [], 0
        model.run(script)
        pauses = execute_all(store, script, budget)
        assert b"".join(pause.output for pause in pauses) == model.output
        assert sum(pause.commands for pause in pauses) == model.commands
        found = [fault for pause in pauses for fault in pause.diagnostics]
        assert found == check(script).diagnostics
        assert [script.count(b"\n", 0, fault.offset) + 1 for fault in found] == model.invalid
        assert store.items() == sorted(model.pairs.items())
        assert store.revision == model.revision


@given(st.binary(max_size=300))
def test_any_bytes_are_commands_or_diagnostics(raw: bytes) -> None:
    store = Store()
    store.write({"a": "1"})
    pauses = execute_all(store, raw)
    lines = len(raw.removesuffix(b"\n").split(b"\n")) if raw else 0
    assert sum(len(pause.diagnostics) + pause.commands for pause in pauses) <= lines
    model = Model(HELP, {b"a": b"1"})
    model.run(raw)
    assert store.items() == sorted(model.pairs.items())


def test_wait_and_backup_return_to_the_caller() -> None:
    store = Store()
    script = b"WRITE [(a,1)]\nWAIT 250\nBACKUP\nREAD [a]\n"
    first = store.execute(script)
    assert first == ExecuteResult(StopReason.WAIT, 23, b"Waiting...\n", [], 2, 2, 1, 250)
    second = store.execute(script, first.offset)
    assert second == ExecuteResult(StopReason.BACKUP, 30, b"", [], 1, 1, 1)
    assert store.execute(script, second.offset) == ExecuteResult(
        StopReason.END, len(script), b"[(a,1)]\n", [], 1, 1, 1
    )


def test_execute_returns_after_its_budget_of_input() -> None:
    line = b"WRITE [(a,1)]\n"
    script = 10 * line
    for budget, commands in [(0, 1), (1, 1), (13, 1), (14, 2), (27, 2), (28, 3), (1000, 10)]:
        pause = Store().execute(script, 0, budget)
        assert pause.commands == commands
        assert pause.reason is (StopReason.END if commands == 10 else StopReason.BUDGET)


def test_execute_returns_after_its_budget_of_output() -> None:
    store = Store()
    store.write({"a": "x" * 40})
    for command in (b"READ [a]\n", b"DELETE [b]\n", b"SHOW\n", b"HELP\n"):
        length = len(store.execute(command).output)
        for budget, commands in [(length - 1, 1), (length, 2), (2 * length, 3)]:
            assert store.execute(10 * command, 0, max(budget, 0)).commands == min(
                commands, budget // len(command) + 1
            )


def test_execute_accepts_str_and_names_a_wrong_type() -> None:
    store = Store()
    pause = store.execute("WRITE [(größe,1)]\nREAD [größe]\n")
    assert (pause.output, pause.offset) == ("[(größe,1)]\n".encode(), 35)
    assert store.execute("WRITE [(größe,1)]\nSHOW\n", 20).output == "(größe, 1)\n".encode()
    script: Any
    for script in (5, None, bytearray(b"SHOW\n"), ["SHOW"]):
        with pytest.raises(TypeError, match=r"^commands are str or bytes, not "):
            store.execute(script)


def test_revision_counts_commands_that_change_something() -> None:
    store = Store()
    lines = [
        b"WRITE [(a,1)(b,2)(c,3)]",
        b"WRITE [(a,1)]",
        b"DELETE [x]",
        b"DELETE [a,x]",
        b"READ [a]",
        b"WRITE [(a,KVSERROR)]",
        b"SHOW",
        b"DELETE [b,c]",
    ]
    revisions = [store.execute(line).revision for line in lines]
    assert revisions == [1, 2, 2, 3, 3, 3, 3, 4]


def test_show_gives_one_instant_in_byte_order() -> None:
    store = Store()
    pairs = {b"k%06d" % number: b"v" for number in range(20_000)}
    store.write(dict(random.Random(1).sample(sorted(pairs.items()), len(pairs))))
    pause = store.execute(b"SHOW\nDELETE [k000000]\nSHOW\n", budget=10**9)
    one = b"".join(b"(%b, v)\n" % key for key in sorted(pairs))
    assert pause.output == one + one.removeprefix(b"(k000000, v)\n")


class TestLibrary:
    def test_words_are_str_or_bytes_and_returned_as_bytes(self) -> None:
        store = Store()
        assert store.write({"a": b"1", "b": b"zwei", b"c": b"drei"}) == 1
        assert store.write([("d", "4"), (b"d", b"5")]) == 2
        assert store.read(["d", b"a", "nothing"]) == {b"d": b"5", b"a": b"1"}
        assert store.items() == [(b"a", b"1"), (b"b", b"zwei"), (b"c", b"drei"), (b"d", b"5")]
        assert len(store) == 4
        assert "a" in store
        assert b"x" not in store
        assert store.delete(["x", "a", "a", b"d"]) == [b"a", b"x"]
        assert store.revision == 3
        assert store.execute(b"SHOW").output == b"(b, zwei)\n(c, drei)\n"

    def test_commands_without_effect_take_no_revision(self) -> None:
        store = Store()
        assert store.write({}) == 0
        assert store.delete([]) == []
        assert store.delete(["a"]) == [b"a"]
        assert store.revision == 0

    def test_invalid_words_are_refused_and_change_nothing(self) -> None:
        store = Store()
        for bad in ("", "x" * 41, "a b", "a,b", "a)", "a]", "a\0", "a\r", "a\n", "a\t"):
            with pytest.raises(InvalidWordError):
                store.write({"good": "1", bad: "1"})
            with pytest.raises(InvalidWordError):
                store.write([("good", "1"), ("other", bad)])
            with pytest.raises(InvalidWordError):
                store.read(["good", bad])
            with pytest.raises(InvalidWordError):
                store.delete(["good", bad])
            with pytest.raises(InvalidWordError):
                bad in store  # noqa: B015
        for reserved in ("KVSERROR", "KVSMISSING"):
            with pytest.raises(InvalidWordError, match="reserved"):
                store.write({"a": reserved})
            store.write({reserved: "as-a-key"})
        assert store.revision == 2
        assert "good" not in store

    @pytest.mark.parametrize(
        "given", [("a", "b", "c"), ("a",), (), "ab", b"ab", 5, None, ("x" * 99, "b", "c")]
    )
    def test_items_that_are_not_pairs_are_refused(self, given: object) -> None:
        store = Store()
        pairs: list[Any] = [("a", "1"), given]
        with pytest.raises(InvalidWordError) as caught:
            store.write(pairs)
        assert str(caught.value).startswith("a pair is a key and a value, not ")
        assert repr(given)[:20] in str(caught.value)
        assert store.items() == []
        good: list[Any] = [["a", "1"], ("b", b"2")]
        store.write(iter(good))
        assert store.items() == [(b"a", b"1"), (b"b", b"2")]

    def test_single_key_is_refused_where_keys_are_expected(self) -> None:
        store = Store()
        for call in (store.read, store.delete):
            with pytest.raises(TypeError, match="put it into a list"):
                call("abc")


class TestBackupAndRestore:
    def test_backup_restores_the_same_pairs_in_one_revision(self, tmp_path: Path) -> None:
        store = Store()
        store.write([("b", "2"), ("a", "1"), (b"\xff", "(")])
        written = store.backup(tmp_path / "x.bck")
        assert (tmp_path / "x.bck").read_bytes() == b"(a, 1)\n(b, 2)\n(\xff, ()\n"
        assert (written.revision, written.pairs, written.bytes) == (1, 3, 21)
        assert 0 < written.blocked_seconds < written.seconds
        other = Store()
        other.write({"old": "1"})
        assert other.restore(tmp_path / "x.bck") == 2
        assert other.items() == store.items()

    def test_backup_has_mode_0600_and_leaves_no_other_file(self, tmp_path: Path) -> None:
        (tmp_path / "x.bck").write_text("old")
        Store().backup(str(tmp_path / "x.bck"))
        assert (tmp_path / "x.bck").stat().st_mode & 0o777 == 0o600
        assert [path.name for path in tmp_path.iterdir()] == ["x.bck"]
        assert (tmp_path / "x.bck").read_bytes() == b""

    def test_backup_replaces_a_symbolic_link_at_its_path(self, tmp_path: Path) -> None:
        (tmp_path / "other").write_text("untouched")
        (tmp_path / "x.bck").symlink_to("other")
        Store().backup(tmp_path / "x.bck")
        assert not (tmp_path / "x.bck").is_symlink()
        assert (tmp_path / "other").read_text() == "untouched"

    def test_failed_backup_raises_and_leaves_no_file(self, tmp_path: Path) -> None:
        (tmp_path / "directory").mkdir()
        for path, reason in [
            (tmp_path / "no" / "x.bck", "No such file or directory"),
            (tmp_path / "directory", "directory"),
        ]:
            with pytest.raises(SnapshotError, match=reason):
                Store().backup(path)
        assert [path.name for path in tmp_path.iterdir()] == ["directory"]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
    @pytest.mark.parametrize("name", ["fork_snapshot", "commit_point"])
    def test_interrupted_backup_leaves_no_file(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        error: type[BaseException],
    ) -> None:
        def interrupted(*_: object) -> None:
            raise error

        monkeypatch.setattr(StoreCore, name, interrupted)
        descriptors = os.listdir("/proc/self/fd")
        with pytest.raises(error):
            Store().backup(tmp_path / "x.bck")
        assert os.listdir(tmp_path) == []
        assert os.listdir("/proc/self/fd") == descriptors

    def test_refused_backup_changes_no_pair(self, tmp_path: Path) -> None:
        store = Store()
        store.write({"a": "1"})
        (tmp_path / "bad.bck").write_bytes(b"(a, 2)\n(a, 3)\n")
        with pytest.raises(BackupFormatError):
            store.restore(tmp_path / "bad.bck")
        with pytest.raises(BackupReadError):
            store.restore(tmp_path / "none.bck")
        assert (store.items(), store.revision) == ([(b"a", b"1")], 1)


class StoreBesideDict(RuleBasedStateMachine):
    """The library's methods in any order, beside a dict and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.pairs: dict[bytes, bytes] = {}
        self.revision = 0

    @rule(pairs=st.lists(st.tuples(words, values), max_size=4))
    def write(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self.pairs.update(pairs)
        self.revision += bool(pairs)
        assert self.store.write(pairs) == self.revision

    @rule(keys=st.lists(words, max_size=4))
    def delete(self, keys: list[bytes]) -> None:
        missing = [key for key in keys if self.pairs.pop(key, None) is None]
        self.revision += len(missing) < len(keys)
        assert self.store.delete(keys) == sorted(missing)

    @rule(keys=st.lists(words, max_size=4))
    def read(self, keys: list[bytes]) -> None:
        assert self.store.read(keys) == {key: self.pairs[key] for key in keys if key in self.pairs}

    @rule(key=words)
    def contains(self, key: bytes) -> None:
        assert (key in self.store) == (key in self.pairs)

    @invariant()
    def same(self) -> None:
        assert self.store.items() == sorted(self.pairs.items())
        assert len(self.store) == len(self.pairs)
        assert self.store.revision == self.revision


def test_calls_in_any_order_agree_with_a_dict() -> None:
    run_state_machine_as_test(
        StoreBesideDict, settings=settings(max_examples=50, stateful_step_count=20)
    )


@pytest.mark.parametrize(
    ("path", "shown", "reason"),
    [("\0x", r"\x00x", "the path contains a NUL byte"), (b"", "", "the path is empty")],
    ids=["NUL", "empty"],
)
def test_invalid_path_raises_the_error_of_its_kind(
    path: str | bytes, shown: str, reason: str
) -> None:
    store = Store()
    calls: dict[type[KvsError], Callable[[str | bytes], object]] = {
        DataDirectoryError: Store,
        SnapshotError: store.backup,
        BackupReadError: store.restore,
        JobsDirectoryError: store.run_jobs,
        ServerNotFoundError: connect,
    }
    for error, call in calls.items():
        with pytest.raises(error) as caught:
            call(path)
        assert str(caught.value).startswith(f"{shown}: ")
        assert str(caught.value).endswith(f": {reason}")


def test_lack_of_threads_raises_the_error_of_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()

    def refuse(_function: Callable[[], None], _arguments: tuple[()]) -> int:
        raise RuntimeError("can't start new thread")

    with Store(tmp_path / "d") as store:
        monkeypatch.setattr("kvs.concurrency.waiters.start_new_thread", refuse)
        calls: list[tuple[type[KvsError], str, Callable[[], object]]] = [
            (ThreadStartError, "", store.compact),
            (ThreadStartError, "", lambda: store.run_jobs(tmp_path / "jobs")),
            (SnapshotError, f"{tmp_path}/b: not written: ", lambda: store.backup(tmp_path / "b")),
            (DataDirectoryError, f"{tmp_path}/new: ", lambda: Store(tmp_path / "new")),
        ]
        for error, start, call in calls:
            with pytest.raises(error) as told:
                call()
            assert str(told.value) == (
                f"{start}cannot start a thread; raise the limit of processes (ulimit -u)"
            )
        monkeypatch.undo()
        assert store.compact()


class TestMapping:
    """The store as a mapping, beside a dict."""

    @given(st.dictionaries(words, values, max_size=8), words)
    def test_access_by_key_agrees_with_a_dict(self, pairs: dict[bytes, bytes], key: bytes) -> None:
        store = Store()
        store.update(pairs)
        assert list(store) == store.keys() == sorted(pairs)
        assert dict(store.items()) == {each: store[each] for each in store} == pairs
        assert (key in store, store.get(key), store.get(key, b"-")) == (
            key in pairs,
            pairs.get(key),
            pairs.get(key, b"-"),
        )
        if key not in pairs:
            with pytest.raises(KeyError):
                store[key]
            with pytest.raises(KeyError):
                del store[key]
        store[key] = b"new"
        assert store[key] == b"new"
        del store[key]
        assert key not in store

    def test_update_is_one_change(self) -> None:
        store = Store()
        store.update({"a": "1"}, b="2", c="3")
        store.update([("a", "4"), (b"d", b"5")])
        store.update()
        assert store.items() == [(b"a", b"4"), (b"b", b"2"), (b"c", b"3"), (b"d", b"5")]
        assert store.revision == 2

    @pytest.mark.parametrize("key", ["two words", "", "a,b", b"x" * 41])
    def test_invalid_key_raises_invalid_word_error(self, key: str | bytes) -> None:
        store = Store()
        uses: list[Callable[[], object]] = [
            lambda: store[key],
            lambda: store.get(key),
            lambda: key in store,
            lambda: store.__setitem__(key, "1"),
            lambda: store.__delitem__(key),
            lambda: store.update({key: "1"}),
        ]
        for use in uses:
            with pytest.raises(InvalidWordError):
                use()


def test_public_names_have_docstrings() -> None:
    for name, member in vars(Store).items():
        if not name.startswith("_"):
            assert inspect.getdoc(member), name
