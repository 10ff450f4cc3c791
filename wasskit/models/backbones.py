"""Backbones by name: images in, last feature maps or pooled features out.

``tiny`` is ours, ``resnet50`` and its like are torchvision's, ``timm/<name>`` (or any other name timm knows)
timm's; installed packages add names of their own (:func:`wasskit.models.catalog.registered_backbones`). Each library
is imported only when one of its networks is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from wasskit.errors import UserError
from wasskit.models import catalog
from wasskit.models.weights import load_backbone_weights


class Backbone(nn.Module):
    """A network without its classifier.

    ``forward(x)`` is ``pool(feature_maps(x))``: images (B, channels, H, W), float, to features (B, num_features). The
    layers lie under ``net`` with the names their library gives them, so published weights fit as they are.
    """

    name: str
    channels: int
    num_features: int
    """Width of the pooled features."""
    map_channels: int
    """Channels of the feature maps; differs from num_features where a head widens the pooled features."""
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and deviation, per channel in [0, 1], that its library normalised images with in training; None: unknown."""

    def __init__(self, name: str, net: nn.Module, *, channels: int, num_features: int, map_channels: int = 0) -> None:
        super().__init__()
        self.name = name
        self.net = net
        self.channels = channels
        self.num_features = num_features
        self.map_channels = map_channels or num_features

    def feature_maps(self, x: Tensor) -> Tensor:
        """Images (B, channels, H, W) to the last feature maps (B, map_channels, H', W')."""
        return cast(Tensor, self.net(x))

    def pool(self, maps: Tensor) -> Tensor:
        """Feature maps (B, map_channels, H', W') to features (B, num_features): the mean over positions."""
        return maps.mean(dim=(-2, -1))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.feature_maps(x))

    def extra_repr(self) -> str:
        return f"{self.name}, channels={self.channels}, num_features={self.num_features}"


def described_backbone(description: Mapping[str, Any], **weights: Any) -> Backbone:
    """The backbone that the description of a model names; ``weights`` as of :func:`build_backbone`."""
    settings = {key: description[key] for key in ("image_size", "channels", "stem")}
    return build_backbone(description["backbone"], **settings, **weights)


def build_backbone(
    name: str,
    *,
    image_size: int,
    channels: int = 3,
    pretrained: bool | str = False,
    weights: str | Path | None = None,
    stem: str = "auto",
    download: bool = False,
) -> Backbone:
    """Build a backbone by name.

    ``pretrained=True`` takes ImageNet weights from the libraries' local caches, and from the network only with
    ``download=True``; for torchvision these are ``IMAGENET1K_V1``, those meant by "pretrained" in the papers, and a
    string names others (``pretrained="IMAGENET1K_V2"``). ``weights`` is a local file instead, see
    :func:`wasskit.models.weights.load_backbone_weights`. Where the weights are for colour and ``channels`` is 1, the
    first convolution is summed over its colours, which equals showing the grey image as three equal channels.

    ``stem`` is one of :data:`wasskit.models.catalog.STEMS`; those other than ``standard`` are for residual networks.
    Raises UserError for an unknown name or stem, weights that cannot be had, or weights that do not fit.
    """
    if channels < 1 or image_size < 1:
        raise UserError(f"a backbone needs images of at least one pixel and channel, not {image_size} and {channels}.")
    if stem not in catalog.STEMS:
        raise UserError(f"there is no stem '{stem}': choose one of {', '.join(catalog.STEMS)}.")
    if pretrained and weights is not None:
        raise UserError("choose either pretrained weights or a file of weights, not both.")
    if stem == "auto":
        stem = "small" if image_size <= catalog.SMALL_IMAGE and not pretrained else "standard"
        explicit = False
    else:
        explicit = stem != "standard"

    library, bare = catalog.library_of(name)
    if library == "wasskit":
        if pretrained:
            raise UserError("'tiny' has no pretrained weights: train it, or give your own by --weights PATH.")
        backbone: Backbone = Backbone(name, _tiny(channels), channels=channels, num_features=256)
    elif library == "torchvision":
        backbone = _torchvision_backbone(bare, channels)
    elif library == "registered":
        if pretrained or explicit:
            given = "pretrained weights" if pretrained else "stems"
            raise UserError(f"'{name}' is the network of a package, of which wasskit knows no {given}.")
        backbone = _registered_backbone(bare, channels, image_size)
    else:
        backbone = _timm_backbone(name, bare, channels, image_size, pretrained, download)

    if stem != "standard" and library in ("torchvision", "timm"):
        _replace_stem(backbone, stem, explicit)
    if pretrained and library == "torchvision":
        weights = _torchvision_weights(bare, pretrained, download)
    if weights is not None:
        load_backbone_weights(backbone, Path(weights))
    return backbone


