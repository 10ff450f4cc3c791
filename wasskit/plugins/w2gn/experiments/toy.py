"""The toy experiment: measures in the plane or two clouds of points, and how a map between them is judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wasskit.data.catalog import MEASURES
from wasskit.data.toy import Measure, Whitening, measure, modes, normal
from wasskit.errors import UserError
from wasskit.ot.energy import energy_distance, random_directions
from wasskit.plugins.w2gn.core.dual import gaussian_start
from wasskit.plugins.w2gn.core.evaluation import flat, map_scores
from wasskit.plugins.w2gn.core.transport import W2GN
from wasskit.plugins.w2gn.figures import History, arrays, draw_history
from wasskit.report import Report, Table


class Toy:
    """Two measures, the target whitened where asked for, and test points (N, D) ``x`` and ``y`` of them.

    ``floor`` is what the unbiased energy distance, whose mean is then zero, comes to between two samples of the target
    of the test points' number: its root mean square over eight pairs.

    Args:
        source, target: names of measures in the plane, or ``.npy`` files of points; a normal takes the dimension of
            the other.
        whiten: give the target mean 0 and covariance the identity; None: where it has a name.

    Raises:
        UserError: a name is unknown, a file unreadable, or the dimensions differ.
    """

    def __init__(
        self,
        source: str,
        target: str,
        *,
        whiten: bool | None = None,
        test_size: int = 4096,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.names = source, target
        self.source, self.target, self.whitening = measures(source, target, whiten, seed)
        self.x = self.source.draw(test_size, seed, "test source", device=device)
        self.y = self.target.draw(test_size, seed, "test target", device=device)
        seeded = torch.Generator(device).manual_seed(0)
        self.directions = random_directions(256, self.x.shape[1], like=self.x, generator=seeded)
        samples = [self.target.draw(test_size, seed, "floor", i, device=device) for i in range(16)]
        distances = [energy_distance(a, b, self.directions) for a, b in zip(samples[::2], samples[1::2], strict=True)]
        self.floor = float(torch.stack(distances).square().mean().sqrt())

    def scores(self, transport: W2GN) -> dict[str, dict[str, float]]:
        """Energy distances of both maps, the cycle error, the distance, and the modes that are reached."""
        scores, forward = map_scores(transport, self.x, self.y, self.directions)
        scores["energy_floor"] = self.floor
        mixture = modes(self.names[1])
        if mixture is not None:
            reached, near = modes_reached(self._plain(forward), *mixture)
            _, near_target = modes_reached(self._plain(self.y), *mixture)
            scores |= {"modes": float(reached), "modes_of": float(len(mixture[0]))}
            scores |= {"near_modes": near, "near_modes_target": near_target}
        return {"test": scores}

    def _plain(self, points: Tensor) -> Tensor:
        points = points.double()
        return (points if self.whitening is None else self.whitening.undo(points)).cpu()

    def report(
        self, transport: W2GN, final: Mapping[str, float] | None = None, history: History | None = None
    ) -> Report:
        """The table, the maps as a figure and as arrays that ``wasskit plot transport`` draws, and the learning curves.

        Args:
            final: the scores as ``split/metric``, where they are known.
            history: metrics over the steps of the training.
        """
        final = flat(self.scores(transport)) if final is None else final
        start = self._under_the_start(transport)
        rows: list[list[Any]] = [
            ["energy distance, forward", final["test/energy_forward"]],
            ["energy distance, inverse", final["test/energy_inverse"]],
            *([] if start is None else [["  forward, under the Gaussian map", start]]),
            ["  between two samples of the target (rms)", final["test/energy_floor"]],
            ["forward and back, % of the variance", f"{final['test/cycle_error']:.2f}"],
            ["half squared W2 distance", final["test/half_w2"]],
        ]
        if "test/modes" in final:
            rows.append([f"modes reached, of {final['test/modes_of']:.0f}", f"{final['test/modes']:.0f}"])
            rows.append(["points within 3 std of a mode, %", f"{final['test/near_modes']:.2f}"])
            rows.append(["  of the target", f"{final['test/near_modes_target']:.2f}"])
        figures = draw_history(
            "energy",
            history,
            {"energy_forward": "forward", "energy_inverse": "inverse"},
            ylabel="energy distance",
            levels={"two samples of the target (rms)": final["test/energy_floor"]},
        )
        files = {}
        if self.x.shape[1] == 2:
            clouds = self.clouds(transport)
            files["transport.npz"] = arrays(**clouds)
            figures = {"maps": lambda: draw_maps(clouds)} | figures
        table = Table(["on test points", "value"], rows, title=" to ".join(self.names), digits=5)
        return Report({"final": dict(final)}, tables=[table], files=files, figures=figures)

    def _under_the_start(self, transport: W2GN) -> float | None:
        """The energy distance to the target under the map of the fitted Gaussians, where the training began at it."""
        if transport.coordinates is None:
            return None
        with torch.no_grad():
            mapped = gaussian_start(transport).forward_map(self.x)
        return float(energy_distance(mapped, self.y, self.directions))

    def clouds(self, transport: W2GN) -> dict[str, Tensor]:
        """Test points in the plane and their images, and a regular grid with its image."""
        grid = plane_grid(self.x)
        return {
            "source": self.x,
            "target": self.y,
            "forward": transport.forward_map(self.x),
            "inverse": transport.inverse_map(self.y),
            "grid": grid,
            "grid_forward": transport.forward_map(grid.flatten(0, 1)).view_as(grid),
        }


def draw_maps(clouds: Mapping[str, Tensor]) -> Any:
    """Both maps in the plane, as ``wasskit plot transport`` shows them."""
    from wasskit.pictures.look import Look
    from wasskit.pictures.maps import Transport, draw_view, view_of

    return draw_view(view_of(Transport("w2gn", **{k: v.cpu().numpy() for k, v in clouds.items()})), Look())


def measures(source: str, target: str, whiten: bool | None, seed: int) -> tuple[Measure, Measure, Whitening | None]:
    """See `Toy`."""
    first, second = measure(source), measure(target)
    if source == "normal":
        first = normal(second.dim)
    elif target == "normal":
        second = normal(first.dim)
    if first.dim != second.dim:
        raise UserError(
            f"--source {source} has dimension {first.dim} and --target {target} dimension {second.dim}: "
            "a map needs two clouds of the same dimension."
        )
    if not (target in MEASURES if whiten is None else whiten):
        return first, second, None
    whitening = Whitening(second.draw(100_000, seed, "whitening"))
    return first, second.mapped(whitening), whitening


def modes_reached(points: Tensor, centers: Tensor, std: float) -> tuple[int, float]:
    """How many modes get at least half their share of points (N, 2) within three standard deviations, and the
    percentage of points that lie that near to any.
    """
    nearest = torch.cdist(points, centers.to(points), compute_mode="donot_use_mm_for_euclid_dist").min(1)
    near = nearest.values < 3.0 * std
    counts = torch.bincount(nearest.indices[near], minlength=len(centers))
    return int((counts >= 0.5 * len(points) / len(centers)).sum()), 100.0 * float(near.double().mean())


def plane_grid(points: Tensor, lines: int = 21) -> Tensor:
    """A regular grid (lines, lines, 2) over a cloud in the plane (N, 2)."""
    low, high = points.amin(dim=0), points.amax(dim=0)
    steps = torch.linspace(0, 1, lines, device=points.device)[:, None]
    sides = low + (high - low) * steps
    return torch.stack(torch.meshgrid(sides[:, 0], sides[:, 1], indexing="ij"), dim=-1)
