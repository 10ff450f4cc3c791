"""The GPUs of this machine and the slices that they are cut into. Imports no torch."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A GPU, or a MIG slice of one, that one rank can compute on."""

    name: str
    """As the driver calls it: ``NVIDIA A100-SXM4-40GB``, ``MIG 3g.20gb``."""
    uuid: str
    gpu: int
    """Number of the GPU, of the slice's GPU, in ``nvidia-smi``'s order."""
    is_slice: bool
    selector: str
    """What ``CUDA_VISIBLE_DEVICES`` must say for a process to see this device alone."""
    other_names: tuple[str, ...] = ()
    """Of a slice: the UUID of its GPU, and ``GPU:SLICE`` by numbers."""


def find_devices() -> list[Device]:
    """The GPUs and MIG slices that ``CUDA_VISIBLE_DEVICES`` leaves visible here; none without a driver."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return _visible(parse_device_list(listing), os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse_device_list(text: str) -> list[Device]:
    """The devices in the output of ``nvidia-smi -L``; the slices stand for a GPU that is cut into slices."""
    devices: list[Device] = []
    for line in text.splitlines():
        if match := re.match(r"GPU (\d+): (.+?) \(UUID: (\S+)\)", line):
            devices.append(Device(match[2], match[3], int(match[1]), is_slice=False, selector=match[3]))
        elif (match := re.match(r"\s+(MIG \S+)\s+Device\s+(\d+): \(UUID: (\S+)\)", line)) and devices:
            last = devices[-1] if devices[-1].is_slice else devices.pop()
            names = (last.other_names or (last.uuid,))[0], f"{last.gpu}:{match[2]}"
            devices.append(Device(match[1], match[3], last.gpu, is_slice=True, selector=match[3], other_names=names))
    return devices


def _visible(devices: list[Device], setting: str | None) -> list[Device]:
    """Filter and order as CUDA does: by number or beginning of the UUID, up to the first unknown one.

    A sliced GPU, by number or UUID, stands for its slices; ``GPU:SLICE`` is understood as well, as containers do.
    """
    if setting is None:
        return devices
    chosen: list[Device] = []
    for token in filter(None, (part.strip() for part in setting.split(","))):
        if token.isdigit():
            # CUDA may number GPUs in another order than the driver: a whole GPU keeps its number.
            found = [
                device if device.is_slice else Device(device.name, device.uuid, device.gpu, False, token)
                for device in devices
                if device.gpu == int(token)
            ]
        else:
            found = [
                device
                for device in devices
                if device.uuid.startswith(token)
                or token in device.other_names
                or (token.startswith("GPU-") and device.is_slice and device.other_names[0].startswith(token))
            ]
        if not found:
            break
        chosen += [device for device in found if device not in chosen]
    return chosen
