"""Time of the Matryoshka-Wasserstein objective against GeomLoss called once per pair.

Forward and backward, dimensions 8 to 2048, 100 classes, normalisation included; the best of several
interleaved repetitions of each, in one run. The baseline is written as one would write it: ``nn.Linear`` and
``cross_entropy`` on each prefix, GeomLoss on each pair of consecutive prefixes.

    python benchmarks/mrl_loss.py [--threads 2] [--device cpu] [--batches 64 128 256 512]
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from geomloss import SamplesLoss
from torch import Tensor, nn

from wasskit.plugins.mrl.loss import PUBLISHED_DIMS as DIMS
from wasskit.plugins.mrl.loss import MatryoshkaWassersteinLoss, normalise

CLASSES = 100
BLUR = 0.1


def best_times(cases: dict[str, Callable[[], Tensor]], device: str, seconds: float = 1.5) -> dict[str, float]:
    """Best wall time of each case in milliseconds, the cases taking turns so that a busy moment hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for name in cases:
        cases[name]().backward()
    start = time.perf_counter()
    while time.perf_counter() - start < seconds * len(cases) or len(times[name]) < 5:
        for name, case in cases.items():
            if device != "cpu":
                torch.cuda.synchronize()
            began = time.perf_counter()
            case().backward()
            if device != "cpu":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - began)
    return {name: 1e3 * min(values) for name, values in times.items()}


def cases(batch: int, beta: float, device: str) -> dict[str, Callable[[], Tensor]]:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(batch, DIMS[-1], generator=generator).to(device).requires_grad_()
    labels = torch.randint(0, CLASSES, (batch,), generator=generator).to(device)
    heads = nn.ModuleList([nn.Linear(d, CLASSES) for d in DIMS]).to(device)
    divergence = SamplesLoss("sinkhorn", p=2, blur=BLUR, backend="tensorized")
    loss = MatryoshkaWassersteinLoss(CLASSES, DIMS, beta=beta, blur=BLUR).to(device)

    def pairs(x: Tensor) -> Tensor:
        total = x.new_zeros(())
        for d, e in itertools.pairwise(DIMS):
            padded = F.pad(x[:, :d], (0, e - d))
            stretched = torch.cat([x[:, :d], beta**0.5 * x[:, d:e]], 1)
            total = total + divergence(padded, stretched)
        return total

    def baseline_loss() -> Tensor:
        x = F.normalize(embeddings, dim=1)
        total = pairs(x)
        for d, head in zip(DIMS, heads, strict=True):
            total = total + F.cross_entropy(head(x[:, :d]), labels, label_smoothing=0.1)
        return total

    def whole_loss() -> Tensor:
        total: Tensor = loss(embeddings, labels).total
        return total

    return {
        "term, GeomLoss": lambda: pairs(F.normalize(embeddings, dim=1)),
        "term": lambda: loss.divergences(normalise(embeddings), "sum"),
        "loss, GeomLoss": baseline_loss,
        "loss": whole_loss,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--betas", type=float, nargs="+", default=[1.0, 10.0])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} threads, milliseconds")
    print("batch  beta |    term  GeomLoss  ratio |    loss  GeomLoss  ratio")
    for batch, beta in itertools.product(options.batches, options.betas):
        ms = best_times(cases(batch, beta, options.device), options.device)
        print(
            f"{batch:>5} {beta:>5g} | {ms['term']:>7.2f} {ms['term, GeomLoss']:>9.1f} "
            f"{ms['term, GeomLoss'] / ms['term']:>5.1f}x | {ms['loss']:>7.2f} {ms['loss, GeomLoss']:>9.1f} "
            f"{ms['loss, GeomLoss'] / ms['loss']:>5.1f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
