"""Adaptors of embeddings: the network, what it learns from, the command, the estimator."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.decomposition import PCA
from torch.nn import functional as F

from wasskit import console
from wasskit.cli import run
from wasskit.config import changed
from wasskit.data.embeddings import Embeddings
from wasskit.errors import Interrupted, UserError
from wasskit.evaluation.compression import neighbours
from wasskit.plugins.mrl import results
from wasskit.plugins.mrl.adapt import blending, report
from wasskit.plugins.mrl.adapt.blending import UNCHOSEN, choose_blend
from wasskit.plugins.mrl.adapt.data import NeighbourSource, Pairs, PairSource, Vectors, pairs_of_rows, read_vectors
from wasskit.plugins.mrl.adapt.losses import LabelLoss, NeighbourLoss, PairLoss
from wasskit.plugins.mrl.adapt.network import Adaptor, principal_axes
from wasskit.plugins.mrl.adapt.options import AdaptTrainingOptions
from wasskit.plugins.mrl.adapt.starting import RIDGES, discriminant_axes, starting_axes
from wasskit.plugins.mrl.adapt.task import Parts, Validation, build_adapt_task, divide
from wasskit.plugins.mrl.grid import Point
from wasskit.plugins.mrl.network import PrefixEmbedder
from wasskit.sweeps.grid import Grid
from wasskit.training.run import RunDirectory

pytestmark = pytest.mark.usefixtures("undrawn")


def vectors(count: int = 60, width: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_training_starts_from_the_principal_components() -> None:
    x = vectors()
    mean, axes = principal_axes(x)
    unit = F.normalize(x, dim=1).double().numpy()
    expected = PCA(4).fit(unit)
    network = Adaptor(12)
    network.start(axes, mean)
    found = network.eval()(x)[:, :4].detach().double().numpy()
    # Coordinates are below 1; sums of 12 products of float32 numbers.
    assert np.abs(np.abs(found) - np.abs(expected.transform(unit))).max() < 12 * 2**-23


def classes_in_noise(within: float, count: int = 24, each: int = 20) -> Vectors:
    """Classes that differ in the first four of twelve numbers; the last eight vary by ``within`` in all classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count).repeat_interleave(each)
    means = torch.cat([torch.randn(count, 4, generator=generator), torch.zeros(count, 8)], 1)
    noise = torch.randn(count * each, 12, generator=generator)
    return Vectors(means[labels] + noise * torch.tensor([0.2] * 4 + [within] * 8), labels)


def test_discriminant_axes_solve_their_equation() -> None:
    data = classes_in_noise(2.0)
    assert data.labels is not None
    mean, axes = discriminant_axes(data.rows, data.labels, ridge=0.5)
    unit = F.normalize(data.rows, dim=1).double().numpy()
    labels = data.labels.numpy()
    means = np.stack([unit[labels == c].mean(0) for c in range(24)])[labels]
    within, covariance = (unit - means).T @ (unit - means) / len(unit), np.cov(unit.T, bias=True)
    ridged = within + 0.5 * np.trace(within) / 12 * np.eye(12)
    expected = scipy.linalg.eigh(covariance, ridged)[1].T[::-1]
    found = axes.double().numpy()
    # Both normalise an axis by the same quadratic form; equal but for the sign and one factor of all.
    ratio = np.abs(found / expected)
    assert ratio.std() < 1e-4 * ratio.mean()
    assert np.trace(found @ covariance @ found.T) == pytest.approx(np.trace(covariance), rel=1e-5)
    assert np.abs(mean.numpy() - unit.mean(0)).max() < 1e-6
    wide = discriminant_axes(data.rows, data.labels, ridge=1e9)[1]
    # The ridge leaves a relative 1e-9 of W; the gaps between eigenvalues are above 1e-3 of the largest.
    assert (wide - principal_axes(data.rows)[1]).abs().max() < 1e-4
    alone = discriminant_axes(data.rows, torch.arange(len(data.rows)))[1]
    assert torch.equal(alone, principal_axes(data.rows)[1]), "no class varies"


