"""Mixtures of embeddings, none of which is formed.

<a, m> = lambda <a, x> + (1 - lambda) <a, n>, and |m| follows from <x, n>: all triples are read off one Gram matrix.
"""

from __future__ import annotations

from torch import Tensor

from wasskit.ot.precision import full_precision
from wasskit.plugins.metrix.mixers.base import EPS, Sources, entries
from wasskit.plugins.metrix.pairs import Mixing, Triples


class EmbedMixer:
    """Mixes the embeddings as they are given; needs nothing more."""

    def __init__(self, embeddings: Tensor, sources: Sources) -> None:
        pass

    def cosines(self, anchors: Tensor, embeddings: Tensor, triples: Triples, mixing: Mixing) -> Tensor:
        with full_precision(anchors):
            return embedding_cosines(anchors, embeddings, triples.to(anchors.device), mixing)


def embedding_cosines(anchors: Tensor, items: Tensor, triples: Triples, mixing: Mixing) -> Tensor:
    """cos(a, lambda x + (1 - lambda) n) of every triple, (T,), from the Gram matrix.

    ``anchors`` (K, D), ``items`` (B, D); where the anchors are the items, pass the same tensor. Rows are
    mixed as they are: normalise them for mixtures on chords of the sphere.
    """
    lam, rest = mixing.lam, 1 - mixing.lam
    inner = anchors @ items.T  # (K, B)
    gram = inner if anchors is items else items @ items.T
    square = gram.diagonal()
    anchor_square = square if anchors is items else anchors.square().sum(1)
    over_norm = anchor_square.clamp(min=EPS).rsqrt()[:, None]
    if mixing.kind == "positive-negative":
        # |m|^2 and <a, m> / |a| of every pair first: (B, B) and (K, B) entries, fewer than there are triples.
        mixture_square = lam**2 * square[:, None] + 2 * lam * rest * gram + rest**2 * square[None, :]
        inner = inner * over_norm
        along_x, along_n = (entries(inner, triples.anchor, item) for item in (triples.x, triples.n))
        return (lam * along_x + rest * along_n) * entries(mixture_square.clamp(min=EPS).rsqrt(), triples.x, triples.n)
    mixture_square = lam**2 * anchor_square[:, None] + 2 * lam * rest * inner + rest**2 * square[None, :]
    along = (lam * anchor_square[:, None] + rest * inner) * over_norm
    return entries(along * mixture_square.clamp(min=EPS).rsqrt(), triples.anchor, triples.n)