def _tiny(channels: int) -> nn.Sequential:
    """Four 3x3 convolutions for images of 8 to 32 pixels: enough for handwritten digits, seconds to train."""

    def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    return nn.Sequential(block(channels, 32, 1), block(32, 64, 2), block(64, 128, 1), block(128, 256, 2))


class _ResNet(Backbone):
    """torchvision's residual networks."""

    def feature_maps(self, x: Tensor) -> Tensor:
        net = cast(Any, self.net)
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        return cast(Tensor, net.layer4(net.layer3(net.layer2(net.layer1(x)))))


class _Features(Backbone):
    """torchvision's networks whose convolutions are called ``features``."""

    def feature_maps(self, x: Tensor) -> Tensor:
        return cast(Tensor, cast(Any, self.net).features(x))

    def pool(self, maps: Tensor) -> Tensor:
        # ConvNeXt normalises its pooled features; elsewhere the classifier is empty.
        pooled = cast(Any, self.net).classifier(maps.mean(dim=(-2, -1), keepdim=True))
        return cast(Tensor, pooled).flatten(1)


def _torchvision_backbone(name: str, channels: int) -> Backbone:
    if name not in catalog.TORCHVISION:
        raise UserError(f"torchvision has no backbone '{name}'{catalog.nearest(name, catalog.TORCHVISION)}.")
    from torchvision import models

    net = models.get_model(name, weights=None)
    if channels != 3:
        _replace_first_convolution(net, channels)
    if name in catalog.RESNETS:
        num_features = net.fc.in_features
        net.fc = nn.Identity()
        return _ResNet(name, net, channels=channels, num_features=num_features)
    convolutions = [module for module in net.features.modules() if isinstance(module, nn.Conv2d)]
    # The last convolution of a ConvNeXt block is depthwise, inside the block; its width is the network's all the same.
    num_features = convolutions[-1].out_channels
    kept = [net.classifier[0]] if name.startswith("convnext") else []
    net.classifier = nn.Sequential(*kept)
    return _Features(name, net, channels=channels, num_features=num_features)


def _torchvision_weights(name: str, tag: bool | str, download: bool) -> Path:
    """The file of torchvision's ImageNet weights in the local cache, downloaded there if that is allowed."""
    from torchvision import models

    choices = models.get_model_weights(name)
    wanted = "IMAGENET1K_V1" if tag is True else str(tag)
    if wanted not in choices.__members__:
        known = ", ".join(choices.__members__)
        raise UserError(f"torchvision has no weights '{wanted}' for {name}: it has {known}.")
    url = choices[wanted].url
    path = _torch_cache(url)
    if path.exists():
        return path
    if not download:
        raise _missing_weights(f"{wanted} weights of {name}", str(path))
    try:
        torch.hub.load_state_dict_from_url(url, map_location="cpu", progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the weights of {name} could not be downloaded from {url} ({error}): "
            "fetch the file elsewhere and give it by --weights PATH."
        ) from error
    return path


def _torch_cache(url: str) -> Path:
    """Where torch keeps what it downloads from a url."""
    return Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])


def _missing_weights(what: str, looked_for: str) -> UserError:
    return UserError(
        f"the {what} are not on this machine (looked for {looked_for}): "
        "allow the download with --download, or give a local file by --weights PATH."
    )


class _Registered(Backbone):
    """The network of another package, which gives feature maps or pooled features."""

    def feature_maps(self, x: Tensor) -> Tensor:
        maps = super().feature_maps(x)
        if maps.ndim != 4:
            raise UserError(
                f"{self.name} gives features, not feature maps: choose another backbone, or mix its embeddings "
                "instead of its maps."
            )
        return maps

    def forward(self, x: Tensor) -> Tensor:
        found = super().feature_maps(x)
        return self.pool(found) if found.ndim == 4 else found


def _registered_backbone(name: str, channels: int, image_size: int) -> Backbone:
    point = catalog.registered_backbones()[name]
    try:
        net = point.load()(channels=channels, image_size=image_size)
        training = net.training
        with torch.no_grad():
            found = net.eval()(torch.zeros(1, channels, image_size, image_size))
        net.train(training)
        shape = tuple(found.shape)
    except Exception as error:  # whatever the package's code raises
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"the backbone '{name}' ({point.value}) cannot be built: {reason}") from error
    if len(shape) not in (2, 4):
        raise UserError(
            f"the backbone '{name}' ({point.value}) gives a tensor of shape {shape} for one image: return feature maps "
            "(B, C, H, W) or features (B, D)."
        )
    return _Registered(name, net, channels=channels, num_features=shape[1])


