"""``wasskit mrl index`` and ``wasskit mrl search`` on the command line."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import wasskit
from wasskit import MatryoshkaAdaptor, PrefixIndex
from wasskit.plugins.mrl.search.options import complete_indexes

Cli = Callable[..., Any]
GUIDE = Path(__file__).parents[4] / "docs" / "guides" / "search.md"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("train.npy", rng.normal(size=(60, 10)).astype(np.float32))
    np.save("test.npy", rng.normal(size=(7, 10)).astype(np.float32))


def read_csv(path: str) -> list[list[str]]:
    with Path(path).open(newline="") as file:
        return list(csv.reader(file))


def test_from_a_file_to_neighbours(run_cli: Cli) -> None:
    made = run_cli("mrl", "index", "create", "train.npy", "--dim", "4", "--json")
    assert made.exit_code == 0, made.stderr
    told = json.loads(made.stdout)
    assert (told["index"], told["rows"], told["dim"], told["resident_bytes"]) == ("train.index", 60, 4, 240)
    found = run_cli("mrl", "search", "train.index", "test.npy", "-k", "3", "--show", "2", "--json")
    assert found.exit_code == 0, found.stderr
    told = json.loads(found.stdout)
    expected = PrefixIndex("train.index").search(np.load("test.npy"), 3)
    assert [one["ids"] for one in told["neighbours"]] == expected.ids[:2].tolist()
    assert (told["queries"], told["k"], told["output"]) == (7, 3, "neighbours.csv")
    rows = read_csv("neighbours.csv")
    assert rows[0] == ["query", "rank", "id", "similarity"]
    assert [row[:3] for row in rows[1:]] == [
        [str(q), str(r + 1), str(id)] for q, ids in enumerate(expected.ids.tolist()) for r, id in enumerate(ids)
    ]
    np.testing.assert_allclose([float(row[3]) for row in rows[1:]], expected.similarities.reshape(-1), rtol=1e-6)
    again = run_cli("mrl", "search", "train.index", "test.npy", "-k", "3", "--output", "n.npz", "--exact")
    assert "7 queries, 3 neighbours of each" in again.stdout
    assert again.stdout.count("n.npz") == 1
    np.save("one.npy", np.load("test.npy")[:1])
    single = run_cli("mrl", "search", "train.index", "one.npy", "-k", "3", "--output", "one.csv")
    assert "1 query, 3 neighbours of each" in single.stdout
    with np.load("n.npz") as archive:
        np.testing.assert_array_equal(archive["ids"], PrefixIndex("train.index").search(np.load("test.npy"), 3,
                                                                                         exact=True).ids)  # fmt: skip


def test_rows_come_and_go(run_cli: Cli) -> None:
    Path("names.txt").write_text("\n".join(f"n{i}" for i in range(60)))
    Path("more.csv").write_text("name\n" + "\n".join(f"m{i}" for i in range(7)))
    Path("old.txt").write_text("n0\nm3\n")
    assert run_cli("mrl", "index", "create", "train.npy", "--ids", "names.txt", "-o", "x").exit_code == 0
    added = run_cli("mrl", "index", "add", "x", "test.npy", "--ids", "more.csv:name")
    assert "Added 7 rows: x has 67." in added.stdout
    assert "Deleted 2 rows: x has 65." in run_cli("mrl", "index", "delete", "x", "--ids", "old.txt").stdout
    assert json.loads(run_cli("mrl", "index", "delete", "x", "n1", "n2", "--json").stdout) == {
        "index": "x", "deleted": 2, "rows": 63
    }  # fmt: skip
    assert "63 of 10 numbers, 4 deleted, segments: 2" in run_cli("mrl", "index", "show", "x").stdout
    assert "63 of 10 numbers, 0 deleted, segments: 1" in run_cli("mrl", "index", "compact", "x").stdout
    found = run_cli("mrl", "search", "x", "test.npy", "-k", "1")
    assert [row[2] for row in read_csv("neighbours.csv")[1:]][:3] == ["m0", "m1", "m2"], found.stdout


def test_an_adaptor_stays_with_the_index(run_cli: Cli) -> None:
    """Vectors and queries go through it, also when its run is gone."""
    x, q = np.load("train.npy"), np.load("test.npy")
    adaptor = MatryoshkaAdaptor((4, 8), epochs=1).fit(x)
    adaptor.save("adaptor.safetensors")
    made = run_cli("mrl", "index", "create", "train.npy", "--model", "adaptor.safetensors", "--dim", "4")
    assert made.exit_code == 0, made.stderr
    Path("adaptor.safetensors").unlink()
    index = PrefixIndex("train.index")
    assert index.description.width == 8
    found = index.search(q, 3, shortlist=60)
    expected = (
        F.normalize(torch.from_numpy(adaptor.transform(q))) @ F.normalize(torch.from_numpy(adaptor.transform(x))).T
    )
    np.testing.assert_array_equal(found.ids, expected.topk(3).indices.numpy())
    assert run_cli("mrl", "index", "add", "train.index", "test.npy").exit_code == 0
    assert run_cli("mrl", "search", "train.index", "test.npy", "-k", "1").exit_code == 0
    assert [row[2] for row in read_csv("neighbours.csv")[1:]] == [str(60 + i) for i in range(7)]
    np.save("other.npy", np.zeros((2, 8), np.float32))
    other = run_cli("mrl", "search", "train.index", "other.npy", "--overwrite")
    assert other.exit_code == 2
    assert "other.npy has vectors of 8 numbers; the model adaptor.safetensors takes 10" in " ".join(
        other.stderr.split()
    )


@pytest.mark.slow
def test_images_find_images(run_cli: Cli) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    Path("photos").mkdir()
    for number, pixels in enumerate(load_digits().images[:12]):
        Image.fromarray((pixels * 15.9).astype(np.uint8)).save(f"photos/{number:02}.png")
    assert run_cli("mrl", "train", "--epochs", "1", "--no-tensorboard", "--name", "digits", "-q").exit_code == 0
    made = run_cli("mrl", "index", "create", "photos", "--model", "runs/mrl/digits")
    assert made.exit_code == 0, made.stderr
    found = run_cli("mrl", "search", "photos.index", "photos/03.png", "-k", "2", "--json")
    assert found.exit_code == 0, found.stderr
    (one,) = json.loads(found.stdout)["neighbours"]
    assert one["query"] == one["ids"][0] == "photos/03.png"
    assert one["similarities"][0] == pytest.approx(1, abs=1e-5)
    embedded = wasskit.load("runs/mrl/digits").embed("photos").numpy()
    assert_ids = PrefixIndex("photos.index").search(embedded, 1).ids[:, 0].tolist()
    assert assert_ids == [f"photos/{number:02}.png" for number in range(12)]
    # Of embeddings alone, with the model beside them.
    np.save("embeddings.npy", embedded)
    assert run_cli("mrl", "index", "create", "embeddings.npy").exit_code == 0
    none = run_cli("mrl", "search", "embeddings.index", "photos/03.png", "-o", "x.csv")
    assert none.exit_code == 2
    assert "give the --model that embeds them" in " ".join(none.stderr.split())
    with_it = run_cli("mrl", "search", "embeddings.index", "photos/03.png", "--model", "runs/mrl/digits", "-k", "1",
                      "-o", "x.csv", "--json")  # fmt: skip
    assert json.loads(with_it.stdout)["neighbours"][0]["ids"] == [3]


def test_wrong_command_lines_are_one_sentence(run_cli: Cli) -> None:
    assert run_cli("mrl", "index", "create", "train.npy").exit_code == 0
    Path("photos").mkdir()
    Path("mine.csv").write_text("mine")
    cases = [
        ("index create train.npy", "train.index is an index already: choose another --output"),
        ("index create photos", "of images, give the --model that embeds them"),
        ("index create nope.npy", "There is no file nope.npy"),
        ("index create train.npy --dim 11 -o y", "--dim: 11 is not from 1 to 10"),
        ("index create train.npy --model photos -o y", "photos"),
        ("index add nope test.npy", "There is no index at nope: make one by `wasskit mrl index create`"),
        ("index delete train.index", "name the ids to delete, or a file of them by --ids"),
        ("index delete train.index x", "are whole numbers, not 'x'"),
        ("index delete train.index 1000", "There is no id 1000 in the index train.index"),
        ("search train.index test.npy -o n.txt", "--output: n.txt must end in .csv or .npz"),
        ("search train.index test.npy -o mine.csv", "mine.csv exists already: choose another --output"),
        ("search train.index test.npy -o no/n.csv", "There is no folder no: make it first"),
        ("search train.index photos", "of images, give the --model that embeds them"),
        ("index creat train.npy", "Did you mean 'create'?"),
    ]
    for line, said in cases:
        result = run_cli("mrl", *shlex.split(line))
        assert result.exit_code == 2, line
        assert said.lower() in " ".join(result.stderr.split()).lower(), result.stderr
    assert Path("mine.csv").read_text() == "mine"
    assert not Path("y").exists()


def test_indexes_are_completed(run_cli: Cli) -> None:
    assert run_cli("mrl", "index", "create", "train.npy").exit_code == 0
    Path("tracks").mkdir()
    assert list(complete_indexes("tr")) == ["tracks/", "train.index"]


@pytest.mark.slow
def test_the_guide_s_first_example_is_carried_out_as_it_stands(run_cli: Cli, data_root: Path) -> None:
    source = data_root / "embeddings" / "banking77_use"
    if not source.is_dir():
        pytest.skip("the Banking77 embeddings are not there")
    for name in ("train", "test"):
        Path(f"{name}.npy").unlink()
    for path in source.glob("*.npy"):
        Path(path.name).symlink_to(path)
    block = re.search(r"needs: the Banking77.*?```bash\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert block is not None
    for line in block[1].splitlines():
        result = run_cli(*shlex.split(line)[1:])
        assert result.exit_code == 0, f"{line}: {result.stderr[-2000:]}"
    rows = np.array(read_csv("neighbours.csv")[1:])
    assert rows.shape == (30_800, 4)
    nearest = rows[rows[:, 1] == "1", 2].astype(int)
    same = np.load("train_labels.npy")[nearest] == np.load("test_labels.npy")
    # Raw vectors: 88.6 %; what is asked of an adaptor that has learned from the labels is 91.
    assert same.mean() > 0.905
    index = PrefixIndex("banking.index")
    assert index.resident_bytes == 64 * 10_003
    truth = index.search(np.load("test.npy"), 10, exact=True)
    found = rows[:, 2].astype(int).reshape(3080, 10)
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(found, truth.ids, strict=True)])
    assert recall > 0.98
