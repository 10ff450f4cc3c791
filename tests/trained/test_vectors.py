"""Embeddings from files in place of a model: the figures are scikit-learn's and brute force's, also at every prefix."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

Cli = Callable[..., Any]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Clusters of four classes, lettered in files: 60 that vote and 24 that ask, of 20 numbers."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((4, 20))
    found: dict[str, Any] = {}
    for name, count in (("train", 60), ("test", 24)):
        labels = rng.integers(0, 4, count)
        rows = (centres[labels] + 1.5 * rng.standard_normal((count, 20))).astype(np.float32)
        np.save(f"{name}.npy", rows)
        Path(f"{name}.csv").write_text("label\n" + "\n".join("abcd"[i] for i in labels) + "\n")
        found[name] = rows, labels
    return found


TRAIN = ("--train", "train.npy", "--train-labels", "train.csv")


def _unit(rows: Any, dim: int) -> Any:
    return rows[:, :dim] / np.linalg.norm(rows[:, :dim].astype(np.float64), axis=1, keepdims=True)


def _accuracy(files: dict[str, Any], k: int, dim: int) -> float:
    """Of k votes that weigh exp(cosine / 0.07)."""
    (x, y), (z, true) = files["train"], files["test"]
    model = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    return 100 * float(model.fit(_unit(x, dim), y).score(_unit(z, dim), true))


def _retrieval(files: dict[str, Any], dim: int) -> dict[str, float]:
    """Among the test vectors, by sorting all cosines: precision@1, recall@4, mAP@R."""
    rows, labels = files["test"]
    cosine = _unit(rows, dim) @ _unit(rows, dim).T
    np.fill_diagonal(cosine, -np.inf)
    hit = labels[np.argsort(-cosine, axis=1)[:, :-1]] == labels[:, None]
    precisions = hit.cumsum(1) / np.arange(1, hit.shape[1] + 1)
    r = hit.sum(1)
    average = [(precisions[i, :n] * hit[i, :n]).sum() / n for i, n in enumerate(r)]
    return {
        "precision@1": 100 * hit[:, 0].mean(),
        "recall@4": 100 * hit[:, :4].any(1).mean(),
        "map@r": 100 * np.mean(average),
    }


def test_mrl_measures_every_prefix(run_cli: Cli, files: dict[str, Any]) -> None:
    argv = ["mrl", "evaluate", "test.npy", "--labels", "test.csv", *TRAIN, "--k", "5", "--json"]
    found = json.loads(run_cli(*argv).stdout)
    assert found["dims"] == [8, 16, 20]
    for dim in (8, 16, 20):
        assert found["metrics"][f"test/knn@{dim}"] == pytest.approx(_accuracy(files, 5, dim))
        assert found["metrics"][f"test/precision1@{dim}"] == pytest.approx(_retrieval(files, dim)["precision@1"])
    assert "test/top1" not in found["metrics"]
    assert Path("runs/mrl/evaluate-test/evaluation.json").is_file()
    # Without vectors that vote, retrieval alone.
    alone = json.loads(run_cli(*argv[:5], "--dims", "3,20", "--json", "--overwrite").stdout)
    assert alone["metrics"]["test/precision1@20"] == found["metrics"]["test/precision1@20"]
    assert "test/knn" not in alone["metrics"]


def test_ssl_votes_among_a_file(run_cli: Cli, files: dict[str, Any]) -> None:
    argv = ("ssl", "knn", "test.npy", "--labels", "test.csv", *TRAIN, "-k", "7", "--temperature", "0.07", "--json")
    found = json.loads(run_cli(*argv).stdout)
    assert found["knn7t0.07_top1"] == pytest.approx(_accuracy(files, 7, 20))
    assert json.loads(Path("runs/ssl/evaluate-test/evaluation.json").read_text())["test"] == pytest.approx(found)


def test_metrix_searches_a_file(run_cli: Cli, files: dict[str, Any]) -> None:
    found = json.loads(run_cli("metrix", "evaluate", "test.npy", "--labels", "test.csv", "--json").stdout)
    wanted = _retrieval(files, 20)
    for name in ("precision@1", "recall@4", "map@r"):
        assert found["metrics"][f"test/{name}"] == pytest.approx(wanted[name], rel=1e-6)
    assert (found["queries"], found["gallery"], found["dataset"]) == (24, None, "test")
    both = json.loads(
        run_cli("metrix", "evaluate", "test.npy", "--labels", "test.csv", "--gallery", "train.npy",
                "--gallery-labels", "train.csv", "--json", "-o", "both").stdout
    )  # fmt: skip
    assert both["gallery"] == 60
    assert both["metrics"]["test/recall@1"] == pytest.approx(_accuracy(files, 1, 20))


def test_mrl_retrieves_from_a_file(run_cli: Cli, files: dict[str, Any]) -> None:
    argv = (
        "mrl",
        "retrieve",
        "test.npy",
        "--labels",
        "test.csv",
        "--gallery",
        "train.npy",
        "--gallery-labels",
        "train.csv",
    )
    found = json.loads(run_cli(*argv, "--shortlist", "10", "--json").stdout)
    assert (found["gallery_size"], found["dataset"]) == (60, "test")
    for outcome, dim in zip(found["outcomes"], (8, 16, 20), strict=False):
        assert outcome["metrics"]["precision1"] == pytest.approx(_accuracy(files, 1, dim))


def test_mrl_retrieves_without_labels(run_cli: Cli, files: dict[str, Any]) -> None:
    """The share of the ten nearest by the whole vectors that a search finds, by sorting all cosines."""
    argv = ("mrl", "retrieve", "test.npy", "--gallery", "train.npy", "--json")
    found = json.loads(run_cli(*argv, "--shortlist", "10").stdout)["outcomes"]

    def nearest(dim: int) -> Any:
        cosine = _unit(files["test"][0], dim) @ _unit(files["train"][0], dim).T
        return np.argsort(-cosine, axis=1)[:, :10]

    def share(dim: int) -> float:
        pairs = zip(nearest(dim), nearest(20), strict=True)
        return 100 * float(np.mean([len({*a} & {*b}) / 10 for a, b in pairs]))

    shares = [share(dim) for dim in (8, 16, 20)]
    assert [one["metrics"] for one in found[:3]] == [{"overlap10": pytest.approx(share)} for share in shares]
    assert shares[2] == 100
    # A shortlist of ten only ranks again what the first search has found.
    adaptive = {one["text"]: one["metrics"]["overlap10"] for one in found if one["name"] == "adaptive"}
    assert adaptive == {"8 > 20": pytest.approx(shares[0]), "16 > 20": pytest.approx(shares[1])}


def test_mrl_classifies_a_file(run_cli: Cli, files: dict[str, Any]) -> None:
    """One logistic regression per prefix, scikit-learn's; a cascade of threshold 1 asks them all."""
    from sklearn.linear_model import LogisticRegression

    argv = ["mrl", "classify", "test.npy", "--labels", "test.csv", *TRAIN, "--json", "--overwrite", "--ridge", "1e-3"]
    found = json.loads(run_cli(*argv, "--thresholds", "0.1,1").stdout)
    (x, y), (z, true) = files["train"], files["test"]
    for outcome, dim in zip(found["outcomes"], (8, 16, 20), strict=False):
        model = LogisticRegression(C=1 / (60 * 1e-3), tol=1e-8, max_iter=10_000).fit(_unit(x, dim), y)
        assert outcome["metrics"]["top1"] == pytest.approx(100 * model.score(_unit(z, dim), true))
        assert outcome["operations"] == dim * 4
    early, late = found["outcomes"][3:]
    assert early["metrics"]["mean_dim"] == 8
    assert late["metrics"]["top1"] == found["outcomes"][2]["metrics"]["top1"]
    assert late["operations"] == (8 + 16 + 20) * 4
    assert (Path("runs/mrl/evaluate-test") / "cascade.json").is_file()
    one = json.loads(run_cli(*argv, "--dims", "3,20").stdout)["outcomes"]
    assert [outcome["text"] for outcome in one[:2]] == ["3", "20"]


