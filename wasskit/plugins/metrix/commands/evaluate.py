"""``wasskit metrix evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from wasskit.config import Command, Invocation, option
from wasskit.errors import UserError
from wasskit.plugins.metrix.counting import CountingOptions
from wasskit.plugins.metrix.options import ModelDataOptions, published_recalls
from wasskit.trained.vectors import GalleryFileOptions, ModelOrFile

if TYPE_CHECKING:
    from wasskit.evaluation.embedding import Features
    from wasskit.plugins.metrix.counted import Counting


@dataclass(frozen=True, kw_only=True)
class MetrixEvaluate(ModelDataOptions, GalleryFileOptions):
    """Options of ``wasskit metrix evaluate``."""

    trained: ModelOrFile
    counting: CountingOptions = CountingOptions()

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

    @property
    def labels_needed(self) -> bool:
        return self.counting.relevance is None

    def validate(self) -> None:
        super().validate()
        if self.backend == "faiss" and self.counting.changed:
            raise UserError(f"{self.counting.changed[0]} belongs to --backend exact, which ranks every item.")
        by_class = [
            flag
            for flag, wanted in (
                ("--average classes", self.counting.conventions.average == "classes"),
                ("--per-class", self.counting.per_class is not None),
                ("--group-rule class", self.counting.group_rule == "class"),
            )
            if wanted
        ]
        if by_class and self.named is not None and self.labels is None:
            raise UserError(f"{by_class[0]} needs the classes of the queries: give them by --labels.")


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
        tables = [path for path in (config.counting.per_query, config.counting.per_class) if path is not None]
        config.files.refuse_existing(*tables, flag="--per-query, --per-class")
        parts = None
        if config.of_vectors:
            given = read_features(config, device)
            dataset, classes, features = given.name, given.classes, {"test": given.first}
            if given.second is not None:
                features["gallery"] = given.second
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
            classes = tuple(parts.test.classes)
        recalls = sorted({1, *(config.recall or published_recalls(dataset))})
        report = evaluation_report(
            parts, features, recalls, mixtures=config.mixtures, backend=config.backend,
            counting=None if config.backend == "faiss" else counting_of(config, features, classes),
            pictures=config.pictures, seed=config.seed, name=str(config.trained.model), dataset=dataset,
        )  # fmt: skip
    return finish(report, folder)


def counting_of(config: MetrixEvaluate, features: Mapping[str, Features], classes: Sequence[str]) -> Counting:
    """How the queries are counted, with the files that say what answers them."""
    from wasskit.plugins.metrix.counted import Counting
    from wasskit.plugins.metrix.counting import read_judgement

    asked, options = str(config.named or config.trained.model), config.counting
    searched = str(config.gallery) if config.gallery is not None else f"the gallery of {asked}"
    judgement = read_judgement(options, (asked, searched), features["test"], features.get("gallery"))
    return Counting(options, judgement, classes)


command = Command(
    "metrix evaluate",
    MetrixEvaluate,
    body,
    "Measure retrieval and the geometry of a trained embedding.\n\n"
    "Recall@K (R@1/2/4/8, for Stanford Online Products 1/10/100/1000, for In-Shop 1/10/20/30/40/50 with queries "
    "and gallery), precision@K, mAP, mAP@R, nDCG, R-precision and MRR on classes never trained on, or by pairs of "
    "known relevance, exact, and by the conventions of other libraries; alignment and uniformity of the test "
    "embeddings; utilisation, the mean squared distance of a test embedding to the nearest training embedding, "
    "without and with mixtures of training embeddings. Of embeddings from files, retrieval alone.",
    (
        "wasskit metrix evaluate runs/metrix/digits",
        "wasskit metrix evaluate runs/metrix/cub --checkpoint best --recall 1,2,4,8,16,32",
        "wasskit metrix evaluate queries.npy --labels q.npy --gallery gallery.npy --gallery-labels g.npy",
        "wasskit metrix evaluate q.npy --gallery docs.npy --relevance pairs.csv --convention trec_eval",
        "wasskit metrix evaluate model.safetensors --dataset faces --data-root DATA",
    ),
)
