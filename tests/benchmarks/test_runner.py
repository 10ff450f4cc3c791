"""Benchmarks are measured in turns, recorded, and shown as recorded."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report, run
from benchmarks.harness import Case, Seconds, Settings, Work, benchmark, in_turns, measure, spread
from benchmarks.run import titles

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "benchmarks" / "run.py"


def test_ways_take_turns() -> None:
    """A B A B ...: at least as many turns as asked for, and each way once in every one."""
    said: list[str] = []
    numbers = itertools.count()

    def clock() -> float:
        return float(next(numbers))

    def way(name: str) -> Work:
        return lambda: said.append(name)

    times = in_turns({"a": way("a"), "b": way("b")}, clock, 0.0, 4, first={"a": 9.0, "b": 9.0})
    assert said == ["a", "b"] * 4
    assert times == {"a": [1.0] * 4, "b": [1.0] * 4}


def test_short_work_is_repeated_and_known_times_are_taken() -> None:
    calls = itertools.count(1)

    def known() -> Seconds:
        next(calls)
        return Seconds(0.005)

    times = in_turns({"a": known}, lambda: 0.0, 0.0, 2, first={"a": 0.0})
    assert times == {"a": [pytest.approx(0.005)] * 2}
    assert next(calls) == 1 + 1 + 2 * 4  # to see that it is short, then 20 ms in each of two turns


def test_spread_is_median_and_quartiles() -> None:
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == [3.0, 2.0, 4.0]
    assert spread([7.0]) == [7.0, 7.0, 7.0]


def test_a_case_is_compared_and_a_missing_peer_is_named() -> None:
    def missing() -> Work:
        raise ImportError("No module named 'rival'")

    @benchmark("a trial", plain="a loop")
    def trial(*, sizes: tuple[int, ...] = (3, 4)) -> Iterator[Case]:
        for size in sizes:
            yield Case(
                f"{size} numbers",
                lambda: Seconds(1.0),
                lambda: Seconds(0.5),
                {"rival": missing, "other": lambda: lambda: Seconds(3.0)},
                floor=lambda: Seconds(0.8),
                plain_share=0.25,
                note=lambda: "as said",
            )

    settings = Settings(seconds=0.0, turns=1, peers=True)
    first, second = measure(trial, settings, {})
    assert (first["benchmark"], first["size"], second["size"]) == ("trial", "3 numbers", "4 numbers")
    assert first["ratios"] == {"plain": [2.0] * 3, "other": [3.0] * 3}
    assert first["missing"].keys() == {"rival"}
    assert (first["floor"], first["note"]) == (pytest.approx(1.25), "as said")
    (alone,) = measure(trial, Settings(seconds=0.0, turns=1), {"sizes": (3,)})
    assert alone["ratios"].keys() == {"plain"}
    assert alone["missing"] == {}


def test_results_that_differ_are_no_comparison() -> None:
    def agree(ours: float, theirs: float) -> None:
        assert ours == theirs, "they differ"

    @benchmark("a trial")
    def trial() -> Iterator[Case]:
        yield Case("one", lambda: 1.0, lambda: 2.0, agree=agree)

    with pytest.raises(AssertionError, match="they differ"):
        list(measure(trial, Settings(seconds=0.0, turns=1), {}))


def a_run(**changes: Any) -> dict[str, Any]:
    def row(name: str, threads: int, ratio: float) -> dict[str, Any]:
        ratios = {"plain": [ratio, 1.0, 9.0], "rival": [0.5, 0.4, 0.6]}
        return {
            "benchmark": name, "size": "(8, 4)", "threads": threads, "seconds": 0.002, "floor": 1.5, "ratios": ratios,
            "note": "",
        }  # fmt: skip

    about = {"title": "a | b", "plain": "a loop", "floor": "a product", "dtype": "float64"}
    run: dict[str, Any] = {
        "date": "2026-01-02T03:04:05+00:00", "complete": True, "threads": [1, 2], "missing": ["absent"],
        "machine": {"processor": "P", "cores": 2, "system": "S"}, "versions": {"torch": "9", "kornia": "1"},
        "benchmarks": {"one": about, "two": about},
        "results": [row("one", 1, 3.0), row("one", 2, 4.0), row("two", 1, 5.0)],
    }  # fmt: skip
    return run | changes


def test_tables_show_what_is_recorded() -> None:
    run = a_run()
    page, part = report.page_of(run), report.readme_of(run)
    assert r"| a \| b ((8, 4)) | 3 / 4 | rival 0.5 / 0.5 |" in part
    assert "| (8, 4) | 2 | 2 | 4.00 [1.00, 9.00] | 0.50 [0.40, 0.60] | 1.50 |" in page
    assert "2026-01-02" in page
    assert "Not installed, and so not compared: absent." in page
    assert "torch 9." in page, "versions of packages that nothing is compared with are left out"


def test_what_has_no_figure_is_named() -> None:
    run = report.latest([a_run()], {"one": "a | b", "three": "a product", "four": "a sum"})
    assert run is not None
    assert "Without a figure of this version: a product; a sum." in report.page_of(run)
    assert "2 more, named there, have no figure of this version." in " ".join(report.readme_of(run).split())


def test_a_run_of_some_renews_theirs_alone() -> None:
    later = a_run(complete=False, date="2026-02-02T00:00:00+00:00")
    later["results"] = [{**later["results"][2], "size": "(9, 9)"}]
    joined = report.latest([a_run(complete=False), a_run(), later])
    assert joined is not None
    assert [(row["benchmark"], row["size"]) for row in joined["results"]] == [
        ("one", "(8, 4)"), ("one", "(8, 4)"), ("two", "(9, 9)"),
    ]  # fmt: skip
    assert "- (9, 9): measured on 2026-02-02." in report.page_of(joined)
    assert report.page_of(joined).count("measured on") == 1
    assert report.latest([]) is None
    joined = report.latest([a_run(complete=False), later])
    assert joined is not None
    assert joined["date"][:10] == "2026-02-02"
    assert [row.get("date", "")[:10] for row in joined["results"]] == ["2026-01-02", "2026-01-02", ""]


def test_page_and_readme_are_those_of_the_history() -> None:
    run = report.latest(report.read_history(), titles())
    assert run is not None
    assert report.PAGE.read_text(encoding="utf-8") == report.page_of(run), "run `benchmarks/run.py --tables`"
    text = report.README.read_text(encoding="utf-8")
    assert text.partition(report.BEGIN)[2].partition(report.END)[0] == f"\n{report.readme_of(run)}"


def test_what_was_measured_before_a_failure_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history, whole = tmp_path / "history.jsonl", a_run()
    result = whole["results"][0] | {"about": whole["benchmarks"]["one"], "missing": {}}
    monkeypatch.setattr(run, "in_processes", lambda _: ([result], 137))
    monkeypatch.setattr(sys, "argv", ["run.py", "--history", str(history)])
    with pytest.raises(SystemExit) as ended:
        run.main()
    assert ended.value.code == 137
    (kept,) = report.read_history(history)
    assert not kept["complete"]
    assert [row["benchmark"] for row in kept["results"]] == ["one"]


def runner(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(RUN), *words], capture_output=True, text=True)


@pytest.mark.slow
def test_unknown_benchmarks_are_named() -> None:
    ended = runner("--only", "knn,knm")
    assert ended.returncode == 2
    assert "there is no benchmark knm, but data_pack, " in ended.stderr


@pytest.mark.slow
def test_some_are_measured_and_recorded(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    ended = runner("--only", "bures", "--threads", "1", "--seconds", "0.01", "--history", str(history))
    assert ended.returncode == 0, ended.stderr
    (run,) = report.read_history(history)
    assert not run["complete"]
    assert {(row["benchmark"], row["threads"]) for row in run["results"]} == {("bures", 1)}
    assert all(row["ratios"]["plain"][0] > 0 for row in run["results"])
    assert json.loads(history.read_text())["machine"]["cores"] > 0


@pytest.mark.slow
def test_every_benchmark_still_runs(tmp_path: Path) -> None:
    """Tiny, on one thread, without a record, each with its check of equal results."""
    history = tmp_path / "history.jsonl"
    ended = runner("--quick", "--threads", "1", "--history", str(history))
    assert ended.returncode == 0, ended.stderr
    assert not history.exists()
    measured = {line.split()[0] for line in ended.stdout.splitlines()}
    expected = {
        "barlow", "bures", "data_pack", "distributed_step", "energy", "gaussian_map", "knn", "lu", "metrix_head",
        "metrix_pairs", "metrix_step", "moco", "mrl_evaluation", "mrl_loss", "potentials", "recall", "search",
        "sliced", "ssl_disk", "ssl_views", "w2", "w2gn_step",
    }  # fmt: skip
    assert expected <= measured
