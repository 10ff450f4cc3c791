"""`MetrixLoss`: a metric loss of clean pairs plus the same loss of mixed ones.

Venkataramanan et al., "It Takes Two to Tango: Mixup for Deep Metric Learning", ICLR 2022. What a loss is, is
said in `pair_loss.py`; which pairs are mixed in `pairs.py`, how in `mixers`, what the authors' code does
otherwise in `published.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wasskit.distributed.collectives import gather_with_grad
from wasskit.distributed.group import broadcast_object
from wasskit.evaluation.accuracy import are_integers
from wasskit.ot.precision import at_least_float32, full_precision
from wasskit.plugins.metrix.losses import build_loss
from wasskit.plugins.metrix.mixers import MIXERS, Mode, Sources
from wasskit.plugins.metrix.pairs import KINDS, Kind, Mixing, Pairing, draw_mixing
from wasskit.plugins.metrix.published import PublishedPairing
from wasskit.system.transfer import to_device


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

    ``loss`` names a file of ``plugins/metrix/losses``, or a ``PairLoss`` declared elsewhere, and ``settings`` those of
    its own. ``mode`` says what is mixed. "embed" needs nothing more. "feature" needs the
    feature maps ``maps`` (B, C, H, W) from which the embeddings were computed, and ``head``, which maps pooled features
    (q, C) to embeddings (q, D); pooling is the sum of average and maximum over the positions. "input" needs ``images``
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

    ``published`` reproduces the authors' code where it departs from the paper (contrastive loss only): see
    `published.py`.

    In a process group each rank passes its equal share of the batch; pairs are formed over the whole batch
    and every rank returns the whole batch's loss. Mixed feature maps and images are divided over the ranks.

    On an accelerator the host waits for nothing if it is given ``labels`` in its own memory, but where the negatives of
    ``hardest`` are chosen by their similarity.

    Example:
        >>> import torch, wasskit
        >>> loss = wasskit.MetrixLoss("multisimilarity")
        >>> embeddings = torch.nn.functional.normalize(torch.randn(32, 16)).requires_grad_()
        >>> terms = loss(embeddings, torch.arange(32) % 8)
        >>> terms.total.backward()
    """

    def __init__(
        self,
        loss: str = "contrastive",
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
        distance: Literal["euclidean", "cosine"] = "euclidean",
        margin: float = 0.5,
        similarity_scales: tuple[float, float, float] = (18.0, 75.0, 0.77),
        proxy_scales: tuple[float, float] = (32.0, 0.1),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """``similarity_scales``: beta, gamma, m of multi-similarity; ``proxy_scales``: alpha, delta."""
        super().__init__()
        if mode not in get_args(Mode):
            raise ValueError(f"unknown mode {mode!r}: {', '.join(get_args(Mode))}")
        if published and loss != "contrastive":
            raise ValueError("the published code trains the contrastive loss only: leave published off for " + loss)
        if published and distance == "cosine":
            raise ValueError("the published code compares Euclidean distances: leave published or cosine off")
        least = {"weight": (weight, 0), "hardest": (hardest, 1), "max_triples": (max_triples, 1)}
        for name, (value, bound) in least.items():
            if value is not None and value < bound:
                raise ValueError(f"{name} must be at least {bound}, not {value}")
        if alpha <= 0:
            raise ValueError(f"lambda is drawn from Beta(alpha, alpha): alpha must be positive, not {alpha}")
        if not kinds or not set(kinds) <= set(KINDS):
            raise ValueError(f"kinds names pairs to mix, {' or '.join(KINDS)} or both, not {kinds!r}")
        given = {
            "num_classes": num_classes, "embedding_dim": embedding_dim, "distance": distance, "margin": margin,
            "similarity_scales": similarity_scales, "proxy_scales": proxy_scales,
        }  # fmt: skip
        self.clean = build_loss(loss, given, settings or {})
        self.mode, self.alpha = mode, alpha
        self.kinds = kinds
        self._anchors_are_no_items = not self.clean.own_anchors and mode in ("input", "feature")
        if self._anchors_are_no_items:
            self.kinds = ("positive-negative",)
        chosen = 1 if hardest is None and mode == "input" else hardest
        self.pairing = Pairing(weight, chosen, max_triples, self.clean.needs_positive)
        if published:
            self.pairing = PublishedPairing(weight, chosen, max_triples, mode=mode)

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
        """Loss of ``embeddings`` (B, D) with ``labels`` (B,), on the host or on the device of the embeddings.

        ``rng`` draws lambda, the kind of pairs and any subset (default: seeded by torch's generator); ranks
        must pass equal ones. ``mixing`` fixes lambda and the kind instead. Raises ``ValueError`` for shapes and
        types that do not fit together.
        """
        _check_batch(embeddings, labels)
        self.clean.check(embeddings, labels)
        mixer = None
        if self.mode != "baseline":
            mixer = MIXERS[self.mode](embeddings, Sources(maps, head, images, network))
        device = embeddings.device
        embeddings = gather_with_grad(at_least_float32(embeddings))
        labels = gather_with_grad(labels.long())
        with full_precision(embeddings):
            clean: Tensor = self.clean(embeddings, to_device(labels, device))
        if mixer is None:
            return MetrixTerms(clean, clean, torch.zeros_like(clean), 0, "")
        if rng is None:
            rng = np.random.default_rng(broadcast_object(int(torch.randint(2**62, ()))))
        if mixing is None:
            mixing = draw_mixing(self.alpha, rng, self.kinds)
        elif self._anchors_are_no_items:
            mixing = Mixing(mixing.lam, *self.kinds)
        labels = labels.cpu()
        anchors, anchor_labels = self.clean.anchors(embeddings, labels)
        triples, skipped = self.pairing.triples(
            anchor_labels,
            labels,
            mixing.kind,
            own=self.clean.own_anchors,
            similarity=lambda: _similarity(anchors, embeddings),
            rng=rng,
        )
        if skipped:
            # Connected to the embeddings, so that every rank and every batch has the same graph.
            return MetrixTerms(clean, clean, 0.0 * embeddings.sum(), 0, skipped)
        cosine = mixer.cosines(anchors, embeddings, triples, mixing)
        anchor = to_device(triples.anchor, device)
        mixed = self.clean.mixed(cosine, anchor, len(anchors), mixing.lam, embeddings.shape[1])
        total = clean + self.pairing.weight_of(mixing.kind) * mixed
        return MetrixTerms(total, clean, mixed, len(triples), "")


@torch.no_grad()
def _similarity(anchors: Tensor, items: Tensor) -> Tensor:
    """Cosines (K, B) on the host."""
    with full_precision(items):
        return (F.normalize(anchors, dim=1) @ F.normalize(items, dim=1).T).cpu()


def _check_batch(embeddings: Tensor, labels: Tensor) -> None:
    """Check the shapes and types of a batch; its values would have to be waited for."""
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
