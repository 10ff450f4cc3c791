"""The comparison of neural transport maps: its clock, its courses, its table, and short trainings of our own side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import w2gn_peers
from benchmarks.transport_peers.course import SHARES, Clock, Course
from benchmarks.transport_peers.own import Untimed, stream
from wasskit.data.toy import Measure
from wasskit.plugins.w2gn.experiments.benchmark import made_pair


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The processor time that the clock reads, to be set."""
    reading = [100.0]
    monkeypatch.setattr("time.process_time", lambda: reading[0])
    return reading


def test_the_clock_stands_while_points_are_drawn_and_maps_scored(now: list[float]) -> None:
    clock = Clock(60.0)
    now[0] += 5
    assert clock.seconds == 0
    clock.start()
    now[0] += 2
    with clock.paused():
        now[0] += 7
        with clock.paused():
            now[0] += 1
        assert clock.seconds == 2
    now[0] += 3
    assert clock.seconds == 5

    def slow(u: Tensor) -> Tensor:
        now[0] += 9
        return u

    Untimed(Measure(2, 2, slow), clock).draw(4, 0)
    assert clock.seconds == 5


def test_a_course_keeps_the_map_at_shares_of_the_time(now: list[float], tmp_path: Path) -> None:
    clock = Clock(64.0)
    clock.start()
    course = Course(clock, lambda: np.full((3, 2), clock.seconds, np.float32))
    steps = 0
    while course.goes_on(steps):
        now[0] += 0.5
        steps += 1
    assert course.seconds == [64 * share for share in SHARES]
    assert course.steps == [2 * int(seconds) for seconds in course.seconds]
    course.write(tmp_path / "course.npz")
    again = Course.read(tmp_path / "course.npz")
    assert (again.seconds, again.steps) == (course.seconds, course.steps)
    np.testing.assert_array_equal(again.maps, course.maps)


def test_a_step_longer_than_several_shares_keeps_one_map(now: list[float]) -> None:
    clock = Clock(64.0)
    clock.start()
    course = Course(clock, lambda: np.zeros((1, 1)))
    now[0] += 40
    assert course.goes_on(1)
    assert course.goes_on(1)
    now[0] += 40
    assert not course.goes_on(2)
    assert course.seconds == [40, 80]


def test_all_methods_are_given_the_batches_of_the_command() -> None:
    pair = made_pair(2, 0, 100)
    points = stream(pair, 16, 3)
    for number in range(2):
        for side in ("source", "target"):
            expected = getattr(pair, side).draw(16, 3, side, number, scheme="sobol")
            torch.testing.assert_close(next(points), expected, rtol=0, atol=0)


def test_the_table_has_a_column_for_each_budget() -> None:
    made = [
        w2gn_peers.Outcome(method, dim, minutes, 60.0, 1200, 0.123456, [])
        for dim in (2, 16) for minutes in (1.0, 5.0) for method in ("ours", "enot") if (method, dim) != ("enot", 16)
    ]  # fmt: skip
    lines = w2gn_peers.table(made).splitlines()
    assert lines[0] == "|  | D = 2, 1 min | D = 2, 5 min | D = 16, 1 min | D = 16, 5 min |"
    assert lines[2:4] == [
        "| ours | 0.123 (1,200) | 0.123 (1,200) | 0.123 (1,200) | 0.123 (1,200) |",
        "| enot | 0.123 (1,200) | 0.123 (1,200) | - | - |",
    ]
    assert lines[-1] == "| W2GN, published (250,000 steps) | 0.1 | 0.1 | 3.3 | 3.3 |"


@pytest.mark.slow
def test_our_methods_run_for_two_seconds(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Both end below where they began: at the Gaussian map, which ours keeps unless it finds better, and anywhere."""
    words = ["--dim", "2", "--minutes", "0.03", "--points", "500", "--out", str(tmp_path / "out.json")]
    outcomes = w2gn_peers.main([*words, "--figure", str(tmp_path / "figure.png")])
    assert [o.method for o in outcomes] == ["ours", "published"]
    assert outcomes[0].steps >= 60
    for found in outcomes:
        assert found.uvp <= found.course[0][2]
        assert [s for s, _, _ in found.course] == sorted(s for s, _, _ in found.course)
    assert capfd.readouterr().out.startswith("|  | D = 2, 0.03 min |")
    saved: dict[str, Any] = json.loads((tmp_path / "out.json").read_text())
    assert [result["uvp"] for result in saved["results"]] == [o.uvp for o in outcomes]
    assert (tmp_path / "figure.png").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", w2gn_peers.PEERS)
def test_methods_of_ott_run_for_a_second(method: str) -> None:
    pytest.importorskip("ott.neural.methods", reason="OTT-JAX is not installed")
    import sys

    (found,) = w2gn_peers.main(
        ["--dim", "2", "--minutes", "0.02", "--points", "500", "--methods", method, "--peers", sys.executable]
    )
    assert found.steps > 2
    assert np.isfinite(found.uvp)


def test_a_missing_interpreter_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        w2gn_peers.main(["--methods", "enot"])
    assert "--peers: name the interpreter of an environment with OTT-JAX" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        w2gn_peers.main(["--methods", "sinkhorn"])
    assert "--methods: there is no sinkhorn" in capsys.readouterr().err
