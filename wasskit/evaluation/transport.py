"""How good a transport map is: against a known one, between distributions, and against its own inverse.

All distances are computed in float64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wasskit.errors import UserError
from wasskit.models.weights import load_state, read_state
from wasskit.ot.gaussian import Moments, bures_wasserstein_squared, streamed_moments

#: Numbers that are taken into float64 at a time.
_BLOCK = 1 << 24


def l2_uvp(mapped: Tensor, target: Tensor, variance: float | Tensor | None = None) -> float:
    """Unexplained variance percentage of a map, ``100 E|T(x) - T*(x)|^2 / Var(T* # P)``, in percent.

    The identity of two unrelated measures scores 100 or more and a perfect map 0 (Korotin et al., 2021, section 5.1).

    Args:
        mapped: ``T(x)``, (N, D).
        target: ``T*(x)``, (N, D), of the same points in the same order.
        variance: total variance of the target measure; that of ``target`` when absent.

    Raises:
        ValueError: the shapes differ, or there are no points.

    Example:
        >>> import torch, wasskit
        >>> target = torch.randn(1000, 4)
        >>> round(wasskit.l2_uvp(target.mean(0).expand(1000, 4), target), 3)  # the mean explains nothing
        100.0
    """
    if mapped.shape != target.shape:
        raise ValueError(
            f"maps of the same points have the same shape, not {tuple(mapped.shape)} and {tuple(target.shape)}"
        )
    if mapped.ndim < 2 or len(mapped) == 0:
        raise ValueError(f"points are the rows of a matrix (N, D), N at least 1, not of {tuple(mapped.shape)}")
    mapped, target = mapped.double(), target.double()
    if variance is None:
        variance = target.var(0, correction=0).sum()
    return float(100.0 * (mapped - target).square().flatten(1).sum(1).mean() / variance)


def transport_cosine(x: Tensor, mapped: Tensor, target: Tensor) -> float:
    """Cosine between the displacement fields ``T - id`` and ``T* - id`` in L2(P); 1 for a perfect map.

    Shapes (N, D). 0 where either map moves nothing.
    """
    ours, true = (mapped.double() - x.double()).flatten(), (target.double() - x.double()).flatten()
    norms = ours.norm() * true.norm()
    return float(ours @ true / norms) if norms > 0 else 0.0


def forward_inverse_error(x: Tensor, returned: Tensor) -> float:
    """``100 E|T^{-1}(T(x)) - x|^2 / Var(P)`` in percent: what is lost by mapping there and back. Shapes (N, D)."""
    return l2_uvp(returned, x)


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^{1/2})``, the squared Frechet distance of two Gaussians
    (Heusel et al., 2017).

    It is `wasskit.ot.gaussian.bures_wasserstein_squared`, accurate for singular covariances, where a matrix
    square root of the product is not.

    Example:
        >>> import torch, wasskit
        >>> mean, covariance = torch.zeros(3).double(), torch.eye(3).double()
        >>> round(wasskit.frechet_distance(mean, covariance, mean + 1, 4 * covariance), 6)
        6.0
    """
    arguments = [torch.as_tensor(a).double() for a in (mean1, covariance1, mean2, covariance2)]
    size = arguments[0].shape
    if len(size) != 1 or [a.shape for a in arguments] != 2 * [size, 2 * size]:
        shapes = ", ".join(str(tuple(a.shape)) for a in arguments)
        raise ValueError(f"two means (D,) and covariances (D, D) are compared, not {shapes}")
    return float(bures_wasserstein_squared(*arguments))


def gaussian_distance(x: Tensor, y: Tensor) -> float:
    """Squared Bures-Wasserstein distance between the moments of two samples (N, D) and (M, D)."""
    # Moments are taken in float64: of large samples in parts.
    first, second = (streamed_moments(sample.split(max(1, _BLOCK // sample.shape[1]))) for sample in (x, y))
    return float(bures_wasserstein_squared(first.mean, first.covariance, second.mean, second.covariance))


# --- Frechet inception distance
# -------------------------------------------------------------------------------------


class InceptionFeatures(nn.Module):
    """The 2,048 pooled features of Inception v3, from weights in a local file; nothing is ever downloaded.

    Two kinds of files are known, by the number of their classes: 1,008 are the TensorFlow weights of the original
    score, ported to PyTorch (``pt_inception-2015-12-05-*.pth``), which need average pools that ignore the padding and a
    maximum pool in the last block; 1,000 are torchvision's own (``inception_v3_google-*.pth``). Both take pixels in
    [-1, 1]: torchvision's, too, come from TensorFlow, and its ``transform_input`` undoes the usual normalisation.
    Scores of the two are not comparable, so ``implementation`` and ``checksum`` belong beside every score.
    """

    def __init__(self, weights: str | Path) -> None:
        super().__init__()
        path = Path(weights)
        if not path.exists():
            raise UserError(
                f"There is no file of Inception weights at {path}; give the path of one that you have downloaded."
            )
        state = read_state(path)
        if "fc.bias" not in state or state["fc.bias"].ndim != 1:
            raise UserError(f"{path} does not hold the state dictionary of an Inception v3: it lacks fc.bias.")
        self.checksum, classes = sha256(path), len(state["fc.bias"])
        if classes not in (1000, 1008):
            raise UserError(f"{path} has {classes} classes; Inception weights for this score have 1008 or 1000.")
        self.implementation = "inception-v3-tensorflow" if classes == 1008 else "inception-v3-torchvision"
        self.network = build_inception(tensorflow=classes == 1008)
        kept = {name: value for name, value in state.items() if not name.startswith(("AuxLogits", "fc"))}
        # Files from before PyTorch 0.4.1 lack the counters of batch normalisation, which evaluation does not use.
        counters = {
            name: value for name, value in self.network.state_dict().items() if name.endswith("num_batches_tracked")
        }
        load_state(self.network, {**counters, **kept}, path, "Inception v3")
        self.eval().requires_grad_(False)

    @property
    def label(self) -> str:
        """Implementation and checksum, for reports."""
        return f"{self.implementation} sha256:{self.checksum[:12]}"

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 2048) of images (B, 3, H, W), or (B, 1, H, W), with values in [0, 1]."""
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        images = F.interpolate(images, (299, 299), mode="bilinear", align_corners=False)
        features: Tensor = self.network(2.0 * images - 1.0)
        return features


def build_inception(tensorflow: bool) -> nn.Module:
    """Inception v3 up to its pooled features, with the pools of the TensorFlow original where asked for."""
    from torchvision.models import inception_v3

    network: Any = inception_v3(weights=None, aux_logits=True, init_weights=False)
    network.AuxLogits = None
    network.aux_logits = False
    network.transform_input = False
    network.dropout = network.fc = nn.Identity()
    if tensorflow:
        for name, block in network.named_children():
            if hasattr(block, "branch_pool"):
                block._forward = with_tensorflow_pool(block, maximum=name == "Mixed_7c")
    return network  # type: ignore[no-any-return]


def with_tensorflow_pool(block: Any, maximum: bool) -> Callable[[Tensor], list[Tensor]]:
    """The forward pass of a block whose last branch pools without counting the padding, or takes the maximum."""
    plain = block._forward

    def forward(x: Tensor) -> list[Tensor]:
        outputs: list[Tensor] = plain(x)
        pooled = F.max_pool2d(x, 3, 1, 1) if maximum else F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        outputs[-1] = block.branch_pool(pooled)
        return outputs

    return forward


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def frechet_inception_distance(generated: Moments, real: Moments) -> float:
    """FID of two sets of images from the moments of their features (`streamed_moments`)."""
    return frechet_distance(generated.mean, generated.covariance, real.mean, real.covariance)
