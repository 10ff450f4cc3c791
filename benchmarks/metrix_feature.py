"""One training step of ``feature`` mode against three passes of the backbone, and its head against stored mixtures.

Step: forward and backward of backbone, clean and mixed loss, against three times forward and backward of the
backbone alone (clean images, anchors, items to mix), which is what separate passes cost before anything is
mixed. Head: what mixing adds to a clean step, forward and backward, from the feature maps to the mixed loss, against
two baselines. ``loop`` takes one triple after the other: mix two maps, pool and embed the mixture and the map of
the anchor. ``stored`` is the published way: the maps of the anchors and of the mixtures of all triples in one
tensor each, both pooled and embedded, and all mixtures compared with all anchors, of which the diagonal is used.
The list of triples is given to all; ours takes the anchors from the clean embeddings, whose own cost is in none.

    python benchmarks/metrix_feature.py [--threads 2] [--device cpu] [--backbone resnet50] [--image-size 224]
        [--batch 100] [--each 5] [--head-batch 20]
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from multiprocessing import get_context

import torch
import torch.nn.functional as F
from torch import Tensor

from wasskit.models.backbones import build_backbone
from wasskit.models.heads import AverageMaxPool, LinearEmbedding
from wasskit.plugins.metrix.losses.contrastive import mixed_contrastive
from wasskit.plugins.metrix.mixers.base import pair_cosines
from wasskit.plugins.metrix.mixers.feature import feature_embeddings
from wasskit.plugins.metrix.objective import MetrixLoss
from wasskit.plugins.metrix.pair_loss import mean_nonzero
from wasskit.plugins.metrix.pairs import Mixing, Triples, all_negatives, positive_negative, relations

LAM = 0.4
MIXING = Mixing(LAM, "positive-negative")


def triples_of(labels: Tensor) -> Triples:
    positive, negative = relations(labels, labels, own=True)
    return positive_negative(positive, all_negatives(negative))


def synchronised(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def best(case: Callable[[], object], device: str, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = synchronised(device)
        case()
        times.append(synchronised(device) - began)
    return min(times)


def step_case(name: str, options: argparse.Namespace) -> Callable[[], None]:
    torch.manual_seed(0)
    device = torch.device(options.device)
    backbone = build_backbone(options.backbone, image_size=options.image_size).to(device).eval()
    head = LinearEmbedding(backbone.map_channels, 512, kaiming=True).to(device)
    pool = AverageMaxPool()
    labels = torch.arange(options.batch // options.each).repeat_interleave(options.each).to(device)
    images = torch.randn(options.batch, 3, options.image_size, options.image_size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    loss = MetrixLoss("contrastive", "feature")

    def three_passes() -> None:
        for _ in range(3):
            backbone.feature_maps(images).sum().backward()

    def one_pass() -> None:
        backbone.feature_maps(images).sum().backward()

    def feature_step() -> None:
        maps = backbone.feature_maps(images)
        terms = loss(head(pool(maps)), labels, maps=maps, head=head, mixing=MIXING)
        terms.total.backward()

    return {"three passes": three_passes, "one pass": one_pass, "feature step": feature_step}[name]


def child(name: str, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds and peak memory in MiB of one case, alone in its process."""
    torch.set_num_threads(options.threads)
    case = step_case(name, options)
    if options.device != "cpu":
        case()
        torch.cuda.reset_peak_memory_stats()
    seconds = best(case, options.device, options.repeats)
    if options.device != "cpu":
        return seconds, torch.cuda.max_memory_allocated() / 2**20
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def stored_head(maps: Tensor, head: LinearEmbedding, triples: Triples) -> Tensor:
    """The mixed contrastive loss with the maps of every triple stored, and all mixtures against all anchors."""

    def embed(stored: Tensor) -> Tensor:
        pooled = F.adaptive_max_pool2d(stored, 1) + F.adaptive_avg_pool2d(stored, 1)
        embedded: Tensor = head(pooled.flatten(1))
        return embedded

    anchors = embed(maps[triples.anchor])
    mixed = embed(LAM * maps[triples.x] + (1 - LAM) * maps[triples.n])
    return loss_of(torch.cdist(anchors, mixed).diagonal())


def looped_head(maps: Tensor, head: LinearEmbedding, triples: Triples) -> Tensor:
    """The same, one triple after the other."""
    pool = AverageMaxPool()
    distances = []
    for a, x, n in zip(*(part.tolist() for part in (triples.anchor, triples.x, triples.n)), strict=True):
        anchor = head(pool(maps[a : a + 1]))
        mixed = head(pool(LAM * maps[x : x + 1] + (1 - LAM) * maps[n : n + 1]))
        distances.append(torch.linalg.vector_norm(anchor - mixed))
    return loss_of(torch.stack(distances))


def loss_of(distance: Tensor) -> Tensor:
    return mean_nonzero(LAM * distance) + mean_nonzero((1 - LAM) * F.relu(0.5 - distance))


def our_head(maps: Tensor, clean: Tensor, head: LinearEmbedding, triples: Triples) -> Tensor:
    """The same from the ``clean`` embeddings (B, D) of the maps."""

    def embed(x: Tensor, n: Tensor) -> Tensor:
        return feature_embeddings(maps, head, x, n, LAM)

    return mixed_contrastive(pair_cosines(embed, clean, triples, len(maps)), LAM, clean.shape[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--each", type=int, default=5, help="images per class")
    parser.add_argument("--head-batch", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} threads")

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(options.head_batch // options.each).repeat_interleave(options.each)
    maps = torch.randn(options.head_batch, 2048, 7, 7, generator=generator).relu()
    maps = maps.to(options.device).requires_grad_()
    head = LinearEmbedding(2048, 512, kaiming=True).to(options.device)
    triples = triples_of(labels)
    there = triples.to(maps.device)
    clean = head(AverageMaxPool()(maps)).detach().requires_grad_()
    cases: dict[str, tuple[Callable[[], Tensor], int]] = {
        "loop": (lambda: looped_head(maps, head, there), 1),
        "stored": (lambda: stored_head(maps, head, there), 3),
        "ours": (lambda: our_head(maps, clean, head, triples), 7),
    }
    values = [case() for case, _ in cases.values()]
    for value in values:
        torch.testing.assert_close(value, values[-1], rtol=1e-3, atol=1e-4)
    del values, value
    seconds = {
        name: best(lambda case=case: case().backward(), options.device, repeats)  # type: ignore[misc]
        for name, (case, repeats) in cases.items()
    }
    ours = seconds["ours"]
    print(
        f"head, batch {options.head_batch}, {len(triples):,} triples, maps 2048 x 7 x 7: "
        f"loop {seconds['loop']:.2f} s, stored {seconds['stored']:.2f} s, ours {1e3 * ours:.1f} ms: "
        f"{seconds['loop'] / ours:.0f}x, {seconds['stored'] / ours:.0f}x",
        flush=True,
    )

    results = {}
    for name in ("one pass", "three passes", "feature step"):
        with get_context("spawn").Pool(1) as pool:
            results[name] = pool.apply(child, (name, options))
        duration, memory = results[name]
        print(
            f"{options.backbone}, batch {options.batch}: {name:<13} {duration:>7.2f} s  {memory:>7.0f} MiB", flush=True
        )
    (step, step_memory), (three, three_memory) = results["feature step"], results["three passes"]
    print(f"feature step / three passes: time {step / three:.2f}, memory {step_memory / three_memory:.2f}")


if __name__ == "__main__":
    main()
