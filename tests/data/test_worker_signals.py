"""The processes of a loader in a step that takes long: signals are their parent's, and they end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.distributed, pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")]

TRAINING = """
import multiprocessing, pathlib, sys, time
import torch
from torch import nn
from wasskit.data.base import ImageDataset
from wasskit.data.loaders import TrainLoader
from wasskit.errors import Interrupted
from wasskit.system.signals import raised
from wasskit.training.run import RunDirectory
from wasskit.training.task import Losses, Optimisation, Task
from wasskit.training.cadence import Cadence
from wasskit.training.trainer import Trainer

folder = pathlib.Path(sys.argv[1])

class Slow(Task):
    monitor = None

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def optimisations(self, plan):
        return [Optimisation(torch.optim.SGD(self.parameters(), lr=0.1))]

    def losses(self, batch, progress):
        if progress.step == 1:
            for child in multiprocessing.active_children():
                (folder / f"worker-{child.pid}").touch()
            (folder / "slow").touch()
            while not (folder / "go").exists():
                time.sleep(0.01)
        return Losses(self.layer(batch.images.mean().view(1, 1)).square().sum(), {})

    def evaluate(self, progress):
        return {}

if __name__ == "__main__":
    paths = sorted((folder / "images").iterdir())
    data = ImageDataset("disk", "train", "ab", labels=torch.arange(len(paths)) % 2, paths=paths, image_size=8)
    source = TrainLoader(data, 2, workers=2)
    run = RunDirectory.create(folder / "run", command="toy train", options={})
    try:
        with raised():
            Trainer(Slow(), source, run, cadence=Cadence(epochs=50), track=()).fit()
    except Interrupted as stop:
        print(stop, flush=True)
        sys.exit(stop.exit_code)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def training(tmp_path: Path) -> subprocess.Popen[str]:
    """A training in its second step, which waits for the file ``go``."""
    noise = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(12):
        pixels = noise.integers(0, 255, (10, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i:02}.png")
    script = tmp_path / "training.py"
    script.write_text(TRAINING)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    until(lambda: (tmp_path / "slow").exists() or process.poll() is not None)
    assert process.poll() is None
    return process


def workers(folder: Path) -> list[int]:
    found = [int(path.name.partition("-")[2]) for path in folder.glob("worker-*")]
    assert len(found) == 2
    return found


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_group_in_a_slow_step_saves_the_run(
    training: subprocess.Popen[str], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    own = workers(tmp_path)
    os.killpg(training.pid, number)
    # Blocked signals of a worker are pending, which it shows; those that it does not block would have ended it.
    until(lambda: all(pending(pid, number) for pid in own))
    assert all(map(alive, own))
    (tmp_path / "go").touch()
    said, _ = training.communicate(timeout=120)
    assert training.returncode == code
    assert said.startswith(f"Stopped by {number.name} after step 2 of 300; its state is saved")
    assert (tmp_path / "run" / "checkpoints" / "last.pt").is_file()
    until(lambda: not any(map(alive, own)))


def pending(pid: int, number: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return any(int(fields[name], 16) >> (number - 1) & 1 for name in ("SigPnd", "ShdPnd"))


def test_workers_end_with_a_parent_that_is_killed(training: subprocess.Popen[str], tmp_path: Path) -> None:
    own = workers(tmp_path)
    training.kill()
    training.communicate()
    until(lambda: not any(map(alive, own)))
