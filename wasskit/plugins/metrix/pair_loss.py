"""What a metric loss consists of: its clean form, and the two halves from which its mixed form follows.

For an anchor a with positives P(a), negatives N(a) and similarity s the clean losses have the form

    l(a)  = sigma+( sum_P(a) rho+(s(a, p)) ) + sigma-( sum_N(a) rho-(s(a, n)) ),

and a set V(a) of mixed items v that share the label y = lambda gives

    l~(a) = sigma+( sum_V(a) lambda rho+(s(a, v)) ) + sigma-( sum_V(a) (1 - lambda) rho-(s(a, v)) ),

(Venkataramanan et al., "It Takes Two to Tango: Mixup for Deep Metric Learning", ICLR 2022, with tau the identity). At
lambda = 1 only the positive half is left, with every positive as often as it was mixed; at 0 only the negative half.

s is the cosine. A loss of the distance of unit vectors is one of the cosine: see :func:`chord`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wasskit.plugins.metrix import losses


class Half(Protocol):
    """The positive or the negative half of a loss, sigma( sum weight rho(s) ) of each of K anchors: (K,).

    An anchor without terms has 0.
    """

    def of_matrix(self, cosine: Tensor, counts: Tensor) -> Tensor:
        """From the similarities (K, B) to all items, those where the boolean ``counts`` (K, B) is true."""
        ...

    def per_anchor(self, cosine: Tensor, anchor: Tensor, anchors: int, weight: float) -> Tensor:
        """From a list of similarities (T,) and the anchor of each (T,), all of one ``weight``."""
        ...


class Sum(NamedTuple):
    """A half with sigma the identity; ``rho`` maps cosines to terms, entry by entry."""

    rho: Callable[[Tensor], Tensor]

    def of_matrix(self, cosine: Tensor, counts: Tensor) -> Tensor:
        return (self.rho(cosine) * counts).sum(1)

    def per_anchor(self, cosine: Tensor, anchor: Tensor, anchors: int, weight: float) -> Tensor:
        return cosine.new_zeros(anchors).index_add(0, anchor, weight * self.rho(cosine))


class LogSum(NamedTuple):
    """A half with rho(s) = exp(scale (s - shift)) and sigma(x) = log(1 + x) / divisor."""

    scale: float
    shift: float
    divisor: float

    def of_matrix(self, cosine: Tensor, counts: Tensor) -> Tensor:
        exponent = (self.scale * (cosine - self.shift)).masked_fill(~counts, -math.inf)
        return F.pad(exponent, (0, 1)).logsumexp(1) / self.divisor

    def per_anchor(self, cosine: Tensor, anchor: Tensor, anchors: int, weight: float) -> Tensor:
        exponent = self.scale * (cosine - self.shift) + (math.log(weight) if weight > 0 else -math.inf)
        # Shifted by the anchor's largest exponent, or by 0 for the one under the logarithm.
        top = exponent.new_zeros(anchors).scatter_reduce(0, anchor, exponent.detach(), "amax")
        terms = (exponent - top.index_select(0, anchor)).exp()
        total = torch.zeros_like(top).index_add(0, anchor, terms)
        return (top + torch.log1p(total + torch.expm1(-top))) / self.divisor


class Range(NamedTuple):
    """Where a setting is searched: uniformly between two numbers, or uniformly in its logarithm."""

    low: float
    high: float
    log: bool = False

    def at(self, share: float) -> float:
        """The value at a share in [0, 1] of the range, with three digits."""
        if self.log:
            return float(f"{self.low * (self.high / self.low) ** share:.3g}")
        return float(f"{self.low + (self.high - self.low) * share:.3g}")


class PairLoss(nn.Module):
    """A metric loss. A subclass is declared with its ``name``, and named so by :class:`MetrixLoss` and ``--loss``.

    Its constructor takes by name what it needs of ``losses.SHARED``, and declares settings of its own with
    their defaults, numbers.
    """

    halves: tuple[Half, Half]
    own_anchors: ClassVar[bool] = True
    """Whether the anchors are the items of the batch."""
    needs_positive: bool = False
    """Whether items without a positive are left out as anchors."""
    search: ClassVar[Mapping[str, Range | tuple[Range, ...]]] = {}
    """Settings of the constructor that ``crossval`` tunes, and where; a list of numbers has a range for each."""

    def __init_subclass__(cls, name: str = "", **more: Any) -> None:
        super().__init_subclass__(**more)
        if name:
            losses.declared[name] = cls

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The clean loss, a scalar, of ``embeddings`` (B, D) with ``labels`` (B,) int64 on the same device."""
        raise NotImplementedError

    def mixed(self, cosine: Tensor, anchor: Tensor, anchors: int, lam: float, width: int) -> Tensor:
        """The mixed loss, a scalar: the mean of l~(a) over those of the K ``anchors`` that have a mixed pair.

        ``cosine`` (T,) of all pairs, of vectors of ``width`` numbers, and the ``anchor`` (T,) of each.
        """
        positive, negative = self.halves
        values = positive.per_anchor(cosine, anchor, anchors, lam)
        values = values + negative.per_anchor(cosine, anchor, anchors, 1 - lam)
        present = torch.zeros_like(values).index_fill(0, anchor, 1.0).sum().clamp(min=1)
        return values.sum() / present

    def anchors(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The anchors of mixed pairs (K, D), and their labels (K,), from embeddings (B, D) and labels on the host."""
        return embeddings, labels

    def check(self, embeddings: Tensor, labels: Tensor) -> None:
        """Raise ``ValueError`` for a batch that does not fit the loss; labels on an accelerator are not awaited."""


class ProxyLoss(PairLoss):
    """A loss with learned proxies: unit vectors, after division by their length, ``per_class`` of each class."""

    def __init__(self, num_classes: int | None, embedding_dim: int | None, per_class: int = 1) -> None:
        super().__init__()
        if num_classes is None or embedding_dim is None:
            raise ValueError("the proxies of the classes are learned: give num_classes and embedding_dim")
        self.num_classes = num_classes
        self.proxies = nn.Parameter(torch.empty(num_classes * per_class, embedding_dim))
        nn.init.kaiming_normal_(self.proxies, mode="fan_out")

    def units(self, dtype: torch.dtype) -> Tensor:
        """The proxies as unit vectors."""
        return F.normalize(self.proxies, dim=1).to(dtype)

    def check(self, embeddings: Tensor, labels: Tensor) -> None:
        dim, classes = self.proxies.shape[1], self.num_classes
        if embeddings.shape[1] != dim:
            raise ValueError(f"the proxies have {dim} dimensions, the embeddings {embeddings.shape[1]}")
        if labels.device.type == "cpu" and len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f"there are proxies for labels 0 to {classes - 1}, but the labels range from {int(labels.min())} to "
                f"{int(labels.max())}"
            )


def mean_nonzero(x: Tensor) -> Tensor:
    """Mean of the positive entries of a non-negative tensor, 0 if it has none."""
    return x.sum() / (x > 0).sum().clamp(min=1)


def resolution(width: int, dtype: torch.dtype) -> float:
    """The square of the distance of two unit vectors of ``width`` numbers that rounding alone can make.

    Of D products whose sum is 1 each addition rounds by up to eps / 2, at random, together sqrt(D / 3) eps / 2; the
    two lengths add half as much each. So 2 - 2 cos is off by about 0.7 sqrt(D) eps: six of these deviations, and
    8 eps for the few operations that follow.
    """
    return (8 + 4 * math.sqrt(width)) * torch.finfo(dtype).eps


def chord(cosine: Tensor, width: int) -> Tensor:
    """Distance sqrt(2 - 2 cos) of two unit vectors of ``width`` numbers; at distance 0 the gradient is 0.

    A distance that rounding alone can make counts as 0, so that a mixture equal to its anchor is not counted as a term.
    """
    square = 2 - 2 * cosine
    apart = square > resolution(width, cosine.dtype)
    return torch.where(apart, square, 1.0).sqrt() * apart
