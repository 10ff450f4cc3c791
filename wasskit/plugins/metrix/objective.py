"""Metric losses of clean and of mixed pairs, and `MetrixLoss`, which adds them up.

For an anchor a with positives P(a), negatives N(a) and similarity s the clean losses have the form

    l(a)  = tau( sigma+( sum_P(a) rho+(s(a, p)) ) + sigma-( sum_N(a) rho-(s(a, n)) ) ),

and a set V(a) of mixed items v with labels y in [0, 1] gives

    l~(a) = tau( sigma+( sum_V(a) y rho+(s(a, v)) ) + sigma-( sum_V(a) (1 - y) rho-(s(a, v)) ) ),

(Venkataramanan et al., "It Takes Two to Tango: Mixup for Deep Metric Learning", ICLR 2022), with

    contrastive        tau, sigma+- identity            rho+ = -s                 rho- = [s - m]+
    multi-similarity   sigma+ = log(1 + .) / beta       rho+ = e^(-beta (s - m))
                       sigma- = log(1 + .) / gamma      rho- = e^(gamma (s - m))
    proxy-anchor       sigma+- = log(1 + .)             rho+ = e^(-alpha (s - delta))
                       anchors are proxies              rho- = e^(alpha (s + delta))

All mixed items of a step share the label y = lambda. At lambda = 1 only the positive term is left, with every
positive as often as it was mixed; at lambda = 0 only the negative term.

The contrastive loss has two forms. By default it follows the published implementation, not the formula: s = -d
with the Euclidean distance d of unit vectors, m = -0.5 (a negative margin of 0.5), and in place of the sum over
each anchor's pairs the mean over the non-zero terms of the whole batch. ``distance="cosine"`` is the formula as it
stands: cosine similarities, m = 0.5, sums over each anchor's pairs, averaged over the anchors that have both a
positive and a negative. The other clean losses are those of pytorch-metric-learning.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wasskit.distributed.collectives import gather, gather_with_grad
from wasskit.distributed.group import broadcast_object, rank, world_size
from wasskit.evaluation.accuracy import are_integers
from wasskit.plugins.metrix import pairs
from wasskit.plugins.metrix.mixup import (
    Mixing,
    draw_mixing,
    embedding_cosines,
    feature_embeddings,
    pair_cosines,
)
from wasskit.plugins.metrix.pairs import KINDS, Kind, Triples

LossName = Literal["contrastive", "multisimilarity", "proxyanchor"]
Mode = Literal["baseline", "input", "feature", "embed"]
Distance = Literal["euclidean", "cosine"]


def mean_nonzero(x: Tensor) -> Tensor:
    """Mean of the positive entries of a non-negative tensor, 0 if it has none."""
    return x.sum() / (x > 0).sum().clamp(min=1)


def chord(cosine: Tensor, width: int) -> Tensor:
    """Distance sqrt(2 - 2 cos) of two unit vectors of ``width`` numbers; at distance 0 the gradient is 0.

    A distance that rounding alone can make counts as 0, so that a mixture that equals its anchor is no non-zero term:
    of D products whose sum is 1 each addition rounds by up to eps / 2, at random, together sqrt(D / 3) eps / 2; the
    two lengths add half as much each. So 2 - 2 cos is off by about 0.7 sqrt(D) eps: six of these deviations, and
    8 eps for the few operations that follow, are no distance.
    """
    square = 2 - 2 * cosine
    apart = square > (8 + 4 * math.sqrt(width)) * torch.finfo(cosine.dtype).eps
    return torch.where(apart, square, 1.0).sqrt() * apart


def mixed_contrastive(cosine: Tensor, lam: float, width: int, *, margin: float = 0.5) -> Tensor:
    """nz{lam d_t} + nz{(1 - lam) [margin - d_t]+} over the cosines (T,) of all triples.

    nz is the mean of the non-zero terms, d_t the distance of the unit vectors of ``width`` numbers.
    """
    distance = chord(cosine, width)
    return mean_nonzero(lam * distance) + mean_nonzero((1 - lam) * F.relu(margin - distance))


def cosine_contrastive(embeddings: Tensor, labels: Tensor, *, margin: float = 0.5) -> Tensor:
    """Contrastive loss by the paper's formula, mean_a [ -sum_P(a) s(a, p) + sum_N(a) [s(a, n) - margin]+ ].

    s is the cosine of two rows of ``embeddings`` (B, D), ``labels`` (B,) integers. The mean is over the anchors
    that have both a positive and a negative; 0 where there is none. Raises ``ValueError`` for other shapes and types.
    """
    _check_batch(embeddings, labels)
    x = F.normalize(embeddings, dim=1)
    cosine = x @ x.T
    positive, negative = pairs.relations(labels, labels, own=True)
    terms = torch.where(positive, -cosine, F.relu(cosine - margin) * negative)
    counted = positive.any(1) & negative.any(1)
    return (terms.sum(1) * counted).sum() / counted.sum().clamp(min=1)


def _check_batch(embeddings: Tensor, labels: Tensor) -> None:
    """Refuse what is no batch, by shapes and types alone: values would have to be waited for."""
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise ValueError(
            f"embeddings must be a floating-point matrix (B, D), not {embeddings.dtype} of shape "
            f"{tuple(embeddings.shape)}"
        )
    if labels.shape != embeddings.shape[:1] or not are_integers(labels):
        raise ValueError(
            f"labels must be {len(embeddings)} integers, one per embedding, not {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )


class Half(Protocol):
    """The positive or the negative half of a generic loss: sigma( sum_t weight rho(s_t) ) of each anchor."""

    def per_anchor(self, cosine: Tensor, anchor: Tensor, anchors: int, weight: float) -> Tensor:
        """(K,) of the ``anchors``, from similarities (T,) and the anchor of each (T,); 0 without terms."""
        ...


class LinearSum(NamedTuple):
    """One half of the contrastive loss in the paper's form, sigma the identity.

    rho(s) = -s without a ``margin`` (positives), else [s - margin]+ (negatives).
    """

    margin: float | None = None

    def per_anchor(self, cosine: Tensor, anchor: Tensor, anchors: int, weight: float) -> Tensor:
        """sum_t weight rho(s_t) of each anchor, (K,)."""
        terms = -cosine if self.margin is None else F.relu(cosine - self.margin)
        return cosine.new_zeros(anchors).index_add(0, anchor, weight * terms)


class LogSum(NamedTuple):
    """One half of a log-sum loss: rho(s) = exp(scale (s - shift)), sigma(x) = log(1 + x) / divisor."""

    scale: float
    shift: float
    divisor: float

    def per_anchor(self, cosine: Tensor, anchor: Tensor, anchors: int, weight: float) -> Tensor:
        """log(1 + sum_t weight exp(scale (s_t - shift))) / divisor of each anchor, (K,); 0 without terms."""
        exponent = self.scale * (cosine - self.shift) + (math.log(weight) if weight > 0 else -math.inf)
        # Shifted by the anchor's largest exponent, or by 0 for the one under the logarithm.
        top = exponent.new_zeros(anchors).scatter_reduce(0, anchor, exponent.detach(), "amax")
        terms = (exponent - top.index_select(0, anchor)).exp()
        total = torch.zeros_like(top).index_add(0, anchor, terms)
        return (top + torch.log1p(total + torch.expm1(-top))) / self.divisor


def mixed_generic(
    cosine: Tensor, anchor: Tensor, anchors: int, lam: float, positive: Half, negative: Half
) -> Tensor:
    """Mean of l~(a) over those of the K ``anchors`` that have a mixed pair; ``cosine``, ``anchor`` (T,)."""
    halves = positive.per_anchor(cosine, anchor, anchors, lam) + negative.per_anchor(
        cosine, anchor, anchors, 1 - lam
    )
    present = torch.zeros_like(halves).index_fill(0, anchor, 1.0).sum().clamp(min=1)
    return halves.sum() / present


class MetrixTerms(NamedTuple):
    """``total = clean + weight * mixed``, and what was mixed."""

    total: Tensor
    clean: Tensor
    mixed: Tensor
    triples: int
    """Number of (anchor, mixed item) pairs in the mixed loss."""
    skipped: str
    """Why nothing was mixed, or empty."""


class MetrixLoss(nn.Module):
    """A metric loss of clean embeddings plus ``weight`` times the same loss of mixed ones.

    Embeddings (and proxies) are compared by their cosines, so rows need not be normalised for the clean loss, nor for
    "feature" and "input". But "embed" mixes the rows as they are given, as the published code does with what its
    network returns, and does not normalise the mixture before it is compared: pass unit vectors for mixtures on chords
    of the sphere. Rows of different lengths shift the share lambda towards the longer one.

    >>> loss = MetrixLoss("multisimilarity")
    >>> terms = loss(embeddings, labels)  # (B, D) unit vectors, (B,) integers
    >>> terms.total.backward()

    ``mode`` says what is mixed. "embed" needs nothing more. "feature" needs the feature maps ``maps`` (B, C,
    H, W) from which the embeddings were computed, and ``head``, which maps pooled features (q, C) to
    embeddings (q, D); pooling is the sum of average and maximum over the positions. "input" needs ``images``
    (B, ...) and ``network``, which maps images to embeddings. "baseline" mixes nothing.

    ``distance`` is for the contrastive loss. "euclidean" is the published implementation: means over the non-zero
    terms of the batch, ``margin`` the distance from which negatives are left alone. "cosine" is the paper's
    formula: sums over the pairs of each anchor, ``margin`` the similarity up to which negatives are left alone;
    anchors without a positive take no part. An anchor has |P| times as many mixed pairs as negatives, so the mixed
    sum outweighs the clean one unless ``weight``, ``hardest`` or ``max_triples`` hold it down.

    ``hardest`` restricts the negatives of every anchor to the most similar ones (default: 1 for "input", else
    all); ``max_triples`` draws a subset of the triples. Proxies have no feature map and no image: with
    "proxyanchor" the anchor itself is mixed in "embed" mode only, the other two always mix positives with
    negatives. Proxies of classes that the batch lacks take part in the clean loss alone.

    ``published`` reproduces the authors' code where it departs from the paper (contrastive loss only):
    "embed" and "feature" use the first positive of an anchor alone, "input" takes another item for the
    hardest negative, anchor-negative mixing is left to anchors without a positive and weighs 0.3 in "embed"
    mode.

    In a process group each rank passes its equal share of the batch; pairs are formed over the whole batch
    and every rank returns the whole batch's loss. Mixed feature maps and images are divided over the ranks.
    """

    def __init__(
        self,
        loss: LossName = "contrastive",
        mode: Mode = "embed",
        *,
        weight: float = 0.4,
        alpha: float = 2.0,
        num_classes: int | None = None,
        embedding_dim: int | None = None,
        kinds: tuple[Kind, ...] = KINDS,
        hardest: int | None = None,
        max_triples: int | None = None,
        published: bool = False,
        distance: Distance = "euclidean",
        margin: float = 0.5,
        similarity_scales: tuple[float, float, float] = (18.0, 75.0, 0.77),
        proxy_scales: tuple[float, float] = (32.0, 0.1),
    ) -> None:
        """``similarity_scales``: beta, gamma, m of multi-similarity; ``proxy_scales``: alpha, delta."""
        super().__init__()
        from pytorch_metric_learning import distances
        from pytorch_metric_learning import losses as clean

        if mode not in get_args(Mode):
            raise ValueError(f"unknown mode {mode!r}: {', '.join(get_args(Mode))}")
        if published and loss != "contrastive":
            raise ValueError(
                "the published code trains the contrastive loss only: leave published off for " + loss
            )
        for name, value, least in (
            ("weight", weight, 0),
            ("hardest", hardest, 1),
            ("max_triples", max_triples, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        for name, scales, count in (
            ("similarity_scales", similarity_scales, 3),
            ("proxy_scales", proxy_scales, 2),
        ):
            if len(scales) != count:
                raise ValueError(f"{name} are {count} numbers, not {len(scales)}")
        if min(*similarity_scales[:2], proxy_scales[0]) <= 0:
            raise ValueError("the scales beta, gamma and alpha must be positive: at 0 nothing is learned")
        if alpha <= 0:
            raise ValueError(f"lambda is drawn from Beta(alpha, alpha): alpha must be positive, not {alpha}")
        if not kinds or not set(kinds) <= set(KINDS):
            raise ValueError(f"kinds names pairs to mix, {' or '.join(KINDS)} or both, not {kinds!r}")
        if distance not in get_args(Distance):
            raise ValueError(f"unknown distance {distance!r}: {', '.join(get_args(Distance))}")
        if published and distance == "cosine":
            raise ValueError("the published code compares Euclidean distances: leave published or cosine off")
        self.loss, self.mode, self.weight, self.alpha, self.margin = loss, mode, weight, alpha, margin
        self.published, self.max_triples = published, max_triples
        self.hardest = 1 if hardest is None and mode == "input" else hardest
        self.kinds = kinds
        self.halves: tuple[Half, Half] | None = None
        """The two halves of the mixed loss; None for the published contrastive loss, which has no such form."""
        if loss == "contrastive" and distance == "cosine":
            self.clean: Any = partial(cosine_contrastive, margin=margin)
            self.halves = LinearSum(), LinearSum(margin)
        elif loss == "contrastive":
            self.clean = clean.ContrastiveLoss(0.0, margin, distance=distances.LpDistance())
        elif loss == "multisimilarity":
            beta, gamma, base = similarity_scales
            self.clean = clean.MultiSimilarityLoss(beta, gamma, base)
            self.halves = LogSum(-beta, base, beta), LogSum(gamma, base, gamma)
        elif loss == "proxyanchor":
            if num_classes is None or embedding_dim is None:
                raise ValueError("proxyanchor learns one proxy per class: give num_classes and embedding_dim")
            scale, delta = proxy_scales
            self.clean = clean.ProxyAnchorLoss(num_classes, embedding_dim, margin=delta, alpha=scale)
            self.halves = LogSum(-scale, delta, 1.0), LogSum(scale, -delta, 1.0)
            if mode in ("input", "feature"):
                self.kinds = ("positive-negative",)
        else:
            raise ValueError(f"unknown loss {loss!r}: contrastive, multisimilarity or proxyanchor")

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        maps: Tensor | None = None,
        head: Callable[[Tensor], Tensor] | None = None,
        images: Tensor | None = None,
        network: Callable[[Tensor], Tensor] | None = None,
        mixing: Mixing | None = None,
        rng: np.random.Generator | None = None,
    ) -> MetrixTerms:
        """Loss of ``embeddings`` (B, D) with ``labels`` (B,).

        ``rng`` draws lambda, the kind of pairs and any subset (default: seeded by torch's generator); ranks
        must pass equal ones. ``mixing`` fixes lambda and the kind instead. Raises ``ValueError`` for shapes and
        types that do not fit together.
        """
        self._check(embeddings, labels, maps, images)
        device = embeddings.device
        embeddings = gather_with_grad(embeddings.float() if embeddings.dtype != torch.float64 else embeddings)
        labels = gather(labels.long())
        with torch.autocast(device.type, enabled=False):
            clean = self.clean(embeddings, labels)
        if self.mode == "baseline":
            return MetrixTerms(clean, clean, torch.zeros_like(clean), 0, "")
        if rng is None:
            rng = np.random.default_rng(broadcast_object(int(torch.randint(2**62, ()))))
        if mixing is None:
            mixing = draw_mixing(self.alpha, rng, self.kinds)

        host_labels = labels.cpu()
        if self.loss == "proxyanchor":
            # Only proxies of classes in the batch have positives to mix.
            anchor_labels = host_labels.unique()
            proxies = F.normalize(self.clean.proxies, dim=1).to(embeddings.dtype)
            anchors = proxies.index_select(0, anchor_labels.to(device, non_blocking=True))
        else:
            anchor_labels, anchors = host_labels, embeddings
        triples, skipped = self.triples(host_labels, anchor_labels, embeddings, anchors, mixing, rng)
        if skipped:
            # Connected to the embeddings, so that every rank and every batch has the same graph.
            return MetrixTerms(clean, clean, 0.0 * embeddings.sum(), 0, skipped)

        if self.mode == "embed":
            with torch.autocast(device.type, enabled=False):
                cosine = embedding_cosines(anchors, embeddings, triples.to(device), mixing)
        elif self.mode == "feature":
            if maps is None or head is None:
                raise ValueError("feature mode needs maps, the feature maps of the batch, and head")
            every = gather_with_grad(maps.float() if maps.dtype != torch.float64 else maps)
            cosine = self._cosines(
                lambda x, n: feature_embeddings(every, head, x, n, mixing.lam), anchors, triples, len(every)
            )
        else:
            if images is None or network is None:
                raise ValueError("input mode needs images, the images of the batch, and network")
            source = gather(images)

            def mix(x: Tensor, n: Tensor) -> Tensor:
                first, second = (source[index.to(device, non_blocking=True)] for index in (x, n))
                return network(torch.lerp(second, first, mixing.lam))

            cosine = self._cosines(mix, anchors, triples, len(source))

        anchor = triples.anchor.to(device, non_blocking=True)
        if self.halves is None:
            mixed = mixed_contrastive(cosine, mixing.lam, embeddings.shape[1], margin=self.margin)
        else:
            mixed = mixed_generic(cosine, anchor, len(anchors), mixing.lam, *self.halves)
        weight = self.weight
        if self.published and self.mode == "embed" and mixing.kind == "anchor-negative":
            weight = 0.3
        return MetrixTerms(clean + weight * mixed, clean, mixed, len(triples), "")

    def _check(self, embeddings: Tensor, labels: Tensor, maps: Tensor | None, images: Tensor | None) -> None:
        _check_batch(embeddings, labels)
        batch = len(embeddings)
        if self.loss == "proxyanchor":
            classes, dim = self.clean.proxies.shape
            if embeddings.shape[1] != dim:
                raise ValueError(f"the proxies have {dim} dimensions, the embeddings {embeddings.shape[1]}")
            # On an accelerator the values would have to be waited for.
            if labels.device.type == "cpu" and batch and not 0 <= labels.min() <= labels.max() < classes:
                raise ValueError(
                    f"there are proxies for labels 0 to {classes - 1}, but the labels range from "
                    f"{int(labels.min())} to {int(labels.max())}"
                )
        if self.mode == "feature" and maps is not None:
            if maps.ndim != 4 or len(maps) != batch or not maps.is_floating_point():
                raise ValueError(
                    f"maps must be the floating-point feature maps ({batch}, C, H, W) of the batch, not {maps.dtype} "
                    f"of shape {tuple(maps.shape)}"
                )
            if (maps.dtype == torch.float64) != (embeddings.dtype == torch.float64):
                raise ValueError(
                    f"maps are {maps.dtype}, the embeddings {embeddings.dtype}: take one precision"
                )
        if (
            self.mode == "input"
            and images is not None
            and not (images.shape[:1] == embeddings.shape[:1] and images.is_floating_point())
        ):
            raise ValueError(
                f"images must be the {batch} floating-point images of the batch, not {images.dtype} of shape "
                f"{tuple(images.shape)}"
            )

    def triples(
        self,
        labels: Tensor,
        anchor_labels: Tensor,
        embeddings: Tensor,
        anchors: Tensor,
        mixing: Mixing,
        rng: np.random.Generator,
    ) -> tuple[Triples, str]:
        """The triples of a step, on the host, and why there are none (or "")."""
        positive, negative = pairs.relations(anchor_labels, labels, own=self.loss != "proxyanchor")
        if self.loss == "contrastive" and mixing.kind == "anchor-negative":
            answered = positive.any(1, keepdim=True)
            if self.published:
                negative = negative & ~answered
            elif self.halves is not None:
                # The same anchors as in the clean loss.
                negative = negative & answered
        if self.hardest is None:
            negatives = pairs.all_negatives(negative)
        else:
            with torch.no_grad(), torch.autocast(embeddings.device.type, enabled=False):
                similarity = (F.normalize(anchors, dim=1) @ F.normalize(embeddings, dim=1).T).cpu()
            negatives = pairs.hardest_negatives(negative, similarity, self.hardest)
            if self.published and self.mode == "input":
                negatives = pairs.misplaced(negatives, negative)
        if mixing.kind == "positive-negative":
            first = self.published and self.mode != "input"
            triples = pairs.positive_negative(positive, negatives, first_positive=first)
        else:
            triples = pairs.anchor_negative(torch.arange(len(anchor_labels)), negatives)
        if self.max_triples is not None:
            triples = pairs.subsample(triples, self.max_triples, rng)
        if len(triples):
            return triples, ""
        if len(anchor_labels) and not (labels != labels[0]).any():
            return triples, "the batch holds one class only: nothing to mix"
        if not positive.any():
            return triples, "no item of the batch has a positive: nothing to mix"
        return triples, "every item of the batch has a positive: the published code mixes nothing"

    @staticmethod
    def _cosines(
        embed: Callable[[Tensor, Tensor], Tensor], anchors: Tensor, triples: Triples, items: int
    ) -> Tensor:
        """``pair_cosines`` with the distinct pairs divided over the ranks."""
        if world_size() == 1:
            return pair_cosines(embed, anchors, triples, items)

        def share(x: Tensor, n: Tensor) -> Tensor:
            # Equal shares, the last one filled up with pairs that the concatenation drops again.
            each = -(-len(x) // world_size())
            mine = torch.arange(rank() * each, (rank() + 1) * each).clamp(max=len(x) - 1)
            return gather_with_grad(embed(x[mine], n[mine]))[: len(x)]

        return pair_cosines(share, anchors, triples, items)
