"""Regularisers of self-supervised learning that came after the uniformity terms: VICReg's, SIGReg, VISReg's.

Each takes the projections (B, D) of one or several views, not normalised, over all ranks (gathered with gradients, so
that N ranks with a share of the batch train as one), and is the mean over the views. Add it, with a weight, to the loss
of any method, or to ``invariance_loss`` alone. Directions are drawn from a generator that all ranks seed alike.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wasskit.distributed.collectives import gather_with_grad
from wasskit.evaluation.gaussianity import sigreg_statistic
from wasskit.ot.directions import slicing_directions
from wasskit.plugins.ssl.losses import in_full_precision

_EPS = 1e-4


@in_full_precision
def invariance_loss(first: Tensor, second: Tensor) -> Tensor:
    """mean |z - z'|^2 / D over two views (B, D) of the same samples (Bardes et al. 2022, eq. 5, per coordinate)."""
    return F.mse_loss(first, second)


# --- VICReg -------------------------------------------------------------------------------------------------


def variance_term(z: Tensor) -> Tensor:
    """mean_j max(0, 1 - sqrt(Var z_j + 1e-4)), the variance with 1 / (B - 1) (Bardes et al. 2022, eqs. 1 and 2)."""
    variance = (z - z.mean(dim=0)).square().sum(dim=0) / (len(z) - 1)  # on the CPU a tenth of the time of `z.var`
    return F.relu(1 - (variance + _EPS).sqrt()).mean()


def covariance_term(z: Tensor) -> Tensor:
    """sum_{i != j} C_ij^2 / D, C the covariance with 1 / (B - 1) (Bardes et al. 2022, eqs. 3 and 4)."""
    centred = z - z.mean(dim=0)
    covariance = centred.mT @ centred / (len(z) - 1)
    others = covariance.square().sum() - covariance.diagonal().square().sum()
    return others / z.shape[1]


@in_full_precision
def vicreg_regulariser(*views: Tensor, covariance_weight: float = 2 / 25) -> Tensor:
    """Variance plus weighted covariance, mean over the views.

    As in the published code the loss of two views is 25 times the invariance, 25 times the mean of the variance
    terms and once the sum of the covariance terms; this is the latter two, over 25.
    """
    gathered = [gather_with_grad(z) for z in views]
    terms = [variance_term(z) + covariance_weight * covariance_term(z) for z in gathered]
    return torch.stack(terms).mean()


# --- SIGReg -------------------------------------------------------------------------------------------------


@in_full_precision
def sigreg_regulariser(
    *views: Tensor, directions: Tensor | None = None, count: int = 256, generator: torch.Generator | None = None
) -> Tensor:
    """SIGReg (Balestriero and LeCun 2025): mean over directions of the Epps-Pulley statistic against N(0, I).

    As in the published code it is N times the squared distance of characteristic functions, N the batch of all
    ranks: see ``wasskit.sigreg_statistic``. Ranks must draw the same directions: give a ``generator`` seeded alike.
    """
    gathered = [gather_with_grad(z) for z in views]
    if directions is None:
        directions = slicing_directions(
            count, gathered[0].shape[1], like=gathered[0].detach(), kind="random", generator=generator
        )
    return torch.stack([sigreg_statistic(z, directions=directions) for z in gathered]).mean()


# --- VISReg -------------------------------------------------------------------------------------------------


def visreg_center(z: Tensor) -> Tensor:
    """mean_j mu_j^2 of z (N, D) (Wu et al. 2026, eq. 6)."""
    return z.mean(dim=0).square().mean()


def visreg_scale(z: Tensor) -> Tensor:
    """mean_j (1 - sigma_j)^2, sigma with 1 / N (Wu et al. 2026, eq. 1).

    A constant coordinate has the gradient 0, as a subgradient: the root's own would be infinite.
    """
    centred = z - z.mean(dim=0)
    variance = centred.square().mean(dim=0)
    moving = variance > 0
    deviation = torch.where(moving, variance, 1.0).sqrt() * moving
    return (1 - deviation).square().mean()


def visreg_shape(z: Tensor, directions: Tensor) -> Tensor:
    """Sliced W2 of the standardised z (N, D) to N(0, I) at the quantiles i / (N + 1) (Wu et al. 2026, eqs. 2 and 5).

    mean over directions and i of (u_(i) - Phi^{-1}(i / (N + 1)))^2 for the sorted projections u of (z - mu) /
    (sigma + 1e-4); no gradient through sigma.
    """
    centred = z - z.mean(dim=0)
    deviation = centred.detach().square().mean(dim=0).sqrt()
    n = len(z)
    places = torch.arange(1, n + 1, dtype=torch.float64, device=z.device) / (n + 1)
    quantiles = torch.special.ndtri(places).to(z.dtype)
    projections = (centred / (deviation + _EPS)) @ directions.to(z).mT
    squared: Tensor = (projections.mT.sort(dim=1).values - quantiles).square()
    return squared.mean()


@in_full_precision
def visreg_regulariser(
    *views: Tensor, directions: Tensor | None = None, count: int = 256, generator: torch.Generator | None = None
) -> Tensor:
    """Centre, scale and shape with equal weights, mean over the views (Wu et al. 2026, "VISReg")."""
    gathered = [gather_with_grad(z) for z in views]
    if directions is None:
        directions = slicing_directions(
            count, gathered[0].shape[1], like=gathered[0].detach(), kind="random", generator=generator
        )
    terms = [visreg_center(z) + visreg_scale(z) + visreg_shape(z, directions) for z in gathered]
    return torch.stack(terms).mean()


# --- By name ------------------------------------------------------------------------------------------------


class Regulariser(nn.Module):
    """One of the three, as a term of a loss.

    Args:
        name: ``vicreg``, ``sigreg`` or ``visreg``.
        slices: directions per step of the latter two, new ones in each step and the same on all ranks: they follow
            from the seed and the step, so that a resumed run sees those that it would have seen.
        seed: of the directions.
    """

    def __init__(self, name: str, *, slices: int = 256, seed: int = 0) -> None:
        super().__init__()
        self.name = name
        self.slices = slices
        self.seed = seed

    def forward(self, *views: Tensor, step: int = 0) -> Tensor:
        """The term of projections (B, D) of one or several views, a scalar."""
        if self.name == "vicreg":
            return vicreg_regulariser(*views)
        generator = torch.Generator().manual_seed((self.seed << 32) + step)
        regulariser = {"sigreg": sigreg_regulariser, "visreg": visreg_regulariser}[self.name]
        return regulariser(*views, count=self.slices, generator=generator)

    def extra_repr(self) -> str:
        return f"{self.name}, slices={self.slices}"
