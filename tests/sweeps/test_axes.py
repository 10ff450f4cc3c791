"""Axes of any command's options, and their combinations."""

from __future__ import annotations

from typing import Any

import pytest

from wasskit.cli import find_command
from wasskit.commands.sweep import complete_words, read_words
from wasskit.config import build, values_of
from wasskit.errors import UserError
from wasskit.recipes import load_recipe
from wasskit.sweeps.axes import complete_axis, folder_name, parse_axes, plan_points

BYOL: Any = find_command("ssl byol").options


def test_axes_are_read_with_the_types_of_the_command() -> None:
    axes = parse_axes(["w2=true,false", "--lr=0.1,1", "projector=16:8,32", "corrupt=skip"], BYOL)
    assert axes == {"w2": [True, False], "lr": [0.1, 1.0], "projector": [(16, 8), (32,)], "corrupt": ["skip"]}
    assert parse_axes(["lr=0.1", "1"], BYOL) == {"lr": [0.1, 1.0]}, "a recipe's list was cut at its commas"
    assert parse_axes(["method=a,b", "lr=1"], BYOL, {"method": ["a", "b"]}) == {"method": ["a", "b"], "lr": [1.0]}


def test_axes_go_by_flags_and_former_names_too() -> None:
    moco: Any = find_command("ssl moco").options
    assert parse_axes(["temperature=0.1,0.2"], moco) == {"moco_temperature": [0.1, 0.2]}
    assert parse_axes(["batch-norm=sync,local"], BYOL) == {"sync_bn": [True, False]}
    assert parse_axes(["crop_min+lr=0.1:1,0.2:2"], BYOL) == {"min_crop+lr": [(0.1, 1.0), (0.2, 2.0)]}
    with pytest.raises(UserError, match="given twice"):
        parse_axes(["batch_norm=sync", "sync_bn=true"], BYOL)
    with pytest.raises(UserError, match="'joint' is not one of sync, local"):
        parse_axes(["batch_norm=joint"], BYOL)


def test_keys_that_vary_together() -> None:
    axes = parse_axes(["regulariser+lr=w2:0.1,none:1", "seed=0,1"], BYOL)
    assert axes == {"regulariser+lr": [("w2", 0.1), (None, 1.0)], "seed": [0, 1]}
    points = plan_points(build(BYOL, {}), axes)
    assert [point.settings for point in points][:3] == [
        {"regulariser": "w2", "lr": 0.1, "seed": 0}, {"regulariser": "w2", "lr": 0.1, "seed": 1},
        {"regulariser": None, "lr": 1.0, "seed": 0},
    ]  # fmt: skip
    assert list(points[0].trainings) == ["regulariser-w2__lr-0.1__seed-0"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Name at least one axis"),
        (["w2"], "'w2' is not an axis"),
        (["w2="], "'w2=' is not an axis"),
        (["sed=0,1"], "Did you mean 'seed'"),
        (["run_dir=a"], "Unknown key 'run_dir'"),
        (["xyzzy=1"], "Keys are the options that --help lists"),
        (["seed=0,1", "seed=2"], "given twice"),
        (["lr=0.1,0.10"], "names a value twice"),
        (["lr=-1"], "out of range"),
        (["w2=maybe"], "true or false"),
        (["regulariser+lr=w2"], "'w2' must be a value for each of regulariser, lr"),
        (["seed+lr=0:1", "lr=1"], "The axis lr is given twice"),
        (["lr+lr=1:1"], "The axis lr is given twice"),
        (["method=c"], "method: 'c' is not one of a, b"),
    ],
)
def test_wrong_axes_are_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        parse_axes(words, BYOL, {"method": ["a", "b"]})
    assert sentence in str(error.value)


def test_points_differ_from_the_base_in_their_settings_alone() -> None:
    base = build(BYOL, {"epochs": 3})
    points = plan_points(base, parse_axes(["w2=true,false", "seed=0,1"], BYOL))
    assert [list(point.trainings) for point in points] == [
        ["w2-true__seed-0"], ["w2-true__seed-1"], ["w2-false__seed-0"], ["w2-false__seed-1"]
    ]  # fmt: skip
    for point in points:
        (training,) = point.trainings.values()
        before, now = values_of(base), values_of(training)
        assert {name for name in now if now[name] != before[name]} <= set(point.settings)
        assert {name: now[name] for name in point.settings} == point.settings
    with pytest.raises(UserError, match="w2-true__lu-true: "):
        plan_points(base, parse_axes(["w2=true", "lu=true"], BYOL))
    assert folder_name({"dims": (2, 8), "weights": "a/b.pt"}) == "dims-2:8__weights-a_b.pt"


def test_words_are_a_command_its_axes_and_its_options() -> None:
    asked = read_words(["ssl", "byol", "w2=true,false", "seed=0", "--epochs", "3", "--recipe", "ssl/cifar10-byol"])
    assert asked.command.path == "ssl byol"
    assert asked.axes == ["w2=true,false", "seed=0"]
    assert (values_of(asked.base)["epochs"], values_of(asked.base)["dataset"]) == (3, "cifar10")


def test_recipes_of_sweeps_are_grids() -> None:
    counts = {"sweep/ssl-regularisers-weights": 15, "sweep/ssl-regularisers": 30}
    for name, count in counts.items():
        asked = read_words(load_recipe(name, command="sweep").options["words"])
        assert len(plan_points(asked.base, parse_axes(asked.axes, type(asked.base)))) == count


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Say which command trains"),
        (["ssl"], "`wasskit ssl` is not a command that trains"),
        (["ssl", "byoll", "seed=0"], "Did you mean 'ssl byol'"),
        (["mrl", "sweep", "seed=0"], "is not a command that trains"),
        (["ssl", "evaluate", "seed=0"], "is not a command that trains"),
        (["ssl", "byol", "seed=0", "--run-dir", "x"], "--run-dir is not for the trainings of a sweep"),
        (["ssl", "byol", "seed=0", "--nproc", "2"], "--nproc is not for the trainings"),
        (["ssl", "byol", "seed=0", "--epochs", "none"], "--epochs: "),
    ],
)
def test_wrong_words_are_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        read_words(words)
    assert sentence in str(error.value)


def test_tab_offers_commands_then_axes_then_values() -> None:
    assert set(complete_words("", [])) == {"mrl", "ssl", "metrix", "w2gn"}
    assert list(complete_words("by", ["ssl"])) == ["byol"]
    assert "sweep" not in complete_words("", ["mrl"])
    assert list(complete_words("see", ["ssl", "byol"])) == ["seed="]
    assert list(complete_words("see", ["ssl", "byol", "seed=0"])) == []
    assert list(complete_words("w2=", ["ssl", "byol"])) == ["w2=true", "w2=false"]
    assert list(complete_axis("corrupt=refuse,s", BYOL)) == ["corrupt=refuse,skip"]
    assert list(complete_axis("method=", BYOL, {"method": ["a", "b"]})) == ["method=a", "method=b"]
    # Bash cuts at "=".
    assert list(complete_words("=", ["ssl", "byol", "w2"])) == ["true", "false"]
    assert list(complete_words("t", ["ssl", "byol", "w2", "="])) == ["true"]
    assert list(complete_words("", ["nosuch"])) == []
    assert list(complete_words("", ["ssl", "nosuch"])) == []
