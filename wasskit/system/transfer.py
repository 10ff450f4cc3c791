"""Moving tensors to a device without the host waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on ``device``. To a GPU it is copied by way of pinned memory, and the host goes on at once."""
    device = torch.device(device)
    if tensor.device == device or tensor.device.type != "cpu" or device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Constant:
    """A tensor that is needed again and again, and is moved and converted once."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self._made: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def like(self, other: Tensor) -> Tensor:
        """The tensor in the dtype and on the device of ``other``."""
        return self._at(other.device, other.dtype)

    def on(self, device: torch.device) -> Tensor:
        """The tensor on a device."""
        return self._at(device, self.value.dtype)

    def _at(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        key = device, dtype
        if key not in self._made:
            self._made[key] = to_device(self.value.to(dtype), device)
        return self._made[key]
