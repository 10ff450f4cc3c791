"""The continuous Wasserstein-2 benchmark, and pairs of its form.

The benchmark (Korotin et al., 2021, "Do neural optimal transport solvers work?") takes a mixture of three
Gaussians as source and, as target, its image under the gradient of the mean of two input-convex networks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wasskit.data.seeds import derive_seed
from wasskit.data.toy import MOST_DIMENSIONS, Measure, gaussian_mixture
from wasskit.errors import UserError
from wasskit.models.icnn import DenseICNN
from wasskit.models.weights import read_state
from wasskit.plugins.w2gn.experiments.pairs import KnownPair
from wasskit.system.arrays import read_archive
from wasskit.system.transfer import Constant

# Korotin et al. (2021b), table 2: L2-UVP in percent of the forward map on the benchmark, by dimension.
PUBLISHED = {
    "linear map, published": {2: 14.1, 4: 14.9, 8: 27.3, 16: 41.6, 32: 55.3, 64: 63.9, 128: 63.6},
    "W2GN, published (250,000 steps)": {2: 0.1, 4: 0.7, 8: 2.6, 16: 3.3, 32: 6.0, 64: 7.2, 128: 2.0},
}


def find_pair(place: Path, dim: int, test_size: int = 4096, *, needed: bool = True) -> KnownPair | None:
    """The pair in a ``.npz`` file, or that of dimension ``dim`` in a folder of such files or of published checkpoints.

    None where the folder has neither and none is ``needed``.

    Raises:
        UserError: see `benchmark_file` and `benchmark_checkpoints`.
    """
    if place.is_file() or place.suffix == ".npz":
        return benchmark_file(place)
    if (file := place / f"mix3tomix10_{dim}.npz").is_file():
        return benchmark_file(file)
    if needed or (place / f"{dim}_v1.pt").is_file():
        return benchmark_checkpoints(place, dim, test_size)
    return None


def benchmark_file(path: Path) -> KnownPair:
    """A pair in one ``.npz`` file: mixture, networks, standardisation, test points.

    Raises:
        UserError: the file is missing, or lacks a part.
    """
    if not path.exists():
        raise UserError(f"There is no benchmark pair at {path}; name one that is there.")
    # Unsigned kinds that torch lacks never come in such a file; as numbers they are as good.
    arrays = {
        key: torch.from_numpy(array if array.dtype.kind == "f" else array.astype(np.float64))
        for key, array in read_archive(path).items()
    }
    check_pair(arrays, path)
    networks = [potential_of(arrays, f"v{i}.", path, arrays["x_test"].shape[1]) for i in (1, 2)]
    mean, scale = arrays["mean"].float(), float(arrays["scale"])
    x, y = arrays["x_test"].float(), arrays["y_test"].float()
    source = gaussian_mixture(arrays["centers"].float(), float(arrays["std"]) * arrays["maps"].float())
    forward = mean_map(networks, mean, scale)
    return KnownPair(
        name=path.stem,
        dim=x.shape[1],
        source=source,
        target=source.mapped(forward),
        forward=forward,
        x=x,
        y=y,
        source_variance=float(x.double().var(0, correction=0).sum()),
        target_variance=float(arrays["output_variance"]),
    )


def check_pair(arrays: Mapping[str, Tensor], path: Path) -> None:
    """Refuse anything but a benchmark pair in D dimensions; its networks are checked when built."""
    rows, dim = arrays["x_test"].shape if "x_test" in arrays and arrays["x_test"].ndim == 2 else (0, 0)
    mixture = len(arrays["centers"]) if "centers" in arrays and arrays["centers"].ndim else 0
    needed: dict[str, tuple[int, ...]] = {
        "centers": (mixture, dim), "maps": (mixture, dim, dim), "std": (), "mean": (dim,), "scale": (),
        "x_test": (rows, dim), "y_test": (rows, dim), "output_variance": (),
    }  # fmt: skip
    missing = [key for key in needed if key not in arrays]
    if missing:
        raise UserError(f"{path} is not a benchmark pair: it lacks {', '.join(missing)}.")
    for key, shape in needed.items():
        fits = arrays[key].shape == shape if shape else arrays[key].numel() == 1
        if not fits or 0 in shape:
            raise UserError(
                f"{path} is not a benchmark pair: {key} has the shape {tuple(arrays[key].shape)} beside x_test of "
                f"{tuple(arrays['x_test'].shape)}."
            )
        if not torch.isfinite(arrays[key]).all():
            raise UserError(f"{path} is not a benchmark pair: {key} has values that are not finite.")
    if dim >= MOST_DIMENSIONS or arrays["output_variance"].item() <= 0:
        raise UserError(
            f"{path} is not a benchmark pair: its points have {dim} dimensions and no variance to measure by."
        )


def benchmark_checkpoints(folder: Path, dim: int, test_size: int = 4096) -> KnownPair:
    """A pair from the published checkpoints ``{dim}_v1.pt`` and ``{dim}_v2.pt`` in a folder.

    The mixture follows from the published seed; the standardisation of the output (mean 0, total variance
    D), which the published code estimates anew on every start, is estimated from 131,072 points.
    """
    networks = []
    for i in (1, 2):
        path = folder / f"{dim}_v{i}.pt"
        if not path.is_file():
            known = sorted(int(m[1]) for p in folder.glob("*_v1.pt") if (m := re.match(r"(\d+)_v1", p.name)))
            raise UserError(f"There is no {path.name} in {folder}; --dim can be one of {known or 'none'}.")
        state = read_state(path)
        networks.append(potential_of({f"v{i}.{k}": v for k, v in state.items()}, f"v{i}.", path, dim))
    source = published_mixture(dim)
    return standardised_pair(f"benchmark {dim}", source, networks, dim, test_size)


def made_pair(dim: int, seed: int, test_size: int = 4096) -> KnownPair:
    """A pair of the benchmark's form with networks of random weights, for machines without its files."""
    networks = []
    for i in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "benchmark network", i, dim))
            network = DenseICNN(dim, (8, 8), strong_convexity=1e-2)
            # Few sharp bends make a map about as far from a linear one as the published pairs are.
            for layer in network.quadratics:
                layer.quadratic_decomposed.data.mul_(0.1)
                layer.weight.data.mul_(20.0)
                layer.bias.data.normal_(std=10.0)
        networks.append(network.requires_grad_(False))
    source = published_mixture(dim)
    pair = standardised_pair(f"made {dim}", source, networks, dim, test_size)
    pair.note = "a pair made from random networks, not the published one"
    return pair