def test_ssl_trains_a_probe_on_files(run_cli: Cli, files: dict[str, Any]) -> None:
    """Unregularised, on clusters that are far apart: every test vector is told right, as by logistic regression."""
    for name, (rows, labels) in files.items():
        np.save(f"{name}.npy", rows + 20 * np.eye(20, dtype=np.float32)[labels])
    argv = (
        "ssl",
        "linear",
        "test.npy",
        "--labels",
        "test.csv",
        *TRAIN,
        "--probe-epochs",
        "5",
        "--probe-lr",
        "0.05",
        "--json",
    )
    found = json.loads(run_cli(*argv).stdout)
    assert found["linear_top1"] == 100
    assert Path(found["classifier"]).is_file()
    assert "--overwrite" in run_cli(*argv).stderr


@pytest.fixture
def adaptor(run_cli: Cli, files: dict[str, Any]) -> None:
    """A run `adaptor`, one of the training vectors `alone`, and the vectors as the first makes them."""
    argv = ("mrl", "adapt", "train.npy", "--epochs", "1", "--dims", "4,16", "--no-tensorboard")
    test = ("--labels", "train.csv", "--blend", "1", "--test", "test.npy", "--test-labels", "test.csv")
    for more in ((*test, "--run-dir", "adaptor"), ("--run-dir", "alone")):
        assert run_cli(*argv, *more).exit_code == 0
    for name in ("train", "test"):
        assert run_cli("mrl", "embed", "adaptor", f"{name}.npy", "--output", f"short-{name}.npy").exit_code == 0


