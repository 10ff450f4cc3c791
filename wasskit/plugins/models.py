"""The trained models of all plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from wasskit.errors import UserError
from wasskit.models.export import load_header
from wasskit.plugin import kinds_of
from wasskit.trained.files import is_exported
from wasskit.trained.kind import TrainedModel, load_model
from wasskit.training.run import RunDirectory

__all__ = ["load"]


def load(
    path: str | Path, device: torch.device | str = "cpu", *, checkpoint: Literal["last", "best"] = "last"
) -> TrainedModel[Any]:
    """A trained model, ready to embed: ``wasskit.load("runs/mrl/digits").embed(images)``.

    Args:
        path: a run directory, one of its checkpoints, or exported weights (``.safetensors``).
        device: where the model goes.
        checkpoint: which checkpoint of a run directory.

    Raises:
        UserError: there is no trained model at ``path``, or it is damaged.

    Example:
        >>> import torch, wasskit
        >>> model = wasskit.load("runs/mrl/digits")
        >>> model.embed(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 256])
    """
    path = Path(path).expanduser()
    if is_exported(path):
        maker = str(load_header(path).get("kind")).partition("-")[0]
    else:
        maker = RunDirectory.find(path)[0].command.partition(" ")[0]
    kinds = kinds_of(maker)
    if not kinds:
        raise UserError(f"{path} holds no trained model: it was made by `wasskit {maker[:40]}`.")
    return load_model(kinds, path, device, checkpoint)
