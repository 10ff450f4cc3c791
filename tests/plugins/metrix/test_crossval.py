"""Comparisons by cross-validation: what is drawn, what is measured, what is kept, and what they say."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wasskit.config import changed
from wasskit.data.base import ImageDataset
from wasskit.data.loaders import EvalLoader
from wasskit.data.metric_sets import MetricSplits, load_metric_splits
from wasskit.data.seeds import derive_seed
from wasskit.errors import RunFailed, UserError
from wasskit.evaluation.retrieval import map_at_r
from wasskit.plugins.metrix.commands.crossval import MetrixCrossval
from wasskit.plugins.metrix.commands.train import MetrixTrain
from wasskit.plugins.metrix.crossval import frozen, models, study
from wasskit.plugins.metrix.crossval.frozen import CachedSource, as_trained, cached, weights_digest
from wasskit.plugins.metrix.crossval.models import FoldModel, FrozenTrunk, TrainedTrunk
from wasskit.plugins.metrix.crossval.plan import Entrant, Fold, entrants, fold_count, folds, settings, training
from wasskit.plugins.metrix.crossval.reports import Protocol, Result, Trial, crossval_report
from wasskit.plugins.metrix.crossval.scores import SCORES, joined, score
from wasskit.plugins.metrix.losses import build_loss, find_loss, loss_names, parse_settings
from wasskit.plugins.metrix.measure import raw_pixels
from wasskit.plugins.metrix.network import MetrixModel, build_model
from wasskit.plugins.metrix.options import TrainingOptions
from wasskit.plugins.metrix.pair_loss import Range
from wasskit.report import Table
from wasskit.system.signals import raised

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]

Run = Callable[..., Any]
CPU = torch.device("cpu")


def config_of(**values: Any) -> MetrixCrossval:
    return changed(MetrixCrossval(), **values)


# --- What is drawn ----------------------------------------------------------------------------------------------------


def test_folds_divide_the_classes_and_hold_each_out_once() -> None:
    found = folds(21, 4, 0, "tuning")
    assert sorted(c for fold in found for c in fold.held) == list(range(21))
    assert sorted(len(fold.held) for fold in found) == [5, 5, 5, 6]
    for fold in found:
        assert sorted([*fold.kept, *fold.held]) == list(range(21))
    assert len({fold.seed for fold in found}) == 4


def test_folds_are_drawn_anew_for_every_repeat_and_alike_for_every_loss() -> None:
    assert folds(20, 4, 0, 1) == folds(20, 4, 0, 1)
    assert folds(20, 4, 0, 1) != folds(20, 4, 0, 2) != folds(20, 4, 0, "tuning")
    assert folds(20, 4, 0, 1) != folds(20, 4, 5, 1)


def test_two_classes_are_in_each_fold() -> None:
    assert [fold_count(config_of(), classes) for classes in (4, 5, 8, 100)] == [2, 2, 4, 4]
    assert fold_count(config_of(folds=10), 20) == 10
    with pytest.raises(UserError, match="20 training classes cannot be divided into 11 folds of at least two classes"):
        fold_count(config_of(folds=11), 20)
    with pytest.raises(UserError, match="3 training classes cannot be divided into 2 folds"):
        fold_count(config_of(), 3)


@pytest.mark.parametrize("loss", loss_names())
def test_every_mode_tries_the_same_settings_within_their_ranges(loss: str) -> None:
    config = config_of(lr=0.01)
    search = find_loss(loss).search
    assert search, "a loss without anything of its own to tune"
    tried = [settings(loss, trial, config) for trial in range(40)]
    assert tried[0] == {"lr": 0.01}
    assert tried == [settings(loss, trial, config) for trial in range(40)]
    for one in tried[1:]:
        assert set(one) == {"lr", "mix_weight", *search}
        assert 0.001 <= one["lr"] <= 0.1
        assert 0.1 <= one["mix_weight"] <= 1
        for name, where in search.items():
            values = (one[name],) if isinstance(where, Range) else one[name]
            for value, each in zip(values, (where,) if isinstance(where, Range) else where, strict=True):
                assert each.low <= value <= each.high
    # Uniform in the logarithm: 39 draws lie on both sides of the middle (all on one has a chance of 2^-38).
    assert min(one["lr"] for one in tried[1:]) < 0.01 < max(one["lr"] for one in tried[1:])


@pytest.mark.parametrize("loss", loss_names())
@pytest.mark.parametrize("mode", ["baseline", "input", "feature", "embed"])
def test_a_trial_is_a_training_of_its_own(loss: str, mode: str) -> None:
    """Every setting arrives at the loss, whether the command has an option for it or not."""
    config = config_of(epochs=7, alpha=3.0)
    chosen = settings(loss, 2, config)
    found = training(config, Entrant(loss, mode), chosen, 11)
    assert (found.method.loss, found.method.mode, found.run.seed, found.loop.epochs) == (loss, mode, 11, 7)
    assert (found.optim.lr, found.method.mix_weight, found.method.alpha) == (chosen["lr"], chosen["mix_weight"], 3.0)
    given = {
        "num_classes": 3, "embedding_dim": 4, "margin": found.method.margin,
        "similarity_scales": found.method.similarity_scales, "proxy_scales": found.method.proxy_scales,
    }  # fmt: skip
    built = build_loss(loss, given, parse_settings(found.method.loss_settings))
    for name in find_loss(loss).search:
        assert name in given or getattr(built, name) == chosen[name]
        assert name not in given or given[name] == chosen[name]


def test_proxies_are_mixed_with_negatives_as_embeddings() -> None:
    config = config_of(losses=("proxyanchor",), pairs="anchor-negative")
    config.validate()
    for entrant in entrants(config):
        assert training(config, entrant, {}, seed=1).method.pairs == "anchor-negative"


def test_the_baseline_of_a_loss_comes_first() -> None:
    found = entrants(config_of(losses=("proxyanchor", "contrastive"), modes=("embed", "baseline")))
    assert [entrant.name for entrant in found] == [
        "proxyanchor/baseline", "proxyanchor/embed", "contrastive/baseline", "contrastive/embed",
    ]  # fmt: skip


# --- What is measured -------------------------------------------------------------------------------------------------


def test_joined_embeddings_have_the_mean_of_the_cosines() -> None:
    generator = torch.Generator().manual_seed(0)
    several = [{"test": torch.randn(9, d, generator=generator, dtype=torch.float64)} for d in (3, 5)]
    whole = joined(several)["test"]
    assert whole.shape == (9, 8)
    cosines = [F.normalize(m["test"], dim=1) @ F.normalize(m["test"], dim=1).T for m in several]
    # Sums of 8 products of numbers of at most 1, in float64.
    assert torch.allclose(whole @ whole.T, sum(cosines) / 2, rtol=0, atol=16 * 2**-52)  # type: ignore[arg-type]


def test_scores_are_percent_and_of_the_gallery_where_there_is_one() -> None:
    x = torch.eye(4)
    labels = torch.tensor([0, 0, 1, 1])
    assert score(x, labels, x, labels)["precision@1"] == 100
    assert set(score(x, labels)) == set(SCORES)
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(30, 5, generator=generator)
    many = torch.randint(3, (30,), generator=generator)
    # Means of 30 ratios in float64.
    assert score(y, many)["map@r"] == pytest.approx(100 * float(map_at_r(y, many)), rel=30 * 2**-52)
    relevant = (y @ y.T / y.norm(dim=1) / y.norm(dim=1)[:, None]).fill_diagonal_(-2).argsort(dim=1, descending=True)
    counts = (many[:, None] == many).sum(1) - 1
    hits = (many[relevant] == many[:, None]).cumsum(1).gather(1, counts[:, None] - 1)[:, 0] / counts.double()
    assert score(y, many)["r_precision"] == pytest.approx(100 * float(hits.mean()), rel=1e-12)


def test_the_best_epoch_is_that_of_the_held_classes() -> None:
    """Its weights are put back: embeddings of the held classes score what the validation of that epoch said."""
    parts = load_metric_splits("digits")
    config = training(
        config_of(batch_size=200, embedding_size=8, epochs=3, lr=0.02), Entrant("contrastive", "embed"), {}, 3
    )
    fold = Fold([0, 1, 2], [3, 4], 3)
    held = parts.train.select_classes(fold.held)
    seen: list[float] = []
    original = score

    def noted(*arguments: Any) -> dict[str, float]:
        seen.append(original(*arguments)["map@r"])
        return {**original(*arguments), "map@r": [10.0, 90.0, 20.0][len(seen) - 1]}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "score", noted)
        found = TrainedTrunk(MetricSplits(parts.train, None, held, None), None, CPU).train(config, fold, test=True)
    assert (found.epoch, found.validation["map@r"]) == (2, 90.0)
    assert len(set(seen)) == 3
    assert original(found.embeddings["test"], held.filled_labels())["map@r"] == pytest.approx(seen[1], rel=1e-12)


# --- The frozen trunk -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colour() -> ImageDataset:
    """Sixty images of six classes in colour, each class its own shade."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 6
    images = torch.randint(0, 60, (60, 3, 16, 16), generator=generator) + 30 * labels[:, None, None, None]
    return ImageDataset("shades", "train", [f"c{i}" for i in range(6)], labels=labels, images=images.to(torch.uint8))


