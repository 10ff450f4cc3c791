"""The picture of the README: one panel per method, from the default runs on the bundled data.

    python docs/figures.py                 # trains what is not there yet in runs/, then draws docs/figures/methods.png

The picture keeps a digest of this file, so that a test sees when it is older than what draws it.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import wasskit
from wasskit.data.metric_sets import load_metric_splits
from wasskit.data.registry import load_dataset
from wasskit.pictures.axes import log2_axis, square
from wasskit.pictures.style import COLOURS, figure

COMMANDS = {
    "mrl": "mrl train",
    "ssl": "ssl barlow",
    "ssl-w2": "ssl barlow --w2",
    "metrix": "metrix train --compare no",
    "w2gn": "w2gn toy",
}
"""The trainings, by the names of their run directories."""

PICTURE = Path(__file__).resolve().parent / "figures" / "methods.png"


def train(folder: Path, more: dict[str, str]) -> None:
    """Carry out the commands whose runs are not finished in ``folder``; ``more`` adds options to some."""
    for name, line in COMMANDS.items():
        if not (folder / name / "summary.json").is_file():
            words = [*line.split(), *more.get(name, "").split(), "--run-dir", str(folder / name), "--requeue"]
            subprocess.run([sys.executable, "-m", "wasskit", *words], check=True)


def prefixes(ax: Any, run: Path) -> None:
    """10-NN accuracy of the first d numbers, beside as many principal components of the pixels."""
    train_set, test_set = (load_dataset("digits", split) for split in ("train", "test"))
    model = wasskit.load(run)
    trained = [model.embed(part.images) for part in (train_set, test_set)]
    pixels = [part.images.flatten(1).double() for part in (train_set, test_set)]
    mean = pixels[0].mean(0)
    basis = torch.linalg.svd(pixels[0] - mean, full_matrices=False).Vh.T
    dims = [dim for dim in (2, 4, 8, 16, 32, 64, 128, 256) if dim <= trained[0].shape[1]]
    for name, (bank, queries), marker in (
        ("prefix of the embedding", trained, "o"),
        ("principal components of the pixels", [(part - mean) @ basis for part in pixels], "s"),
    ):
        shown = [dim for dim in dims if dim <= bank.shape[1]]
        accuracy = [
            100 * wasskit.knn_accuracy(bank[:, :d], train_set.labels, queries[:, :d], test_set.labels, k=10)
            for d in shown
        ]
        ax.plot(shown, accuracy, marker=marker, label=name)
    log2_axis(ax, dims)
    ax.set(xlabel="numbers kept", ylabel="10-NN accuracy (%)", ylim=(0, 104))
    ax.legend(loc="lower right", fontsize=7, frameon=False)


def spectra(ax: Any, plain: Path, spread: Path) -> None:
    """Singular values of the projections of test images, without and with the uniformity term."""
    for run, name in ((plain, "Barlow Twins"), (spread, "with W2 uniformity")):
        with np.load(run / "spectrum.npz") as found:
            values = np.exp(found["trained"])
        ax.plot(np.arange(1, len(values) + 1), values / values[0], marker="", label=name)
    ax.set(xlabel="rank", ylabel="singular value / largest", yscale="log")
    ax.legend(loc="lower left", fontsize=7, frameon=False)


def neighbours(ax: Any, run: Path, count: int = 8) -> None:
    """The first two images of each class that was not trained on, and the images nearest to them."""
    test = load_metric_splits("digits").test
    images, labels = test.images, test.labels
    embeddings = torch.nn.functional.normalize(wasskit.load(run).embed(images))
    side, gap = images.shape[-1], 2
    queries = [int(item) for label in labels.unique() for item in (labels == label).nonzero()[:2]]
    sheet = np.full((len(queries) * (side + gap), (count + 1) * (side + gap) + gap, 3), 255, np.uint8)
    for row, query in enumerate(queries):
        nearest = (embeddings @ embeddings[query]).argsort(descending=True)
        chosen = [query, *nearest[nearest != query][:count].tolist()]
        for column, item in enumerate(chosen):
            top, left = row * (side + gap) + gap // 2, column * (side + gap) + gap // 2 + gap * (column > 0)
            if labels[item] != labels[query]:
                sheet[top - 1 : top + side + 1, left - 1 : left + side + 1] = (213, 94, 0)
            sheet[top : top + side, left : left + side] = 255 - images[item].permute(1, 2, 0).numpy()
    ax.imshow(sheet, interpolation="nearest")
    ax.grid(visible=False)
    ax.set(yticks=[], xticks=[side / 2, (count / 2 + 1) * (side + gap)])
    ax.set_xticklabels(["query", "nearest images"])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def transport(ax: Any, run: Path) -> None:
    """Points of a Gaussian, where the map takes them, and the target."""
    from wasskit.plugins.w2gn.experiments.toy import Toy

    toy = Toy("normal", "8gaussians", whiten=None, test_size=1000, seed=1, device=torch.device("cpu"))
    source, target = toy.source.draw(1000, 7), toy.target.draw(1000, 8)
    moved = wasskit.load(run).embed(source)
    for points, name, colour in (
        (target, "target", "orange"), (source, "source", "sky"), (moved, "image of the source", "green"),
    ):  # fmt: skip
        ax.plot(*points.T.numpy(), ".", markersize=2, color=COLOURS[colour], label=name)
    start, step = source[:60].T.numpy(), (moved - source)[:60].T.numpy()
    ax.quiver(*start, *step, angles="xy", scale_units="xy", scale=1, width=0.005, color="0.15", alpha=0.6, zorder=3)
    square(ax, [source.numpy(), target.numpy(), moved.numpy()])
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, fontsize=7, frameon=False, columnspacing=0.8,
              handletextpad=0.1, markerscale=3)  # fmt: skip


def draw(folder: Path, path: Path) -> None:
    """The four panels, and the digest of what drew them."""
    drawn, axes = figure(1, 4, width=12.4, height=3.2)
    prefixes(axes[0, 0], folder / "mrl")
    spectra(axes[0, 1], folder / "ssl", folder / "ssl-w2")
    neighbours(axes[0, 2], folder / "metrix")
    transport(axes[0, 3], folder / "w2gn")
    titles = (
        "short prefixes that work",
        "embeddings spread more evenly",
        "classes never seen",
        "optimal transport maps",
    )
    for ax, name, title in zip(axes.flat, ("mrl", "ssl", "metrix", "w2gn"), titles, strict=True):
        ax.set_title(f"wasskit {name}: {title}", fontsize=9, pad=10)
    pixels = io.BytesIO()
    drawn.savefig(pixels, dpi=120)
    note = PngInfo()
    note.add_text("drawn by", digest())
    path.parent.mkdir(parents=True, exist_ok=True)
    # A palette of 128 colours is enough for lines and points, and a fifth of the size.
    Image.open(pixels).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, pnginfo=note, optimize=True)


def digest() -> str:
    """Of this file."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/figures"), help="folder of the run directories")
    parser.add_argument("--output", type=Path, default=PICTURE)
    parser.add_argument("--short", action="store_true", help="an epoch or some steps each, to see that it works")
    options = parser.parse_args()
    epoch = "--epochs 1 --no-tensorboard"
    short = {
        **dict.fromkeys(("mrl", "metrix"), epoch), **dict.fromkeys(("ssl", "ssl-w2"), f"{epoch} --projector 16,8"),
        "w2gn": "--steps 2 --hidden 4 --start-samples 64 --test-size 100 --no-tensorboard",
    }  # fmt: skip
    train(options.runs, short if options.short else {})
    draw(options.runs, options.output)
    print(options.output)


if __name__ == "__main__":
    main()
