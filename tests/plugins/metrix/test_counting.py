"""`wasskit metrix evaluate` of files under named conventions: pairs, names, groups, and what is left out."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Cli = Callable[..., Any]
BOTH = ("test.npy", "--gallery", "train.npy")
LABELLED = (*BOTH, "--labels", "test.csv", "--gallery-labels", "train.csv")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """20 queries and 50 documents of 6 numbers, small integers that tie often; ids, classes, cameras, pairs."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for name, count in (("test", 20), ("train", 50)):
        rows, labels, groups = rng.integers(-2, 3, (count, 6)), rng.integers(0, 4, count), rng.integers(0, 3, count)
        np.save(f"{name}.npy", rows.astype(np.float32))
        Path(f"{name}.csv").write_text(
            "label,camera\n" + "".join(f"{'abcd'[i]},{'xyz'[g]}\n" for i, g in zip(labels, groups, strict=True))
        )
        Path(f"{name}_ids.txt").write_text("".join(f"{name}{i}\n" for i in range(count)))
        found[name] = rows, labels, groups
    relevance = rng.integers(-1, 4, (20, 50))
    relevance[6:] = 0  # the last of the seven that are judged has no positive
    found["relevance"] = relevance
    lines = [f"test{q},train{d},{relevance[q, d]}\n" for q in range(7) for d in range(50)]
    Path("pairs.csv").write_text("query,document,relevance\n" + "".join(lines))
    return found


def evaluated(run_cli: Cli, *argv: str) -> dict[str, Any]:
    result = run_cli("metrix", "evaluate", *argv, "--json", "--overwrite")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


NAMES = ("--ids", "test_ids.txt", "--gallery-ids", "train_ids.txt")


def test_pairs_as_trec_eval_counts_them(run_cli: Cli, files: dict[str, Any]) -> None:
    """By hand: sorted by similarity, then by the later name; divided by all that is relevant."""
    argv = (*BOTH, *NAMES, "--relevance", "pairs.csv", "--convention", "trec_eval", "--similarity", "dot")
    found = evaluated(run_cli, *argv, "--at", "5", "--full-ranking", "--per-query", "q.csv")
    assert (found["queries_not_judged"], found["queries_without_positive"]) == (13, 1)
    assert found["conventions"]["ties"] == "docno"
    scores = files["test"][0] @ files["train"][0].T
    values: list[list[float]] = []
    for q in range(6):
        ranked = sorted(range(50), key=lambda d: (scores[q, d], f"train{d}"), reverse=True)
        gains = np.maximum(files["relevance"][q, ranked], 0)
        hit = gains > 0
        places = np.flatnonzero(hit) + 1
        ideal = np.sort(gains)[::-1] / np.log2(np.arange(2, 52))
        steps = np.arange(1, len(places) + 1) / places
        values.append([
            steps[places <= 5].sum() / len(places), steps.mean(), (gains / np.log2(np.arange(2, 52)))[:5].sum()
            / ideal[:5].sum(), hit[:5].mean(), 1 / places[0],
        ])  # fmt: skip
    values.append([0.0] * 5)
    names = ("map@5", "map", "ndcg@5", "precision@5", "mrr")
    rows = rows_of("q.csv")
    assert [row["query"] for row in rows] == [f"test{q}" for q in range(7)]
    for q, row in enumerate(rows):
        assert [float(row[name]) for name in names] == pytest.approx([100 * v for v in values[q]])
        assert int(row["positives"]) == int((files["relevance"][q] > 0).sum())
    means = [found["metrics"][f"test/{name}"] for name in names]
    assert means == pytest.approx([100 * v for v in np.mean(values, axis=0)])


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["all", "class"])
def test_groups_are_left_out(run_cli: Cli, files: dict[str, Any], rule: str) -> None:
    groups = ("--groups", "test.csv:camera", "--gallery-groups", "train.csv:camera", "--group-rule", rule)
    labels = ("--labels", "test.csv:label", "--gallery-labels", "train.csv:label", "--lone", "skip")
    found = evaluated(run_cli, *BOTH, *labels, *groups, "--ties", "optimistic", "--per-class", "c.csv")
    (x, y, g), (z, w, h) = files["test"], files["train"]
    cosine = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (z / np.linalg.norm(z, axis=1, keepdims=True)).T
    same, met = y[:, None] == w, g[:, None] != h
    if rule == "class":
        met |= ~same
    first = []
    for i in range(20):
        best = cosine[i, met[i] & same[i]].max(initial=-np.inf)
        first.append(1 + int((cosine[i, met[i] & ~same[i]] > best + 1e-6).sum()) if best > -1 else None)
    ranks = np.array([rank for rank in first if rank is not None])
    assert found["metrics"]["test/mrr"] == pytest.approx(100 * (1 / ranks).mean())
    assert found["metrics"]["test/recall@4"] == pytest.approx(100 * (ranks <= 4).mean())
    of_class = {row["class"]: float(row["mrr"]) for row in rows_of("c.csv")}
    counted = [(y[i], rank) for i, rank in enumerate(first) if rank is not None]
    for i, name in enumerate("abcd"):
        assert of_class[name] == pytest.approx(100 * np.mean([1 / rank for label, rank in counted if label == i]))
    macro = evaluated(run_cli, *BOTH, *labels, *groups, "--ties", "optimistic", "--average", "classes")["metrics"][
        "test/mrr"
    ]
    assert macro == pytest.approx(np.mean(list(of_class.values())))


