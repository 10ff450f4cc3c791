"""A device without memory: every library's words are known, and the advice names options that the command has."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wasskit.cli import load_command
from wasskit.config import build, fields_of, values_of_effect
from wasskit.errors import RunFailed
from wasskit.plugins import Plugin, load_plugin, plugin_targets
from wasskit.system.memory import out_of_memory
from wasskit.training.failures import explained
from wasskit.training.session import saved_config

SPELLINGS = [
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 39.39 GiB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "cuFFT error: CUFFT_ALLOC_FAILED",
    "NCCL error: unhandled cuda error, NCCL version 2.21.5\nncclUnhandledCudaError: Call to CUDA function failed.\n"
    "Last error:\nCuda failure 2 'out of memory'",
    "MPS backend out of memory (MPS allocated: 9.05 GB, other allocations: 3.00 MB, max allowed: 9.07 GB)",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_gets_the_advice(spelling: str) -> None:
    found = out_of_memory(RuntimeError(spelling), {"batch_size": 8, "precision": "fp32"})
    assert found is not None
    said = str(found)
    assert said.startswith("The device ran out of memory (")
    assert said.endswith("): try a smaller --batch-size, or --precision bf16.")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"batch_size": 8, "precision": "bf16"}, "try a smaller --batch-size."),
        (
            {"batch_size": 8, "accumulate": 1},
            "try a smaller --batch-size (with --accumulate an update takes as many samples).",
        ),
        ({"test_size": 9, "hidden": (3,)}, "try a smaller --hidden, or a smaller --test-size."),
        ({}, "free some of it, or take another device."),
    ],
)
def test_only_options_of_the_command_are_advised(options: dict[str, Any], advice: str) -> None:
    assert advice in str(out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory."), options))


def test_other_errors_are_left_alone() -> None:
    for error in (
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("DataLoader worker is killed; the workers are out of shared memory"),
        ValueError("out of memory"),
    ):
        assert out_of_memory(error, {"batch_size": 8}) is None


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_training_says_where_and_how_to_go_on(spelling: str) -> None:
    with (
        pytest.raises(RunFailed, match=r"At step 7 cuda:0 ran out of memory \(.*--batch-size\. Go on with"),
        explained(torch.device("cuda:0"), lambda: 7, {"batch_size": 8}, lambda: " Go on with --resume x."),
    ):
        raise RuntimeError(spelling)


def advice(words: str) -> str:
    """What a training of a command with its defaults is advised."""
    plugin = load_plugin(plugin_targets()[words.split()[0]])
    assert isinstance(plugin, Plugin)
    options = saved_config(load_command(plugin, words.split()[1]).options()).options
    assert options is not None
    return str(out_of_memory(RuntimeError("CUDA out of memory."), options))


@pytest.mark.parametrize("words", ["mrl adapt", "w2gn fit", "w2gn benchmark"])
def test_an_option_that_has_no_value_yet_is_advised(words: str) -> None:
    assert "a smaller --batch-size" in advice(words)


def test_an_option_without_an_effect_is_not_advised() -> None:
    said = advice("w2gn style")
    assert "a smaller --width" in said
    assert "--hidden" not in said
    assert "--start-samples" not in said
    export = load_command(load_plugin(plugin_targets()["mrl"]), "export").options
    assert [f.flag for f in fields_of(export) if f.name == "precision" and f.option.hidden] == ["--precision"]
    assert "precision" not in values_of_effect(build(export, {"model": "runs/x"}))
