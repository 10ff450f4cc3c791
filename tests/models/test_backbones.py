"""Backbones by name: shapes, stems, local weights, and sentences for what cannot be had."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wasskit.errors import UserError
from wasskit.models import catalog
from wasskit.models.backbones import build_backbone


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "channels", "features"),
    [
        ("tiny", 8, 1, 256),
        ("tiny", 32, 3, 256),
        ("resnet18", 32, 3, 512),
        ("resnet50", 64, 1, 2048),
        ("mobilenet_v3_small", 64, 3, 576),
        ("convnext_tiny", 64, 3, 768),
        ("vgg11_bn", 32, 3, 512),
        ("timm/resnet18", 32, 3, 512),
        ("mobilenetv3_small_050", 64, 3, 1024),
        ("timm/swin_tiny_patch4_window7_224", 56, 3, 768),
    ],
)
def test_features_are_the_pooled_maps(name: str, size: int, channels: int, features: int) -> None:
    backbone = build_backbone(name, image_size=size, channels=channels).eval()
    images = torch.randn(2, channels, size, size)
    with torch.no_grad():
        pooled, maps = backbone(images), backbone.feature_maps(images)
        strided = backbone(images.contiguous(memory_format=torch.channels_last))
    assert pooled.shape == (2, features) == (2, backbone.num_features)
    assert maps.ndim == 4
    assert maps.shape[:2] == (2, backbone.map_channels)
    torch.testing.assert_close(backbone.pool(maps), pooled)
    torch.testing.assert_close(strided, pooled, rtol=1e-3, atol=1e-4)


def test_transformers_give_features_but_no_maps() -> None:
    backbone = build_backbone("vit_tiny_patch16_224", image_size=32)
    assert backbone(torch.zeros(1, 3, 32, 32)).shape == (1, backbone.num_features)
    with pytest.raises(UserError, match="tokens"):
        backbone.feature_maps(torch.zeros(1, 3, 32, 32))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18"])
@pytest.mark.parametrize(
    ("stem", "size", "side"),
    [
        ("auto", 32, 4),
        ("auto", 96, 3),
        ("small", 32, 4),
        ("small-pad2", 32, 5),
        ("small-pool", 64, 4),
        ("standard", 32, 1),
    ],
)
def test_stems(name: str, stem: str, size: int, side: int) -> None:
    backbone = build_backbone(name, image_size=size, stem=stem).eval()
    with torch.no_grad():
        maps = backbone.feature_maps(torch.zeros(1, 3, size, size))
    assert maps.shape == (1, 512, side, side)


def test_a_resnet_keeps_the_names_of_its_library() -> None:
    from torchvision.models import resnet18

    ours = {key.removeprefix("net.") for key in build_backbone("resnet18", image_size=224).state_dict()}
    assert ours == set(resnet18().state_dict()) - {"fc.weight", "fc.bias"}


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


PREFIXES: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "plain": lambda state: state,
    "module": lambda state: {"state_dict": prefixed("module.", state), "epoch": 3},
    "backbone": lambda state: prefixed("backbone.net.", state),
    "queries and keys": lambda state: {
        "model": prefixed("module.encoder_k.", {key: value + 1 for key, value in state.items()})
        | prefixed("module.encoder_q.", state)
        | {"module.queue": torch.zeros(4, 4)}
    },
    "with a classifier": lambda state: {**state, "fc.weight": torch.zeros(9, 256), "head.0.bias": torch.zeros(9)},
    "without counters": lambda state: {k: v for k, v in state.items() if not k.endswith("_tracked")},
}


@pytest.mark.parametrize("kind", PREFIXES)
def test_weights_from_a_local_file(kind: str, tmp_path: Path) -> None:
    trained = build_backbone("tiny", image_size=8, channels=1)
    path = tmp_path / "weights.pth"
    torch.save(PREFIXES[kind](trained.net.state_dict()), path)
    loaded = build_backbone("tiny", image_size=8, channels=1, weights=path)
    for key, value in trained.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_weights_from_safetensors_and_from_colour_to_grey(tmp_path: Path) -> None:
    trained = build_backbone("tiny", image_size=8, channels=3).eval()
    path = tmp_path / "weights.safetensors"
    save_file(trained.net.state_dict(), path)
    grey = build_backbone("tiny", image_size=8, channels=1, weights=path).eval()
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(grey(images), trained(images.expand(-1, 3, -1, -1)))


@pytest.mark.slow
def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"

    def refuses(match: str, name: str = "resnet18", **options: int | str) -> None:
        with pytest.raises(UserError, match=match):
            build_backbone(name, image_size=32, weights=path, **options)  # type: ignore[arg-type]

    refuses("no file of weights")
    state = build_backbone("resnet18", image_size=224).net.state_dict()
    torch.save(state, path)
    refuses(r"'conv1.weight' of shape \(64, 3, 7, 7\) where resnet18 has \(64, 3, 3, 3\) \(the stem differs")
    refuses("holds no tensor called '0.0.weight'", "tiny")
    refuses("lacks .* tensors of resnet34, first 'layer1.2.conv1.weight'", "resnet34", stem="standard")
    torch.save(build_backbone("resnet34", image_size=224).net.state_dict(), path)
    refuses("first 'layer1.2.conv1.weight': these are the weights of a larger", stem="standard")
    torch.save({"state_dict": state, "args": nn.Linear(1, 1)}, path)
    refuses("holds Python objects beside its tensors")
    path.write_bytes(path.read_bytes()[:1000])
    refuses("not a readable torch file of weights: it is damaged, cut short or of another kind")
    path.rename(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="readable safetensors"):
        build_backbone("resnet18", image_size=32, weights=tmp_path / "weights.safetensors")


def test_pretrained_weights_come_from_the_cache_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        UserError, match=r"IMAGENET1K_V1 weights of resnet18 are not on this machine .*resnet18-f37072fd.pth"
    ):
        build_backbone("resnet18", image_size=224, pretrained=True)
    with pytest.raises(UserError, match="no weights 'V3' for resnet18: it has IMAGENET1K_V1"):
        build_backbone("resnet18", image_size=224, pretrained="V3")
    with pytest.raises(UserError, match="not on this machine"):
        build_backbone("timm/resnet18", image_size=224, pretrained=True)

    from torchvision.models import resnet18

    published = resnet18()
    (tmp_path / "checkpoints").mkdir()
    torch.save(published.state_dict(), tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    backbone = build_backbone("resnet18", image_size=32, pretrained=True)
    assert torch.equal(backbone.get_parameter("net.conv1.weight"), published.conv1.weight)


@pytest.mark.slow
def test_names_that_do_not_exist_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no backbone 'small-net': there are tiny and those of .*installed packages"):
        build_backbone("small-net", image_size=32)
    with pytest.raises(UserError, match=r"no backbone 'resnet81' .did you mean .*resnet18"):
        build_backbone("resnet81", image_size=32)
    with pytest.raises(UserError, match="no stem 'smal'"):
        build_backbone("tiny", image_size=8, stem="smal")
    with pytest.raises(UserError, match="for residual networks"):
        build_backbone("vgg11_bn", image_size=32, stem="small")
    with pytest.raises(UserError, match="not both"):
        build_backbone("resnet18", image_size=32, pretrained=True, weights="here.pt")


def test_every_name_offered_can_be_built_by_its_library() -> None:
    import timm
    from torchvision import models

    assert set(catalog.TORCHVISION) <= set(models.list_models())
    assert all(timm.is_model(name.removeprefix("timm/")) for name in catalog.TIMM)
    assert len(set(catalog.backbone_names())) == len(catalog.backbone_names())


def maps_of_six(channels: int, image_size: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 6, 3, stride=2), nn.BatchNorm2d(6))


def five_features(channels: int, image_size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(5))


def a_sequence(channels: int, image_size: int) -> nn.Module:
    return nn.Flatten(2)


def broken(channels: int, image_size: int) -> nn.Module:
    raise ValueError("no such weights")


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks of this module as those of an installed package; one has the name of a network of torchvision."""
    names = {"six": "maps_of_six", "five": "five_features", "three": "a_sequence", "no": "broken", "resnet18": "broken"}
    module = ModuleType("a_package")
    vars(module).update({function: globals()[function] for function in names.values()})
    monkeypatch.setitem(sys.modules, "a_package", module)
    points = [EntryPoint(name, f"a_package:{function}", "wasskit.backbones") for name, function in names.items()]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points)
    catalog.registered_backbones.cache_clear()
    yield
    catalog.registered_backbones.cache_clear()


