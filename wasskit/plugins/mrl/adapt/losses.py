"""What an adaptor learns from: neighbours, labels or pairs. Every term is taken at every prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wasskit.distributed.collectives import gather_with_grad
from wasskit.ot.nesting import check_dims
from wasskit.ot.precision import at_least_float32, full_precision
from wasskit.ot.sinkhorn import nested_sinkhorn_divergences
from wasskit.plugins.mrl.loss import MatryoshkaWassersteinLoss, normalise
from wasskit.training.task import Losses

_FAR = -1e9


class NeighbourLoss(nn.Module):
    r"""Keeps each vector's neighbours and similarities at every prefix; needs no labels.

    For anchors i and the other vectors j of a batch, with the cosines :math:`s_{ij}` of :math:`x / \|x\| - c` and
    :math:`s^d_{ij}` of the prefixes of length d,

    .. math::
        L = \sum_d \log\bigl(\epsilon + \overline{\mathrm{KL}(P_i \| Q^d_i)}\bigr)
            + \gamma \sum_d \overline{|s^d_{ij} - s_{ij}|} + \lambda \sum_k S_k, \qquad
        P_i \propto e^{s_{ij} / T},\; Q^d_i \propto e^{s^d_{ij} / T}.

    The first term keeps the nearest vectors (T is small), relative to what each prefix still loses: the logarithm
    weighs the prefixes alike, of which the short ones lose a hundred times as much. The second is the one over
    global pairs of Matryoshka-Adaptor (Yoon et al., 2024), the third the Wasserstein term of MWRL. A vector is
    never its own neighbour, nor is another copy of it in the batch (equal ``ids``).

    Args:
        dims: prefixes, strictly increasing.
        centre: c (D,), zero unless given.
        temperature: T.
        floor: epsilon, a divergence below which a prefix counts as kept.
        pair_weight: gamma.
        wasserstein_weight, beta, blur: lambda and the divergence of :class:`MatryoshkaWassersteinLoss`.
    """

    centre: Tensor | None

    def __init__(
        self,
        dims: Sequence[int],
        *,
        centre: Tensor | None = None,
        temperature: float = 0.05,
        floor: float = 0.02,
        pair_weight: float = 0.0,
        wasserstein_weight: float = 0.0,
        beta: float = 1.0,
        blur: float = 0.5,
    ) -> None:
        super().__init__()
        self.dims = check_dims(dims)
        self.register_buffer("centre", centre, persistent=False)  # of the training vectors
        self.temperature = temperature
        self.floor = floor
        self.pair_weight = pair_weight
        self.wasserstein_weight = wasserstein_weight
        self.beta = beta
        self.blur = blur

    def forward(self, adapted: Tensor, vectors: Tensor, ids: Tensor, anchors: int) -> Losses:
        """Losses of a batch of which the first ``anchors`` rows are anchors.

        adapted (B_r, m): this rank's consecutive share of the rows; vectors (B, D) and ids (B,) int64 of all rows.
        """
        with full_precision(adapted):
            return self._losses(gather_with_grad(normalise(_directed(adapted))), vectors, ids, anchors)

    def _losses(self, z: Tensor, vectors: Tensor, ids: Tensor, anchors: int) -> Losses:
        unit = about(vectors, self.centre)
        same = ids[:anchors, None] == ids[None]
        wanted = unit[:anchors] @ unit.mT
        target = (wanted / self.temperature).masked_fill(same, _FAR).log_softmax(1)
        weight = target.exp()
        kept, pairs = [], []
        for d in self.dims:
            prefix = _unit(z[:, :d])
            found = prefix[:anchors] @ prefix.mT
            log_q = (found / self.temperature).masked_fill(same, _FAR).log_softmax(1)
            kept.append((weight * (target - log_q)).sum(1).mean())
            pairs.append((found - wanted).abs().mean() if self.pair_weight else found.new_zeros(()))
        divergence, gaps = torch.stack(kept), torch.stack(pairs)
        total = torch.log(self.floor + divergence.clamp_min(0)).sum()
        terms: dict[str, Tensor | float] = {
            f"neighbours@{d}": v for d, v in zip(self.dims, divergence.detach(), strict=True)
        }
        terms["neighbours"] = divergence.detach().mean()
        if self.pair_weight:
            total = total + self.pair_weight * gaps.sum()
            terms["pairs"] = gaps.detach().mean()
        if self.wasserstein_weight and len(self.dims) > 1:
            transport = nested_sinkhorn_divergences(z, self.dims, beta=self.beta, blur=self.blur, reduction="sum")
            total = total + self.wasserstein_weight * transport
            terms["wasserstein"] = transport.detach()
        return Losses(total, terms)


class LabelLoss(nn.Module):
    r"""The MWRL objective, the same classifiers by the cosine of each prefix, and the neighbours as they were.

    .. math::
        L = L_\mathrm{MWRL} + \kappa \sum_k w_k
            \overline{\mathrm{CE}\bigl(\cos(W_k, e[:d_k]) / \tau,\ y\bigr)} + \nu L_\mathrm{neighbours}

    The second term is what a prefix is used for afterwards, compared by its cosine: the first sees a prefix in the
    scale that it has within the whole vector. The third, :class:`NeighbourLoss` within the batch, keeps what the
    classes do not ask for, which is what vectors of other classes need.

    Args:
        cosine_weight, cosine_temperature: kappa and tau.
        keep_weight: nu.
        objective: the settings of :class:`MatryoshkaWassersteinLoss`.
    """

    def __init__(
        self,
        num_classes: int,
        dims: Sequence[int],
        *,
        cosine_weight: float = 1.0,
        cosine_temperature: float = 0.1,
        keep_weight: float = 0.0,
        **objective: Any,
    ) -> None:
        super().__init__()
        self.objective = MatryoshkaWassersteinLoss(num_classes, dims, **objective)
        self.cosine_weight = cosine_weight
        self.cosine_temperature = cosine_temperature
        self.keep_weight = keep_weight
        self.keep = NeighbourLoss(dims)

    def forward(self, adapted: Tensor, labels: Tensor, vectors: Tensor) -> Losses:
        """Losses of this rank's adapted vectors (B, m) with labels (B,) int64, adapted from vectors (B, D)."""
        objective, adapted = self.objective, _directed(adapted)
        losses = objective(adapted, labels)
        total = losses.total
        terms: dict[str, Tensor | float] = {
            f"ce@{d}": ce for d, ce in zip(objective.dims, losses.cross_entropy, strict=True)
        }
        terms["ce"] = losses.cross_entropy.mean()
        if objective.wasserstein_weight != 0:
            terms["wasserstein"] = losses.wasserstein
        if self.cosine_weight:
            with full_precision(adapted):
                values = torch.stack([self._cosine(at_least_float32(adapted), labels, d) for d in objective.dims])
                total = total + self.cosine_weight * (objective.ce_weights @ values)
            terms["cosine_ce"] = values.detach().mean()
        if self.keep_weight:
            whole = gather_with_grad(vectors)
            kept = self.keep(adapted, whole, torch.arange(len(whole), device=whole.device), len(whole))
            total = total + self.keep_weight * kept.total
            terms["neighbours"] = kept.terms["neighbours"]
        return Losses(total, terms)

    def _cosine(self, adapted: Tensor, labels: Tensor, dim: int) -> Tensor:
        weight, _ = self.objective.classifiers.weight_at(dim)
        logits = F.linear(_unit(adapted[:, :dim]), F.normalize(weight, dim=1))
        return F.cross_entropy(logits / self.cosine_temperature, labels, label_smoothing=self.objective.label_smoothing)


