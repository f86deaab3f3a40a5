"""The properties of the ordinary tests, for longer."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvs import Store
from kvs.language.diagnostics import diagnose_line
from kvs.language.grammar import INVALID, LINE, kind_of
from tests import test_library
from tests.language import soup
from tests.store import test_concurrency
from tests.strategies import lines

pytestmark = pytest.mark.stress

MANY = settings(max_examples=50_000, deadline=None)


@MANY
@given(st.one_of(lines, soup.lines, st.binary(max_size=40)))
def test_pattern_and_scanner_agree(line: bytes) -> None:
    for one in line.split(b"\n"):
        match = LINE.match(one + b"\n")
        assert match is not None
        assert (diagnose_line(one + b"\n", 0) is not None) == (kind_of(match) == INVALID)


def test_scripts_agree_with_the_model() -> None:
    inner = test_library.test_scripts_give_what_the_model_gives_for_any_budget
    settings(max_examples=20_000, deadline=None)(inner)()


def test_histories_are_linearizable(often_switching: None) -> None:
    for seed in range(100, 300):
        store = Store()
        history = test_concurrency.record(store, 300, seed)
        test_concurrency.check(history, store.items())


def test_backups_each_show_one_revision(tmp_path: Path, often_switching: None) -> None:
    for round_ in range(10):
        directory = tmp_path / str(round_)
        directory.mkdir()
        test_concurrency.check_snapshots(directory, 200)


def test_run_survives_random_edits_of_its_files(tmp_path: Path) -> None:
    rng = random.Random(0)
    good = b"WRITE [(a,1)(b,2)]\nREAD [a,b]\nDELETE [a]\nSHOW\nHELP\n" * 50
    for index in range(300):
        raw = bytearray(good)
        for _ in range(rng.randrange(1, 200)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        (tmp_path / "a.job").write_bytes(raw)
        report = Store().run_jobs(tmp_path)
        [job] = report.jobs
        assert job.failure is None, index
        lines_of_it = raw.count(b"\n") + (not raw.endswith(b"\n"))
        assert job.invalid + job.commands <= lines_of_it