class _Timm(Backbone):
    """A network of timm, with its own pooling."""

    last_channels = False
    """Whether its maps come as (B, H, W, C), as those of Swin transformers do."""

    def feature_maps(self, x: Tensor) -> Tensor:
        maps = cast(Tensor, cast(Any, self.net).forward_features(x))
        if maps.ndim != 4:
            raise UserError(
                f"{self.name} gives a sequence of tokens, not feature maps: choose a convolutional backbone, "
                "or mix its embeddings instead of its maps."
            )
        return maps.permute(0, 3, 1, 2) if self.last_channels else maps

    def pool(self, maps: Tensor) -> Tensor:
        if self.last_channels:
            maps = maps.permute(0, 2, 3, 1)
        return cast(Tensor, cast(Any, self.net).forward_head(maps))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.net(x))


def _timm_backbone(
    name: str, bare: str, channels: int, image_size: int, pretrained: bool | str, download: bool
) -> Backbone:
    # Any: timm is only partly typed.
    timm: Any = importlib.import_module("timm")

    if not timm.is_model(bare.split(".")[0]):
        names = [*catalog.backbone_names(), *timm.list_models()]
        known = "tiny and those of torchvision, of timm and of installed packages that add some (wasskit.backbones)"
        raise UserError(f"there is no backbone '{name}'{catalog.nearest(name, names) or f': there are {known}'}.")
    published = timm.get_pretrained_cfg(bare)
    options: dict[str, Any] = {"num_classes": 0, "in_chans": channels}
    if published is not None and published.fixed_input_size and published.input_size[-1] != image_size:
        options["img_size"] = image_size
    if isinstance(pretrained, str):
        bare = f"{bare.split('.')[0]}.{pretrained}"
        published = timm.get_pretrained_cfg(bare)
    if pretrained:
        if published is None or not (published.hf_hub_id or published.url):
            raise UserError(f"timm has no pretrained weights for '{bare}'.")
        options["pretrained"] = True
        local = _timm_cached(published)
        if local is not None:
            options["pretrained_cfg_overlay"] = {"file": str(local)}
        elif not download:
            raise _missing_weights(f"pretrained weights of {name}", published.hf_hub_id or published.url)
    try:
        net = timm.create_model(bare, **options)
    except (OSError, RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise UserError(f"timm cannot build '{bare}' for images of {image_size} pixels: {error}") from error

    backbone = _Timm(
        name,
        net,
        channels=channels,
        num_features=getattr(net, "head_hidden_size", None) or net.num_features,
        map_channels=net.num_features,
    )
    backbone.last_channels = getattr(net, "output_fmt", "NCHW") == "NHWC"
    if published is not None and published.mean:
        # One grey channel stands for three equal ones.
        mean, std = (
            tuple(values) if channels == len(values) else (sum(values) / len(values),) * channels
            for values in (published.mean, published.std)
        )
        backbone.normalisation = mean, std
    return backbone


def _timm_cached(published: Any) -> Path | None:
    """The local copy of timm's weights, from the Hugging Face cache or torch's, or None."""
    if published.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache

        repository, _, revision = published.hf_hub_id.partition("@")
        for file in ("model.safetensors", published.hf_hub_filename or "pytorch_model.bin"):
            found = try_to_load_from_cache(repository, file, revision=revision or None)
            if isinstance(found, str):
                return Path(found)
    if published.url:
        path = _torch_cache(published.url)
        return path if path.exists() else None
    return None


def _replace_stem(backbone: Backbone, stem: str, explicit: bool) -> None:
    """Put a 3x3 convolution of stride 1 in place of a residual network's first layers."""
    net = cast(Any, backbone.net)
    first = getattr(net, "conv1", None)
    if not isinstance(first, nn.Conv2d) or not hasattr(net, "maxpool"):
        if explicit:
            raise UserError(
                f"stem '{stem}' is for residual networks and {backbone.name} has only its own: use --stem standard."
            )
        return
    padding = 2 if "pad2" in stem else 1
    net.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 3, 1, padding, bias=first.bias is not None)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    if not stem.endswith("pool"):
        net.maxpool = nn.Identity()


def _replace_first_convolution(net: nn.Module, channels: int) -> None:
    name, first = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d))
    assert isinstance(first.padding, tuple)
    convolution = nn.Conv2d(
        channels,
        first.out_channels,
        cast(Any, first.kernel_size),
        cast(Any, first.stride),
        cast(Any, first.padding),
        bias=first.bias is not None,
    )
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    parent, _, attribute = name.rpartition(".")
    setattr(net.get_submodule(parent), attribute, convolution)
