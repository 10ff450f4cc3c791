"""The trained models of all plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from wasskit.errors import UserError
from wasskit.models.export import load_weights
from wasskit.plugins import Plugin, declared_models, load_plugin, plugin_targets
from wasskit.trained.files import is_exported
from wasskit.trained.kind import ModelKind, TrainedModel, load_model
from wasskit.training.run import RunDirectory


def kinds_of(plugin: str) -> tuple[ModelKind[Any], ...]:
    """What a plugin declares of its models; none where there is no such plugin or it trains none."""
    target = plugin_targets().get(plugin)
    found = load_plugin(target) if target else None
    return declared_models(found) if isinstance(found, Plugin) else ()


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
    """
    path = Path(path).expanduser()
    if is_exported(path):
        maker = str(load_weights(path)[1].get("kind")).partition("-")[0]
    else:
        maker = RunDirectory.find(path)[0].command.partition(" ")[0]
    kinds = kinds_of(maker)
    if not kinds:
        raise UserError(f"{path} holds no trained model: it was made by `wasskit {maker[:40]}`.")
    return load_model(kinds, path, device, checkpoint)