def test_the_start_is_what_serves_classes_left_out() -> None:
    noisy, even = classes_in_noise(2.0), classes_in_noise(0.2)
    assert noisy.labels is not None
    principal = principal_axes(noisy.rows)[1]
    found = starting_axes(noisy, (4, 12))[1]
    assert any(torch.equal(found, discriminant_axes(noisy.rows, noisy.labels, ridge)[1]) for ridge in RIDGES)
    assert torch.equal(starting_axes(even, (4, 12))[1], principal_axes(even.rows)[1]), "there is nothing to gain"
    few = Vectors(noisy.rows, noisy.labels % 9)
    assert torch.equal(starting_axes(few, (4, 12))[1], principal), "too few classes to leave some out"
    with pytest.raises(UserError, match="needs labels to learn from, and the residual network"):
        AdaptTrainingOptions(start="discriminant").resolved("neighbours")
    assert AdaptTrainingOptions(network="rotation").resolved("labels").start == "principal"


def test_fewer_vectors_than_numbers_still_give_a_basis() -> None:
    axes = principal_axes(vectors(5, 12))[1]
    # Orthonormal to float32's rounding of the axes.
    assert (axes @ axes.mT - torch.eye(12)).abs().max() < 12 * 2**-23


def test_a_rotation_keeps_every_cosine() -> None:
    x = vectors().double()
    network = Adaptor(12, shape="rotation").double()
    network.start(principal_axes(x)[1].double())
    torch.nn.init.normal_(network.change)
    unit, adapted = F.normalize(x, dim=1), network.eval().normalised(x)
    # The axes are orthonormal to float32's rounding.
    assert (adapted @ adapted.mT - unit @ unit.mT).abs().max() < 12 * 2**-23


def changed_adaptor(shape: str, blend: float) -> Adaptor:
    network = Adaptor(12, 8, shape=shape, hidden=6, dropout=0, input_dropout=0, blend=blend)  # type: ignore[arg-type]
    network.start(principal_axes(vectors())[1])
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    return network


@pytest.mark.parametrize("shape", ["residual", "rotation"])
def test_prefixes_are_those_of_the_network(shape: str) -> None:
    network, x = changed_adaptor(shape, 0.3), vectors()
    found = PrefixEmbedder(network.train().fixed(), 3, unit=True)(x)
    assert network.training, "it is left as it was"
    torch.testing.assert_close(found, F.normalize(network.eval().normalised(x)[:, :3], dim=1))


@pytest.mark.parametrize("shape", ["residual", "rotation"])
def test_a_network_is_blended_with_its_start_in_evaluation(shape: str) -> None:
    x = vectors()
    learned = changed_adaptor(shape, 1.0).train()(x)
    torch.testing.assert_close(changed_adaptor(shape, 0.3).train()(x), learned)
    torch.testing.assert_close(changed_adaptor(shape, 1.0).eval()(x), learned)
    start = F.normalize(x, dim=1) @ principal_axes(x)[1][:8].mT
    torch.testing.assert_close(changed_adaptor(shape, 0.0).eval()(x), start)
    if shape == "residual":
        network = Adaptor(12, 8, blocks=0, input_dropout=0, blend=0.25)
        network.start(principal_axes(x)[1])
        torch.nn.init.normal_(network.change)
        # Of a linear map the outputs are blended as the weights are.
        torch.testing.assert_close(network.eval()(x), start + 0.25 * (network.train()(x) - start))