@pytest.mark.usefixtures("registered")
def test_an_installed_package_adds_backbones() -> None:
    images = torch.randn(4, 1, 8, 8)
    maps = build_backbone("six", image_size=8, channels=1)
    assert maps.training
    assert maps.num_features == 6
    assert maps.feature_maps(images).shape == (4, 6, 3, 3)
    torch.testing.assert_close(maps(images), maps.net(images).mean(dim=(2, 3)))
    # Looking at the shape has left the statistics of the batch norm alone.
    fresh = build_backbone("six", image_size=8, channels=1)
    assert torch.equal(fresh.get_buffer("net.1.running_mean"), torch.zeros(6))
    pooled = build_backbone("five", image_size=8, channels=1)
    assert pooled.num_features == 5
    assert torch.equal(pooled(images), pooled.net(images))
    with pytest.raises(UserError, match="gives features, not feature maps"):
        pooled.feature_maps(images)
    assert {"six", "five"} <= set(catalog.backbone_names())


@pytest.mark.usefixtures("registered")
def test_weights_of_a_backbone_without_convolutions(tmp_path: Path) -> None:
    saved = build_backbone("five", image_size=8, channels=1)
    torch.save(saved.net.state_dict(), tmp_path / "five.pt")
    loaded = build_backbone("five", image_size=8, channels=1, weights=tmp_path / "five.pt")
    for found, expected in zip(loaded.parameters(), saved.parameters(), strict=True):
        assert torch.equal(found, expected)
    assert catalog.library_of("resnet18") == ("torchvision", "resnet18")
    assert len(set(catalog.backbone_names())) == len(catalog.backbone_names())


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("three", {}, r"'three' \(a_package:a_sequence\) gives a tensor of shape \(1, 1, 64\)"),
        ("no", {}, r"'no' \(a_package:broken\) cannot be built: ValueError: no such weights"),
        ("six", {"pretrained": True}, "knows no pretrained weights"),
        ("six", {"stem": "small"}, "knows no stems"),
    ],
)
def test_what_is_wrong_with_a_backbone_of_a_package_is_said(name: str, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build_backbone(name, image_size=8, channels=1, **settings)


@pytest.mark.slow
def test_tiny_imports_neither_torchvision_nor_timm_and_names_import_nothing() -> None:
    script = (
        "import sys, wasskit.models.catalog; assert not {'torch', 'numpy'} & set(sys.modules);"
        "from wasskit.models.backbones import build_backbone; build_backbone('tiny', image_size=8);"
        "assert not {'torchvision', 'timm', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.slow
def test_tiny_learns_the_digits() -> None:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    torch.manual_seed(0)
    pixels, digits = load_digits(return_X_y=True)
    grey = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    train, test = train_test_split(range(len(digits)), test_size=0.2, stratify=digits, random_state=0)
    images, labels = grey[train], torch.tensor(digits[train])
    network = nn.Sequential(build_backbone("tiny", image_size=8, channels=1), nn.Linear(256, 10))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=8 * 22)
    for _ in range(8):
        for rows in torch.randperm(len(images))[: 22 * 64].split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimiser.step()
            schedule.step()
    network.eval()
    assert (network(grey[test]).argmax(1) == torch.tensor(digits[test])).float().mean() > 0.97