def trunk_of(dataset: ImageDataset, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    description = {
        "backbone": "tiny", "stem": "standard", "image_size": dataset.image_size, "channels": 3, "pooling": "avgmax",
        "embedding_size": 4,
    }  # fmt: skip
    return build_model(description).network.eval()


def test_what_is_kept_is_what_the_trunk_gives(colour: ImageDataset, tmp_path: Path) -> None:
    network = trunk_of(colour)
    part = cached(colour, network, tmp_path, wanted=("maps", "images"), digest="a", device=CPU)
    images = next(iter(EvalLoader(colour, 60))).images
    with torch.no_grad():
        maps = network.trunk(images)
    assert part.maps is not None
    assert part.images is not None
    assert isinstance(part.maps, np.memmap)
    kept = torch.from_numpy(np.array(part.maps)).permute(0, 3, 1, 2)
    # Rounded once to half precision, whose unit is 2^-11; 1e-6 for another order of the batch's sums.
    assert torch.allclose(kept.float(), maps, rtol=2**-11 + 1e-6, atol=2**-14)
    assert torch.equal(part.pooled, network.pool(kept.float()))
    assert torch.allclose(torch.from_numpy(np.array(part.images)).float(), images, rtol=2**-11, atol=1e-6)
    assert torch.equal(part.labels, colour.filled_labels())


def test_it_is_computed_once_for_each_set_trunk_and_transform(
    colour: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = trunk_of(colour)
    computed: list[int] = []
    original = frozen._write

    def noted(loader: Any, trunk: Any, paths: Any, rows: int) -> None:
        computed.append(rows)
        original(loader, trunk, paths, rows)

    monkeypatch.setattr(frozen, "_write", noted)

    def keep(dataset: ImageDataset, digest: str, *wanted: str) -> None:
        cached(dataset, network, tmp_path, wanted=wanted, digest=digest, device=CPU)

    digest = weights_digest(network)
    keep(colour, digest)
    keep(colour, digest)
    assert computed == [60]
    keep(colour, digest, "maps")  # which are not there yet
    keep(colour, weights_digest(trunk_of(colour, 1)))
    keep(colour.prepared_as((0.1,) * 3, (1.0,) * 3, margin=True), digest)
    keep(colour.subset(range(50)), digest)
    assert computed == [60, 60, 60, 60, 50]
    assert [path for path in tmp_path.iterdir() if path.suffix != ".npy"] == []


def test_images_are_normalised_as_the_weights_expect(colour: ImageDataset) -> None:
    network = trunk_of(colour)
    assert as_trained(colour, network) is colour
    network.trunk.backbone.normalisation = (0.5,) * 3, (0.25,) * 3
    other = as_trained(colour, network)
    assert (other.mean, other.std) == ((0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(("channels", "mean"), [(3, (0.5, 0.5, 0.5)), (1, (0.5,))])
def test_the_library_says_how_images_were_normalised(channels: int, mean: tuple[float, ...]) -> None:
    from wasskit.models.backbones import build_backbone

    built = build_backbone("timm/tf_efficientnet_lite0", image_size=32, channels=channels)
    assert built.normalisation == (mean, mean)
    assert build_backbone("tiny", image_size=8).normalisation is None


def frozen_trunk(colour: ImageDataset, folder: Path, *modes: str) -> FrozenTrunk:
    parts = MetricSplits(colour, None, colour.subset(range(30)), None)
    config = changed(MetrixTrain(), backbone="tiny", embedding_size=8, in_memory=True)
    return FrozenTrunk(parts, config, folder, modes, CPU)


@pytest.mark.parametrize("loss", ["contrastive", "multisimilarity", "proxyanchor", "potentialfield"])
@pytest.mark.parametrize("mode", ["baseline", "input", "feature", "embed"])
def test_heads_learn_on_a_frozen_trunk_in_every_mode(
    colour: ImageDataset, tmp_path: Path, loss: str, mode: str
) -> None:
    torch.manual_seed(0)
    trunk = frozen_trunk(colour, tmp_path, mode)
    before = weights_digest(trunk.network)
    config = changed(
        MetrixTrain(), loss=loss, mode=mode, backbone="tiny", embedding_size=8, batch_size=20, epochs=2, lr=0.01, seed=1
    )
    found = trunk.train(config, Fold([0, 2, 4, 5], [1, 3], 1), test=True)
    assert found.epoch in (1, 2)
    assert found.embeddings["test"].shape == (30, 8)
    assert torch.allclose(found.embeddings["test"].norm(dim=1), torch.ones(30), rtol=0, atol=1e-6)
    assert weights_digest(trunk.network) == before
    again = trunk.train(config, Fold([0, 2, 4, 5], [1, 3], 1), test=True)
    assert torch.equal(again.embeddings["test"], found.embeddings["test"])


def test_mixtures_of_maps_and_of_images_with_themselves_are_the_item(colour: ImageDataset, tmp_path: Path) -> None:
    """At lambda = 1 both mixtures embed as the item does, up to the rounding of half precision of its image."""
    torch.manual_seed(0)
    trunk = frozen_trunk(colour, tmp_path, "feature", "input")
    config = changed(MetrixTrain(), mode="feature", backbone="tiny", embedding_size=8, batch_size=20)
    rows = torch.arange(60)
    batch = next(iter(CachedSource(trunk.part, rows, colour.filled_labels(), config, CPU).batches(0)))
    assert batch.maps is not None
    assert batch.images is not None
    head = models.HeadNetwork(256, 8)
    task = models.HeadTask(_model(head, trunk), config, lambda net: None, trunk=trunk.network)
    embeddings, sources = task.embedded(batch)
    pooled = trunk.network.pool(batch.maps)
    assert torch.equal(pooled, batch.pooled)
    # A unit of half precision, 2^-11, through four convolutions of a few layers, relative to embeddings of length 1.
    assert torch.allclose(sources["network"](batch.images), embeddings, rtol=0, atol=2**-7)
    assert not any(p.requires_grad for p in trunk.network.parameters())
    assert {name for name, _ in task.named_parameters()} == {"network.head.weight", "network.head.bias"}


def _model(head: Any, trunk: FrozenTrunk) -> Any:
    return MetrixModel(head, trunk.description)


def test_frozen_features_are_scored_as_they_are(colour: ImageDataset, tmp_path: Path) -> None:
    trunk = frozen_trunk(colour, tmp_path)
    found = trunk.untrained([Fold([0, 1, 2, 3], [4, 5], 0), Fold([4, 5], [0, 1, 2, 3], 0)])
    assert found is not None
    assert torch.equal(found.embeddings["test"], trunk.others["test"])
    labels = colour.filled_labels()
    scores = [score(trunk.part.pooled[rows], labels[rows])["map@r"] for rows in (labels > 3, labels < 4)]
    assert found.validation["map@r"] == pytest.approx(sum(scores) / 2, rel=1e-12)


def test_a_head_starts_where_it_keeps_the_cosines_of_what_it_is_trained_on(
    colour: ImageDataset, tmp_path: Path
) -> None:
    """As many axes as images span all of them, so their cosines stay; the other rows are small but not zero."""
    trunk = frozen_trunk(colour, tmp_path)
    rows = torch.nonzero(colour.filled_labels() < 4)[:, 0]
    head = models.HeadNetwork(256, 48)
    head.start_at(trunk._principal_axes(Fold([0, 1, 2, 3], [4, 5], 0), rows))
    before = F.normalize(trunk.part.pooled[rows], dim=1)
    with torch.no_grad():
        after = head(trunk.part.pooled[rows])
    # A coordinate of the eight rows beyond the axes has the deviation 0.01 sqrt(2 / 48) = 0.002 for a unit vector. Four
    # deviations in each of them would move a cosine by 8 x 0.008^2 = 5e-4; a random projection moves it by 0.1.
    assert torch.allclose(after @ after.T, before @ before.T, rtol=0, atol=1e-3)
    assert bool((head.head.weight[40:] != 0).all())
    assert float(head.head.weight.detach()[40:].norm(dim=1).max()) < 0.1


def test_a_fold_smaller_than_a_batch_is_refused(colour: ImageDataset, tmp_path: Path) -> None:
    trunk = frozen_trunk(colour, tmp_path)
    config = changed(MetrixTrain(), batch_size=50)
    with pytest.raises(UserError, match="a fold trains on 40 images, fewer than one batch of 50"):
        CachedSource(trunk.part, torch.arange(40), torch.arange(40) % 4, config, CPU)


def test_raw_pixels_are_scored_as_models_are_where_the_network_is_trained() -> None:
    parts = load_metric_splits("digits")
    trunk = models.TrainedTrunk(parts, None, CPU)
    plan = [Fold([0, 1, 2], [3, 4], 0), Fold([3, 4], [0, 1, 2], 0)]
    found = trunk.untrained(plan)
    assert found is not None
    assert found.epoch == 0
    assert {name: tuple(x.shape) for name, x in found.embeddings.items()} == {"test": (len(parts.test), 64)}
    held = [parts.train.select_classes(fold.held) for fold in plan]
    scores = []
    for part in held:
        pixels = raw_pixels(part, CPU)
        assert pixels is not None
        scores.append(score(pixels.features, pixels.labels)["map@r"])
    assert found.validation["map@r"] == pytest.approx(sum(scores) / 2)
    large = ImageDataset("fake", "test", ("a", "b"), images=torch.zeros(4, 1, 65, 65, dtype=torch.uint8))
    assert models.TrainedTrunk(MetricSplits(parts.train, None, large, None), None, CPU).untrained(plan) is None


# --- What it says -----------------------------------------------------------------------------------------------------

PROTOCOL = Protocol("cub", 4, 2, 3, 100, 20, True)
UNTRAINED = {"map@r": 44.0, "precision@1": 55.0, "r_precision": 66.0, "validation": 77.0}


def result_of(loss: str, mode: str, *values: float) -> Result:
    scores = [{"map@r": value, "precision@1": value + 1, "r_precision": value + 2} for value in values]
    trials = [Trial({"lr": 0.001}, 40.0), Trial({"lr": 0.01, "margin": 0.4}, 45.0)]
    epochs = [3, 3, 1, 2] if mode == "baseline" else [1, 3, 3, 3]
    return Result(loss, mode, trials, 1, epochs, scores, [{k: v + 10 for k, v in score.items()} for score in scores])


def test_the_report_has_intervals_and_differences_to_the_baseline_of_the_loss() -> None:
    results = [
        result_of("a", "baseline", 50, 60, 70),
        result_of("a", "embed", 51, 62, 73),
        result_of("b", "baseline", 20, 20, 20),
        result_of("b", "embed", 19, 18, 17),
    ]
    report = crossval_report(PROTOCOL, results, UNTRAINED)
    first, second, third, fourth = report.result["separate"]
    assert first["map@r"]["mean"] == 60
    # 1, 2, 3: s = 1, mean 2 (and -1, -2, -3).
    half = 0.95 * (2 / (1 - 0.95**2)) ** 0.5 / 3**0.5  # Student's quantile with two degrees of freedom
    assert second["difference"]["map@r"]["mean"] == 2
    assert second["difference"]["map@r"]["high"] == pytest.approx(2 + half)
    assert fourth["difference"]["map@r"]["low"] == pytest.approx(-2 - half)
    # t = 2 sqrt(3) with two degrees of freedom: p = 0.0742; of two tests, twice that.
    assert second["difference"]["map@r"]["p"] == pytest.approx(2 * 0.07417990022744853, rel=1e-9)
    assert (first["difference"], third["difference"]) == (None, None)
    assert report.result["concatenated"][0]["r_precision"]["mean"] == 72
    separate, concatenated, tuning = report.tables
    assert isinstance(separate, Table)
    assert isinstance(concatenated, Table)
    assert isinstance(tuning, Table)
    assert separate.rows[1] == ["a", "embed", "62.00 ± 27.33", "63.00 ± 27.33", "64.00 ± 27.33", "+2.00 ± 2.48", "0.15"]
    assert separate.rows[-1] == ["none", "frozen features", "44.00", "55.00", "66.00", None, None]
    assert "each fold's model alone" in (separate.title or "")
    assert "joined embeddings" in (concatenated.title or "")
    assert tuning.rows[0] == ["a", "baseline", 45.0, 40.0, "lr 0.01, margin 0.4"]
    assert tuning.rows[-1] == ["none", "frozen features", 77.0, None, None]
    assert "mean +- t s / sqrt(n)" in report.notes[0]
    assert report.notes[1] == (
        "Most models are best at their last epoch and may gain by more --epochs: a/embed (3 of 4), b/embed (3 of 4)."
    )
    assert report.result["tuning"][0]["best_epochs"] == [3, 3, 1, 2]
    assert set(report.files) == {"crossval.csv", "repeats.csv", "crossval.json"}
    assert len(report.files["repeats.csv"].rows) == 2 * 4 * 3 * 3  # type: ignore[union-attr]
    for draw in report.figures.values():
        assert len(draw().axes) == 2


def test_one_repeat_says_that_it_gives_no_interval() -> None:
    report = crossval_report(PROTOCOL, [result_of("a", "baseline", 50), result_of("a", "embed", 51)])
    separate = report.tables[0]
    assert isinstance(separate, Table)
    assert separate.rows[1] == ["a", "embed", "51.00", "52.00", "53.00", "+1.00", None]
    assert "One repeat gives no interval" in report.notes[0]
    assert report.result["untrained"] is None
    trained = crossval_report(replace(PROTOCOL, frozen=False), [result_of("a", "baseline", 50)], UNTRAINED)
    assert [table.rows[-1][1] for table in trained.tables if isinstance(table, Table)] == ["raw pixels"] * 3
    report.figures["forest"]()


# --- What is kept -----------------------------------------------------------------------------------------------------


class Stub:
    """Stands for the training: embeddings and validation follow from the configuration. ``trained`` tells the calls."""

    trained: list[tuple[str, str, int]] = []  # noqa: RUF012
    diverging: frozenset[float] = frozenset()

    def __init__(self, parts: MetricSplits, workers: int | None, device: torch.device) -> None:
        self.sizes = {"test": len(parts.test)}

    def train(self, config: TrainingOptions, fold: Fold, *, test: bool) -> FoldModel:
        if config.optim.lr in self.diverging:
            raise RunFailed("The loss is not finite.")
        self.trained.append((config.method.loss, config.method.mode, fold.seed))
        seed = derive_seed(config.method.loss, config.method.mode, fold.seed, str(config.optim.lr))
        generator = torch.Generator().manual_seed(seed % 2**31)
        embeddings = {
            name: F.normalize(torch.randn(n, 4, generator=generator), dim=1) for name, n in self.sizes.items()
        }
        value = float(torch.rand((), generator=generator)) * 100
        return FoldModel(1, {"map@r": value, "precision@1": value, "r_precision": value}, embeddings if test else {})

    def untrained(self, plan: Sequence[Fold]) -> FoldModel | None:
        return None


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> type[Stub]:
    monkeypatch.setattr(study, "TrainedTrunk", Stub)
    monkeypatch.setattr(Stub, "trained", [])
    monkeypatch.setattr(Stub, "diverging", frozenset())
    return Stub


def entries(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*.json")) if p.parent != folder}


def found_in(folder: Path) -> Mapping[str, Any]:
    content: dict[str, Any] = json.loads((folder / "crossval.json").read_text())
    return content


def test_a_comparison_trains_tunes_and_repeats(run_cli: Run, stub: type[Stub], tmp_path: Path) -> None:
    result = run_cli("metrix", "crossval", "--repeats", "2", "--trials", "2", "--json", "--run-dir", tmp_path / "r")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert content["run"] == str(tmp_path / "r")
    # Two losses, two modes, two folds (of five classes), two trials and two repeats.
    assert len(stub.trained) == 2 * 2 * 2 * (2 + 2)
    assert {(e["loss"], e["mode"]) for e in content["separate"]} == {
        (loss, mode) for loss in ("contrastive", "multisimilarity") for mode in ("baseline", "embed")
    }
    for entry in content["tuning"]:
        assert entry["chosen"] == int(np.argmax([trial["validation"] for trial in entry["trials"]]))
    kept = entries(tmp_path / "r")
    assert len(kept) == 16 + 8
    one = json.loads(kept["repeats/1/contrastive-embed.json"])
    assert one["separate"]["map@r"] == pytest.approx(
        np.mean([fold["test"]["map@r"] for fold in one["folds"]]), rel=1e-12
    )
    assert not list((tmp_path / "r").rglob("*.npz"))
    assert found_in(tmp_path / "r")["separate"] == content["separate"]
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["command"] == "metrix crossval"


def test_it_goes_on_where_it_was_stopped_and_ends_the_same(
    run_cli: Run, words: Callable[[str], str], stub: type[Stub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ("metrix", "crossval", "--repeats", "2", "--trials", "2")
    assert run_cli(*argv, "--run-dir", tmp_path / "whole").exit_code == 0
    whole = list(stub.trained)
    original = Stub.train
    for number, after in ((signal.SIGTERM, 5), (signal.SIGINT, 19), (signal.SIGTERM, 20), (signal.SIGTERM, 31)):
        calls: list[int] = []

        def stopped(
            self: Stub, *a: Any, calls: list[int] = calls, after: int = after, number: int = number, **k: Any
        ) -> Any:
            if len(stub.trained) == after:
                calls.append(1)
                os.kill(os.getpid(), number)
            return original(self, *a, **k)

        stub.trained.clear()
        run = tmp_path / f"stopped-{after}"
        with monkeypatch.context() as patch, raised():
            patch.setattr(Stub, "train", stopped)
            result = run_cli(*argv, "--run-dir", run)
        assert calls == [1]
        assert result.exit_code == 128 + number
        assert f"{after} of 32 fold models are done and kept in {run}: the same command goes on." in words(
            result.stderr
        )
        assert not (run / "summary.json").exists()
        assert run_cli(*argv, "--run-dir", run).exit_code == 0
        assert stub.trained == whole, "a fold's model was trained twice, or not at all"
        assert entries(run) == entries(tmp_path / "whole")
        assert found_in(run) == found_in(tmp_path / "whole")


def test_losses_modes_and_repeats_may_be_added(run_cli: Run, stub: type[Stub], tmp_path: Path) -> None:
    run = ("--run-dir", tmp_path / "r", "--trials", "1")
    assert run_cli("metrix", "crossval", "--losses", "contrastive", "--repeats", "1", *run).exit_code == 0
    before = entries(tmp_path / "r")
    stub.trained.clear()
    more = ("--losses", "contrastive,proxyanchor", "--modes", "baseline,embed,feature", "--repeats", "2")
    assert run_cli("metrix", "crossval", *more, *run).exit_code == 0
    after = entries(tmp_path / "r")
    assert {name: after[name] for name in before} == before
    # Six losses and modes with two folds, a trial and two repeats, but for two with a trial and one repeat.
    assert len(stub.trained) == 6 * 2 * 3 - 2 * 2 * 2
    assert len(found_in(tmp_path / "r")["separate"]) == 6
    assert run_cli("metrix", "crossval", "--losses", "contrastive", "--repeats", "1", *run).exit_code == 0
    assert len(stub.trained) == 28
    assert len(found_in(tmp_path / "r")["separate"]) == 2


def test_other_settings_are_refused_by_name(
    run_cli: Run, words: Callable[[str], str], stub: type[Stub], tmp_path: Path
) -> None:
    run = ("--run-dir", tmp_path / "r", "--trials", "1", "--repeats", "1")
    assert run_cli("metrix", "crossval", *run).exit_code == 0
    kept = entries(tmp_path / "r")
    result = run_cli("metrix", "crossval", *run, "--epochs", "9", "--lr", "0.5")
    assert result.exit_code == 2
    assert "was begun with other settings: --epochs (3 there, 9 now), --lr (0.001 there, 0.5 now)" in words(
        result.stderr
    )
    assert entries(tmp_path / "r") == kept
    assert (tmp_path / "r" / "summary.json").is_file()


def test_a_trial_that_diverges_is_not_chosen(
    run_cli: Run, words: Callable[[str], str], stub: type[Stub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of()
    rates = [settings("contrastive", trial, config)["lr"] for trial in range(3)]
    monkeypatch.setattr(Stub, "diverging", frozenset({rates[0], rates[2]}))
    argv = ("metrix", "crossval", "--losses", "contrastive", "--repeats", "1")
    assert run_cli(*argv, "--run-dir", tmp_path / "r").exit_code == 0
    for entry in found_in(tmp_path / "r")["tuning"]:
        assert entry["chosen"] == 1
        assert [trial["validation"] is None for trial in entry["trials"]] == [True, False, True]
    monkeypatch.setattr(Stub, "diverging", frozenset(rates))
    result = run_cli(*argv, "--run-dir", tmp_path / "none")
    assert result.exit_code == 1
    assert "No setting of contrastive/baseline could be trained; of the first: The loss is not finite." in words(
        result.stderr
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--modes", "embed,feature"), "--modes: leave baseline among them"),
        (("--losses", "contrastive,contrastive"), "--losses: name one or more, each once"),
        (("--losses", ""), "--losses: name one or more, each once, not none"),
        (("--losses", "contrastiv"), "'contrastiv' is not one of"),
        (("--folds", "3"), "5 training classes cannot be divided into 3 folds"),
        (("--frozen",), "--frozen: a trunk that has learned nothing is of no use"),
        (
            ("--losses", "proxyanchor", "--pairs", "anchor-negative", "--modes", "baseline,feature"),
            "proxies have no image and no feature map to mix in feature mode",
        ),
        (("--dataset", "cub", "--data-root", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    run_cli: Run, words: Callable[[str], str], tmp_path: Path, argv: tuple[str, ...], message: str
) -> None:
    result = run_cli("metrix", "crossval", *argv, "--run-dir", tmp_path / "r")
    assert result.exit_code == 2
    assert message in words(result.stderr)
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_a_signal_within_a_training_ends_it_at_the_next_step(
    run_cli: Run, words: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real trainings of digits: stopped in the third model's evaluation, gone on with, equal to one never stopped."""
    argv = (
        "metrix", "crossval", "--losses", "contrastive", "--trials", "1", "--repeats", "1", "--epochs", "1",
        "--batch-size", "250", "--embedding-size", "8", "--device", "cpu",
    )  # fmt: skip
    assert run_cli(*argv, "--run-dir", tmp_path / "whole").exit_code == 0
    original, calls = models.FoldTask.evaluate, []

    def stopping(self: models.FoldTask, progress: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, progress)

    with monkeypatch.context() as patch:
        patch.setattr(models.FoldTask, "evaluate", stopping)
        result = run_cli(*argv, "--run-dir", tmp_path / "r")
    assert result.exit_code == 128 + signal.SIGTERM
    assert "2 of 8 fold models are done and kept" in words(result.stderr)
    assert run_cli(*argv, "--run-dir", tmp_path / "r").exit_code == 0
    assert entries(tmp_path / "r") == entries(tmp_path / "whole")
    assert found_in(tmp_path / "r") == found_in(tmp_path / "whole")
