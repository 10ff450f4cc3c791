"""One training step of ``feature`` mode against three passes of the backbone, and its head against stored
mixtures.

Step: forward and backward of backbone, clean and mixed loss, against three times forward and backward of the
backbone alone (clean images, anchors, items to mix), which is what separate passes cost before anything is
mixed. Head: pooling, embedding and mixed loss of the feature maps against mixing, pooling and embedding the
maps of every triple in one tensor and comparing all mixtures with all anchors, as published; the list of
triples is given to both.

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
from wasskit.plugins.metrix.losses import MetrixLoss, mean_nonzero, mixed_contrastive
from wasskit.plugins.metrix.mixup import Mixing, feature_embeddings, pair_cosines
from wasskit.plugins.metrix.pairs import Triples, all_negatives, positive_negative, relations

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
    mixed = LAM * maps[triples.x] + (1 - LAM) * maps[triples.n]
    anchors = maps[triples.anchor]
    pool = AverageMaxPool()
    distance = torch.cdist(head(pool(anchors)), head(pool(mixed))).diagonal()
    return mean_nonzero(LAM * distance) + mean_nonzero((1 - LAM) * F.relu(0.5 - distance))


def our_head(maps: Tensor, head: LinearEmbedding, triples: Triples) -> Tensor:
    embeddings = head(AverageMaxPool()(maps))
    cosine = pair_cosines(
        lambda x, n: feature_embeddings(maps, head, x, n, LAM), embeddings, triples, len(maps)
    )
    return mixed_contrastive(cosine, LAM)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    torch.testing.assert_close(
        our_head(maps, head, triples), stored_head(maps, head, there), rtol=1e-3, atol=1e-4
    )
    theirs = best(lambda: stored_head(maps, head, there).backward(), options.device, 3)
    ours = best(lambda: our_head(maps, head, triples).backward(), options.device, 5)
    print(
        f"head, batch {options.head_batch}, {len(triples):,} triples, maps 2048 x 7 x 7: "
        f"stored mixtures {1e3 * theirs:.0f} ms, ours {1e3 * ours:.1f} ms, {theirs / ours:.0f}x",
        flush=True,
    )

    results = {}
    for name in ("one pass", "three passes", "feature step"):
        with get_context("spawn").Pool(1) as pool:
            results[name] = pool.apply(child, (name, options))
        seconds, memory = results[name]
        print(
            f"{options.backbone}, batch {options.batch}: {name:<13} {seconds:>7.2f} s  {memory:>7.0f} MiB",
            flush=True,
        )
    (step, step_memory), (three, three_memory) = results["feature step"], results["three passes"]
    print(f"feature step / three passes: time {step / three:.2f}, memory {step_memory / three_memory:.2f}")


if __name__ == "__main__":
    main()
