"""The store on one thread: execute beside the naive model, and the library beside execute."""

import inspect
import math
import os
import random
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
    JSON,
    BackupFormatError,
    BackupReadError,
    Codec,
    DataDirectoryError,
    ExecuteResult,
    InvalidValueError,
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
from kvs.codecs import BYTES
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

    def test_words_of_a_wrong_size_are_refused_and_change_nothing(self) -> None:
        store = Store()
        for bad in ("", "x" * 1025, b"x" * 1025):
            with pytest.raises(InvalidWordError):
                store.write({"good": "1", bad: "1"})
            with pytest.raises(InvalidWordError):
                store.read(["good", bad])
            with pytest.raises(InvalidWordError):
                store.delete(["good", bad])
            with pytest.raises(InvalidWordError):
                bad in store  # noqa: B015
        with pytest.raises(InvalidWordError):
            store.write([("good", "1"), ("other", b"v" * ((1 << 24) + 1))])
        assert store.revision == 0
        assert "good" not in store

    @given(st.dictionaries(st.binary(min_size=1, max_size=50), st.binary(max_size=50)))
    def test_words_may_have_any_bytes(self, pairs: dict[bytes, bytes]) -> None:
        store = Store()
        store.write(pairs)
        assert dict(store.items()) == store.read(pairs) == pairs
        for key in pairs:
            assert store.keys(prefix=key, limit=1) == [key]
            assert key in store
        assert store.delete([*pairs, *pairs]) == sorted(pairs)

    def test_reserved_words_are_ordinary_values(self) -> None:
        store = Store()
        store.write({"a": "KVSERROR", "KVSMISSING": "KVSMISSING", "b": ""})
        assert store.read(["a", "b", "c"]) == {b"a": b"KVSERROR", b"b": b""}
        assert store.get("KVSMISSING") == b"KVSMISSING"
        assert store.write({"b": "1"}, if_={"a": "KVSERROR", "c": None}) == 2
        assert store.write({"b": "2"}, if_={"a": None}) is None

    def test_value_of_16_mib_and_many_of_them_are_one_change(self) -> None:
        store = Store()
        value = b"v" * (1 << 24)
        assert store.write({f"k{number}": value for number in range(5)}) == 1  # over 64 MiB
        assert store["k4"] == value
        store["k4"] = value = bytes(range(256)) * (1 << 12)
        assert store.update(["k4"], lambda found: {"n": str(len(found[b"k4"]))}) == {
            b"n": b"1048576"
        }
        assert store.read(["k4"]) == {b"k4": value}

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
        backup = (tmp_path / "x.bck").read_bytes()
        assert backup.startswith(b"# kvs backup 2\n(a, 1)\n(b, 2)\n(\xff, ()\n# end 1 3 ")
        assert (written.revision, written.pairs, written.bytes) == (1, 3, len(backup))
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
        assert (tmp_path / "x.bck").read_bytes().startswith(b"# kvs backup 2\n# end 0 0 ")

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
        def interrupted(*_: object, **_options: object) -> None:
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
        store.write(pairs)
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

    @pytest.mark.parametrize("key", ["", b"x" * 1025])
    def test_invalid_key_raises_invalid_word_error(self, key: str | bytes) -> None:
        store = Store()
        uses: list[Callable[[], object]] = [
            lambda: store[key],
            lambda: store.get(key),
            lambda: key in store,
            lambda: store.__setitem__(key, "1"),
            lambda: store.__delitem__(key),
            lambda: store.write({key: "1"}),
            lambda: store.add({key: 1}),
            lambda: store.update([key], lambda _: {}),
            lambda: store.update([], lambda _: {key: "1"}),
        ]
        for use in uses:
            with pytest.raises(InvalidWordError):
                use()


