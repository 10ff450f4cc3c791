"""Mixtures of images, which the network embeds, once for each distinct pair."""

from __future__ import annotations

import torch
from torch import Tensor

from wasskit.distributed.collectives import gather_with_grad
from wasskit.plugins.metrix.mixers.base import Sources, pair_cosines
from wasskit.plugins.metrix.pairs import Mixing, Triples
from wasskit.system.transfer import to_device


class InputMixer:
    """Mixes the images of the batch; needs ``images`` and ``network``."""

    def __init__(self, embeddings: Tensor, sources: Sources) -> None:
        images = sources.images
        if images is None or sources.network is None:
            raise ValueError("input mode needs images, the images of the batch, and network")
        if len(images) != len(embeddings) or not images.is_floating_point():
            raise ValueError(
                f"images must be the {len(embeddings)} floating-point images of the batch, not {images.dtype} of shape "
                f"{tuple(images.shape)}"
            )
        self.images, self.network = images, sources.network

    def cosines(self, anchors: Tensor, embeddings: Tensor, triples: Triples, mixing: Mixing) -> Tensor:
        images = gather_with_grad(self.images)

        def embed(x: Tensor, n: Tensor) -> Tensor:
            first, second = (images[to_device(index, images.device)] for index in (x, n))
            return self.network(torch.lerp(second, first, mixing.lam))

        return pair_cosines(embed, anchors, triples, len(images))
