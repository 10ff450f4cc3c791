"""The one rule of the benchmark's settings, and the recipes and runs that follow from it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from wasskit.config import build, check_keys, values_of
from wasskit.plugins.w2gn.commands.benchmark import W2gnBenchmark, command
from wasskit.plugins.w2gn.experiments.rule import GAUSS_NEWTON_SECONDS, rule, seconds_for
from wasskit.recipes import load_recipe
from wasskit.training.run import read_configuration

DIMENSIONS = (2, 4, 8, 16, 32, 64, 128)


def seconds(dim: int) -> float:
    settings = rule(dim)
    per_point = seconds_for(dim, settings["hidden"], settings["refine_evaluations"])
    newton = settings["gauss_newton_steps"] * GAUSS_NEWTON_SECONDS
    return float(settings["members"] * settings["steps"] * settings["batch_size"] * per_point + newton)


def test_settings_change_steadily_with_the_dimension() -> None:
    """No dimension has settings of its own: each lies between its neighbours. Two alone have steps of second order, and
    more dimensions fewer members.
    """
    every = [rule(dim, second_order=False) for dim in range(2, 129)]
    assert every[1:] == [rule(dim) for dim in range(3, 129)]
    for below, above in itertools.pairwise(every):
        assert below["refine_evaluations"] <= above["refine_evaluations"] <= below["refine_evaluations"] + 2
        points = [s["members"] * s["steps"] * s["batch_size"] for s in (below, above)]
        rounding = 100 * above["members"] * above["batch_size"]
        assert points[0] >= points[1] - rounding
        assert below["batch_size"] >= above["batch_size"]
        assert below["hidden"] <= above["hidden"]
    members = [settings["members"] for settings in every[1:]]
    assert members == sorted(members, reverse=True)


@pytest.mark.parametrize("dim", DIMENSIONS)
def test_a_training_takes_less_than_twenty_minutes_of_a_core(dim: int) -> None:
    assert 15 * 60 < seconds(dim) < 18 * 60


@pytest.mark.parametrize("dim", DIMENSIONS)
def test_recipes_follow_from_the_rule(dim: int) -> None:
    recipe = load_recipe(f"w2gn/benchmark-{dim}", command=command.path)
    assert recipe.options == {"dim": [dim]}
    config = build(W2gnBenchmark, check_keys(W2gnBenchmark, recipe.options, "the recipe")).settled(dim)
    values = values_of(config)
    assert {name: values[name] for name in rule(dim)} == rule(dim)


def test_what_is_given_stays() -> None:
    given = {"steps": 7, "batch_size": 64, "refine_evaluations": 3, "hidden": (8, 5)}
    values = values_of(build(W2gnBenchmark, given).settled(16))
    assert {name: values[name] for name in given} == given


def test_second_order_follows_from_the_rule_as_a_whole() -> None:
    """With other networks, another number of steps or no solved conjugates, no steps of second order come unasked."""
    assert values_of(build(W2gnBenchmark, {}).settled(2))["gauss_newton_steps"] == rule(2)["gauss_newton_steps"] > 0
    given: dict[str, Any]
    for given in ({"steps": 50}, {"hidden": (200, 200, 100)}, {"rank": 40}, {"refine": "none"}):
        values = values_of(build(W2gnBenchmark, given).settled(2))
        expected = rule(2, second_order=False) | given
        assert {name: values[name] for name in expected} == expected
        assert values["gauss_newton_steps"] == 0
    assert rule(4)["members"] == 2
    for given in ({"steps": 50}, {"gauss_newton_steps": 3, "hidden": (64, 64, 32)}):
        assert values_of(build(W2gnBenchmark, given).settled(4))["members"] == 1
    assert values_of(build(W2gnBenchmark, {"steps": 50, "members": 3}).settled(4))["members"] == 3
    two = values_of(build(W2gnBenchmark, {"members": 2}).settled(2))
    assert two["gauss_newton_steps"] == 0
    assert two["steps"] == pytest.approx(rule(2, second_order=False)["steps"] / 2, abs=100)
    asked = values_of(build(W2gnBenchmark, {"steps": 50, "gauss_newton_steps": 3}).settled(2))
    assert asked["gauss_newton_steps"] == 3


def test_runs_are_saved_with_the_settings_of_their_dimension(run_cli: Any, tmp_path: Path) -> None:
    """Of a series each run has its own; the series leaves open what the user left open, for the next dimension."""
    small = ("--hidden", "8,5", "--batch-size", "64", "--steps", "2", "--test-size", "100", "--start-samples", "500")
    folder = tmp_path / "series"
    result = run_cli("w2gn", "benchmark", "--dim", "2,9", *small, "--device", "cpu", "--run-dir", folder, "--quiet")
    assert result.exit_code == 0, result.stderr
    saved = {name: read_configuration(folder / name / "config.toml")["options"] for name in ("d2", "d9")}
    for dim in (2, 9):
        assert saved[f"d{dim}"]["refine_evaluations"] == rule(dim)["refine_evaluations"]
        assert saved[f"d{dim}"]["steps"] == 2
    assert "refine_evaluations" not in read_configuration(folder / "series.toml")["options"]
    again = run_cli("w2gn", "benchmark", "--resume", folder, "--device", "cpu", "--quiet")
    assert again.exit_code == 0, again.stderr
