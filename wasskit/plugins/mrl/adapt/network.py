"""The adaptor: a rotation to the principal axes, with a residual network on top or as an orthogonal map."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wasskit.data.seeds import derive_seed
from wasskit.evaluation.ties import blocks
from wasskit.ot.nesting import check_dims
from wasskit.plugins.mrl.loss import normalise

Shape = Literal["residual", "rotation"]


class Adaptor(nn.Module):
    r"""Vectors (N, D) to adapted vectors (N, m), m at most D, of which prefixes are taken.

    With :math:`u = x / \|x\| - \mu` (``centre`` :math:`\mu`, zero unless set) and the principal axes as the rows of
    R, both set by :meth:`start`:

    .. math::
        h_0 = (R_0 + \beta\Delta) u, \qquad
        h_{l+1} = h_l + \beta\,(B_l\,\phi(A_l \hat h_l + a_l) + b_l) / \sqrt{m}, \qquad
        \hat h = \sqrt{m}\, h / \|h\|,

    with GELU :math:`\phi` and :math:`\Delta = B_l = b_l = 0` before training, so that training starts from the
    principal components. With ``shape="rotation"``, which has no residual blocks, :math:`R_0 + \beta\Delta` is
    :math:`R_0 (I - \beta S)(I + \beta S)^{-1}` for a skew S (Cayley), so that it stays orthogonal and, where m = D,
    the whole vector keeps every cosine.

    :math:`\beta` is 1 in training and ``blend`` in evaluation: between the start, which serves all vectors alike, and
    what was learned of those trained on lie networks that have most of both (linear interpolation of weights, Wortsman
    et al., Robust fine-tuning of zero-shot models, 2022).

    Args:
        width: D.
        dim: m.
        hidden, blocks: width and number of the residual blocks.
        dropout: of the hidden units; ``input_dropout``: of the coordinates of u.
        blend: from 0, the start, to 1, what was learned.
    """

    centre: Tensor
    axes: Tensor

    def __init__(
        self,
        width: int,
        dim: int | None = None,
        *,
        shape: Shape = "residual",
        hidden: int = 512,
        blocks: int = 1,
        dropout: float = 0.3,
        input_dropout: float = 0.1,
        blend: float = 1.0,
    ) -> None:
        super().__init__()
        dim = width if dim is None else dim
        if not 1 <= dim <= width:
            raise ValueError(f"an adaptor of {width} numbers gives 1 to {width}, not {dim}")
        if shape not in ("residual", "rotation"):
            raise ValueError(f"shape must be 'residual' or 'rotation', not {shape!r}")
        self.shape: Shape = shape
        self.dim = dim
        self.blend = blend
        self.register_buffer("centre", torch.zeros(width))
        rows = dim if shape == "residual" else width
        self.register_buffer("axes", torch.eye(rows, width))
        self.change = nn.Parameter(torch.zeros(rows, width))
        if shape == "rotation":
            blocks = 0
        self.input_dropout = nn.Dropout(input_dropout if shape == "residual" else 0.0)
        self.blocks = nn.ModuleList(_block(dim, hidden, dropout) for _ in range(blocks))

    @torch.no_grad()
    def start(self, axes: Tensor, centre: Tensor | None = None) -> None:
        """Start from principal axes (D, D), the first m as rows, and a centre (D,) of the unit vectors."""
        self.axes.copy_(axes[: len(self.axes)])
        if centre is not None:
            self.centre.copy_(centre)

    @property
    def weight(self) -> float:
        """How much of what was learned counts."""
        return 1.0 if self.training else self.blend

    def rotation(self) -> Tensor:
        """The matrix of the first layer, (m, D)."""
        if self.shape == "residual":
            return self.axes + self.weight * self.change
        skew = self.weight * self.change.tril(-1)
        skew = skew - skew.mT
        one = torch.eye(len(skew), dtype=skew.dtype, device=skew.device)
        # (I - S) and (I + S)^-1 commute.
        rotated: Tensor = torch.linalg.solve(one + skew, (one - skew) @ self.axes)
        return rotated[: self.dim]

    def forward(self, x: Tensor) -> Tensor:
        unit = self.input_dropout(F.normalize(x, dim=1) - self.centre)
        h = F.linear(unit, self.rotation())
        root = math.sqrt(self.dim)
        for block in self.blocks:
            h = h + block(F.normalize(h, dim=1) * root) * (self.weight / root)
        return h

    def normalised(self, x: Tensor) -> Tensor:
        """Adapted vectors of unit length."""
        return normalise(self(x))

    def fixed(self) -> Adaptor:
        """A copy for evaluation alone, its matrix a constant: a solve has no place in an exported graph."""
        found = copy.deepcopy(self).eval()
        with torch.no_grad():
            found.axes = found.rotation().clone()
        found.change = nn.Parameter(torch.zeros_like(found.axes), requires_grad=False)
        found.shape = "residual"
        return found


def _block(dim: int, hidden: int, dropout: float) -> nn.Module:
    last = nn.Linear(hidden, dim)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), last)


@dataclass(frozen=True)
class AdaptorModel:
    """A network with its description: ``width``, ``dims``, ``shape``, ``hidden``, ``blocks``, ``blend``."""

    network: Adaptor
    description: Mapping[str, Any]

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple(self.description["dims"])


def build_adaptor(description: Mapping[str, Any], **dropouts: float) -> AdaptorModel:
    """An untrained model from its description. Raises ``ValueError`` where the dimensions do not fit the width."""
    check_dims(description["dims"], description["width"])
    network = Adaptor(
        description["width"],
        description["dims"][-1],
        shape=description["shape"],
        hidden=description["hidden"],
        blocks=description["blocks"],
        blend=description["blend"],
        **dropouts,
    )
    return AdaptorModel(network, dict(description))


def random_rotation(width: int, seed: int) -> Tensor:
    """An orthogonal matrix (D, D) float32, uniformly distributed over them."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "rotation"))
    q, r = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    rotation: Tensor = q * r.diagonal().sign()
    return rotation.float()


@torch.no_grad()
def principal_axes(x: Tensor, *, centred: bool = True) -> tuple[Tensor, Tensor]:
    """Mean (D,) and principal axes (D, D), as rows, of the unit rows of ``x`` (N, D); float32.

    By falling variance, about the mean or (not ``centred``) about zero, whose mean is then given as zero. An axis is
    turned so that its entry of largest magnitude is positive. With fewer rows than columns the axes without variance
    complete the basis. Float64 sums over blocks of rows: O(D^2) memory besides ``x``.
    """
    width = x.shape[1]
    total, second = x.new_zeros(width, dtype=torch.float64), x.new_zeros(width, width, dtype=torch.float64)
    for rows in blocks(len(x), 4096):
        unit = F.normalize(x[rows].float(), dim=1).double()
        total += unit.sum(0)
        second += unit.mT @ unit
    mean = total / len(x) if centred else torch.zeros_like(total)
    covariance = second / len(x) - torch.outer(mean, mean)
    return mean.float(), turned(torch.linalg.eigh(covariance).eigenvectors.mT.flip(0)).float()


def turned(axes: Tensor) -> Tensor:
    """Axes (D, D), as rows, each with the sign that makes its entry of largest magnitude positive."""
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return axes * torch.where(largest < 0, -1.0, 1.0)
