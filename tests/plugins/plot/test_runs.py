"""Runs as their files tell them: how far they have come, what is broken, which belong together, their labels."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from pathlib import Path

import pytest

from tests.plugins.plot.fabricate import STEPS_PER_EPOCH, make_run, top1_at, write_metrics
from wasskit.errors import UserError
from wasskit.plugins.plot.groups import group_runs
from wasskit.plugins.plot.metrics import (
    choose,
    counts_epochs,
    curve,
    families,
    heading,
    main_metrics,
    monitored,
    order_of,
    recorded,
    unit,
    values_of,
)
from wasskit.plugins.plot.runs import read_run, read_runs


def test_a_finished_run_is_read_whole(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a", epochs=4))
    assert (run.finished, run.state, run.problems, run.monitor) == (True, "finished", (), "test/top1")
    assert run.steps_per_epoch == STEPS_PER_EPOCH
    assert run.final()["test/top1"] == pytest.approx(top1_at(4))
    assert run.final()["run/wall_seconds"] == 12.5


def test_published_figures_of_the_settings_of_a_grid_are_of_no_one_run(tmp_path: Path) -> None:
    paper = {"source": "x", "metrics": {"test/top1": 1.0, "beta 0.1": {"test/top1": 2.0}}}
    assert read_run(make_run(tmp_path / "a", paper=paper)).paper == {"source": "x", "metrics": {"test/top1": 1.0}}


def test_published_figures_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    paper = {"source": "x", "metrics": {"test/top1": 1.0, "test/top5": "94.2 %", "test/w2": math.nan}}
    assert read_run(make_run(tmp_path / "a", paper=paper)).paper["metrics"] == {"test/top1": 1.0}


def test_an_unfinished_run_tells_how_far_it_has_come(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a", epochs=3, planned=10, finished=False))
    assert run.state.startswith("unfinished, at epoch 3 of 10, step 30, last written")
    assert run.final()["test/top1"] == pytest.approx(top1_at(3))


def test_a_summary_of_an_earlier_shorter_training_does_not_count(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a", epochs=5)
    summary = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(json.dumps(summary | {"steps": 20}))
    assert not read_run(path).finished


def test_damage_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a", epochs=2)
    (path / "config.toml").write_text("command = [broken", encoding="utf-8")
    (path / "environment.json").write_text("{", encoding="utf-8")
    with (path / "metrics.csv").open("a", encoding="utf-8") as file:
        file.write("3,30,test,top1,nonsense\nx\n3,30,test,top1,nan\n")
        file.write(f'3,30,test,{"y" * 200_000},3\n3,30,test,"never closed,3\n')
        file.write("3,30,test,map10,7.5\n3,30,test,top1,12")
    run = read_run(path)
    assert run.final()["test/top1"] == pytest.approx(top1_at(2))
    text = "; ".join(run.problems)
    assert "config.toml is not a readable TOML file: it is not valid TOML" in text
    assert "3 lines of metrics.csv cannot be read" in text
    assert run.final()["test/map10"] == 7.5
    assert "not finite are left out of test/top1" in text
    assert "environment.json cannot be read" in text


def test_later_rows_replace_earlier_ones_of_the_same_step(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a", epochs=1)
    write_metrics(path / "metrics.csv", [(1, 10, "test", "top1", 1.0), (1, 10, "test", "top1", 2.0)])
    assert read_run(path).series["test/top1"] == {10: 2.0}


def test_a_folder_stands_for_the_runs_below_it_and_a_sweep_for_its_runs(tmp_path: Path) -> None:
    sweep = make_run(tmp_path / "sweep", command="mrl sweep")
    write_metrics(sweep / "metrics.csv", [])
    make_run(sweep / "lr-0.1")
    make_run(sweep / "lr-0.2" / "dim-8", lr=0.2)
    make_run(tmp_path / "alone")
    assert [run.name for run in read_runs([tmp_path])] == ["alone", "lr-0.1", "dim-8"]
    assert len(read_runs([tmp_path, sweep, sweep / "lr-0.1"])) == 3
    # A run that has begun and recorded nothing yet is still that run.
    begun = make_run(tmp_path / "begun", epochs=0, finished=False)
    assert [run.state for run in read_runs([begun])] == ["unfinished, nothing recorded yet"]


@pytest.mark.parametrize("what", ["missing", "file", "empty"])
def test_paths_without_a_run_are_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "file":
        path.write_text("x")
    elif what == "empty":
        path.mkdir()
    message = {"missing": "no run directory", "file": "is a file", "empty": "holds no run"}[what]
    with pytest.raises(UserError, match=message):
        read_runs([path])


def test_runs_that_differ_in_the_seed_alone_are_one_group(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        make_run(tmp_path / f"a{seed}", seed=seed, workers=seed, log_every=seed + 1)
        make_run(tmp_path / f"b{seed}", seed=seed, lr=0.2, use_w2=True)
    groups = group_runs(read_runs([tmp_path]))
    assert [len(group.runs) for group in groups] == [3, 3]
    assert [group.label for group in groups] == ["lr=0.1, use-w2=none", "lr=0.2, use-w2=yes"]
    assert groups[0].caption == "lr=0.1, use-w2=none (3 seeds)"
    top1 = values_of(groups[0], "final", None)["test/top1"]
    expected = [top1_at(5, seed) for seed in (0, 1, 2)]
    assert top1.count == 3
    assert top1.mean == pytest.approx(statistics.mean(expected))
    assert top1.deviation == pytest.approx(1.0)


def test_repeated_seeds_are_not_joined_and_told_apart_by_name(tmp_path: Path) -> None:
    make_run(tmp_path / "first")
    make_run(tmp_path / "second")
    make_run(tmp_path / "other" / "second", lr=0.3)
    groups = group_runs(read_runs([tmp_path]))
    assert sorted(group.label for group in groups) == ["lr=0.1, first", f"lr=0.1, {tmp_path.name}/second", "lr=0.3"]


def test_runs_are_told_apart_by_as_many_folders_as_that_takes(tmp_path: Path) -> None:
    for place in ("a/x/digits", "b/x/digits", "c/y/digits", "c/x/stl10"):
        make_run(tmp_path / place)
    labels = sorted(group.label for group in group_runs(read_runs([tmp_path])))
    assert labels == ["a/x/digits", "b/x/digits", "stl10", "y/digits"]


def test_without_grouping_each_run_is_named_by_its_seed(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path / f"a{seed}", seed=seed)
    assert [group.label for group in group_runs(read_runs([tmp_path]), join=False)] == ["seed=0", "seed=1"]


def test_runs_of_several_commands_are_labelled_by_command_and_what_differs_within(tmp_path: Path) -> None:
    make_run(tmp_path / "a", command="ssl byol", target_momentum=0.99)
    make_run(tmp_path / "b", command="ssl byol", target_momentum=0.9)
    make_run(tmp_path / "c", command="ssl barlow", off_diagonal=0.08)
    labels = [group.label for group in group_runs(read_runs([tmp_path]))]
    assert labels == ["ssl byol, target-momentum=0.99", "ssl byol, target-momentum=0.9", "ssl barlow"]


def test_labels_must_be_as_many_as_the_groups(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    runs = read_runs([tmp_path])
    assert group_runs(runs, labels=["ours"])[0].label == "ours"
    with pytest.raises(UserError, match="names 2, but there is 1 group: a"):
        group_runs(runs, labels=["ours", "theirs"])


def test_results_of_later_measurements_belong_to_the_run(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a")
    evaluation = {
        "dataset": "digits",
        "metrics": {"test/knn@8": 90.0, "test/top1": 1.0},
        "digits": {"linear_top1": 95.5, "spectrum": [0.0, -1.0]},
        "cifar10": {"linear_top1": 40.0},
    }
    (path / "evaluation.json").write_text(json.dumps(evaluation))
    final = read_run(path).final()
    assert final["test/knn@8"] == 90.0
    assert final["test/linear_top1"] == 95.5
    assert final["cifar10/linear_top1"] == 40.0
    assert final["test/top1"] == pytest.approx(top1_at(5))  # what training recorded wins


# --- Metrics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "order"),
    [
        ("test/top1@64", "max"), ("test/recall@4", "max"), ("test/knn200_top1", "max"), ("test/map@r", "max"),
        ("train/loss", "min"), ("test/w2", "min"), ("test/lu", "min"), ("test/uvp_forward", "min"),
        ("test/energy_inverse", "min"), ("collapse/neg_w2@200", "max"), ("run/wall_seconds", "min"),
        ("test/alignment", "min"), ("train/lr", None), ("test/half_w2", None), ("test/energy_before", None),
        ("geometry/utilisation", "min"),
    ],
)  # fmt: skip
def test_names_tell_which_way_is_better(key: str, order: str | None) -> None:
    assert order_of(key) == order


def test_choosing_metrics_by_name_and_pattern(tmp_path: Path) -> None:
    known = ["train/loss", "val/top1", "test/top1", "test/top1@8", "test/top1@16"]
    assert choose(["test/top1"], known) == ["test/top1"]
    assert choose(["top1"], known) == ["val/top1", "test/top1"]
    assert choose(["test/top1@*", "loss"], known) == ["test/top1@8", "test/top1@16", "train/loss"]
    with pytest.raises(UserError, match="Did you mean 'test/top1'"):
        choose(["tset/top1"], known)
    assert families(known) == {"test/top1": [8, 16]}


def test_main_metrics_are_the_monitored_the_published_and_the_plain(tmp_path: Path) -> None:
    make_run(tmp_path / "a", paper={"source": "x", "metrics": {"test/top1@16": 1.0}})
    groups = group_runs(read_runs([tmp_path]))
    assert main_metrics(groups, recorded(groups), limit=9) == ["test/top1", "test/top1@16"]
    assert monitored(groups, None) == "test/top1"
    assert monitored(groups, "loss") == "train/loss"


def test_the_best_evaluation_gives_all_metrics_of_its_step(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a", epochs=1)
    rows = [
        (1, 10, "test", "top1", 70.0),
        (1, 10, "test", "w2", 3.0),
        (2, 20, "test", "top1", 60.0),
        (2, 20, "test", "w2", 1.0),
    ]
    write_metrics(path / "metrics.csv", rows)
    (group,) = group_runs(read_runs([path]))
    assert values_of(group, "best", "test/top1")["test/w2"].mean == 3.0
    assert values_of(group, "best", "test/w2")["test/top1"].mean == 60.0
    assert values_of(group, "final", None)["test/top1"].mean == 60.0


def test_curves_are_means_while_all_seeds_go_on_and_single_lines_after(tmp_path: Path) -> None:
    for seed, epochs in ((0, 4), (1, 4), (2, 2)):
        make_run(tmp_path / str(seed), seed=seed, epochs=epochs, planned=4, finished=epochs == 4)
    (group,) = group_runs(read_runs([tmp_path]))
    drawn = curve(group, "test/top1", epochs=True)
    assert drawn is not None
    assert drawn.x == [1.0, 2.0]
    assert drawn.mean == pytest.approx([top1_at(1) + 1, top1_at(2) + 1])
    assert drawn.deviation == pytest.approx([1.0, 1.0])
    assert [x for x, _ in drawn.tails] == [[2.0, 3.0, 4.0], [2.0, 3.0, 4.0]]
    assert curve(group, "test/absent", epochs=True) is None


def test_smoothing_is_the_unbiased_exponential_average(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a")
    write_metrics(path / "metrics.csv", [(0, i, "train", "loss", v) for i, v in enumerate([4.0, 2.0, 0.0])])
    (group,) = group_runs(read_runs([path]))
    drawn = curve(group, "train/loss", epochs=False, smooth=0.5)
    assert drawn is not None
    weights = [[1.0], [0.25, 0.5], [0.125, 0.25, 0.5]]
    expected = [sum(w * v for w, v in zip(ws, [4.0, 2.0, 0.0], strict=False)) / sum(ws) for ws in weights]
    assert drawn.mean == pytest.approx(expected)
    # A constant stays what it is from the first step on.
    write_metrics(path / "metrics.csv", [(0, i, "train", "loss", 3.0) for i in range(4)])
    (group,) = group_runs(read_runs([path]))
    constant = curve(group, "train/loss", epochs=False, smooth=0.9)
    assert constant is not None
    assert constant.mean == pytest.approx([3.0] * 4)


def test_values_that_are_not_finite_leave_a_gap(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a")
    rows = [(0, 1, "train", "loss", 1.0), (0, 2, "train", "loss", math.inf), (0, 3, "train", "loss", 2.0)]
    write_metrics(path / "metrics.csv", rows)
    (group,) = group_runs(read_runs([path]))
    drawn = curve(group, "train/loss", epochs=False)
    assert drawn is not None
    assert (drawn.x, drawn.mean) == ([1.0, 3.0], [1.0, 2.0])
    (path / "summary.json").unlink()
    without = group_runs(read_runs([path]))
    assert not counts_epochs(without, "auto")
    with pytest.raises(UserError, match="--x step"):
        counts_epochs(without, "epoch")


def test_a_moved_run_reads_the_same(tmp_path: Path) -> None:
    path = make_run(tmp_path / "here" / "a")
    before = read_run(path).final()
    moved = Path(shutil.move(path, tmp_path / "elsewhere"))
    assert read_run(moved).final() == before


def test_metrics_are_written_as_in_papers() -> None:
    written = {
        "test/top1@64": "test top-1@64", "train/loss": "train loss", "test/knn10_top1": "test 10-NN top-1",
        "test/map10": "test mAP@10", "test/map@r": "test MAP@R", "collapse/neg_w2@200": "collapse -W2@200",
        "test/lu": "test L_U", "test/uvp_forward": "test L2-UVP forward", "run/wall_seconds": "wall seconds",
        "test/precision1@8": "test precision@1@8", "test/knn": "test k-NN",
    }  # fmt: skip
    for key, name in written.items():
        assert heading(key) == name
    assert heading("test/top1", split=False) == "top-1"


def test_shares_are_in_percent() -> None:
    assert unit("test/top1@8") == unit("test/uvp_forward") == " (%)"
    assert unit("test/w2") == unit("train/loss") == unit("test/unheard") == ""


def test_metrics_nobody_declares_go_by_their_name() -> None:
    assert order_of("test/unheard_loss") is None
    assert heading("test/unheard_loss@4") == "test unheard_loss@4"
