"""Names of backbones and stems, for completion and for messages. Imports nothing heavy."""

from __future__ import annotations

import typing
from collections.abc import Iterable
from functools import lru_cache

from wasskit.system import hints

if typing.TYPE_CHECKING:
    from importlib.metadata import EntryPoint

TINY = "tiny"

RESNETS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)

CONVOLUTIONAL = (
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
    "convnext_large",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_s",
    "efficientnet_v2_m",
    "efficientnet_v2_l",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "vgg11_bn",
    "vgg13_bn",
    "vgg16_bn",
    "vgg19_bn",
)

TORCHVISION = RESNETS + CONVOLUTIONAL

# timm knows more than a thousand names and takes a second to list them; these are offered for completion,
# and any other is accepted, with or without the prefix.
TIMM = (
    "timm/convnextv2_nano",
    "timm/deit_small_patch16_224",
    "timm/densenet121",
    "timm/inception_v3",
    "timm/regnety_016",
    "timm/resnet10t",
    "timm/resnet18",
    "timm/resnet26",
    "timm/resnet50",
    "timm/resnetv2_50",
    "timm/swin_tiny_patch4_window7_224",
    "timm/vit_small_patch16_224",
    "timm/vit_tiny_patch16_224",
)

STEMS = {
    "auto": "small up to 64 pixels without ImageNet weights, else standard",
    "standard": "the network's own",
    "small": "3x3 convolution of stride 1, no max-pooling (CIFAR)",
    "small-pad2": "as small, padded by 2 (the published ResNet-18 of the W2 uniformity paper)",
    "small-pool": "3x3 convolution of stride 1, then max-pooling (64 to 96 pixels)",
    "small-pad2-pool": "as small-pool, padded by 2",
}

SMALL_IMAGE = 64
"""Side in pixels up to which an image counts as small."""


@lru_cache(maxsize=1)
def registered_backbones() -> dict[str, EntryPoint]:
    """The networks of installed packages: entry points of the group ``wasskit.backbones``, by name.

    Each loads to a function ``(channels: int, image_size: int) -> nn.Module`` of a network without a classifier that
    takes images (B, channels, H, W) to feature maps (B, C, H', W') or to features (B, D). Names of ours and of
    torchvision's networks stay theirs.
    """
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group="wasskit.backbones")}


def backbone_names() -> tuple[str, ...]:
    """The names offered for completion: ours, torchvision's, those of installed packages, and a choice of timm's."""
    taken = (TINY, *TORCHVISION)
    return (*taken, *(name for name in registered_backbones() if name not in taken), *TIMM)


def library_of(name: str) -> tuple[str, str]:
    """Where a backbone comes from and what it is called there.

    ``resnet18`` is torchvision's, ``timm/resnet18`` timm's; a bare name that neither we nor torchvision have
    is that of an installed package (``registered``), or is looked for in timm.
    """
    library, separator, bare = name.partition("/")
    if separator and library in ("timm", "torchvision"):
        return library, bare
    if name == TINY:
        return "wasskit", name
    if name in TORCHVISION:
        return "torchvision", name
    return ("registered", name) if name in registered_backbones() else ("timm", name)


def nearest(name: str, names: Iterable[str], count: int = 3) -> str:
    """'did you mean ...?' with the nearest names, or an empty string when none is near."""
    close = hints.nearest(name, names, count)
    return f" (did you mean {', '.join(close)}?)" if close else ""
