"""``wasskit metrix evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from wasskit.config import Command, Invocation, option
from wasskit.plugins.metrix.options import ModelDataOptions, published_recalls
from wasskit.trained.vectors import GalleryFileOptions, ModelOrFile


@dataclass(frozen=True, kw_only=True)
class MetrixEvaluate(ModelDataOptions, GalleryFileOptions):
    """Options of ``wasskit metrix evaluate``."""

    trained: ModelOrFile

    recall: tuple[int, ...] | None = option(
        None, help="The K of recall@K.", panel="Measures", min=1, show_default="as published for the data set"
    )
    geometry: bool = option(
        True,
        help="Measure alignment, uniformity and utilisation, which needs a pass over the training part too.",
        panel="Measures",
    )
    mixtures: int | None = option(
        None,
        help="Mixtures of training embeddings that utilisation is measured with.",
        panel="Measures",
        min=1,
        show_default="four for each training image, at most 200,000",
    )
    backend: Literal["exact", "faiss"] = option(
        "exact", help="How neighbours are ranked (faiss: a flat index, on one process).", panel="Measures"
    )
    pictures: int = option(6, help="Queries to draw with what they retrieve (0: none).", panel="Output", min=0, max=20)
    seed: int = option(0, help="Seed of the mixtures and of the queries drawn.", panel="Measures", min=0)


def body(config: MetrixEvaluate, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.distributed.group import group
    from wasskit.plugins.metrix.reports import evaluation_report
    from wasskit.plugins.metrix.trained import KIND, embed_images, open_parts
    from wasskit.report import finish
    from wasskit.trained.data import results_of
    from wasskit.trained.vectors import read_features

    with group(config.machine.device) as device:
        drawings = ("evaluation_recall", "similarities", "retrieved")
        folder = results_of(config, "metrix", "evaluation.json", *(f"figures/{name}.png" for name in drawings))
        parts, dataset = None, config.trained.model.stem
        if config.from_file:
            queries, gallery, _ = read_features(config, device)
            features = {"test": queries} if gallery is None else {"test": queries, "gallery": gallery}
        else:
            model = KIND.load(config.trained.model, device, config.trained.checkpoint)
            parts = open_parts(model, config)
            dataset = parts.test.name
            wanted = {"test": parts.test, "gallery": parts.gallery, "val": parts.val}
            if config.geometry:
                wanted["train"] = parts.train
            features = {
                split: embed_images(model, config, part, device) for split, part in wanted.items() if part is not None
            }
        recalls = sorted({1, *(config.recall or published_recalls(dataset))})
        report = evaluation_report(
            parts, features, recalls, mixtures=config.mixtures, backend=config.backend, pictures=config.pictures,
            seed=config.seed, name=str(config.trained.model), dataset=dataset,
        )  # fmt: skip
    return finish(report, folder)


command = Command(
    "metrix evaluate",
    MetrixEvaluate,
    body,
    "Measure retrieval and the geometry of a trained embedding.\n\n"
    "Recall@K (R@1/2/4/8, for Stanford Online Products 1/10/100/1000, for In-Shop 1/10/20/30/40/50 with queries "
    "and gallery), precision@1 and mAP@R on classes never trained on, exact; alignment and uniformity of the test "
    "embeddings; utilisation, the mean squared distance of a test embedding to the nearest training embedding, "
    "without and with mixtures of training embeddings. Of embeddings from files, retrieval alone.",
    (
        "wasskit metrix evaluate runs/metrix/digits",
        "wasskit metrix evaluate runs/metrix/cub --checkpoint best --recall 1,2,4,8,16,32",
        "wasskit metrix evaluate queries.npy --labels q.npy --gallery gallery.npy --gallery-labels g.npy",
        "wasskit metrix evaluate model.safetensors --dataset faces --data-root DATA",
    ),
)
