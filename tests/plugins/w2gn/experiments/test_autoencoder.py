"""Images that an autoencoder is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wasskit.config import build
from wasskit.data.decode import threaded
from wasskit.plugins.w2gn.commands.latent import W2gnLatent, autoencoder_stage

COUNT = 80


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number:03}.png")
    return tmp_path


def test_images_on_disk_are_those_asked_for_whatever_the_number_of_threads(photographs: Path) -> None:
    stage = autoencoder_stage(build(W2gnLatent, {"images": photographs, "image_size": 8, "latent": 2, "filters": 2}))
    index = torch.randperm(len(stage.images), generator=torch.Generator().manual_seed(1))
    assert len(index) > 64, "fewer are read by one thread in any case"
    expected = torch.stack([torch.from_numpy(np.array(stage.images.image(int(i)))).permute(2, 0, 1) for i in index])
    for threads in (1, 3, None):
        stage.threads = threads
        torch.testing.assert_close(stage.load(stage.images, index), expected / 127.5 - 1.0)


@pytest.mark.parametrize(("workers", "threads"), [(None, None), (0, 1), (3, 3)])
def test_workers_are_the_threads_that_decode(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, workers: int | None, threads: int | None
) -> None:
    asked: list[int | None] = []

    def watched(function: Any, count: int, threads: int | None) -> Any:
        asked.append(threads)
        return threaded(function, count, threads)

    monkeypatch.setattr("wasskit.plugins.w2gn.experiments.autoencoder.threaded", watched)
    given = {"images": photographs, "image_size": 8, "latent": 2, "filters": 2, "workers": workers}
    autoencoder_stage(build(W2gnLatent, given)).batch(0)
    assert asked == [threads]
