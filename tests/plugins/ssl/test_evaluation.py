"""The columns of the table: against published k-NN, by hand, and independent of batches, workers and ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.distributed.harness import run_ranks
from wasskit.data.base import ImageDataset
from wasskit.data.views import ViewDistribution
from wasskit.errors import UserError
from wasskit.evaluation.embedding import Features
from wasskit.evaluation.linear import ProbeProtocol
from wasskit.evaluation.uniform_null import uniform_spectrum
from wasskit.evaluation.uniformity import alignment, w2_uniformity
from wasskit.models.backbones import Backbone
from wasskit.plugins.ssl.evaluation import (
    Neighbours,
    Settings,
    alignment_of_views,
    comparison,
    features_and_projections,
    features_of,
    linear_accuracy,
    standard_metrics,
    view_batches,
    without_colour_changes,
)
from wasskit.plugins.ssl.network import Encoder, SslModel
from wasskit.plugins.ssl.reports import Named, Probe, evaluation_report
from wasskit.report import Entry, Table

VIEWS = ViewDistribution(scale=(0.5, 1.0))


def toy(split: str = "train", n: int = 60, *, labelled: bool = True, on_disk: bool = False) -> ImageDataset:
    """Three classes of noisy colours."""
    generator = torch.Generator().manual_seed(n)
    labels = torch.arange(n) % 3
    colour = torch.eye(3)[labels][:, :, None, None] * 120
    images = (colour + 100 * torch.rand(n, 3, 8, 8, generator=generator)).to(torch.uint8)

    def read(index: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(images[index].permute(1, 2, 0).numpy()))

    source: dict[str, Any] = {"reader": read, "image_size": 8} if on_disk else {"images": images}
    return ImageDataset("toy", split, ("r", "g", "b"), labels=labels if labelled else None, size=n, **source)


def encoder() -> Encoder:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 10, 3, bias=False), nn.BatchNorm2d(10), nn.ReLU())
    return Encoder(Backbone("small", layers, channels=3, num_features=10), (12, 6)).eval()


@pytest.mark.parametrize("case", ["ssl_knn_0", "ssl_knn_1"])
def test_knn_is_the_published_one(case: str, reference: Callable[[str], dict[str, Any]]) -> None:
    a = reference(case)
    bank, queries = (
        Features(torch.from_numpy(a[f"{name}_x"]), torch.from_numpy(a[f"{name}_y"]), torch.arange(len(a[f"{name}_y"])))
        for name in ("train", "query")
    )
    k = int(a["k"])
    found = Neighbours(k).measure(bank, queries)
    assert found == {f"knn{k}_top1": pytest.approx(float(a["acc1"])), f"knn{k}_top5": pytest.approx(float(a["acc5"]))}


def test_neighbours_are_chosen_by_the_size_of_the_set() -> None:
    assert Neighbours.among(toy()) == Neighbours(10)
    assert Neighbours.among(toy(n=4)) == Neighbours(4)
    classes = torch.arange(5000) % 2
    large = ImageDataset("big", "train", ("a", "b"), labels=classes, images=torch.zeros(5000, 1, 1, 1).byte())
    assert Neighbours.among(large) == Neighbours(200)
    assert Neighbours(200, 0.07).name == "knn200t0.07"
    with pytest.raises(UserError, match="61 neighbours, but toy/train has 60"):
        Neighbours.among(toy(), 61)
    with pytest.raises(UserError, match="needs labels"):
        Neighbours.among(toy(labelled=False))


def measured(batch_size: int = 256, seed: int = 0) -> dict[str, float]:
    settings = Settings(batch_size=batch_size, seed=seed)
    return standard_metrics(encoder(), toy(), toy("test", 33), VIEWS, Neighbours(5), settings)


def test_metrics_do_not_depend_on_the_batches() -> None:
    expected = measured()
    found = measured(batch_size=7)
    assert found.keys() == {"knn5_top1", "knn5_top5", "w2", "lu", "effective_rank", "alignment"}
    for name, value in found.items():
        assert value == pytest.approx(expected[name], rel=1e-4), name
    assert measured(seed=1)["alignment"] != expected["alignment"]
    assert measured(seed=1)["w2"] == expected["w2"]


@pytest.mark.distributed
def test_two_ranks_measure_as_one() -> None:
    expected = measured()
    for found in run_ranks(measured, 2):
        for name, value in found.items():
            assert value == pytest.approx(expected[name], rel=1e-4), name


def test_metrics_by_hand() -> None:
    network, test, settings = encoder(), toy("test", 33), Settings(batch_size=8)
    projections = network(_normalised(test))
    metrics = standard_metrics(network, None, test, VIEWS, None, settings)
    assert metrics["w2"] == pytest.approx(w2_uniformity(projections).item(), rel=1e-5)
    assert "knn5_top1" not in metrics

    pairs = [network(batch.views[0]).chunk(2) for batch in view_batches(test, (VIEWS, VIEWS), settings)]
    first, second = (torch.cat(side) for side in zip(*pairs, strict=True))
    assert alignment_of_views(network, test, VIEWS, settings) == pytest.approx(
        alignment(first, second).item(), rel=1e-5
    )
    # No change at all makes equal views, whose alignment is 0.
    still = replace(without_colour_changes(VIEWS), scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    assert alignment_of_views(network, test, still, settings) == pytest.approx(0.0, abs=1e-10)


def test_images_are_encoded_once_for_all_measures() -> None:
    """What is there already is taken as it is, and no figure changes by it."""
    network, bank, test, settings = encoder(), toy(), toy("test", 33), Settings(batch_size=16)
    encoded = features_and_projections(network, test, settings)
    assert torch.equal(encoded[0].features, features_of(network.backbone, test, settings).features)
    assert standard_metrics(network, bank, test, VIEWS, Neighbours(5), settings, encoded=encoded) == measured(16)
    shuffled = (encoded[0], encoded[1] * torch.linspace(0, 1, encoded[1].shape[1]))
    changed = standard_metrics(network, bank, test, VIEWS, Neighbours(5), settings, encoded=shuffled)
    assert changed["w2"] != measured(16)["w2"]

    def probed(known: Features | None) -> dict[str, float]:
        protocol = ProbeProtocol(epochs=3)
        return linear_accuracy(
            network.backbone, bank, test, VIEWS, protocol, settings, num_features=10, probe_batch_size=12, known=known
        )[0]

    assert probed(encoded[0]) == probed(None)
    assert probed(replace(encoded[0], labels=(encoded[0].labels + 1) % 3)) != probed(None)


def _normalised(dataset: ImageDataset) -> Tensor:
    assert dataset.images is not None
    mean, std = (torch.tensor(x)[:, None, None] for x in (dataset.mean, dataset.std))
    return (dataset.images / 255 - mean) / std


def test_views_of_files_are_as_reproducible() -> None:
    files, settings = toy("test", 12, on_disk=True), Settings(batch_size=5, workers=0)
    once, again = (torch.cat([b.views[0] for b in view_batches(files, (VIEWS,), settings)]) for _ in range(2))
    assert once.shape == (12, 3, 8, 8)
    assert torch.equal(once, again)


def test_comparison_and_probe() -> None:
    network, settings = encoder(), Settings(batch_size=16)
    networks = {"raw pixels": nn.Flatten(), "backbone": network.backbone}
    found = comparison(networks, toy(), toy("test", 33), VIEWS, Neighbours(5), settings)
    assert list(found) == list(networks)
    assert set(found["backbone"]) == {"knn5_top1", "knn5_top1_cropped"}
    assert found["raw pixels"]["knn5_top1"] > 90

    epochs: list[int] = []
    metrics, classifier = linear_accuracy(
        network.backbone, toy(), toy("test", 33), VIEWS, ProbeProtocol(epochs=8), settings, num_features=10,
        probe_batch_size=12, after_epoch=lambda epoch, top1: epochs.append(epoch),
    )  # fmt: skip
    assert epochs == list(range(1, 9))
    assert metrics["linear_top1"] > 60
    assert metrics["linear_best_top1"] >= metrics["linear_top1"]
    assert metrics["linear_top5"] == 100
    assert isinstance(classifier, nn.Linear)
    assert all(p.grad is None for p in network.parameters())
    with pytest.raises(UserError, match="needs labels"):
        linear_accuracy(network.backbone, toy(labelled=False), toy(), VIEWS, ProbeProtocol(), settings, num_features=10)


def test_the_report_of_an_evaluation_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Encoder and images in, the metrics, the spectrum and files to write out."""
    monkeypatch.chdir(tmp_path)
    described: Any = {"projector": [12, 6], "views": asdict(VIEWS)}
    model, bank, test = SslModel(encoder(), described), toy(), toy("test", 33)
    told: list[int] = []
    probe = Probe(ProbeProtocol(epochs=2), 16, lambda epoch, top1: told.append(epoch))
    named = Named("mine", "toy@best", {"metrics": {"test/w2": 0.25}, "source": "A paper"})
    found = evaluation_report(model, bank, test, Settings(), neighbours=Neighbours(5), probe=probe, named=named)
    metrics = {key: value for key, value in found.result.items() if key != "spectrum"}
    assert measured().items() <= metrics.items()
    assert told == [1, 2]
    assert list(found.files) == ["evaluation.json", "spectrum-toy@best.npz", "linear.safetensors"]
    assert found.files["evaluation.json"] == Entry("toy@best", metrics)
    assert found.remarks == ["Published: A paper"]
    assert found.notes == [f"Spectrum: {len(found.result['spectrum'])} of 6 singular values are not zero."]
    (table,) = found.tables
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["mine", "published"]
    drawn = found.figures["spectrum-toy@best"]().axes[0].lines
    assert len(drawn) == 2
    # Beside it stands what so many uniform points show.
    np.testing.assert_allclose(np.asarray(drawn[1].get_ydata(), float), uniform_spectrum(len(test), 6))
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")
    without = evaluation_report(model, None, toy(labelled=False), Settings(), probe=probe)
    assert set(without.result) == {"w2", "lu", "alignment", "effective_rank", "spectrum"}
    assert "The images have no labels" in without.remarks[0]