def test_a_blend_is_chosen_on_classes_left_out() -> None:
    """Classes differ in 6 directions that vary little, beneath 18 that vary much and mean nothing: principal components
    find the latter, labels the former, for classes left out as well.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 12
    means = torch.randn(12, 6, generator=generator)
    informative = means[labels] + 0.1 * torch.randn(240, 6, generator=generator)
    x = torch.cat([informative, 4 * torch.randn(240, 18, generator=generator)], 1)
    config = changed(AdaptTrainingOptions(), dims=(6, 24), epochs=12, batch_size=32, blocks=0).resolved("labels")
    before = torch.get_rng_state()
    found = choose_blend(config, Vectors(x, labels), seed=1)
    assert found > 0
    assert choose_blend(config, Vectors(x, labels), seed=1) == found
    assert torch.equal(torch.get_rng_state(), before)
    still = changed(config, epochs=1, lr=1e-30)
    assert choose_blend(still, Vectors(x, labels), seed=1) == 1, "nothing is learned: no blend loses"
    few = labels % 9
    assert choose_blend(config, Vectors(x, few), seed=1) == UNCHOSEN, "too few classes to leave some out"
    assert choose_blend(config, Vectors(x, few), known=True, seed=1) > UNCHOSEN, "none is left out"
    alone = Vectors(x[:12], torch.arange(12) // 2)
    assert choose_blend(config, alone, known=True, seed=1) == 1, "no vector of two can be kept"


@pytest.mark.parametrize(
    ("blend", "classes", "said"),
    [(0.0, 10, "Nothing of what is learned will be kept: .* give --classes known"),
     (0.25, 10, "Of what is learned 0.25 will be kept"), (UNCHOSEN, 2, "too few classes to try others on")],
)  # fmt: skip
def test_it_is_told_what_is_kept_and_why(
    blend: float, classes: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(blending, "choose_blend", lambda *args, **kwargs: blend)
    config = AdaptTrainingOptions().resolved("labels")
    given = Vectors(vectors(20), torch.arange(20) % classes)
    assert blending.with_blend(config, given, None, torch.device("cpu"), seed=0).blend == blend
    assert re.search(said, " ".join(capsys.readouterr().err.split()))


@pytest.mark.parametrize(("blend", "said"), [(0.0, "Nothing of what is learned"), (0.5, "Of what is learned 0.5 will")])
def test_nothing_that_is_kept_of_known_classes_is_told_in_words(blend: float, said: str) -> None:
    told = blending._told(blend, Vectors(vectors(20), torch.arange(20) % 10), known=True)
    assert told.startswith(said)
    assert "(--classes known)" in told


@pytest.mark.parametrize(
    ("classes", "test", "known"),
    [("auto", [0, 1], True), ("auto", [0, 9], False), ("auto", None, False), ("new", [0], False), ("known", [9], True)],
)  # fmt: skip
def test_the_blend_is_chosen_for_the_classes_to_come(
    classes: str, test: list[int] | None, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def choose(*args: object, known: bool, **kwargs: object) -> float:
        asked.append(known)
        return 0.5

    monkeypatch.setattr(blending, "choose_blend", choose)
    config = changed(AdaptTrainingOptions(), classes=classes).resolved("labels")
    given = Vectors(vectors(20), torch.arange(20) % 4)
    others = None if test is None else Vectors(vectors(len(test)), torch.tensor(test))
    assert blending.with_blend(config, given, others, torch.device("cpu"), seed=0).blend == 0.5
    assert asked == [known]


def test_a_stop_while_the_blend_is_chosen_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from wasskit.training.loop import Loop

    plain = Loop._update

    def update(self: Loop, batches: object) -> object:
        signal.raise_signal(signal.SIGTERM)
        return plain(self, batches)  # type: ignore[arg-type]

    monkeypatch.setattr(Loop, "_update", update)
    config = AdaptTrainingOptions().resolved("labels")
    given = Vectors(vectors(200), torch.arange(200) % 10)
    with pytest.raises(Interrupted, match=r"SIGTERM while the blend was being chosen .* nothing was there to save"):
        blending.with_blend(config, given, None, torch.device("cpu"), seed=0)


def test_nothing_is_lost_where_nothing_is_changed() -> None:
    x, ids = vectors(20).double(), torch.arange(20)
    losses = NeighbourLoss((4, 12), floor=1.0, pair_weight=1.0)(x, x, ids, 8)
    assert float(losses.terms["neighbours@12"]) == pytest.approx(0, abs=1e-12)
    assert float(losses.terms["neighbours@4"]) > 0.1


def test_the_neighbour_loss_is_its_definition() -> None:
    x, z, ids = vectors(9).double(), vectors(9, 6, 1).double(), torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 1])
    found = NeighbourLoss((3, 6), temperature=0.2, floor=0.1, pair_weight=0.5)(z, x, ids, 4).total
    expected = 0.0
    s = F.cosine_similarity(x[:4, None], x[None], dim=2)
    for d in (3, 6):
        sd = F.cosine_similarity(z[:4, None, :d], z[None, :, :d], dim=2)
        kl = 0.0
        for i in range(4):
            others = [j for j in range(9) if ids[j] != ids[i]]
            p, q = (torch.softmax(m[i, others] / 0.2, 0) for m in (s, sd))
            kl += float((p * (p / q).log()).sum()) / 4
        expected += np.log(0.1 + kl) + 0.5 * float((sd - s).abs().mean())
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_neighbours_are_those_about_the_centre() -> None:
    x, ids = vectors(20).double(), torch.arange(20)
    centre = F.normalize(x, dim=1).mean(0)
    seen = F.normalize(x, dim=1) - 0.5 * centre
    kept = NeighbourLoss((12,), floor=1.0, centre=0.5 * centre)(seen, x, ids, 8)
    assert float(kept.total) == pytest.approx(0, abs=1e-12), "of the prefix that is the centred vector nothing is lost"
    config = AdaptTrainingOptions(centre=0.5, epochs=1).resolved("neighbours")
    task, source = build_adapt_task(config, "neighbours", Parts(Vectors(x.float()), None), torch.device("cpu"))
    assert torch.allclose(task.network.centre, 0.5 * centre.float(), atol=1e-7)
    assert isinstance(source, NeighbourSource)
    assert torch.equal(source.nearest, neighbours(F.normalize(seen.float(), dim=1), 19))


@pytest.mark.parametrize("same", [False, True])
def test_gradients_are_finite_where_vectors_coincide(same: bool) -> None:
    x = torch.ones(6, 8) if same else vectors(6, 8)
    z = x.clone().requires_grad_()
    total = NeighbourLoss((2, 8), wasserstein_weight=0.1)(z, x, torch.arange(6), 3).total
    total = total + LabelLoss(2, (2, 8), keep_weight=0.1)(z, torch.tensor([0, 1] * 3), x).total
    (gradient,) = torch.autograd.grad(total, z)
    assert bool(gradient.isfinite().all())


def test_a_vector_without_a_direction_pulls_on_nothing() -> None:
    """Dropout may take all coordinates of a narrow vector; dividing by its length twice gave gradients of 1e24."""
    x, z, labels = vectors(6, 4), vectors(6, 4, 1), torch.tensor([0, 1] * 3)
    z[0], z[1, :2] = 0, 0
    z.requires_grad_()
    for total in (
        NeighbourLoss((2, 4))(z, x, torch.arange(6), 6).total,
        LabelLoss(2, (2, 4), keep_weight=0.1)(z, labels, x).total,
        PairLoss((2, 4))(z, z.flip(0), torch.eye(6)).total,
    ):
        (gradient,) = torch.autograd.grad(total, z)
        assert float(gradient[0].abs().max()) == 0
        assert 0 < float(gradient.norm()) < 1e4


def test_the_gradients_are_right() -> None:
    x, z = vectors(5, 6).double(), vectors(5, 4, 1).double().requires_grad_()
    loss = LabelLoss(3, (2, 4), keep_weight=0.3, wasserstein_weight=0.0).double()
    labels = torch.tensor([0, 1, 2, 0, 1])
    assert torch.autograd.gradcheck(lambda z: loss(z, labels, x).total, z)
    pairs = PairLoss((2, 4))
    relevance = torch.eye(5, dtype=torch.float64)
    relevance[0, 1] = relevance[3, 2] = torch.nan
    assert torch.autograd.gradcheck(lambda z: pairs(z, z.flip(0), relevance).total, z)


def test_documents_that_are_no_candidates_are_not_ranked() -> None:
    queries, documents = vectors(3, 4).double(), vectors(4, 4, 1).double()
    relevance = torch.tensor([[1.0, 0.0, 0.5, torch.nan]] * 3, dtype=torch.float64)
    loss = PairLoss((2, 4))
    without = loss(queries, documents[:3], relevance[:, :3]).total
    torch.testing.assert_close(loss(queries, documents, relevance).total, without)


def test_the_validation_part_is_not_trained_on() -> None:
    rows = torch.arange(40.0)[:, None].expand(40, 3)
    parts = divide(Vectors(rows, torch.arange(4).repeat(10)), "labels", 0.25, 0)
    assert parts.validation is not None
    held, train = parts.validation.rows[:, 0].tolist(), parts.train.rows[:, 0].tolist()
    assert sorted(held + train) == list(range(40))
    assert parts.validation.labels is not None
    assert torch.bincount(parts.validation.labels).tolist() == [2] * 4


@pytest.mark.parametrize(("rows", "labels"), [(3, None), (4, torch.tensor([0, 0, 1, 2])), (3, torch.arange(3))])
def test_one_vector_alone_is_not_kept_for_validation(rows: int, labels: torch.Tensor | None) -> None:
    with pytest.raises(UserError, match=rf"--validation: 0\.1 of the {rows} vectors of few leaves one for validation"):
        divide(Vectors(vectors(rows), labels, name="few"), "neighbours", 0.1, 0)


def test_classes_of_one_vector_are_kept_for_validation_by_neighbours_alone() -> None:
    alone = Vectors(vectors(20), torch.arange(20))
    with pytest.raises(UserError, match="no class has two vectors; of those, --learn neighbours"):
        divide(alone, "labels", 0.1, 0)
    parts = divide(alone, "neighbours", 0.1, 0)
    assert parts.validation is not None
    assert (len(parts.train), len(parts.validation)) == (18, 2)


def test_relevance_is_that_of_the_pairs(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("query,document,relevance\n0,3,2\n1,4,1\n0,4,0.5\n2,3,0\n2,4,-1\n")
    pairs = pairs_of_rows(file, Embeddings("x.npy", vectors(5)))
    source = PairSource(vectors(5), pairs, 2, device=torch.device("cpu"), seed=0)
    found = source.relevance(torch.tensor([0, 1, 2]), torch.tensor([3, 4]))
    assert found.tolist() == [[2, 0.5], [0, 1], [0, 0]]
    own = source.relevance(torch.tensor([3, 0]), torch.tensor([0, 3]))
    torch.testing.assert_close(own, torch.tensor([[0.0, torch.nan], [torch.nan, 2.0]]), equal_nan=True)
    assert source.queries.tolist() == [0, 1, 0]


def test_a_query_that_is_a_document_too_does_not_find_itself() -> None:
    """Pairs told both ways around: each nearest other document is the relevant one."""
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    pairs = Pairs(torch.arange(4), torch.tensor([1, 0, 3, 2]), torch.ones(4))
    one = Vectors(rows, None, pairs)
    found = Validation(one, one, "pairs", torch.device("cpu")).metrics(Adaptor(2, hidden=4), (2,))
    assert (found["recall@1"], found["recall@10"]) == (100, 100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query,doc\n0,1\n", "it has no column document"),
        ("query,document\n0,9\n", "none of the rows 0 to 4 of x.npy, the first is '9' in line 2"),
        ("query,document\nx,0\n", "1 queries that are none of the rows 0 to 4 of x.npy, the first is 'x' in line 2"),
        ("query,document,relevance\n0,1,0\n1,2,-1\n", "has no pair of positive relevance"),
    ],
)
def test_bad_pairs_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        pairs_of_rows(file, Embeddings("x.npy", vectors(5)))


def test_classes_named_by_texts_have_one_number_in_both_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 2)))
    np.save(tmp_path / "z.npy", np.ones((2, 2)))
    (tmp_path / "x.txt").write_text("b\nd\nb\n")
    (tmp_path / "z.txt").write_text("d\nc\n")
    x = read_vectors(tmp_path / "x.npy", tmp_path / "x.txt", also=tmp_path / "z.txt")
    z = read_vectors(tmp_path / "z.npy", tmp_path / "z.txt", also=tmp_path / "x.txt")
    assert x.labels is not None
    assert z.labels is not None
    assert (x.labels.tolist(), z.labels.tolist()) == ([0, 2, 0], [2, 1])


def test_of_many_vectors_a_random_sample_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MEASURED", 100)
    rows = torch.arange(1000.0)[:, None]
    found, labels = report._sample(Vectors(rows, torch.arange(1000)), torch.device("cpu"))
    assert labels is not None
    assert found[:, 0].tolist() == labels.tolist() == sorted(set(labels.tolist()))
    # A uniform sample's mean lies within four deviations, 4 * 1000 / sqrt(12 * 100), of 499.5.
    assert abs(float(found.mean()) - 499.5) < 116
    assert torch.equal(found, report._sample(Vectors(rows), torch.device("cpu"))[0])
    assert torch.equal(report._sample(Vectors(rows[:100]), torch.device("cpu"))[0], rows[:100])


def test_labels_of_another_length_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((4, 3), np.float16))
    np.save(tmp_path / "y.npy", np.arange(5))
    with pytest.raises(UserError, match=r"y.npy has 5 labels for the 4 vectors of .*x.npy"):
        read_vectors(tmp_path / "x.npy", tmp_path / "y.npy")


@pytest.mark.slow
@pytest.mark.parametrize("learn", ["labels", "neighbours", "pairs"])
def test_the_command_makes_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], learn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", vectors(80, 16).numpy())
    np.save("y.npy", np.arange(80) % 4)
    np.save("t.npy", vectors(30, 16, 1).numpy())
    Path("pairs.csv").write_text("query,document\n" + "".join(f"{i},{i + 40}\n" for i in range(40)))
    given = {"labels": ["--labels", "y.npy"], "pairs": ["--pairs", "pairs.csv"], "neighbours": []}[learn]
    argv = ["mrl", "adapt", "x.npy", *given, "--test", "t.npy", "--epochs", "2", "--batch-size", "16"]
    argv += ["--hidden", "8", "--device", "cpu", "--no-tensorboard", "--json", "--run-dir", "run"]
    assert run(argv) == 0
    result = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in result["compression"]} == {
        "raw", "random rotation", "principal components", "adapted",
    }  # fmt: skip
    assert Path("run/compression.csv").is_file()
    assert all(Path(path).is_file() for path in result["figures"])
    assert run(["mrl", "adapt", "--resume", "run", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["compression"] == result["compression"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("--near 3", "--near counts with --learn neighbours only; here is --learn labels: leave it out"),
        ("--learn neighbours --alpha 2", "--alpha counts with --learn labels only; here is --learn neighbours"),
        (
            "x.npy --pairs p.csv --blur 0.1",
            "--blur counts with --learn labels, neighbours only; here is --pairs (--learn pairs): leave",
        ),
    ],
)
def test_settings_that_would_not_count_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, asked: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["mrl", "adapt", *asked.split(), "--run-dir", "run"]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not Path("run").exists()


@pytest.mark.slow
def test_the_estimator_follows_the_conventions() -> None:
    from sklearn.utils.estimator_checks import check_estimator

    import wasskit

    for batch_size in (16, 32):
        check_estimator(wasskit.MatryoshkaAdaptor(epochs=1, hidden=8, batch_size=batch_size))


def test_the_estimator_repeats_itself_and_names_its_features() -> None:
    import wasskit

    x, y = vectors(60).numpy(), np.arange(60) % 3
    before = torch.get_rng_state()
    one, two = (wasskit.MatryoshkaAdaptor((4, 8), epochs=2, hidden=8).fit(x, y) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(one.transform(x), two.transform(x))
    assert one.transform(x).shape == (60, 8)
    assert one.get_feature_names_out()[:2].tolist() == ["matryoshkaadaptor0", "matryoshkaadaptor1"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"learn": "labels"}, "learn='labels' needs y"),
        ({"learn": "classes"}, "learn: 'classes' is not one of auto, labels, neighbours"),
        ({"network": "deep"}, "network: 'deep' is not one of residual, rotation"),
        ({"blend": 2.0}, "blend: 2.0 is out of range"),
        ({"hidden": 0}, "hidden: 0 is out of range"),
        ({"epochs": 0}, "epochs: 0 is out of range"),
        ({"dims": (8, 4)}, "dimensions must increase"),
    ],
)
def test_options_of_the_estimator_out_of_bounds_are_refused(options: dict[str, Any], sentence: str) -> None:
    import wasskit

    with pytest.raises(ValueError, match=re.escape(sentence)):
        wasskit.MatryoshkaAdaptor(**options).fit(vectors(20).numpy())


def test_the_estimator_takes_options_of_numpy() -> None:
    import wasskit

    x = vectors(20).numpy()
    plain = wasskit.MatryoshkaAdaptor((4, 8), epochs=1, hidden=8, random_state=2).fit(x)
    dims, state = np.array([4, 8]), np.int64(2)
    other = wasskit.MatryoshkaAdaptor(dims, epochs=np.int64(1), hidden=np.int64(8), random_state=state)  # type: ignore[arg-type]
    assert np.array_equal(other.fit(x).transform(x), plain.transform(x))
    wasskit.MatryoshkaAdaptor((4, 8), epochs=1, hidden=8, random_state=None).fit(x)


def test_the_estimator_is_saved_and_loaded(tmp_path: Path) -> None:
    import wasskit

    x, y = vectors(60).numpy(), np.arange(60) % 3
    fitted = wasskit.MatryoshkaAdaptor((4, 8), epochs=2, hidden=8, blocks=2).fit(x, y)
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        fitted.save(tmp_path / "a.pt")
    fitted.save(tmp_path / "a.safetensors")
    loaded = wasskit.MatryoshkaAdaptor.load(tmp_path / "a.safetensors")
    assert np.array_equal(loaded.transform(x), fitted.transform(x))
    assert (loaded.n_features_in_, loaded.dims_, loaded.blocks, loaded.learn) == (x.shape[1], (4, 8), 2, "labels")
    assert loaded.get_feature_names_out().tolist() == fitted.get_feature_names_out().tolist()
    found = wasskit.load(tmp_path / "a.safetensors").embed(torch.from_numpy(x))
    assert np.abs(found.numpy() - fitted.transform(x)).max() < 12 * 2**-23, "another order of sums of 12 terms"
    loaded.fit(x, y)  # trains anew
    with pytest.raises(UserError, match="there is no file of weights"):
        wasskit.MatryoshkaAdaptor.load(tmp_path / "b.safetensors")


@pytest.mark.slow
def test_a_grid_of_adaptors_is_compared_with_its_first_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def in_process(grid: Grid, finished: list[str]) -> None:
        """That each is a process of its own is tested of `mrl sweep`."""
        for name in grid.trainings:
            if name not in finished:
                trained.append(name)
                assert run(grid.command_of(name)[3:]) == 0
        console.configure(json=True)
        capsys.readouterr()

    monkeypatch.setattr(Grid, "_train", in_process)
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", vectors(80, 16).numpy())
    np.save("y.npy", np.arange(80) % 4)
    np.save("t.npy", vectors(30, 16, 1).numpy())
    np.save("u.npy", np.arange(30) % 4)
    argv = ["mrl", "adapt-sweep", "method=matryoshka,independent", "seed=0,1", "--wasserstein-weight", "1"]
    files = ["--train", "x.npy", "--labels", "y.npy", "--test", "t.npy", "--test-labels", "u.npy"]
    small = ["--epochs", "1", "--blocks", "0", "--batch-size", "16", "--device", "cpu", "--no-tensorboard"]
    small += ["--codes", "float32", "--interpolate", "--dims", "4,16", "--json", "--run-dir", "grid"]
    assert run([*argv, *files, *small]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["trainings"] == trained
    assert len(trained) == 2 * (1 + 2)
    rows = {row["name"]: row["mean"] for row in result["rows"]}
    assert list(rows) == ["matryoshka", "independent", "raw", "random rotation", "principal components"]
    assert {"nn1@4", "nn1@8", "nn1@16", "nn1", "top1@4", "top1@16", "overlap10@8", "precision1@16"} <= set(
        rows["matryoshka"]
    )
    assert "nn1@8" not in rows["independent"], "there is no network of the dimension between"
    assert rows["matryoshka"]["nn1"] == pytest.approx((rows["matryoshka"]["nn1@4"] + rows["matryoshka"]["nn1@16"]) / 2)
    assert {one["row"] for one in result["differences"]} == set(rows) - {"matryoshka"}
    assert {Path(path).stem for path in result["figures"]} == {
        "dimensions", "dimensions_nn1", "dimensions_precision1", "dimensions_overlap10",
    }  # fmt: skip
    assert run([*argv, *files, *small]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == result["rows"]
    assert len(trained) == 6, "the same command finds them finished"
    assert "reference" in Path("grid/differences.csv").read_text().splitlines()[0]
    assert run([*argv[:2], "method=mwrl", *files, *small[:-1], "other", "--wasserstein-weight", "0"]) == 2
    assert "mwrl has a Wasserstein term" in capsys.readouterr().err
    assert run(["mrl", "adapt-sweep", "method=mwrl", "--learn", "neighbours"]) == 2
    assert "learns from labels" in capsys.readouterr().err


def test_what_networks_of_one_dimension_measure_beside_themselves_comes_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def opened(path: Path, plugin: str) -> Any:
        dim, methods = int(path.name), enumerate(("raw", "adapted"))
        codes = [(method, code, dim + shift) for shift, method in methods for code in ("float32", "int8")]
        beside = [{"method": method, "code": code, "dim": dim, "nn1": value} for method, code, value in codes]
        return SimpleNamespace(summary={"final": {}, "compression": beside})

    monkeypatch.setattr(RunDirectory, "open", staticmethod(opened))
    point: Any = Point({"method": "independent"}, {"4": None, "16": None}, (4, 16))
    raw, own = {"nn1@4": 4, "nn1@16": 16, "nn1": 10}, {"nn1@4": 5, "nn1@16": 17, "nn1": 11}
    assert {row.name: row.mean for row in results.collect(Path(), [point])} == {
        "independent": own, "independent, int8": own, "raw": raw, "raw, int8": raw,
    }  # fmt: skip