class PairLoss(nn.Module):
    r"""Ranks the documents of a batch by their relevance to each query, at every prefix.

    .. math::
        L = -\sum_d \overline{\sum_j p_{ij} \log \mathrm{softmax}_j (s^d_{ij} / \tau)}, \qquad
        p_{ij} = r_{ij} / \sum_j r_{ij}

    for the relevance r of document j to query i, zero where no pair says otherwise: the listwise loss of ListNet (Cao
    et al., 2007) with the documents of the other queries as candidates.
    """

    def __init__(self, dims: Sequence[int], *, temperature: float = 0.1) -> None:
        super().__init__()
        self.dims = check_dims(dims)
        self.temperature = temperature

    def forward(self, queries: Tensor, documents: Tensor, relevance: Tensor) -> Losses:
        """queries (Q_r, m), documents (D_r, m): this rank's shares; relevance (Q, D) of all, no row zero, NaN where a
        document is no candidate for a query."""
        with full_precision(queries):
            queries, documents = (gather_with_grad(at_least_float32(share)) for share in (queries, documents))
            losses = self._losses(queries, documents, relevance)
        terms = {f"ranking@{d}": v for d, v in zip(self.dims, losses.detach(), strict=True)}
        return Losses(losses.sum(), {**terms, "ranking": losses.detach().mean()})

    def _losses(self, queries: Tensor, documents: Tensor, relevance: Tensor) -> Tensor:
        candidates, relevance = ~relevance.isnan(), relevance.nan_to_num(0.0)
        target = relevance / relevance.sum(1, keepdim=True)
        values = []
        for d in self.dims:
            cosines = _unit(queries[:, :d]) @ _unit(documents[:, :d]).mT
            logits = (cosines / self.temperature).where(candidates, -torch.inf)
            values.append(-(target * logits.log_softmax(1).where(candidates, 0.0)).sum(1).mean())
        return torch.stack(values)


def about(vectors: Tensor, centre: Tensor | None) -> Tensor:
    """Unit vectors (N, D) in the directions of the unit ``vectors`` as seen from a centre (D,), zero where None."""
    unit = normalise(vectors)
    return unit if centre is None else normalise(unit - centre)


def _directed(x: Tensor) -> Tensor:
    """The rows of x, those without a direction as the constant zero.

    Dividing them by their length would multiply their gradient by 1e12, twice over to infinity. Dropout may take all
    coordinates of a narrow vector, and a vector may lie at the centre.
    """
    return x.masked_fill(torch.linalg.vector_norm(x.detach(), dim=1, keepdim=True) < 1e-12, 0)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(_directed(x), dim=1)