def published_mixture(dim: int) -> Measure:
    """Three Gaussians at random corners of a grid, in random shapes, of mean square D, from the published seed 0."""
    random = np.random.RandomState(0)
    centers = np.zeros((3, dim), dtype=np.float32)
    for d in range(dim):
        centers[:, d] += random.choice([0, 1, 2], 3, replace=False)
    centers -= 1.0
    maps = random.normal(size=(3, dim, dim)).astype(np.float32)
    maps /= np.sqrt((maps**2).sum(axis=2, keepdims=True))
    spread = np.sqrt((centers**2).sum(axis=1).mean() + dim * 0.4**2) / np.sqrt(dim)
    return gaussian_mixture(torch.from_numpy(centers / spread), 0.4 * torch.from_numpy(maps / spread))


def standardised_pair(name: str, source: Measure, networks: list[DenseICNN], dim: int, test_size: int) -> KnownPair:
    """The pair whose map is the sum of the networks' gradients, shifted to mean 0 and scaled to total variance D."""
    plain = mean_map(networks, torch.zeros(dim), 1.0)
    images = torch.cat([plain(source.draw(8192, 0, "standardise", i)) for i in range(16)]).double()
    mean = images.mean(0)
    scale = float((dim / images.var(0, correction=0).sum()).sqrt())
    forward = mean_map(networks, mean.float(), scale)
    x = source.draw(test_size, 0, "test")
    return KnownPair(
        name=name,
        dim=dim,
        source=source,
        target=source.mapped(forward),
        forward=forward,
        x=x,
        y=forward(x),
        source_variance=float(source.draw(65536, 0, "variance").double().var(0, correction=0).sum()),
        target_variance=float(dim),
    )


def mean_map(networks: list[DenseICNN], mean: Tensor, scale: float) -> Callable[[Tensor], Tensor]:
    """``x -> scale (sum of the networks' gradients - mean)``."""
    centre = Constant(mean)

    @torch.no_grad()
    def forward(x: Tensor) -> Tensor:
        pushed = [network.to(x.device).gradient(x) for network in networks]
        return scale * (pushed[0] + pushed[1] - centre.like(x))

    return forward


def potential_of(state: Mapping[str, Tensor], prefix: str, path: Path, dim: int) -> DenseICNN:
    """The network in points of ``dim`` dimensions among the tensors whose names begin with ``prefix``."""
    own = {key[len(prefix) :]: value.float() for key, value in state.items() if key.startswith(prefix)}
    try:
        network = DenseICNN.from_state_dict(own, strong_convexity=1e-2).requires_grad_(False)
    except ValueError as error:
        raise UserError(f"{path}: {error}; get the file again.") from error
    if network.in_dim != dim:
        raise UserError(f"{path} holds a network of {network.in_dim} dimensions, not {dim}; get the file again.")
    return network
