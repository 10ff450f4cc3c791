"""Local weights for a backbone, from whatever file they are in.

Published state dicts call the same network ``conv1.weight``, ``module.encoder_q.conv1.weight`` or
``backbone.net.conv1.weight``, plain or inside a checkpoint. The network's own names tell which prefix is
meant: the one under which most of its tensors are found.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wasskit.errors import UserError

# The slow copy of a pair of networks, not meant when both are in a file.
_AVERAGED = ("momentum", "target", "teacher", "ema", "encoder_k", "key_encoder")


def read_tensors(path: Path) -> Any:
    """The content of a ``.safetensors`` or torch file: tensors and plain values in containers, on the CPU.

    Nothing else in a file is ever executed (``weights_only=True``). Raises UserError if the file is not
    there, is damaged, or holds anything else.
    """
    if not path.is_file():
        raise UserError(f"there is no file of weights at {path}.")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is not a readable safetensors file: {error}.") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds Python objects beside its tensors and is not loaded for safety: "
            "load it where you trust it and save its state dict alone."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged or not a torch file: {error}.") from error


def load_backbone_weights(backbone: nn.Module, path: Path) -> None:
    """Load the weights of ``backbone.net`` from a local file, in place.

    Classifiers, projectors, queues and whatever else stands beside the backbone in the file are ignored.
    Raises UserError, naming the first tensor concerned, if tensors of the backbone are missing, have another
    shape, or the file holds more layers of its blocks than the backbone has.
    """
    net = backbone.net
    assert isinstance(net, nn.Module)
    wanted = net.state_dict()
    found = _find_state(read_tensors(path), wanted, path)
    name = getattr(backbone, "name", type(net).__name__)

    # Files older than batch norm's counter lack it; it only matters for cumulative averages.
    missing = [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} of the {len(wanted)} tensors of {name}, first '{missing[0]}': "
            "these are not the weights of this backbone."
        )
    blocks = {key.split(".")[0] for key in wanted}
    surplus = [key for key in found if key not in wanted and key.split(".")[0] in blocks]
    if surplus:
        raise UserError(
            f"{path} holds {len(surplus)} tensors that {name} has not, first '{surplus[0]}': "
            "these are the weights of a larger backbone."
        )
    first = next(key for key, tensor in wanted.items() if tensor.ndim == 4)
    state = {key: found[key] for key in wanted if key in found}
    if state[first].ndim == 4 and state[first].shape[1] == 3 and wanted[first].shape[1] == 1:
        state[first] = state[first].sum(dim=1, keepdim=True)
    for key, tensor in state.items():
        if tensor.shape != wanted[key].shape:
            hint = " (the stem differs: see --stem)" if key == first and tensor.ndim == 4 else ""
            shapes = f"{tuple(tensor.shape)} where {name} has {tuple(wanted[key].shape)}"
            raise UserError(f"{path} has '{key}' of shape {shapes}{hint}.")
    net.load_state_dict(state, strict=False)


def _find_state(content: Any, wanted: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The part of a file that holds the wanted tensors, with their prefix taken off."""
    anchor = next(iter(wanted))
    best: tuple[tuple[int, int], dict[str, Tensor]] = ((0, 0), {})
    for where, tensors in _state_dicts(content):
        prefixes = {
            key[: -len(anchor)]: None for key in tensors if key == anchor or key.endswith("." + anchor)
        }
        for prefix in prefixes:
            state = {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
            matches = sum(key in wanted for key in state)
            averaged = any(word in f"{where}.{prefix}" for word in _AVERAGED)
            score = (matches, -int(averaged))
            if score > best[0]:
                best = (score, state)
    if not best[1]:
        raise UserError(
            f"{path} holds no tensor called '{anchor}': these are not the weights of this backbone."
        )
    return best[1]


def _state_dicts(content: Any, where: str = "", depth: int = 3) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping from names to tensors inside a checkpoint, with the path of keys that leads to it."""
    if not isinstance(content, Mapping):
        return
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if tensors:
        yield where, tensors
    if depth > 0:
        for key, value in content.items():
            if isinstance(key, str):
                yield from _state_dicts(value, f"{where}.{key}", depth - 1)
