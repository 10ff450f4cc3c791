"""The commands: run directories, tables that match the reference, sentences for bad input."""

from __future__ import annotations

import csv
import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wasskit.config import changed
from wasskit.plugins.study import plugin
from wasskit.report import Report
from wasskit.system.signals import Stopped
from wasskit.training.run import RunDirectory

Cli = Callable[..., Any]
Reference = Callable[[str], dict[str, Any]]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embeddings")
    generator = np.random.default_rng(0)
    x = generator.standard_normal((600, 16)).astype(np.float32)
    np.save(folder / "uniform.npy", x)
    np.save(folder / "second.npy", x + 0.1 * generator.standard_normal(x.shape).astype(np.float32))
    np.save(folder / "collapsed.npy", np.concatenate([x[:, :4], np.zeros((600, 12), np.float32)], axis=1))
    np.save(folder / "half.npy", x.astype(np.float16))
    np.save(folder / "words.npy", np.array([["a", "b"]]))
    np.save(folder / "short.npy", x[:5])
    np.save(folder / "nan.npy", np.where(np.arange(600)[:, None] == 7, np.nan, x))
    np.save(folder / "flat.npy", x.ravel())
    np.save(folder / "narrow.npy", x[:, :9])
    (folder / "broken.npy").write_bytes(b"\x93NUMPY nonsense")
    (folder / "table.csv").write_text("1,2\n")
    (folder / "table.txt").write_text("1,2\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "extra", "figures"),
    [
        ("density", ["--dims", "2,8", "--joint-dims", "2,4", "--n-joint", "20000"],
         ["density-1d", "density-2d", "density-distances"]),
        ("collapse", ["--n", "300", "--dims", "50,80"], ["collapse"]),
        ("dimension", ["--n", "300", "--dims", "2,4,64"], ["dimension"]),
        ("fcc", ["--n", "300"], ["fcc"]),
        ("fbc", ["--n", "300", "--copies", "2"], ["fbc"]),
        ("icc", ["--n", "300", "--dim", "8"], ["icc"]),
        ("means", ["--n", "300", "--shifts", "0,3"], ["means", "means-circle"]),
    ],
)  # fmt: skip
def test_each_study_leaves_a_complete_run(
    run_cli: Cli, tmp_path: Path, name: str, extra: list[str], figures: list[str]
) -> None:
    result = run_cli("study", name, "--quick", *extra, "--run-dir", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    run = RunDirectory.open(tmp_path / "run", plugin="study")
    assert run.command == f"study {name}"
    assert run.summary is not None
    assert run.summary["seconds"] > 0
    assert rows_of(run.path / f"{name}.csv")
    assert all(math.isfinite(row.value) for row in run.metrics())
    assert run.metrics()
    for stem in figures:
        assert (run.figures / f"{stem}.png").stat().st_size > 10_000
        assert (run.figures / f"{stem}.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_the_published_protocol_gives_the_reference(run_cli: Cli, reference: Reference, tmp_path: Path) -> None:
    study = reference("ssl_study_dimension")
    result = run_cli(
        "study", "dimension", "--draws", "independent", "--n", "1500", "--seed", "1002", "--seeds", "1", "--dims",
        "2,4,8,16,32,64,128,256", "--run-dir", tmp_path / "run", "-q",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = {(int(r["m"]), float(r["eta"])): r for r in rows_of(tmp_path / "run" / "dimension.csv")}
    for row in study["table"][:30]:
        mine = found[int(row[0]), 1 - row[1]]
        assert float(mine["neg_w2"]) == pytest.approx(row[3], abs=1e-8)
        assert float(mine["neg_lu"]) == pytest.approx(row[4], abs=1e-8)
        assert float(mine["neg_w2_exact"]) == pytest.approx(row[5], abs=1e-9)
        assert float(mine["neg_lu_exact"]) == pytest.approx(row[6], abs=1e-9)
        assert mine["neg_w2_se"] == ""


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
@pytest.mark.parametrize("draws", ["nested", "independent"])
def test_samples_are_within_their_error_of_the_exact_values(run_cli: Cli, tmp_path: Path, draws: str) -> None:
    result = run_cli(
        "study", "collapse", "--dims", "40", "--levels", "0,0.5,0.9", "--n", "2000", "--seeds", "8", "--draws", draws,
        "--run-dir", tmp_path / "run",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    for row in rows_of(tmp_path / "run" / "collapse.csv"):
        value = {key: float(row[key]) for key in row if row[key] and key.startswith("neg")}
        for metric, law in (("neg_lu", "exact"), ("neg_w2", "expected")):
            difference = abs(value[metric] - value[f"{metric}_{law}"])
            assert difference < 4 * value[f"{metric}_law_se"]
            # The errors that the law gives are those that the seeds show: of eight, a third to three times as large.
            assert value[f"{metric}_law_se"] / 3 < value[f"{metric}_se"] < 3 * value[f"{metric}_law_se"]
        assert value["neg_w2"] <= value["neg_w2_exact"] + 1e-12
    assert "Against the law, in its own standard errors: W2" in result.stdout
    found = json.loads((tmp_path / "run" / "summary.json").read_text())["standard_errors"]
    assert 0 < found["w2_expected_at_n"]["largest"] < 4


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
@pytest.mark.parametrize("t", ["0.001", "20"])
def test_the_bounds_of_t_give_errors_that_can_be_divided_by(run_cli: Cli, tmp_path: Path, t: str) -> None:
    for command in (("dimension", "--dims", "2,1024"), ("means",)):
        folder = tmp_path / command[0]
        result = run_cli("study", *command, "--n", "50", "--seeds", "2", "--t", t, "--run-dir", folder)
        assert result.exit_code == 0, result.stderr
        for row in rows_of(folder / f"{command[0]}.csv"):
            # Of two seeds in float32; rounding alone would be a hundred standard errors at much smaller t.
            assert abs(float(row["neg_lu"]) - float(row["neg_lu_exact"])) < 6 * float(row["neg_lu_law_se"])


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
def test_means_are_within_their_error_of_the_law(run_cli: Cli, tmp_path: Path) -> None:
    result = run_cli("study", "means", "--n", "2000", "--seeds", "8", "--run-dir", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    for row in rows_of(tmp_path / "run" / "means.csv"):
        value = {key: float(row[key]) for key in row}
        assert abs(value["neg_w2"] - value["neg_w2_expected"]) < 4 * value["neg_w2_law_se"]
        assert abs(value["neg_lu"] - value["neg_lu_exact"]) < 4 * value["neg_lu_law_se"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
def test_published_figures_stand_beside_the_samples(run_cli: Cli, tmp_path: Path) -> None:
    run_cli("study", "icc", "--seeds", "2", "--run-dir", tmp_path / "run")
    rows = [row for row in rows_of(tmp_path / "run" / "icc.csv") if row["eta"] == "0.5"]
    assert [row["k"] for row in rows] == [str(k) for k in range(11)]
    for row in rows:
        assert float(row["neg_w2"]) == pytest.approx(float(row["published_neg_w2"]), abs=1e-3)
        assert float(row["neg_lu"]) == pytest.approx(float(row["published_neg_lu"]), abs=5e-3)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
def test_same_seed_same_numbers(run_cli: Cli, tmp_path: Path) -> None:
    tables = []
    for name in ("a", "b"):
        run_cli("study", "fbc", "--n", "500", "--seed", "7", "--copies", "1", "--run-dir", tmp_path / name, "-q")
        tables.append((tmp_path / name / "fbc.csv").read_text())
    assert tables[0] == tables[1]
    run_cli("study", "fbc", "--recipe", tmp_path / "a", "--run-dir", tmp_path / "c", "-q")
    assert (tmp_path / "c" / "fbc.csv").read_text() == tables[0]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
def test_all_makes_one_run_of_the_studies_asked_for(run_cli: Cli, tmp_path: Path) -> None:
    result = run_cli(
        "study", "all", "--quick", "--only", "icc,means", "--seeds", "1", "--run-dir", tmp_path / "run", "--json"
    )
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert set(summary) == {"icc", "means", "seconds", "run"}
    assert {path.name for path in (tmp_path / "run").glob("*.csv")} == {"icc.csv", "means.csv", "metrics.csv"}


@pytest.mark.slow
def test_measure_says_what_is_wrong(
    run_cli: Cli, words: Callable[[str], str], tmp_path: Path, embeddings: Path
) -> None:
    result = run_cli("study", "measure", embeddings / "collapsed.npy", "--run-dir", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert "Verdict: dimensional collapse. The embeddings use about 4.0 of 16 dimensions" in words(result.stdout)
    assert "12 dimensions are empty" in words(result.stdout)
    run = RunDirectory.open(tmp_path / "run", plugin="study")
    assert run.summary is not None
    assert run.summary["verdict"] == ["dimensional collapse"]
    assert (run.figures / "spectrum.png").is_file()


@pytest.mark.slow
def test_measure_with_pairs_as_json(run_cli: Cli, tmp_path: Path, embeddings: Path) -> None:
    result = run_cli(
        "study", "measure", embeddings / "uniform.npy", "--pairs", embeddings / "second.npy", "--json", "--run-dir",
        tmp_path / "run",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["verdict"] == ["healthy"]
    assert 0 < summary["alignment"] < 0.05


@pytest.mark.slow
def test_measure_takes_half_precision_and_a_run_that_holds_embeddings(
    run_cli: Cli, tmp_path: Path, embeddings: Path
) -> None:
    folder = tmp_path / "some-run" / "embeddings"
    folder.mkdir(parents=True)
    (folder / "test.npy").write_bytes((embeddings / "half.npy").read_bytes())
    result = run_cli("study", "measure", tmp_path / "some-run", "--json", "--run-dir", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["verdict"] == ["healthy"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
@pytest.mark.parametrize(
    "training",
    [
        ["mrl", "train", "--dims", "4,8"],
        ["ssl", "barlow", "--projector", "32,16"],
        ["metrix", "train", "--embedding-size", "8", "--compare", "no"],
    ],
    ids=lambda words: words[0],
)
def test_measure_embeds_the_test_images_of_a_run(run_cli: Cli, tmp_path: Path, training: list[str]) -> None:
    run = tmp_path / "trained"
    result = run_cli(*training, "--epochs", "1", "--backbone", "tiny", "--run-dir", run)
    assert result.exit_code == 0, result.stderr
    result = run_cli("study", "measure", run, "--json", "--run-dir", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    measured = json.loads(result.stdout)
    assert measured["m"] == {"mrl": 8, "ssl": 16, "metrix": 8}[training[0]]
    assert measured["n"] > 300
    if training[0] == "ssl":  # what the run itself has measured of its last epoch
        final = RunDirectory.open(run).summary["final"]  # type: ignore[index]
        assert measured["w2"] == pytest.approx(final["test/w2"], abs=1e-4)
        assert measured["lu"] == pytest.approx(final["test/lu"], abs=1e-4)


@pytest.mark.parametrize(
    ("argv", "fragment"),
    [
        (["measure", "nowhere.npy"], "There is no file or run directory nowhere.npy."),
        (["measure", "{e}/table.csv"], "at least two embeddings"),
        (["measure", "{e}/table.txt"], "embeddings are read from .npy, .npz"),
        (["measure", "{e}/broken.npy"], "not a readable .npy file of numbers"),
        (["measure", "{e}/words.npy"], "it holds text, not numbers"),
        (["measure", "{e}/uniform.npy", "--pairs", "{e}/short.npy"], "two views of the same samples"),
        (["measure", "{e}/nan.npy"], "nan.npy: 1 of 600 rows hold NaN or infinite values, the first is row 7"),
        (["measure", "{e}/uniform.npy", "--pairs", "{e}/nan.npy"], "nan.npy: 1 of 600 rows hold NaN"),
        (["measure", "{e}/flat.npy"], "flat.npy must be a matrix (N, m)"),
        (["compare", "{e}/uniform.npy", "{e}/narrow.npy"], "narrow.npy has vectors of 9 numbers, "),
        (["measure", "{e}"], "holds several embeddings"),
        (["measure", "{empty}"], "holds no embeddings"),
        (["collapse", "--levels", "1"], "--levels: 1.0 is out of range, expected at least 0 and below 1"),
        (["collapse", "--levels", "0.999", "--dims", "50"], "leaves none of 50 coordinates"),
        (["collapse", "--dims", "8,8"], "--dims names a value twice: 8, 8"),
        (["dimension", "--dims", "2", "--levels", "0.75"], "give larger --dims"),
        (["fcc", "--n", "1"], "--n: 1 is out of range"),
        (["fcc", "--t", "1e-8"], "--t: 1e-08 is out of range, expected at least 0.001 and at most 20"),
        (["means", "--shifts", ""], "--shifts is empty"),
        (["all", "--only", "colapse"], "Did you mean 'collapse'?"),
        (["all", "--only", ""], "--only is empty: give at least one value"),
        (["all", "--only", "fcc,fbc,fcc"], "--only names a value twice: fcc, fbc, fcc"),
        (["collapse", "--levels", "0.5,0.5"], "--levels names a value twice: 0.5, 0.5"),
        (["density", "--device", "mps"], "no float64"),
    ],
)
def test_bad_requests_are_one_sentence(
    run_cli: Cli, words: Callable[[str], str], tmp_path: Path, embeddings: Path, argv: list[str], fragment: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    filled = [word.format(e=embeddings, empty=empty) for word in argv]
    result = run_cli("study", *filled, "--run-dir", tmp_path / "run")
    assert result.exit_code == 2
    assert fragment in words(result.stderr)
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_study_that_is_stopped_leaves_no_empty_folder(
    run_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stopped(*_: Any) -> Report:
        raise Stopped(signal.SIGINT)

    monkeypatch.setattr("wasskit.plugins.study.studies.cloning_report", stopped)
    result = run_cli("study", "all", "--only", "icc", "--run-dir", tmp_path / "run")
    assert (result.exit_code, result.stdout) == (130, "")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
def test_cloning_studies_of_one_run_keep_their_metrics_apart(run_cli: Cli, tmp_path: Path) -> None:
    run_cli("study", "all", "--quick", "--only", "fbc,icc", "--seeds", "1", "--run-dir", tmp_path / "run", "-q")
    metrics = RunDirectory.open(tmp_path / "run", plugin="study").metrics()
    assert {row.split.partition("-")[0] for row in metrics} == {"fbc", "icc"}
    places = [(row.split, row.metric, row.step) for row in metrics]
    assert len(places) == len(set(places))


@pytest.mark.parametrize("study", ["fbc", "dimension"])
def test_levels_within_one_percent_keep_their_metrics_apart(study: str) -> None:
    """0.125 and 0.13 of 32, and 0.55, whose hundredfold is no whole number in floating point."""
    command = plugin.find(study)
    sizes: dict[str, Any] = {"copies": 1} if study == "fbc" else {"dims": (32,)}
    config = changed(command.options(), n=20, levels=(0.125, 0.13, 0.55), repetitions=1, **sizes)
    report = command.report(config, torch.device("cpu"))
    places = [(step, split, metric) for step, split, values in report.metrics for metric in values]
    assert len(places) == len(set(places)) == 4 * len(report.metrics)
    assert {split.rpartition("-")[2] for _, split, _ in places} == {"12.5", "13", "55"}


def test_published_table_is_the_papers(reference: Reference) -> None:
    from wasskit.plugins.study.cases import Case, collapsed
    from wasskit.plugins.study.published import published

    study = reference("ssl_study_collapse")
    for i, eta in enumerate(study["published_levels"]):
        for j, m in enumerate((200, 500, 1000)):
            (case,) = collapsed("collapse", m, float(eta), "published")
            found = published(case)
            assert found is not None
            assert (found.neg_w2, found.neg_lu) == pytest.approx(
                (study["published_neg_w2"][i, j], study["published_neg_lu"][i, j]), abs=1e-9
            )
    study = reference("ssl_study_dimension")
    for i, eta in enumerate((0.75, 0.5, 0.25, 0.0)):
        for j, m in enumerate((4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)):
            found = published(Case("dimension", m, eta, 1, m))
            assert found == pytest.approx((study["published_neg_w2"][i, j], study["published_neg_lu"][i, j]), abs=1e-9)
    for kind in ("fcc", "fbc", "icc"):
        study = reference(f"ssl_study_{kind}")
        levels = np.atleast_1d(study["levels" if kind != "icc" else "level"])
        neg_w2, neg_lu = (np.atleast_2d(study[f"published_{key}"]) for key in ("neg_w2", "neg_lu"))
        for i, eta in enumerate(levels):
            for j, k in enumerate(study["times"]):
                found = published(Case(kind, int(study["D"]), float(eta), 1, 32, int(k)))
                assert found == pytest.approx((neg_w2[i, j], neg_lu[i, j]), abs=5.1e-5)
