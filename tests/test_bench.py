"""The benchmarks: each suite can run, and the page shows the results. Figures mean nothing here."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from bench import etcd, page, redis, results
from bench.goals import as_fast_as
from bench.listeners import listening
from bench.results import (
    BYTES,
    KVS,
    PER_SECOND,
    REDIS,
    SECONDS,
    Figure,
    Goal,
    Outcome,
    Results,
    Section,
    Workload,
)
from bench.rounds import Rounds, joined
from bench.scale import Amount
from bench.suites import SECTIONS
from bench.values import Values, size_label

from kvs import Store
from kvs.engine.selection import COMPILED, engine_name

ROOT = Path(__file__).parent.parent

LIMIT_SECONDS = 900.0
"""Seconds after which a benchmark hangs.

All sections take 30 s on two idle cores. They are many processes that wait for one another, and
busy cores make each wait longer: 70 s at a load of 9, 420 s at one of 14.
"""


def test_rounds_interleave_subjects_and_each_begins_with_another() -> None:
    calls: list[str] = []

    def subject(name: str) -> dict[str, float]:
        calls.append(name)
        return {name: float(len(calls))}

    rounds = Rounds([partial(subject, "a"), partial(subject, "b"), partial(subject, "c")], 3)
    assert "".join(calls) == "abc" + "bca" + "cab"
    assert rounds.figures == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def rounds_of(**figures: list[float]) -> Rounds:
    """Return rounds with made-up figures."""
    rounds = Rounds([], 0)
    rounds.figures.update(figures)
    return rounds


def test_ratio_is_the_median_of_quotients_within_each_round() -> None:
    workload = rounds_of(a=[1, 20, 3], b=[2, 10, 1]).workload("w", "label", {KVS: "a", REDIS: "b"})
    kvs = workload.systems[KVS]
    assert (kvs.median, kvs.low, kvs.high, kvs.rounds) == (3, 1, 20, [1, 20, 3])
    assert kvs.ratios == {REDIS: 2}
    assert workload.systems[REDIS].ratios == {KVS: 0.5}


def test_workload_counts_operations_and_leaves_unmeasured_systems_out() -> None:
    rounds = rounds_of(a=[20, 40])
    systems = {KVS: "a", REDIS: "missing"}
    each = rounds.workload("w", "label", systems, count=10)
    rate = rounds.workload("w", "label", systems, unit=PER_SECOND, count=80)
    assert each.systems == {KVS: Figure(3, 2, 4, {}, [2, 4])}
    assert rate.systems == {KVS: Figure(3, 2, 4, {}, [4, 2])}


def test_workload_has_no_ratio_to_a_figure_of_zero() -> None:
    rounds = Rounds([lambda: {"one": 2.0, "other": 0.0}], 2)
    workload = rounds.workload("w", "bytes", {"A": "one", "B": "other"}, unit=BYTES)
    assert workload.systems["A"].ratios == {}
    assert workload.systems["B"].ratios == {"A": 0.0}


def test_joined_workload_has_the_systems_of_all() -> None:
    one = Workload("w", "label", SECONDS, {KVS: Figure(1, 1, 1)})
    other = Workload("w", "label", SECONDS, {REDIS: Figure(2, 2, 2)})
    assert joined(one, other).systems == {KVS: Figure(1, 1, 1), REDIS: Figure(2, 2, 2)}


def test_goal_beside_another_system_compares_rates() -> None:
    rounds = rounds_of(kvs=[1, 2, 4], redis=[2, 4, 2], etcd=[0.5, 1, 2])
    [goal] = as_fast_as(rounds, "all", "kvs", "redis")
    assert goal == Goal("all: at least as fast as Redis", "2.00 x", met=True)
    [goal] = as_fast_as(rounds, "all", "kvs", "etcd", "etcd")
    assert goal == Goal("all: at least as fast as etcd", "0.50 x", met=False)


def test_goal_beside_a_system_that_was_not_measured_is_left_out() -> None:
    assert list(as_fast_as(rounds_of(kvs=[1]), "all", "kvs", "redis")) == []


def test_amount_ends_at_the_first_of_two_limits() -> None:
    amount = Amount(100, 5_000)
    assert [amount.count(size) for size in (10, 100, 1_000, 10_000)] == [100, 50, 5, 1]


@pytest.mark.parametrize("size", [100, 1_000, 100_000, 1 << 20])
def test_script_that_reads_long_values_prints_what_another_wrote(size: int) -> None:
    values = Values(size, 9)
    store = Store()
    written = store.execute(values.writes(), budget=1 << 30)
    read = store.execute(values.reads(), budget=1 << 30)
    assert (written.diagnostics, written.commands, read.diagnostics) == ([], 9, [])
    assert read.output == values.output()
    assert {key: store[key] for key, _ in values.pairs()} == dict(values.pairs())
    assert {len(value) for _, value in values.pairs()} == {size}


def test_sizes_have_the_unit_that_fits() -> None:
    labels = [size_label(size) for size in (100, 1_000, 100_000, 1 << 20)]
    assert labels == ["100 bytes", "1 kB", "100 kB", "1 MiB"]


def test_pairs_in_a_reply_of_etcd_are_decoded() -> None:
    header = b"\x0a\x06\x08\x85\xff\x01\x18\x02"
    short = b"\x12\x0d\x0a\x03key\x10\x02\x2a\x04abcd"
    long = b"\x12\xce\x01\x0a\x01k\x18\x90\x4e\x2a\xc5\x01" + b"v" * 197
    pairs = etcd.pairs_of(header + short + long + b"\x20\x02")
    assert list(pairs) == [(b"key", b"abcd"), (b"k", b"v" * 197)]


@pytest.fixture
def made_up() -> Results:
    """Results with two suites, one of them without Redis."""
    jobs = Workload(
        "jobs",
        "200 commands",
        SECONDS,
        {
            REDIS: Figure(0.2, 0.15, 1.5, {KVS: 2.0}, [0.15, 0.2, 1.5]),
            KVS: Figure(0.1, 0.09, 0.11, {REDIS: 0.05}, [0.09, 0.1, 0.11]),
        },
    )
    size = Workload(
        "pair",
        "memory",
        BYTES,
        {KVS: Figure(66, 66, 66, {}, [66]), "other": Figure(2e6, 1, 3, {}, [])},
    )
    goals = [Goal("fast", "0.05 x", met=True), Goal("small", "66 bytes", met=False)]
    return {
        "one": Section("Machine A.", {"run": Outcome([jobs], goals, ["No C++."])}),
        "two": Section("Machine B.", {"show": Outcome([size], [], ["No C++.", "No Redis."])}),
    }


def test_table_has_systems_as_columns_and_workloads_as_rows(made_up: Results) -> None:
    assert page.render("{{table run show}}", made_up).splitlines() == [
        "| | kvs | Redis | other |",
        "| --- | ---: | ---: | ---: |",
        "| 200 commands | 100 ms (90.0 to 110 ms) | 200 ms (150 ms to 1.50 s) |  |",
        "| memory | 66 bytes |  | 2 MB (1 to 3 bytes) |",
    ]


def test_longest_bar_is_of_the_highest_median(made_up: Results) -> None:
    assert page.render("{{bars run.jobs}}", made_up).splitlines() == [
        "```",
        "kvs    " + "█" * 20 + " " * 20 + "  100 ms",
        "Redis  " + "█" * 40 + "  200 ms",
        "```",
    ]


def test_shortest_bar_can_be_seen() -> None:
    workload = Workload("w", "", SECONDS, {KVS: Figure(1e-6, 0, 0), REDIS: Figure(1, 0, 0)})
    assert next(iter(page.bars(workload))).startswith("kvs    ▏ ")


def test_sentence_takes_figures_from_the_results(made_up: Results) -> None:
    template = "{{median run.jobs | kvs}}, {{ratio run.jobs | kvs | Redis}}"
    assert page.render(template, made_up) == "100 ms, 0.05 x"


@pytest.mark.parametrize(
    "directive",
    [
        "{{bars run.other}}",
        "{{median other.jobs | kvs}}",
        "{{median run.jobs | LMDB}}",
        "{{ratio run.jobs | kvs | LMDB}}",
        "{{table other}}",
    ],
)
def test_missing_result_is_reported_on_the_page(made_up: Results, directive: str) -> None:
    assert page.NOT_MEASURED in page.render(directive, made_up)


def test_unknown_directive_is_an_error(made_up: Results) -> None:
    with pytest.raises(page.TemplateError, match="chart"):
        page.render("{{chart run.jobs}}", made_up)


def test_lists_cover_all_sections(made_up: Results) -> None:
    assert page.render("{{goals}}", made_up).splitlines()[2:] == [
        "| fast | 0.05 x | met |",
        "| small | 66 bytes | **missed** |",
    ]
    assert page.render("{{remarks}}", made_up) == "No C++.\n\nNo Redis."
    assert page.render("{{machines}}", made_up) == "- Machine A. (one)\n- Machine B. (two)"


def test_results_survive_the_json_file(made_up: Results, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    assert results.read(path) == {}
    results.write(made_up, path)
    assert results.read(path) == made_up


def test_page_in_the_tree_is_rendered_from_the_results_in_the_tree() -> None:
    template = page.TEMPLATE.read_text()
    assert page.PATH.read_text() == page.render(template, results.read())


def test_results_in_the_tree_have_every_section_and_all_the_page_needs() -> None:
    assert list(results.read()) == list(SECTIONS)
    assert page.NOT_MEASURED not in page.PATH.read_text()


def test_each_suite_is_on_the_page() -> None:
    template = page.TEMPLATE.read_text()
    tables = [line for line in template.splitlines() if line.startswith("{{table ")]
    suites = [suite for line in tables for suite in line.strip("{}").split()[1:]]
    assert sorted(suites) == sorted(name for section in SECTIONS.values() for name in section)
    for section in SECTIONS:
        assert f": `python -m bench --section {section}`\n" in template


@pytest.mark.slow
def test_quick_run_measures_every_suite_and_writes_no_file() -> None:
    before = [path.read_bytes() for path in (page.PATH, results.PATH)]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=True,
    )
    assert [path.read_bytes() for path in (page.PATH, results.PATH)] == before
    for row in (
        "1,000 commands in 2 files",
        "an empty directory",
        "jobs of one line",
        "1,000 commands, 260 keys",
        "1,000 commands, 2,600 keys",
        "a command with 1,000 keys",
        "0 to 2,000 pairs: longest WRITE",
        "SHOW of 20,000 pairs",
        "BACKUP of 20,000 pairs",
        "latency from a WRITE",
        "notifications to 3 sessions",
        "notifications to 20 sessions",
        "connects: ",
        "500 per write",
        "beside 100 idle sessions",
        "beside 2 running jobs, 99th percentile",
        "in memory",
        "`--fsync always` (Redis: `appendfsync always`)",
        "on disk before the next (SQLite",
        "WRITEs of 3 sessions",
        "journal of as many WRITEs",
        "snapshot of `kvs compact`",
        "longest wait of a writing thread",
        "WRITEs of 1 MiB in a job",
        "READs of 100 bytes in a job",
        "values of 100 kB in a backup",
        "WRITEs of 1 kB, each on disk before the next",
        "conditional WRITEs (`IF [(k,v)] WRITE [(k,w)]`), one after the other",
        "additions (`ADD [(k,1)]`), 500 in a job",
        "list 200 of 20,000 pairs by prefix",
        "memory of an expiry",
        "20,000 pairs expire at one time: longest wait",
    ):
        assert row in done.stdout
    assert "met |" not in done.stdout  # the goals are of the full scale
    columns = ["| kvs, Python engine |" if engine_name() == COMPILED else "| kvs |"]
    if redis.missing() is None:
        columns += ["| Redis |", "| Redis, WATCH |"]
    if etcd.missing() is None:
        columns.append("| etcd |")
    for column in columns:
        assert column in done.stdout
    for suite in (suite for section in SECTIONS.values() for suite in section):
        assert f": {suite} (" in done.stderr


@pytest.mark.slow
def test_sections_without_servers_measure_the_other_systems(tmp_path: Path) -> None:
    sections = ["throughput", "durability", "values", "conditions", "prefixes", "expiry"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--section", *sections],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=True,
    )
    for text in ("| Python baseline |", "| SQLite | LMDB |", "| WRITEs of 3 sessions"):
        assert text in done.stdout
    assert "| Redis" not in done.stdout
    assert "Redis was not measured" in done.stdout
    assert "etcd was not measured" in done.stdout


@pytest.mark.slow
def test_equal_arguments_make_equal_jobs(tmp_path: Path) -> None:
    for name in ("one", "other"):
        arguments = [str(tmp_path / name), "--files", "2", "--commands", "50", "--seed", "7"]
        subprocess.run(
            [sys.executable, "-m", "bench.make_jobs", *arguments],
            cwd=ROOT,
            timeout=LIMIT_SECONDS,
            check=True,
        )
    one, other = (sorted((tmp_path / name).iterdir()) for name in ("one", "other"))
    assert [path.name for path in one] == [path.name for path in other]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert one[0].read_bytes() != one[1].read_bytes()
    assert one[0].read_bytes().count(b"\n") == 50


@pytest.mark.slow
def test_listener_detects_missing_duplicate_and_reordered_bytes(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)

    def listen_to(data: bytes) -> None:
        pipe = os.open(path, os.O_RDWR)  # O_RDWR does not block until the other side opens it
        try:
            with listening(partial(connect, path)) as listen:
                assert listen(b"one two three", lambda: os.write(pipe, data)) > 0
        finally:
            os.close(pipe)

    listen_to(b"one two three")
    for wrong in (b"one three", b"one two two", b"two one three"):
        with pytest.raises(EOFError):
            listen_to(wrong)


def connect(path: Path) -> list[int]:
    """Return the descriptors that the listening process reads."""
    return [os.open(path, os.O_RDONLY)]
