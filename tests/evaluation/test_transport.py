"""Metrics of transport maps: reference values, laws, the Frechet inception distance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wasskit.errors import UserError
from wasskit.evaluation.transport import (
    InceptionFeatures,
    build_inception,
    forward_inverse_error,
    frechet_distance,
    frechet_inception_distance,
    gaussian_distance,
    l2_uvp,
    transport_cosine,
)
from wasskit.ot.gaussian import gaussian_transport_map, streamed_moments

Reference = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize("case", [0, 1, 2])
def test_reference_uvp(reference: Reference, case: int) -> None:
    arrays = {key: torch.as_tensor(value) for key, value in reference("w2gn_gaussian").items()}
    points, mapping, given = arrays[f"points{case}"], arrays[f"map_XY{case}"], arrays[f"given_map{case}"]
    variance = arrays[f"sigma_Y{case}"].trace()
    expected = arrays[f"uvp{case}"]
    assert l2_uvp(points @ given.T, points @ mapping.T, variance) == pytest.approx(float(expected[0]), rel=1e-7)
    assert l2_uvp(points, points @ mapping.T, variance) == pytest.approx(float(expected[1]), rel=1e-7)
    error = given - mapping
    population = 100 * (error @ arrays[f"sigma_X{case}"] @ error.T).trace() / variance
    assert float(population) == pytest.approx(float(expected[2]), rel=1e-7)


@pytest.mark.parametrize("case", [0, 1, 2])
def test_reference_frechet(reference: Reference, case: int) -> None:
    arrays = reference("w2gn_frechet")
    names = (f"mu1_{case}", f"sigma1_{case}", f"mu2_{case}", f"sigma2_{case}")
    assert frechet_distance(*(arrays[name] for name in names)) == pytest.approx(float(arrays[f"fid_{case}"]), rel=1e-7)


def test_reference_frechet_of_singular_covariances(reference: Reference) -> None:
    arrays = reference("w2gn_frechet")
    value = frechet_distance(*(arrays[f"sing_{name}"] for name in ("mu1", "sigma1", "mu2", "sigma2")))
    assert value == pytest.approx(float(arrays["sing_exact"]), rel=1e-7)


def test_perfect_constant_and_opposite_maps() -> None:
    torch.manual_seed(0)
    x, target = torch.randn(500, 3), 2 * torch.randn(500, 3) + 1
    assert l2_uvp(target, target) == 0
    assert l2_uvp(target.mean(0).expand_as(target), target) == pytest.approx(100, rel=1e-5)
    assert transport_cosine(x, target, target) == pytest.approx(1)
    assert transport_cosine(x, 2 * x - target, target) == pytest.approx(-1)
    assert transport_cosine(x, x, target) == 0
    assert forward_inverse_error(x, x) == 0
    assert forward_inverse_error(x, x + 0.1) == pytest.approx(
        100 * 3 * 0.01 / float(x.var(0, correction=0).sum()), rel=1e-4
    )
    with pytest.raises(ValueError, match="shape"):
        l2_uvp(x, target[:10])
    for points in (x[0], x[:0]):
        with pytest.raises(ValueError, match=r"rows of a matrix \(N, D\), N at least 1"):
            l2_uvp(points, points)


def test_moments_that_do_not_match_are_refused() -> None:
    mean, covariance = torch.zeros(3), torch.eye(3)
    assert frechet_distance(mean, covariance, mean + 1, covariance.double()) == pytest.approx(3)
    for second in ((torch.zeros(2), torch.eye(2)), (mean, torch.ones(3)), (mean[None], covariance)):
        with pytest.raises(ValueError, match=r"two means \(D,\) and covariances \(D, D\)"):
            frechet_distance(mean, covariance, *second)


def test_gaussian_distance_vanishes_after_the_optimal_map() -> None:
    torch.manual_seed(1)
    x = torch.randn(4000, 3, dtype=torch.float64)
    y = torch.randn(3000, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64) + 1
    mapping = gaussian_transport_map(x.T.cov(), y.T.cov())
    moved = (x - x.mean(0)) @ mapping + y.mean(0)
    assert gaussian_distance(x, y) > 1
    assert gaussian_distance(moved, y) < 1e-8


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    state = build_inception(tensorflow=True).state_dict()
    state["fc.weight"], state["fc.bias"] = torch.zeros(1008, 2048), torch.zeros(1008)
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(state, path)
    return path


@pytest.mark.slow
def test_inception_distance(inception_file: Path) -> None:
    torch.manual_seed(3)
    features = InceptionFeatures(inception_file)
    assert features.implementation == "inception-v3-tensorflow"
    assert len(features.checksum) == 64
    images = torch.rand(4, 1, 16, 16)
    assert features(images).shape == (4, 2048)
    moments = streamed_moments(map(features, images.split(2)))
    assert frechet_inception_distance(moments, moments) == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_tensorflow_pools_ignore_the_padding() -> None:
    torch.manual_seed(4)
    block: Any = build_inception(tensorflow=True).Mixed_5b
    plain: Any = build_inception(tensorflow=False).Mixed_5b
    plain.load_state_dict(block.state_dict())
    x = torch.rand(1, 192, 7, 7)
    ours, theirs = block.eval()(x), plain.eval()(x)
    torch.testing.assert_close(ours[..., 1:-1, 1:-1], theirs[..., 1:-1, 1:-1])
    assert not torch.allclose(ours[:, -32:], theirs[:, -32:])


@pytest.mark.slow
def test_torchvision_weights_see_what_torchvision_shows_them(tmp_path: Path) -> None:
    from torchvision.models import inception_v3

    torch.manual_seed(5)
    original = inception_v3(weights=None, transform_input=True, init_weights=False).eval()
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    features = InceptionFeatures(tmp_path / "weights.pth")
    assert features.implementation == "inception-v3-torchvision"
    images = torch.rand(1, 3, 299, 299)
    original.fc = torch.nn.Identity()
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    with torch.no_grad():
        expected = original((images - mean) / std)
        torch.testing.assert_close(features(images), expected, rtol=1e-4, atol=1e-5)


def test_missing_and_foreign_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file of Inception weights at .*absent\.pth"):
        InceptionFeatures(tmp_path / "absent.pth")
    torch.save({"fc.bias": torch.zeros(10)}, tmp_path / "ten.pth")
    with pytest.raises(UserError, match="10 classes"):
        InceptionFeatures(tmp_path / "ten.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UserError, match="not a readable torch file of weights"):
        InceptionFeatures(tmp_path / "text.pth")
