"""Saved maps: both potentials of a training in one file, and how to build them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wasskit.data.toy import MOST_DIMENSIONS
from wasskit.errors import UserError
from wasskit.models.export import save_weights
from wasskit.models.icnn import ConvICNN, DenseICNN, Potential, QuadraticPotential
from wasskit.models.rebuild import are_counts, is_count
from wasskit.ot.gaussian import Balance
from wasskit.plugins.w2gn.core.frame import FramedTransport
from wasskit.plugins.w2gn.core.transport import W2GN
from wasskit.trained.kind import ModelKind

HEADER = "w2gn-map"
Maps = W2GN | FramedTransport
"""A map and its inverse, of points in plain coordinates."""
_FRAMES = ("centred", "linear")
_DENSE = ("hidden", "rank", "activation", "strong_convexity", "dropout")
_CONVOLUTIONAL = ("channels", "width", "strong_convexity")
"""What the networks are built from besides the shape of a point, in order."""


def save_map(path: Path, transport: Maps, **about: Any) -> Path:
    """Write a map and its inverse as safetensors with a JSON header that rebuilds them.

    Args:
        about: what else the header says (of which command, of which data).
    """
    save_weights(path, transport, {"kind": HEADER, "potential": description(transport), **about})
    return path


@dataclass(frozen=True)
class Map:
    """A trained map with its inverse, and the header of its file: ``potential``, ``command``, ..."""

    transport: Maps
    description: Mapping[str, Any]


def check_header(header: Any, path: Path) -> Mapping[str, Any]:
    """The header of a map. Raises ``UserError`` for what a command could not use."""
    known = header.get("potential")
    if not isinstance(known, Mapping) or not _describes(known):
        raise UserError(f"{path} does not describe its networks: its header is damaged; make the map again.")
    smooth = header.get("smooth", 0.0)
    if type(smooth) not in (int, float) or not 0 <= smooth < 256:
        raise UserError(f"{path}: its header gives a smoothing of {smooth!r}, not one in [0, 256); make it again.")
    return dict(header)


def point_shape(header: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of one point of a map."""
    known = header["potential"]
    return (known["dim"],) if "dim" in known else (known["channels"], *known["image_size"])


KIND = ModelKind(
    name="w2gn",
    header=HEADER,
    build=lambda header: Map(rebuilt(header["potential"]), header),
    weights=lambda model: model.transport,
    embedder=lambda model: model.transport.forward_map,
    check=check_header,
    file="map.safetensors",
    input_shape=point_shape,
)


def load_map(path: Path) -> tuple[Maps, dict[str, Any]]:
    """A saved map, in evaluation mode, and its header. Raises ``UserError`` where there is none at ``path``."""
    model = KIND.load(path)
    return model.transport.requires_grad_(False), dict(model.description)


def _describes(about: Mapping[str, Any]) -> bool:
    """Whether a description has what :func:`rebuilt` and the commands read, of the right types."""
    numbers = type(about.get("strong_convexity")) in (int, float) and isinstance(about.get("coordinates"), bool)
    if not numbers or not isinstance(about.get("quadratic", False), bool):
        return False
    if "frame" in about and not ("dim" in about and about["frame"] in _FRAMES):
        return False
    if "dim" in about:
        return (
            is_count(about["dim"])
            and about["dim"] <= MOST_DIMENSIONS
            and are_counts(about.get("hidden"))
            and is_count(about.get("rank"))
            and isinstance(about.get("activation"), str)
            and type(about.get("dropout")) in (int, float)
        )
    size = about.get("image_size", ())
    return are_counts(size) and len(size) == 2 and is_count(about.get("channels")) and is_count(about.get("width"))


def description(transport: Maps) -> dict[str, Any]:
    """The architecture of the potentials as plain values."""
    if isinstance(transport, FramedTransport):
        return description(transport.transport) | {"frame": _FRAMES[transport.matrix is not None]}
    psi: Potential = transport.psi
    about: dict[str, Any] = {"coordinates": transport.coordinates is not None}
    if isinstance(psi, QuadraticPotential):
        about["quadratic"] = True
        psi = psi.network
    if isinstance(psi, DenseICNN):
        return about | {"dim": psi.in_dim} | {name: getattr(psi, name) for name in _DENSE}
    assert isinstance(psi, ConvICNN)
    return about | {"image_size": psi.image_size} | {name: getattr(psi, name) for name in _CONVOLUTIONAL}


def rebuilt(about: Mapping[str, Any]) -> Maps:
    """Potentials of a described architecture, with weights of no meaning."""
    if "frame" in about:
        inner = rebuilt({name: value for name, value in about.items() if name != "frame"})
        assert isinstance(inner, W2GN)
        zero = torch.zeros(about["dim"])
        return FramedTransport(inner, zero, zero, torch.eye(about["dim"]) if about["frame"] == "linear" else None)

    def network() -> Potential:
        if "dim" in about:
            made: Potential = DenseICNN(about["dim"], *(about[name] for name in _DENSE))
        else:
            height, width = about["image_size"]
            made = ConvICNN((int(height), int(width)), *(about[name] for name in _CONVOLUTIONAL))
        return QuadraticPotential(made, about.get("dim")) if about.get("quadratic") else made

    dim = about["dim"] if "dim" in about else about["channels"]
    return W2GN(network(), network(), coordinates=plain_coordinates(dim) if about["coordinates"] else None)


def plain_coordinates(dim: int) -> Balance:
    """Coordinates that change nothing, to be replaced by others."""
    return Balance(torch.eye(dim), torch.eye(dim), torch.zeros(dim), torch.zeros(dim), torch.ones(()))