def _numbers(found: Any) -> dict[str, float]:
    return {key: value for key, value in found.items() if isinstance(value, float)}


def _whole(found: Any) -> Any:
    """The search by the whole vectors: files do not say for which prefixes they were trained."""
    return next(one["metrics"] for one in found["outcomes"] if (one["name"], one["text"]) == ("single shot", "16"))


LABELS = ("--labels", "test.csv")


@pytest.mark.parametrize(
    ("command", "beside", "own", "figures"),
    [
        ("mrl evaluate --k 5", TRAIN, ("--dims", "4,16"), lambda found: found["metrics"]),
        ("mrl retrieve", ("--gallery", "train.npy", "--gallery-labels", "train.csv"), (), _whole),
        ("mrl classify", TRAIN, ("--dims", "4,16"), lambda found: found["outcomes"][1]["metrics"]),
        ("ssl knn", TRAIN, (), _numbers),
        ("ssl linear --probe-epochs 2", TRAIN, (), _numbers),
        ("metrix evaluate", (), (), lambda found: found["metrics"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.usefixtures("adaptor")
def test_an_adaptor_is_measured_as_the_vectors_it_makes(
    run_cli: Cli, command: str, beside: tuple[str, ...], own: tuple[str, ...], figures: Callable[[Any], Any]
) -> None:
    """By the vectors of its run, and by others that go through it."""

    def found(*argv: str) -> Any:
        result = run_cli(*command.split(), *argv, "--json", "--overwrite")
        assert result.exit_code == 0, result.stderr
        return figures(json.loads(result.stdout))

    made = [f"short-{word}" if word.endswith(".npy") else word for word in beside]
    expected = found("short-test.npy", *LABELS, *made, *own)
    assert expected
    assert found("adaptor") == pytest.approx(expected)
    assert found("adaptor", "--vectors", "test.npy", *LABELS, *beside) == pytest.approx(expected)


@pytest.mark.usefixtures("adaptor")
def test_a_search_by_an_adaptor_needs_no_labels(run_cli: Cli) -> None:
    for argv in (("adaptor", "--vectors", "test.npy"), ("short-test.npy",)):
        gallery = "train.npy" if "--vectors" in argv else "short-train.npy"
        result = run_cli("mrl", "retrieve", *argv, "--gallery", gallery, "--json", "--overwrite")
        assert {*_whole(json.loads(result.stdout))} == {"overlap10"}
    # Of its own vectors, as far as the run knows their labels.
    brief = ("--epochs", "1", "--dims", "4,16", "--no-tensorboard", "--test", "test.npy", "--run-dir", "unlabelled")
    assert run_cli("mrl", "adapt", "train.npy", *brief).exit_code == 0
    result = run_cli("mrl", "retrieve", "unlabelled", "--json")
    assert _whole(json.loads(result.stdout)) == {"overlap10": 100}
    assert "Without labels" in run_cli("mrl", "retrieve", "unlabelled", "--overwrite").stderr


@pytest.mark.usefixtures("adaptor")
def test_an_adaptor_is_told_what_it_lacks(run_cli: Cli, words: Callable[[str], str]) -> None:
    assert run_cli("mrl", "export", "adaptor", "--output", "weights.safetensors").exit_code == 0
    for argv, said in (
        ("mrl evaluate alone", "The adaptor was trained without test vectors: name vectors by --vectors."),
        ("mrl evaluate weights.safetensors", "weights.safetensors has no vectors of its own: name some by --vectors."),
        ("mrl evaluate adaptor --labels test.csv", "--labels belongs to other vectors than those of the run adaptor"),
        ("ssl knn adaptor --vectors test.npy", "test.npy is a file of embeddings: give their labels by --labels."),
        ("ssl knn adaptor --vectors test.npy --labels test.csv", "give --train and --train-labels too"),
        ("metrix evaluate adaptor --dataset digits", "--dataset belongs to a model on images, which adaptor is not."),
        ("mrl evaluate test.npy --vectors test.npy --labels test.csv", "test.npy is a file of embeddings."),
        (
            "mrl evaluate adaptor --vectors short-test.npy --labels test.csv",
            "vectors of 16 numbers; the model takes 20",
        ),
    ):
        result = run_cli(*argv.split())
        assert result.exit_code == 2
        assert said in words(result.stderr)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("mrl evaluate absent.npy", "There is no file absent.npy"),
        ("metrix evaluate absent.npz:key", "There is no file absent.npz"),
        ("mrl evaluate test.npy", "test.npy is a file of embeddings: give their labels by --labels."),
        ("mrl evaluate run --labels test.csv", "--labels belongs to embeddings, and run is neither"),
        ("metrix evaluate test.npy --labels test.csv --gallery train.npy", "--gallery-labels belong together"),
        ("ssl knn test.npy --labels test.csv", "give --train and --train-labels too"),
        ("ssl knn test.npy --labels test.csv --train train.npy --train-labels test.csv", "24 labels for the 60"),
        ("ssl knn test.npy --labels test.csv --train train.npy --train-labels train.csv -k 61", "has 60 vectors"),
        ("mrl retrieve test.npy", "test.npy is a file of embeddings: give --gallery too."),
        ("mrl retrieve test.npy --labels test.csv", "give --gallery and --gallery-labels too"),
        ("mrl retrieve test.npy --gallery train.npy --gallery-labels train.csv", "give their labels by --labels."),
        ("mrl retrieve test.npy --labels test.csv --gallery train.npy", "--gallery and --gallery-labels belong"),
        ("metrix evaluate test.npy --labels test.csv --dataset digits", "--dataset belongs to a model"),
        ("mrl evaluate test.npy --labels test.csv --dims 8,32", "--dims: "),
        ("mrl evaluate test.npy --labels test.csv --no-neighbours", "--no-neighbours leaves nothing"),
        ("mrl classify test.npy --labels test.csv", "give --train and --train-labels too"),
        ("mrl classify test.npy --labels test.csv --train train.npy --train-labels train.csv --dims 8,32", "--dims: "),
        ("mrl classify run --dims 8", "--dims belongs to a file of embeddings: run has classifiers of its own."),
        ("mrl evaluate nan.npy --labels test.csv", "nan.npy has 1 rows with values that are not finite"),
    ],
)
def test_wrong_requests_are_one_sentence(
    run_cli: Cli, words: Callable[[str], str], files: dict[str, Any], argv: str, said: str
) -> None:
    rows = files["test"][0].copy()
    rows[5, 1] = np.nan
    np.save("nan.npy", rows)
    result = run_cli(*argv.split())
    assert result.exit_code == 2
    assert said in words(result.stderr)
    assert not Path("runs").exists()


@pytest.mark.slow
def test_real_embeddings_score_as_recorded(
    run_cli: Cli, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures of the data's description, in percent with one decimal."""
    monkeypatch.chdir(tmp_path)
    folder = data_root / "embeddings"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    texts = [str(folder / "banking77_use" / f"{name}.npy") for name in ("test", "test_labels", "train", "train_labels")]
    argv = ["mrl", "evaluate", texts[0], "--labels", texts[1], "--train", texts[2], "--train-labels", texts[3]]
    found = json.loads(run_cli(*argv, "--k", "1", "--dims", "8,64,512", "--json").stdout)
    assert [round(found["metrics"][f"test/knn@{d}"], 1) for d in (8, 64, 512)] == [35.9, 85.0, 88.6]
    birds = [str(folder / "cub200_lite0" / f"{name}.npy") for name in ("test", "test_labels")]
    found = json.loads(run_cli("metrix", "evaluate", birds[0], "--labels", birds[1], "--json").stdout)
    assert round(found["metrics"]["test/recall@1"], 1) == 93.1


def test_results_about_a_file_are_not_replaced(run_cli: Cli, files: dict[str, Any]) -> None:
    argv = ("mrl", "evaluate", "test.npy", "--labels", "test.csv")
    assert run_cli(*argv).exit_code == 0
    again = run_cli(*argv)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    shutil.rmtree("runs")
    assert run_cli(*argv).exit_code == 0