@pytest.mark.slow
def test_excluded_documents_are_as_if_absent(run_cli: Cli, files: dict[str, Any]) -> None:
    """A list of documents, and the pairs of all queries with them, give what a gallery without them gives."""
    for name in ("train.npy", "train.csv"):
        rows = np.load(name) if name.endswith(".npy") else Path(name).read_text().splitlines(keepends=True)
        if name.endswith(".npy"):
            np.save("fewer.npy", rows[10:])
        else:
            Path("fewer.csv").write_text("".join([rows[0], *rows[11:]]))
    Path("listed.txt").write_text("".join(f"train{i}\n" for i in range(10)))
    pairs = "".join(f"test{q},train{d}\n" for q in range(20) for d in range(10))
    Path("left.csv").write_text("query,document\n" + pairs)
    labels = ("--labels", "test.csv:label", "--gallery-labels")
    wanted = evaluated(run_cli, "test.npy", "--gallery", "fewer.npy", *labels, "fewer.csv:label")["metrics"]
    for path in ("listed.txt", "left.csv"):
        assert evaluated(run_cli, *BOTH, *labels, "train.csv:label", *NAMES, "--exclude", path)["metrics"] == wanted
    assert wanted != evaluated(run_cli, *BOTH, *labels, "train.csv:label")["metrics"]


def test_queries_that_search_one_another(run_cli: Cli, files: dict[str, Any]) -> None:
    """Row numbers are their names; each is left out of its own gallery."""
    Path("own.csv").write_text("query,document\n0,1\n0,0\n3,2\n")
    found = evaluated(run_cli, "test.npy", "--relevance", "own.csv", "--per-query", "q.csv")
    assert [(row["query"], row["positives"]) for row in rows_of("q.csv")] == [("0", "1"), ("3", "1")]
    assert found["queries_not_judged"] == 18


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("test.npy", "test.npy is a file of embeddings: give their labels by --labels."),
        ("test.npy --relevance none.csv", "There is no file none.csv"),
        ("test.npy --relevance pairs.csv", "7 queries that are none of the rows 0 to 19 of test.npy, the first is "
         "'test0' in line 2"),
        ("test.npy --relevance pairs.csv --ids train_ids.txt", "50 ids for the 20 vectors of test.npy"),
        ("test.npy --relevance pairs.csv --average classes", "--average classes needs the classes of the queries"),
        ("test.npy --labels test.csv:label --gallery-ids test_ids.txt", "--gallery-ids: test.npy has no gallery"),
        ("test.npy --labels test.csv:label --group-rule class", "--group-rule class needs the groups"),
        ("test.npy --labels test.csv:label --groups train.csv:camera", "50 groups for the 20 vectors of test.npy"),
        ("test.npy --labels test.csv:label --exclude train_ids.txt", "50 documents that are none of the rows 0 to 19"),
        ("test.npy --labels test.csv:label --exclude nothing.csv", "--exclude: nothing.csv names no document."),
        ("test.npy --labels test.csv:label --per-query q.npy", "--per-query: q.npy is no name of a table"),
        ("test.npy --labels test.csv:label --backend faiss --at 5", "--at belongs to --backend exact"),
        ("test.npy --labels alone.txt --lone error", "20 of 20 queries have no positive in the gallery."),
        ("test.npy --labels test.csv:label --per-query test.csv", "test.csv exists"),
    ],
)  # fmt: skip
def test_wrong_requests_are_one_sentence(
    run_cli: Cli, words: Callable[[str], str], files: dict[str, Any], argv: str, said: str
) -> None:
    Path("alone.txt").write_text("".join(f"{i}\n" for i in range(20)))
    Path("nothing.csv").write_text("")
    result = run_cli("metrix", "evaluate", *argv.split())
    assert result.exit_code == 2
    assert said in words(result.stderr)
    assert not Path("runs").exists()