class TestConditions:
    def test_write_returns_none_if_its_condition_does_not_hold(self) -> None:
        store = Store()
        assert store.write({"lock": "me"}, if_={"lock": None}) == 1
        assert store.write({"lock": "you"}, if_={"lock": None}) is None
        assert store.write({"lock": "you"}, if_={"lock": "me", b"other": "x"}) is None
        assert store["lock"] == b"me"
        assert store.write({"lock": "you"}, if_={b"lock": b"me", "other": None}) == 2
        assert store.write({"lock": "x"}, if_={}) == 3
        assert store.write({"lock": "x"}, if_=None) == 4

    def test_condition_without_pairs_is_only_checked(self) -> None:
        store = Store()
        store["a"] = "1"
        assert store.write({}, if_={"a": "1"}) == 1
        assert store.write({}, if_={"a": "2"}) is None
        assert store.revision == 1

    def test_invalid_condition_writes_nothing(self) -> None:
        store = Store()
        twice: dict[str | bytes, str] = {"b": "x", b"b": "y"}
        for condition in ({"": "x"}, {"a": "v" * ((1 << 24) + 1)}, twice):
            with pytest.raises(InvalidWordError):
                store.write({"a": "1"}, if_=condition)
        assert len(store) == 0


class TestExpiry:
    def test_write_with_for_sets_the_time_in_milliseconds(self) -> None:
        store = Store()
        before = time.time_ns() // 1_000_000
        store.write({"a": "1", "b": "2"}, for_=100)
        store.add({"n": 1}, for_=0.0001)
        after = time.time_ns() // 1_000_000
        lines = store.execute(b"SHOW UNTIL").output.splitlines()
        times = [int(line.rpartition(b" UNTIL ")[2]) for line in lines]
        assert before + 100_000 <= times[0] == times[1] <= after + 100_000
        if len(times) == 3:  # the pair has not expired yet
            assert before + 1 <= times[2] <= after + 1
        store.write({"a": "1"})
        assert store.execute(b"SHOW [a] UNTIL").output == b"(a, 1)\n"

    @pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, 1e12])
    def test_impossible_time_is_refused(self, seconds: float) -> None:
        store = Store()
        for use in (
            lambda: store.write({"a": "1"}, for_=seconds),
            lambda: store.add({"a": 1}, for_=seconds),
        ):
            with pytest.raises(ValueError, match=r"^for_ is more than 0 seconds"):
                use()
        assert len(store) == 0


class TestAdd:
    def test_sums_are_returned_in_the_order_of_the_keys_given(self) -> None:
        store = Store()
        assert store.add({"hits": 1, "a": -3}) == {b"hits": 1, b"a": -3}
        assert list(store.add({"hits": 1, "a": 0})) == [b"hits", b"a"]
        assert store.add([("n", 1), ("hits", 5), ("n", 2)]) == {b"n": 3, b"hits": 7}
        assert store.add({}) == {}
        assert store.items() == [(b"a", b"-3"), (b"hits", b"7"), (b"n", b"3")]
        assert store.revision == 3

    @pytest.mark.parametrize("value", ["x", "", "+1", "01", "-0", "1 ", "9" * 19, "KVSERROR"])
    def test_value_that_is_no_number_raises_with_its_key(self, value: str) -> None:
        store = Store()
        store.write({"bad": value, "good": "1"})
        with pytest.raises(InvalidValueError) as caught:
            store.add({"good": 1, "bad": 1})
        assert (caught.value.key, caught.value.value) == (b"bad", value.encode())
        assert str(caught.value) == f"'bad': the value '{value}' is not a whole number of 64 bits"
        assert store["good"] == b"1"

    def test_sum_over_64_bits_raises_with_its_key(self) -> None:
        store = Store()
        store.add({"a": (1 << 63) - 1, "b": -(1 << 63)})
        with pytest.raises(InvalidValueError) as caught:
            store.add([("b", 1), ("a", -1), ("a", 2)])
        assert str(caught.value) == (
            "'a': the value '9223372036854775806' plus 2 is not a whole number of 64 bits"
        )
        assert store.add({"a": 0, "b": 0}) == {b"a": (1 << 63) - 1, b"b": -(1 << 63)}

    def test_only_an_int_of_64_bits_is_added(self) -> None:
        store = Store()
        wrong: Any
        for wrong in (1.0, "1", None, True):
            with pytest.raises(TypeError, match=r"^a number to add is an int, not "):
                store.add({"a": wrong})
        for number in (1 << 63, -(1 << 63) - 1):
            with pytest.raises(ValueError, match="64 bits"):
                store.add({"a": number})
        assert len(store) == 0

    def test_concurrent_additions_lose_nothing(self) -> None:
        store = Store()

        def count() -> None:
            for _ in range(500):
                store.add({"n": 1})
                store.update(["m"], lambda found: {"m": str(int(found.get(b"m", b"0")) + 1)})

        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(count) for _ in range(4)]:
                future.result()
        assert store.read(["n", "m"]) == {b"n": b"2000", b"m": b"2000"}


