"""What stands on a backbone: projectors, predictors, embeddings, poolings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Sequential):
    """Fully connected layers of the given sizes with batch norm and ReLU between them.

    ``MLP((512, 2048, 2048, 256))`` is the projector of Barlow Twins and BYOL as used with the W2 uniformity
    term, ``MLP((256, 2048, 256))`` BYOL's predictor. Hidden layers have no bias where batch norm supplies
    one; the last has one by ``last_bias``, and with ``last_batch_norm`` is followed by a batch norm (affine).
    (B, sizes[0]) to (B, sizes[-1]). With batch norm, training needs at least two rows.
    """

    def __init__(
        self, sizes: Sequence[int], *, batch_norm: bool = True, last_batch_norm: bool = False, last_bias: bool = True
    ) -> None:
        if len(sizes) < 2:
            raise ValueError(f"an MLP needs the sizes of its input and its output, not {tuple(sizes)}")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        last = len(sizes) - 2
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            normalised = last_batch_norm if i == last else batch_norm
            bias = last_bias and not normalised if i == last else not normalised
            layers[f"linear{i}"] = nn.Linear(inputs, outputs, bias=bias)
            if normalised:
                layers[f"norm{i}"] = nn.BatchNorm1d(outputs)
            if i < last:
                layers[f"relu{i}"] = nn.ReLU(inplace=True)
        super().__init__(layers)


class LinearEmbedding(nn.Linear):
    """A linear layer to the embedding, scaled to unit length unless ``normalise=False``.

    (B, num_features) to (B, dim). ``kaiming=True`` draws the weights from a normal distribution of variance 2
    / dim and sets the bias to zero, as deep metric learning does; otherwise torch's default.
    """

    def __init__(
        self, num_features: int, dim: int, *, bias: bool = True, normalise: bool = True, kaiming: bool = False
    ) -> None:
        super().__init__(num_features, dim, bias=bias)
        self.normalise = normalise
        if kaiming:
            nn.init.kaiming_normal_(self.weight, mode="fan_out")
            if bias:
                nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        embedding = super().forward(input)
        return F.normalize(embedding, dim=-1) if self.normalise else embedding


class AverageMaxPool(nn.Module):
    """The sum of average and maximum over positions: (B, C, H, W) to (B, C)."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(-2, -1)) + maps.amax(dim=(-2, -1))
