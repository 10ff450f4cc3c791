"""Local weights for a backbone, from whatever file they are in.

Published state dicts call the same network ``conv1.weight``, ``module.encoder_q.conv1.weight`` or
``backbone.net.conv1.weight``, plain or inside a checkpoint. The network's own names tell which prefix is
meant: the one under which most of its tensors are found.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wasskit.errors import UserError
from wasskit.system.documents import parse_json
from wasskit.system.readers import Damage, reader

# The slow copy of a pair of networks, not meant when both are in a file.
_AVERAGED = ("momentum", "target", "teacher", "ema", "encoder_k", "key_encoder")


HEADER_KEY = "wasskit"
"""The key of a safetensors file's metadata under which our JSON header lies."""
_MISSING = "there is no file of weights at {path}; name one that is there"
_ADVICE = "get it again, or export the run again"
_FREE = 1 << 26
_DEEPEST = 16


def read_tensors(path: Path) -> Any:
    """The content of a ``.safetensors`` or torch file: tensors and plain values in containers, on the CPU.

    Nothing else in a file is ever executed (``weights_only=True``). Raises UserError if the file is not
    there, is damaged, or holds anything else.
    """
    return read_safetensors(path)[0] if path.suffix == ".safetensors" else read_torch(path)


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dictionary, names to tensors, from a ``.safetensors`` or torch file. Raises UserError as above."""
    content = read_tensors(path)
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise UserError(f"{path} holds no state dictionary, names and their tensors: save the network's alone.")
    return content


@reader("safetensors file", suffixes=(".safetensors",), advice=_ADVICE, missing=_MISSING)
def read_safetensors(path: Path, *, tensors: bool = True) -> tuple[dict[str, Tensor], Mapping[str, Any] | None]:
    """The tensors, on the CPU, and the header that `wasskit.models.export.save_weights` wrote; None where
    there is none. Without ``tensors`` the header alone is read."""
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        metadata = file.metadata() or {}
        state = {key: file.get_tensor(key) for key in (file.keys() if tensors else ())}
    if HEADER_KEY not in metadata:
        return state, None
    try:
        header = parse_json(metadata[HEADER_KEY])
    except ValueError as error:
        raise Damage("its header is no JSON") from error
    if not isinstance(header, Mapping):
        raise Damage("its header is no JSON object")
    return state, header


@reader("torch file of weights", suffixes=(".pt", ".pth", ".bin"), advice=_ADVICE, missing=_MISSING)
def read_torch(path: Path) -> Any:
    """What `torch.save` wrote: plain values and tensors in memory, in containers.

    Tensors of other kinds (sparse, quantised, nested, without data) and tensors larger than the file, which torch can
    write by repeating entries, are refused: what is done with them could take any memory or read beyond it.
    """
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # As torch writes them, unpacked: a small file would otherwise unpack to any size.
            if any(info.compress_type or info.file_size > size for info in archive.infolist()):
                raise Damage("its parts are packed, or larger than the file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "Unsupported class" in str(error) or "GLOBAL" in str(error):
            raise UserError(
                f"{path} holds Python objects beside its tensors and is not loaded for safety: "
                "load it where you trust it and save its state dict alone."
            ) from error
        raise
    level = [content]
    for _ in range(_DEEPEST):
        for value in level:
            if isinstance(value, Tensor):
                _check_tensor(value, max(size, _FREE))
        level = [entry for value in level for entry in _entries(value)]
        if not level:
            return content
    raise Damage("it is nested too deeply")


def _check_tensor(tensor: Tensor, largest: int) -> None:
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
        raise Damage("it holds tensors of a kind that weights have not")
    if tensor.numel() * tensor.element_size() > largest:
        raise Damage("it announces tensors larger than itself")


def _entries(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple | set | frozenset) else ()


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
    first = next((key for key, tensor in wanted.items() if tensor.ndim == 4), None)  # the first convolution, if any
    state = {key: found[key] for key in wanted if key in found}
    if first is not None and state[first].ndim == 4 and state[first].shape[1] == 3 and wanted[first].shape[1] == 1:
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
        prefixes = {key[: -len(anchor)]: None for key in tensors if key == anchor or key.endswith("." + anchor)}
        for prefix in prefixes:
            state = {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
            matches = sum(key in wanted for key in state)
            averaged = any(word in f"{where}.{prefix}" for word in _AVERAGED)
            score = (matches, -int(averaged))
            if score > best[0]:
                best = (score, state)
    if not best[1]:
        raise UserError(f"{path} holds no tensor called '{anchor}': these are not the weights of this backbone.")
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


def load_state(module: nn.Module, state: Mapping[str, Tensor], path: Path, of: str) -> None:
    """Load a state dictionary into a network of the same tensors, which remains as it was where they differ.

    Args:
        of: what the network is, in words that follow "does not fit".

    Raises:
        UserError: a tensor is missing, strange, or of another shape or kind of number; the first is named.
    """
    check_state(module, state, path, of)
    module.load_state_dict(dict(state))


def check_state(module: nn.Module, state: Mapping[str, Tensor], path: Path, of: str) -> None:
    """The check of :func:`load_state` alone; the module may be on the device meta, without memory."""
    reason = difference(module.state_dict(), state)
    if reason is not None:
        raise UserError(f"{path} does not fit {of}: {reason}.")


def difference(wanted: Mapping[str, Any], state: Mapping[str, Any]) -> str | None:
    """How a state dictionary differs from the wanted one in names, shapes or kinds, in words; None where it fits."""
    missing, strange = [k for k in wanted if k not in state], [k for k in state if k not in wanted]
    if missing:
        return f"it lacks {len(missing)} tensors, first {missing[0]!r}"
    if strange:
        return f"it holds {len(strange)} tensors more, first {str(strange[0])[:80]!r}"
    for key, own in wanted.items():
        given = state[key]
        if type(given) is not type(own) and not (isinstance(given, Tensor) and isinstance(own, Tensor)):
            return f"{key!r} is no {type(own).__name__}"
        if isinstance(own, Tensor):
            if given.shape != own.shape:
                return f"{key!r} has the shape {tuple(given.shape)} in place of {tuple(own.shape)}"
            if given.is_complex() != own.is_complex():
                return f"{key!r} is of {given.dtype}"
    return None
