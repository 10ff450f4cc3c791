"""Two clouds of rows: read, divided, in the coordinates that maps are fitted in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from wasskit.data.embeddings import open_embeddings
from wasskit.data.photographs import read_pixels, sample_photographs
from wasskit.data.samplers import RandomSampler, some_rows
from wasskit.data.seeds import derive_seed
from wasskit.data.splits import stratified_split
from wasskit.data.toy import check_dimensions
from wasskit.errors import UserError
from wasskit.ot.gaussian import Moments, shrunk_covariance, streamed_moments, symmetric_power
from wasskit.plugins.w2gn.clouds.options import Coordinates
from wasskit.plugins.w2gn.core.frame import framed
from wasskit.plugins.w2gn.core.stages import Points
from wasskit.plugins.w2gn.core.task import Draw
from wasskit.system.transfer import to_device

FEWEST = 20
"""Rows that a cloud must have: four of them are held out, two and two."""
MOST_HELD = 8192
MOST_FOR_MOMENTS = 262_144
_CHUNK = 16_384
_FLOOR = 1e-4


class Pair(NamedTuple):
    """The rows of two clouds (N, D) and (M, D) as they are stored, their names, and the true map where it is known."""

    source: Tensor
    target: Tensor
    names: tuple[str, str] = ("source", "target")
    truth: Callable[[Tensor], Tensor] | None = None


def read_pair(source: Path | None, target: Path | None) -> Pair:
    """The clouds of two files, or `camera`.

    Raises:
        UserError: a file cannot be read, has too few rows, or they differ in width or are too wide.
    """
    if source is None or target is None:
        return camera()
    opened = [open_embeddings(path, least=FEWEST) for path in (source, target)]
    check_widths(opened[0].shape[1], opened[1].shape[1], (source, target))
    return Pair(opened[0].whole(), opened[1].whole(), (source.stem, target.stem))


def check_widths(first: int, second: int, names: tuple[Path | str, Path | str]) -> None:
    """Raise `UserError` for clouds between which there is no map, or of more dimensions than can be fitted."""
    if first != second:
        raise UserError(
            f"{names[1]} has rows of {second:,} numbers, {names[0]} of {first:,}: a map needs two clouds of the same "
            "dimension."
        )
    check_dimensions(first, names[0])


def camera() -> Pair:
    """Patches of 4 x 4 pixels (N, 16), from 0 to 1, half of those of scikit-learn's two photographs, and the other half
    as another camera would give them, softer and of another tone.

    The camera smooths a patch by a symmetric matrix ``B``, squares each pixel, and smooths again: ``B (B x)^2`` is the
    gradient of the convex function ``sum (B x)^3 / 3`` of patches ``B x`` without negative pixels, hence by Brenier's
    theorem the optimal map between patches as they are and as the camera gives them. Unlike that of a user's clouds,
    the error of the map can be told.
    """
    side = 4
    parts = []
    for path in sample_photographs():
        grey = torch.from_numpy(read_pixels(path)).float().mean(2) / 255
        parts.append(grey.unfold(0, side, side).unfold(1, side, side).reshape(-1, side * side))
    patches = torch.cat(parts)
    order = torch.randperm(len(patches), generator=torch.Generator().manual_seed(derive_seed(0, "camera")))
    first, second = patches[order].tensor_split(2)
    ends = torch.tensor([0.25, *[0.0] * (side - 2), 0.25])
    neighbours = torch.ones(side - 1).diag(1) + torch.ones(side - 1).diag(-1)
    along = 0.5 * torch.eye(side) + torch.diag(ends) + 0.25 * neighbours
    smooth = torch.kron(along, along)

    def truth(rows: Tensor) -> Tensor:
        matrix = smooth.to(rows)
        return (rows @ matrix).square() @ matrix

    return Pair(first, truth(second), ("patches", "camera"), truth)


@dataclass
class Cloud:
    """The rows of one cloud in the coordinates of the fit, ``B (x - centre)``, made as they are used.

    Args:
        stored: (N, D), of any floating type, perhaps mapped from a file.
        train, choose, measure: rows, ascending: those to train on, those by which maps are chosen, those that measure.
        centre: (D,) float32.
        matrix: ``B`` (D, D); None: the identity.
        device: of the rows that are made.
    """

    stored: Tensor
    train: Tensor
    choose: Tensor
    measure: Tensor
    centre: Tensor
    matrix: Tensor | None
    device: torch.device

    @property
    def dim(self) -> int:
        return int(self.stored.shape[1])

    def rows(self, indices: Tensor) -> Tensor:
        """Some rows, (n, D) float32 on the device."""
        return to_device(framed(self.stored[indices], self.centre, self.matrix).float(), self.device)

    def batches(self, indices: Tensor) -> Iterator[Tensor]:
        """The same, some at a time."""
        return (self.rows(part) for part in indices.split(_CHUNK))

    @cached_property
    def moments(self) -> Moments:
        """Of the training rows, or of 262,144 of them."""
        some = some_rows(len(self.train), MOST_FOR_MOMENTS, derive_seed(0, "moments"))
        return streamed_moments(self.batches(self.train[some]))

    def draw(self, seed: int, side: str) -> Draw:
        """Batches of training rows by number: the rows in one random order after another."""
        sampler = RandomSampler(len(self.train), derive_seed(seed, side))
        orders: dict[int, Tensor] = {}

        def order(epoch: int) -> Tensor:
            if epoch not in orders:
                orders.pop(min(orders, default=epoch) if len(orders) > 3 else epoch, None)
                orders[epoch] = sampler.order(epoch)
            return orders[epoch]

        def draw(number: int, count: int, rows: range | None = None) -> Tensor:
            own = range(count) if rows is None else rows
            places = torch.arange(number * count + own.start, number * count + own.stop)
            epochs = places // len(self.train)
            chosen = [
                order(int(epoch))[places[epochs == epoch] % len(self.train)] for epoch in epochs.unique(sorted=True)
            ]
            return self.rows(self.train[torch.cat(chosen)])

        return draw


@dataclass
class Clouds:
    """Both clouds in the coordinates of the fit, whose centres are apart by ``offset`` (D,) there."""

    source: Cloud
    target: Cloud
    names: tuple[str, str]
    truth: Callable[[Tensor], Tensor] | None = None

    @property
    def dim(self) -> int:
        return self.source.dim

    @property
    def rows(self) -> int:
        """Training rows of the larger cloud."""
        return max(len(self.source.train), len(self.target.train))

    @cached_property
    def offset(self) -> Tensor:
        """``B (b - a)``, float64."""
        return framed(self.target.centre[None], self.source.centre, self.source.matrix)[0].to(self.source.device)

    def chosen_by(self) -> Points:
        """The rows by which maps are chosen."""
        return Points(self.source.rows(self.source.choose), self.target.rows(self.target.choose))

    def measured_by(self) -> Points:
        """The rows by which maps are measured."""
        return Points(self.source.rows(self.source.measure), self.target.rows(self.target.measure))


def divided(
    pair: Pair, coordinates: Coordinates, held_out: float, seed: int, device: torch.device | str = "cpu"
) -> Clouds:
    """Divide both clouds and choose the coordinates of the fit from the training rows.

    Each cloud is moved to its own mean: the optimal map moves along, and distances lose nothing to a mean far from
    zero. ``standardised`` divides columns by their deviation within the clouds, ``whitened`` does so for all
    directions, with deviations of no less than a hundredth of the mean one.
    """
    device = torch.device(device)
    clouds = []
    for side, stored in (("source", pair.source), ("target", pair.target)):
        train, held = stratified_split(
            None, min(held_out, MOST_HELD / len(stored)), derive_seed(seed, side), size=len(stored)
        )
        if len(held) < 4:
            train, held = _moved(train, held, 4, seed, side)
        choose, measure = stratified_split(None, 0.5, derive_seed(seed, side, "halves"), size=len(held))
        total = torch.zeros(stored.shape[1], dtype=torch.float64)
        for part in train.split(_CHUNK):
            total += stored[part].double().sum(0)
        centre = (total / len(train)).float()
        clouds.append(Cloud(stored, train, held[choose], held[measure], centre, None, device))
    source, target = clouds
    if coordinates != "plain":
        matrix = _scales(source.moments, target.moments, coordinates).float()
        for cloud in clouds:
            del cloud.moments
            cloud.matrix = matrix
    return Clouds(source, target, pair.names, pair.truth)


def _moved(train: Tensor, held: Tensor, count: int, seed: int, side: str) -> tuple[Tensor, Tensor]:
    """Rows moved from one part to the other, so that this has ``count``."""
    generator = torch.Generator().manual_seed(derive_seed(seed, side, "few"))
    order = torch.randperm(len(train), generator=generator)
    short = count - len(held)
    return train[order[short:]].sort().values, torch.cat([held, train[order[:short]]]).sort().values


def _scales(first: Moments, second: Moments, coordinates: Coordinates) -> Tensor:
    """The matrix ``B`` (D, D) float64, on the CPU."""
    pooled = ((shrunk_covariance(first) + shrunk_covariance(second)) / 2).cpu()
    if coordinates == "standardised":
        variances = ((first.covariance + second.covariance) / 2).diagonal().cpu()
        return variances.where(variances > 0, torch.ones_like(variances)).rsqrt().diag()
    floor = _FLOOR * float(pooled.diagonal().mean())
    values, vectors = torch.linalg.eigh(pooled)
    return symmetric_power((vectors * values.clamp_min(floor or 1.0)) @ vectors.mT, -0.5)
