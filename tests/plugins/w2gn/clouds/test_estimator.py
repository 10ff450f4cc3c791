"""Maps between arrays, and what must hold for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone

from wasskit import TransportMap
from wasskit.errors import UserError
from wasskit.models.export import save_weights
from wasskit.ot import gaussian_maps
from wasskit.plugins.w2gn.clouds.data import Pair
from wasskit.plugins.w2gn.experiments.apply import SavedMap
from wasskit.plugins.w2gn.maps import load_map

Array = NDArray[Any]
QUICK: dict[str, Any] = {"steps": 6, "hidden": (8, 5), "batch_size": 64, "discrete_rows": 256}


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


STRETCH = np.array([[1.5, 0.4, 0.0], [0.4, 0.8, 0.2], [0.0, 0.2, 2.0]])


@pytest.mark.slow
def test_between_gaussians_the_start_is_the_answer() -> None:
    x, y = draw(4000, 3), draw(4000, 3, seed=1) @ STRETCH + 5
    maps = TransportMap(**QUICK).fit(x, y)
    assert maps.kept_ == "start"
    # The optimal map of N(0, 1) to N(5, S^2), S symmetric, is x -> S x + 5. The entries of a covariance of 3,200 rows
    # err by sqrt(2 / 3200), 2.5 %, of the variances: the map by about half of that, 0.02 % of the variance.
    error = 100 * ((maps.transform(x) - (x @ STRETCH + 5)) ** 2).sum(1).mean() / y.var(0).sum()
    assert error < 0.2
    # W2^2 is |5|^2 + tr (S - I)^2; means of 400 rows err by a twentieth.
    exact = float(np.sqrt(75 + np.trace((STRETCH - np.eye(3)) @ (STRETCH - np.eye(3)))))
    for name in ("w2_dual", "w2_displacement", "w2_gaussian", "w2_discrete"):
        assert maps.scores_[name] == pytest.approx(exact, rel=0.03), name
    assert abs(maps.scores_["w2_dual"] - exact) < 4 * maps.scores_["w2_dual_error"]


def test_a_fit_that_never_gained_says_so_and_not_what_the_start_gains_on_itself() -> None:
    """Thirty rows in 16 dimensions are learned by heart from the first steps on."""
    maps = TransportMap(steps=20, lr=0.1, hidden=(16, 8), discrete_rows=16)
    x, y = (torch.from_numpy(draw(30, 16, seed=seed)) for seed in (0, 1))
    fitted, _ = maps._fitted(Pair(x, y, ("X", "Y")))
    assert fitted.kept is not None
    assert not fitted.kept.trained
    assert "at no evaluation did training gain" in fitted.kept.note()


@pytest.mark.slow
def test_a_mixture_is_told_from_its_gaussian() -> None:
    x = draw(1500, 2)
    y = draw(1500, 2, seed=1) * 0.3 + np.where(draw(1500, 1, seed=2) > 0, 3.0, -3.0)
    maps = TransportMap(steps=60, lr=0.02, hidden=(32, 16), discrete_rows=256).fit(x, y)
    assert maps.kept_ == "trained"
    assert maps.scores_["energy_forward"] < 0.5 * maps.scores_["energy_mapped_gaussian"]
    # The forward map is undone by the solved inverse: to the tolerance of the solver, 1e-5 in coordinates of unit size.
    np.testing.assert_allclose(maps.inverse_transform(maps.transform(x)), x, atol=1e-3)


def test_maps_move_with_the_clouds() -> None:
    # Multiples of 2^-10 whose sums and means are exact in float64: the centred rows are equal to the bit.
    x, y = (np.round(draw(320, 2, seed=seed) * 1024) / 1024 for seed in (0, 1))
    y = y**2
    y = np.round(y * 1024) / 1024
    there = np.array([4096.0, -512.0])
    kept: dict[str, Any] = {**QUICK, "keep": "end", "held_out": 0.2}
    plain = TransportMap(**kept).fit(x, y)
    moved = TransportMap(**kept).fit(x + there, y - 2 * there)
    # 256 training rows: their mean is exact, but its float32 has 24 bits; the rest moves by what those cut off.
    np.testing.assert_allclose(moved.transform(x + there), plain.transform(x) - 2 * there, atol=2e-3)
    assert moved.scores_["energy_forward"] == pytest.approx(plain.scores_["energy_forward"], rel=1e-3, abs=1e-6)
    expected = plain.scores_["w2_gaussian"] ** 2 + 9 * (there**2).sum()
    cross = 6 * float(there @ (x.mean(0) - y.mean(0)))
    # The means are those of the training rows: 256 of 320, hence to a few hundredths of |there|.
    assert moved.scores_["w2_gaussian"] ** 2 == pytest.approx(expected + cross, rel=1e-3)


def test_maps_scale_with_the_clouds() -> None:
    x, y = draw(200, 2), np.exp(draw(200, 2, seed=1) / 2)
    kept: dict[str, Any] = {**QUICK, "keep": "end"}
    plain, large = TransportMap(**kept).fit(x, y), TransportMap(**kept).fit(4 * x, 4 * y)
    # Training starts in coordinates without a scale; its rounding, of float32, is magnified over a few steps.
    np.testing.assert_allclose(large.transform(4 * x), 4 * plain.transform(x), rtol=1e-3, atol=1e-3)


def test_columns_of_other_units_do_not_count_when_standardised() -> None:
    x, y = draw(400, 2), np.exp(draw(400, 2, seed=1) / 2)
    units = np.array([1.0, 1024.0])
    options: dict[str, Any] = {**QUICK, "coordinates": "standardised", "keep": "end"}
    plain, other = TransportMap(**options).fit(x, y), TransportMap(**options).fit(x * units, y * units)
    np.testing.assert_allclose(other.transform(x * units) / units, plain.transform(x), rtol=1e-3, atol=1e-3)
    assert other.scores_["w2_dual"] == pytest.approx(plain.scores_["w2_dual"], rel=1e-3)


def test_whitened_maps_of_gaussians_are_those_of_white_rows() -> None:
    x, y = draw(2000, 3) @ STRETCH, draw(2000, 3, seed=1) @ STRETCH * 2
    maps = TransportMap(coordinates="whitened", **QUICK).fit(x, y)
    # Both covariances are multiples of one matrix: in all coordinates the map doubles. The means of 1,600 rows err by
    # 0.125 % of the variance, the entries of the covariances, three times as many, by about as much each.
    assert 100 * ((maps.transform(x) - 2 * x) ** 2).sum(1).mean() / y.var(0).sum() < 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_keep_their_type_and_come_back(dtype: Any) -> None:
    x, y = draw(60, 4).astype(dtype), (draw(50, 4, seed=1) * 2).astype(dtype)
    maps = TransportMap(**QUICK, keep="end").fit(x, y)
    there = maps.transform(x)
    assert there.dtype == dtype
    assert there.shape == (60, 4)
    np.testing.assert_allclose(maps.inverse_transform(there), x, atol=1e-3)
    assert np.isfinite(list(maps.scores_.values())).all()


def test_a_cloud_far_from_zero_loses_nothing() -> None:
    x, y = draw(80, 2) + 1e7, draw(80, 2, seed=1) - 1e7
    maps = TransportMap(**QUICK).fit(x, y)
    # In float32 the rows themselves would be multiples of 1.
    assert maps.transform(x).std() == pytest.approx(y.std(), rel=0.3)
    np.testing.assert_allclose(maps.inverse_transform(maps.transform(x)), x, atol=1e-4)


def test_files_of_rows_far_from_zero_lose_nothing(tmp_path: Path) -> None:
    x, y = draw(80, 2) + 1e9, draw(80, 2, seed=1)
    maps = TransportMap(**QUICK).fit(x, y)
    np.save(tmp_path / "x.npy", x)
    SavedMap(maps.save(tmp_path / "map.safetensors")).apply(tmp_path / "x.npy", tmp_path / "mapped.npy")
    found = np.load(tmp_path / "mapped.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, maps.transform(x), rtol=1e-6, atol=1e-6)


def test_fifty_rows_of_many_columns() -> None:
    x, y = draw(50, 80), 1 + draw(50, 80, seed=1)
    maps = TransportMap(**QUICK).fit(x, y)
    assert maps.kept_ == "start"
    assert maps.scores_["energy_forward"] < maps.scores_["energy_before"]


def test_equal_seeds_give_equal_maps_and_leave_random_numbers_alone() -> None:
    x, y = draw(60, 2), draw(60, 2, seed=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = TransportMap(**QUICK, keep="end", random_state=3).fit(x, y)
    assert torch.equal(torch.get_rng_state(), before)
    again = clone(first).fit(x, y)
    assert (again.transform(x) == first.transform(x)).all()
    other = clone(first).set_params(random_state=4).fit(x, y)
    assert (other.transform(x) != first.transform(x)).any()


def test_maps_are_saved_and_loaded(tmp_path: Path) -> None:
    x, y = draw(60, 2), draw(60, 2, seed=1) * 3
    maps = TransportMap(**QUICK, keep="end", coordinates="whitened").fit(x, y)
    path = maps.save(tmp_path / "map.safetensors")
    loaded = TransportMap.load(path)
    assert (loaded.transform(x) == maps.transform(x)).all()
    assert (loaded.inverse_transform(y) == maps.inverse_transform(y)).all()
    known, _ = load_map(path)
    np.testing.assert_allclose(known.forward_map(torch.from_numpy(x)).numpy(), maps.transform(x))
    save_weights(tmp_path / "other.safetensors", torch.nn.Linear(2, 2), {"kind": "other"})
    with pytest.raises(UserError, match="is not a model saved by `wasskit w2gn`"):
        TransportMap.load(tmp_path / "other.safetensors")


def test_bad_arrays_get_one_sentence() -> None:
    x = draw(60, 2)
    holes = x.copy()
    holes[3, 1] = np.nan
    with pytest.raises(ValueError, match="Y has rows of 3 numbers, X of 2"):
        TransportMap(**QUICK).fit(x, draw(60, 3))
    with pytest.raises(ValueError, match="minimum of 20 is required"):
        TransportMap(**QUICK).fit(x[:19], x)
    with pytest.raises(ValueError, match="Input Y contains NaN"):
        TransportMap(**QUICK).fit(x, holes)
    with pytest.raises(ValueError, match="held_out"):
        TransportMap(**QUICK, held_out=0.9).fit(x, x)
    with pytest.raises(ValueError, match="not fitted"):
        TransportMap().transform(x)
    maps = TransportMap(**QUICK).fit(x, x)
    with pytest.raises(ValueError, match="X has 3 features, but TransportMap is expecting 2"):
        maps.transform(draw(5, 3))


def test_options_are_those_of_numpy_and_of_scikit_learn() -> None:
    x, y = draw(60, 2), draw(60, 2, seed=1) * 3
    plain = TransportMap(**QUICK, keep="end", lr=0.5, random_state=3).fit(x, y)
    given = {**QUICK, "steps": np.int64(6), "hidden": np.array([8, 5])}
    other = TransportMap(**given, keep="end", lr=np.float32(0.5), random_state=np.int64(3)).fit(x, y)
    assert (other.transform(x) == plain.transform(x)).all()
    drawn = [
        TransportMap(**QUICK, keep="end", random_state=np.random.RandomState(seed)).fit(x, y).transform(x)
        for seed in (0, 0, 1)
    ]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()
    TransportMap(**QUICK, random_state=None).fit(x, y)
    with pytest.raises(ValueError, match="inverse: 'exact' is not one of solved, network"):
        TransportMap(**QUICK, inverse="exact").fit(x, y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'later' cannot be used to seed"):
        TransportMap(**QUICK, random_state="later").fit(x, y)  # type: ignore[arg-type]


class Frame:
    """A table with names of columns."""

    def __init__(self, values: Array, *names: str) -> None:
        self.values, self.names = values, names

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.values, dtype=dtype)


def test_names_of_columns_are_those_of_the_latest_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    # What scikit-learn reads the names by, of tables whose libraries are not installed here.
    for module in ("sklearn.utils.validation", "sklearn.base"):  # before version 1.6 the latter
        monkeypatch.setattr(
            f"{module}._get_feature_names",
            lambda rows: np.asarray(rows.names, dtype=object) if isinstance(rows, Frame) else None,
            raising=False,
        )
    x, y = draw(60, 2), draw(60, 2, seed=1) * 3
    maps = TransportMap(**QUICK).fit(Frame(x, "a", "b"), Frame(y, "c", "d"))
    assert maps.get_feature_names_out().tolist() == ["a", "b"]
    assert (maps.transform(Frame(x, "a", "b")) == maps.maps_.forward_map(torch.from_numpy(x)).numpy()).all()
    with pytest.raises(ValueError, match="feature names should match"):
        maps.transform(Frame(x[:, ::-1], "b", "a"))
    maps.inverse_transform(Frame(y, "c", "d"))  # the columns of the target are its own
    maps.fit(np.hstack([x, x]), np.hstack([y, y]))
    assert maps.get_feature_names_out().tolist() == ["x0", "x1", "x2", "x3"]


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_rows_of_any_size_that_float32_holds_are_mapped_alike(scale: float) -> None:
    x, y = draw(60, 2), 1 + 2 * draw(60, 2, seed=1)
    plain, other = TransportMap(**QUICK).fit(x, y), TransportMap(**QUICK).fit(scale * x, scale * y)
    assert other.kept_ == plain.kept_ == "start"
    # Coordinates are those of float32: a few of their roundings.
    np.testing.assert_allclose(other.transform(scale * x) / scale, plain.transform(x), rtol=1e-5, atol=1e-5)
    assert other.scores_["w2_dual"] / scale == pytest.approx(plain.scores_["w2_dual"], rel=1e-5)


@pytest.mark.parametrize(("scale", "word"), [(1e-20, "small"), (1e20, "large"), (1e300, "large")])
def test_rows_beyond_float32_are_refused(scale: float, word: str) -> None:
    with pytest.raises(ValueError, match=f"numbers too {word} for float32"):
        TransportMap(**QUICK).fit(scale * draw(60, 2), scale * draw(60, 2, seed=1))


def test_the_start_is_the_affine_map_of_the_training_rows() -> None:
    x, y = draw(2000, 2), draw(2000, 2, seed=1) @ STRETCH[:2, :2] + 1
    maps = TransportMap(**QUICK).fit(x, y)
    assert maps.kept_ == "start"
    affine = gaussian_maps(torch.from_numpy(x), torch.from_numpy(y)).forward
    # Of 1,600 of the rows each, against all: their moments differ by half the error of either.
    np.testing.assert_allclose(maps.transform(x), affine(torch.from_numpy(x)).numpy(), atol=0.15)


def test_too_many_dimensions() -> None:
    wide = np.zeros((20, 21_202), dtype=np.float32)
    with pytest.raises(ValueError, match=r"X holds points of 21,202 dimensions; a cloud may have up to 21,201"):
        TransportMap(**QUICK).fit(wide, wide)
