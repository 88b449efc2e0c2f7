"""The benchmarks start as programs of the repository, and a long one that is cut short leaves what
it has measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import NAMES
from benchmarks.all import DOCS, FIGURES
from benchmarks.compare import rows
from benchmarks.contenders import BASE, LEAN, OURS
from benchmarks.processes import where_it_stops
from benchmarks.rounds import Figures, Spread, in_turns, spread
from benchmarks.side import SCENARIOS
from benchmarks.tables import RESULTS, TARGETS, fill
from benchmarks.targets import judge
from tests.support.example_programs import REPOSITORY


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


starts_processes = pytest.mark.timeout(300)  # each imports LangGraph; seconds on a quiet machine


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_gets_every_argument_that_follows_its_name(name: str) -> None:
    done = benchmark(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m benchmarks {name}" in done.stdout


async def test_each_round_that_counts_is_reported_as_soon_as_it_ends() -> None:
    measured: list[int] = []
    reported: list[list[Figures]] = []

    async def measure() -> Figures:
        measured.append(len(measured))
        return {"number": measured[-1]}

    await in_turns(
        {"one": measure}, 2, warm_up=1, after_round=lambda seen: reported.append([*seen["one"]])
    )
    assert reported == [[{"number": 1}], [{"number": 1}, {"number": 2}]]


@starts_processes
def test_a_contender_that_is_slow_for_its_time_gets_fewer_runs(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = benchmark(
        *("worker", "--contenders", "aiodurable", "--workers", "1", "--rounds", "1"),
        *("--runs", "400", "--seconds", "0.01", "--latencies", "1", "--json", str(report)),
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(report.read_text())["figures"]
    assert (row["contender"], row["runs"], row["rounds"]) == ("aiodurable", 100, 1)
    assert row["runs_per_s"] > 0


# ---- compare ------------------------------------------------------------------------------------

in_a_repository = pytest.mark.skipif(
    not (REPOSITORY / ".git").exists(), reason="the sources here are not a git repository"
)


@in_a_repository
@starts_processes
def test_a_commit_is_compared_with_this_checkout_on_one_server(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = benchmark(
        *("compare", "HEAD", "--only", "locks", "--rounds", "1", "--scale", "0.02"),
        *("--json", str(report)),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    figures = {
        row["figure"]: row for row in found["figures"] if row["scenario"] == "locks, one task"
    }
    assert figures["round trips"]["base"] == figures["round trips"]["this"] == 2  # lock, unlock
    assert figures["Python calls"]["base"] > 20
    assert figures["client CPU µs"]["verdict"] == "fewer than 5 rounds"
    assert found["machine"]["cores"] > 0
    assert found["load_before"] >= 0
    head = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(head, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert found["commits"]["base"] == commit.stdout.strip()


@in_a_repository
@starts_processes
def test_a_busy_machine_can_count_without_timing(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = benchmark(
        *("compare", "HEAD", "--counted", "--only", "worker", "--rounds", "1"),
        *("--scale", "0.02", "--json", str(report)),
    )
    assert done.returncode == 0, done.stderr
    found = {(row["scenario"], row["figure"]) for row in json.loads(report.read_text())["figures"]}
    (worker,) = (name for name, scenario in SCENARIOS.items() if scenario.part == "worker")
    assert found == {(worker, "round trips"), (worker, "Python calls")}


@in_a_repository
def test_a_commit_that_is_not_there_is_refused_by_its_name() -> None:
    done = benchmark("compare", "no-such-branch")
    assert done.returncode == 1
    assert done.stderr.startswith("cannot compare with 'no-such-branch': ")


def test_a_difference_is_resolved_only_where_the_spread_of_pairs_leaves_one_out() -> None:
    base: list[Figures] = [{"wall_us": 100.0, "client_cpu_us": 100.0, "wal_bytes": 8.0}] * 6
    this: list[Figures] = [
        {"wall_us": 100.0 + noise, "client_cpu_us": 130.0 + noise, "wal_bytes": 8.0}
        for noise in (-9, -4, 1, 2, 5, 8)
    ]
    verdicts = {row["figure"]: row["verdict"] for row in rows("s", {"base": base, "this": this})}
    assert verdicts == {"µs": "not resolved", "client CPU µs": "**more**", "WAL bytes": "same"}


def test_the_spread_leaves_out_as_many_as_a_median_may_miss_once_in_twenty_times() -> None:
    assert spread([3, 1, 2]) == Spread(2, 1, 3)
    assert spread([5, 1, 9, 2, 8, 3]) == Spread(4, 1, 9)
    assert spread(range(9)) == Spread(4, 1, 7)
    assert spread(range(20)) == Spread(9.5, 5, 14)


# ---- processes ----------------------------------------------------------------------------------


@starts_processes
def test_processes_that_run_at_once_share_the_costs_of_a_run(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = benchmark(
        *("processes", "--processes", "1", "2", "--rounds", "1", "--seconds", "0.2"),
        *("--warm-up", "0.2", "--state-kb", "0", "--json", str(report)),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    one, two = found["figures"]
    assert (one["processes"], two["processes"]) == (1, 2)
    for row in (one, two):
        # From the start two lock sessions and one connection of the pool. Of two writers and two
        # connections for the statements of runs, each connects when a statement finds no idle one.
        assert 3 <= row["connections"] / row["processes"] <= 7
        assert row["runs_per_s"] > 0
        assert 0 < row["commits"] < 20  # four nodes: the stock saver takes a dozen
        assert row["wal_kb"] > 5
        assert row["wal_syncs"] > 0
        assert row["start_cpu_ms"] > 0
        assert row["notifications"] == 0  # nobody waits for a lock or sleeps on a queue
    assert found["says"][0].startswith("0 kB: ")
    assert {row["processes"] for row in found["waits"]} <= {1, 2}  # some moments show no wait


def test_the_number_of_processes_is_named_from_which_on_more_of_them_gain_little() -> None:
    def row(processes: int, runs_per_s: float) -> dict[str, float]:
        return {"processes": processes, "state_kb": 0, "runs_per_s": runs_per_s, "busy_cores": 0.1}

    waits = [{"processes": 2, "what": "IO: WalSync"}]
    flat = where_it_stops([row(1, 100), row(2, 180), row(4, 190)], waits)
    assert flat.startswith("0 kB: more processes than 2 gain less than a tenth")
    assert flat.endswith("most often seen so: IO: WalSync.")
    beside = where_it_stops([row(1, 100), row(2, 180)], waits, quiet=False)
    assert "the machine was busy with other work" in beside
    rising = where_it_stops([row(1, 100), row(2, 180)], waits)
    assert rising.startswith("0 kB: up to 2 processes each step gains more than a tenth")


# ---- targets -----------------------------------------------------------------------------------


def test_a_target_is_listed_where_it_was_measured_and_met_where_it_is() -> None:
    place = {"concurrency": 50, "delay_ms": 0, "state_kb": 100}
    rows = [
        {**place, "contender": OURS, "runs_per_s": 300, "ratio": 4.1},
        {**place, "contender": BASE, "runs_per_s": 100, "ratio": 1.0},
        {**place, "contender": "Absurd", "runs_per_s": 210, "ratio": 2.0},
    ]
    costs = [
        {"state_kb": 100, "contender": OURS, "wal_kb": 90},
        {"state_kb": 100, "contender": LEAN, "wal_kb": 50},
        {"state_kb": 100, "contender": BASE, "wal_kb": 100},
    ]
    found = [
        (row["whose"], row["against"], row["wanted"], row["measured"], row["met"])
        for row in judge(rows, costs)
    ]
    assert found == [
        (OURS, BASE, "≥ 4×", "4.10×", True),  # by the rounds, not 300 ÷ 100
        (OURS, "Absurd", "≥ 1.5×", "1.43×", False),
        (OURS, BASE, "≤ 0.6×", "0.90×", False),
        (LEAN, BASE, "≤ 0.6×", "0.50×", True),
    ]


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_saved_is_judged_by_the_targets_of_now(name: str) -> None:
    report = json.loads((RESULTS / f"{name}.json").read_text())
    assert report["targets"] == TARGETS[name](report)


# ---- all ----------------------------------------------------------------------------------------


@starts_processes
def test_one_command_measures_saves_and_writes_the_tables_of_a_page(tmp_path: Path) -> None:
    done = benchmark("all", "--only", "processes", "--quick", "--into", str(tmp_path))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / FIGURES.name).read_text()
    measured = json.loads((tmp_path / "processes.json").read_text())
    assert measured["says"][0] in page
    assert "Processes on one database, 50 runs at once in each:" in page
    assert "Not measured yet: `python -m benchmarks all --only locks`." in page
    assert fill(page, tmp_path) == page


def test_quick_figures_are_not_published() -> None:
    done = benchmark("all", "--quick")
    assert done.returncode == 2
    assert "give --into FOLDER" in done.stderr


@pytest.mark.parametrize(
    "page", [FIGURES, DOCS / "explanation" / "capacity.md"], ids=lambda page: page.name
)
def test_the_tables_of_a_page_are_those_that_are_saved(page: Path) -> None:
    text = page.read_text()
    assert "<!-- figures: processes -->" in text or "<!-- figures: capacity -->" in text
    assert fill(text, RESULTS) == text, "write it again: python -m benchmarks all --render"


def test_a_page_says_that_the_machine_was_busy(tmp_path: Path) -> None:
    report = json.loads((RESULTS / "processes.json").read_text())
    mark = "<!-- figures: processes -->\n<!-- end of figures -->"
    for load, busy in ((0.1, False), (9.5 * report["machine"]["cores"], True)):
        (tmp_path / "processes.json").write_text(json.dumps({**report, "load_before": load}))
        assert ("**The machine was not quiet: load" in fill(mark, tmp_path)) == busy
