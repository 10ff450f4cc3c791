"""A device that has run out of memory: how its libraries say so, and what a user can do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from wasskit.errors import RunFailed

_SAID = re.compile(r"out of memory|_ALLOC_FAILED|_ALLOCATION_FAILED", re.IGNORECASE)
"""torch's allocator, the CUDA runtime (also as NCCL quotes it), Metal; cuBLAS, cuDNN, cuSOLVER, cuFFT."""

_HELP = {
    "batch_size": "a smaller --batch-size",
    "precision": "--precision bf16",
    "image_size": "a smaller --image-size",
    "hidden": "a smaller --hidden",
    "width": "a smaller --width",
    "test_size": "a smaller --test-size",
    "start_samples": "fewer --start-samples",
}


def out_of_memory(error: Exception, options: Mapping[str, Any], where: str = "The device ran") -> RunFailed | None:
    """The error to raise where ``error`` says that a device lacks memory, in any library's words; None where not.

    Args:
        options: the values of the command's options, by name: only what it has, and has not set already, is advised.
        where: the beginning of the sentence.
    """
    if not isinstance(error, RuntimeError) or not _SAID.search(str(error)):
        return None
    helping = [
        words
        for name, words in _HELP.items()
        if name in options and not (name == "precision" and options[name] != "fp32")
    ]
    if "batch_size" in options and "accumulate" in options:
        helping[0] += " (with --accumulate an update takes as many samples)"
    advice = f"try {', or '.join(helping)}" if helping else "free some of it, or take another device"
    line = next(iter(str(error).strip().splitlines()), "")
    # torch's first line goes on with what the allocator holds.
    return RunFailed(f"{where} out of memory ({line.split('. ')[0].rstrip('.')}): {advice}.")