class TestUpdate:
    def test_function_gets_the_existing_pairs_and_returns_the_changes(self) -> None:
        store = Store()
        store.write({"a": "1", "b": "2"})
        given: list[dict[bytes, bytes]] = []

        def move(found: dict[bytes, bytes]) -> dict[bytes, str | None]:
            given.append(found)
            return {b"a": None, b"c": "3", b"none": None}

        assert store.update(["a", "c"], move) == {b"a": None, b"c": b"3", b"none": None}
        assert given == [{b"a": b"1"}]
        assert store.items() == [(b"b", b"2"), (b"c", b"3")]
        assert store.revision == 2

    def test_function_is_called_again_if_a_key_changed_meanwhile(self) -> None:
        store = Store()
        calls: list[bytes | None] = []

        def append(found: dict[bytes, bytes]) -> dict[bytes, bytes]:
            calls.append(found.get(b"a"))
            if len(calls) < 3:
                store["a"] = f"{len(calls)}"
            store["other"] = "x"
            return {b"a": found.get(b"a", b"") + b"!"}

        store.update(["a"], append)
        assert calls == [None, b"1", b"2"]
        assert store["a"] == b"2!"

    def test_tries_read_once_and_wait_for_one_commit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        store = Store()
        calls: list[str] = []
        for name in ("peek", "after_commit"):
            method = getattr(StoreCore, name)

            def counted(
                *arguments: object, name: str = name, method: Callable[..., object] = method
            ) -> object:
                calls.append(name)
                return method(*arguments)

            monkeypatch.setattr(StoreCore, name, counted)

        def change(found: dict[bytes, bytes]) -> dict[bytes, str]:
            calls.append(str(found))
            if not found:
                store._core.execute(b"WRITE [(a,1)]\n")
            return {b"b": "2"}

        store.update(["a", "c"], change)
        assert calls == ["peek", "{}", "{b'a': b'1'}", "after_commit"]

    def test_no_changes_and_exceptions_leave_the_store_unchanged(self) -> None:
        store = Store()
        assert store.update(["a"], lambda _: {}) == {}
        with pytest.raises(ZeroDivisionError):
            store.update(["a"], lambda _: {b"a": str(1 // 0)})
        assert store.revision == 0

    def test_without_keys_it_is_a_write(self) -> None:
        store = Store()
        store.write({"a": "1"})
        store.update([], lambda found: {b"a": None, b"n": str(len(found))})
        assert store.items() == [(b"n", b"0")]
        assert store.revision == 2


class TestListing:
    @given(
        st.sets(st.binary(min_size=1, max_size=3)),
        st.binary(max_size=2),
        st.none() | st.binary(max_size=3),
        st.none() | st.integers(0, 4),
    )
    def test_prefix_after_and_limit_select_what_they_say(
        self, keys: set[bytes], prefix: bytes, after: bytes | None, limit: int | None
    ) -> None:
        store = Store()
        store.write(dict.fromkeys(keys, "v"))
        expected = [
            key for key in sorted(keys) if key.startswith(prefix) and (after is None or key > after)
        ][:limit]
        assert store.keys(prefix=prefix, after=after, limit=limit) == expected
        assert store.items(prefix=prefix, after=after, limit=limit) == [
            (key, b"v") for key in expected
        ]
        matching = [key for key in keys if key.startswith(prefix)]
        assert store.count(prefix) == len(matching)
        assert store.count() == len(keys)
        assert store.clear(prefix) == len(matching)
        assert store.keys() == sorted(keys - set(matching))

    @pytest.mark.parametrize("list_keys", [Store.keys, list])
    def test_keys_are_listed_without_values(self, list_keys: Callable[[Store], object]) -> None:
        store = Store()
        pairs = {b"%d" % number: b" " * (1 << 20) for number in range(8)}
        store.write(pairs)
        tracemalloc.start()
        try:
            assert list_keys(store) == sorted(pairs)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < 1 << 20

    @pytest.mark.parametrize("codec", [BYTES, JSON])
    def test_too_long_word_is_named_as_what_it_is(self, codec: Codec[Any, Any]) -> None:
        store, word = Store(codec=codec), "x" * 1025
        for use in (lambda: store.items(prefix=word), lambda: store.count(word)):
            with pytest.raises(InvalidWordError, match="a prefix is at most 1024 bytes"):
                use()
        with pytest.raises(InvalidWordError, match="a key is at most 1024 bytes"):
            store.keys(after=word)

    def test_wrong_arguments_are_refused(self) -> None:
        store = Store()
        with pytest.raises(ValueError, match=r"^limit must be 0 or more, not -1$"):
            store.items(limit=-1)
        for use in (store.count, store.clear, lambda word: store.items(after=word)):
            with pytest.raises(InvalidWordError):
                use("x" * 1025)

    def test_prefix_that_is_no_word_is_never_that_of_every_key(self) -> None:
        store = Store()
        store["a"] = "1"
        wrong: list[Any] = [None, 0, ()]
        for prefix in wrong:
            with pytest.raises(TypeError):
                store.count(prefix)
            with pytest.raises(TypeError):
                store.clear(prefix)
            with pytest.raises(TypeError):
                store.items(prefix=prefix)
        assert len(store) == 1


def test_argument_of_another_type_is_named(tmp_path: Path) -> None:
    wrong: Any = "3"
    with Store() as store:
        for call, reason in (
            (lambda: Store(codec=wrong), "codec is kvs.JSON or another kvs.Codec, not str"),
            (lambda: Store(tmp_path / "d", wrong), "settings is a kvs.DataSettings, not str"),
            (lambda: store.write({"a": "1"}, for_=wrong), "for_ is a number of seconds, not str"),
            (lambda: store.add({"a": 1}, for_=wrong), "for_ is a number of seconds, not str"),
            (lambda: store.items(limit=wrong), "limit is an int or None, not str"),
            (lambda: store.keys(limit=wrong), "limit is an int or None, not str"),
            (lambda: store.write({}, if_=wrong), "if_ is a mapping of keys and values, not str"),
        ):
            with pytest.raises(TypeError) as caught:
                call()
            assert str(caught.value) == reason
        assert not (tmp_path / "d").exists()
        assert len(store) == 0


def test_update_says_what_its_function_must_return() -> None:
    nothing: Any = lambda _: None  # noqa: E731
    with Store() as store, pytest.raises(TypeError) as caught:
        store.update(["a"], nothing)
    assert str(caught.value) == (
        "the function of update must return a mapping of keys and values, not NoneType"
    )


def test_public_names_have_docstrings() -> None:
    for name, member in vars(Store).items():
        if not name.startswith("_"):
            assert inspect.getdoc(member), name
