"""``wasskit metrix evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from wasskit.config import Command, Invocation, option
from wasskit.plugins.metrix.options import ModelDataOptions, published_recalls


@dataclass(frozen=True, kw_only=True)
class MetrixEvaluate(ModelDataOptions):
    """Options of ``wasskit metrix evaluate``."""

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
    pictures: int = option(
        6, help="Queries to draw with what they retrieve (0: none).", panel="Output", min=0, max=20
    )
    seed: int = option(0, help="Seed of the mixtures and of the queries drawn.", panel="Measures", min=0)


def body(config: MetrixEvaluate, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.data.loaders import EvalLoader
    from wasskit.distributed.group import group, is_main
    from wasskit.evaluation.embedding import extract_features
    from wasskit.plugins.metrix.data import parts_of_model
    from wasskit.plugins.metrix.figures import draw_recalls, draw_retrieved, draw_similarities
    from wasskit.plugins.metrix.measure import geometry, nearest_of_each_kind, retrieval_percent
    from wasskit.plugins.metrix.metrics import METRICS
    from wasskit.plugins.metrix.tables import retrieval_columns
    from wasskit.plugins.metrix.trained import KIND
    from wasskit.system.files import replace_text
    from wasskit.trained.files import data_root_of, results_folder

    with group(config.device) as device:
        drawings = ("evaluation_recall", "similarities", "retrieved")
        folder = results_folder(
            config.model, config.output, plugin="metrix", claim=config.claim,
            files=("evaluation.json", *(f"figures/{name}.png" for name in drawings)),
        )  # fmt: skip
        model = KIND.load(config.model, device, config.checkpoint)
        parts = parts_of_model(
            model.description,
            dataset=config.dataset,
            root=config.data_root or data_root_of(config.model, config.dataset, plugin="metrix"),
            corrupt=config.corrupt,
        )
        recalls = tuple(sorted({1, *(config.recall or published_recalls(parts.test.name))}))
        wanted = {"test": parts.test, "gallery": parts.gallery, "val": parts.val}
        if config.geometry:
            wanted["train"] = parts.train
        features = {}
        for split, part in wanted.items():
            if part is None:
                continue
            for note in part.notes:
                console.log(console.escape(note))
            size = min(config.batch_size, len(part))
            loader = EvalLoader(part, size, device=device, workers=config.workers)
            features[split] = extract_features(
                model.network, loader, precision="bf16" if config.precision == "bf16" else "float32"
            )
            loader.close()
        test, gallery = features["test"], features.get("gallery")
        values = {"test": retrieval_percent(test, gallery, recalls, backend=config.backend)}
        if "val" in features:
            values["val"] = retrieval_percent(features["val"], None, recalls, backend=config.backend)
        shape = None
        if config.geometry:
            number = config.mixtures or min(200_000, 4 * len(parts.train))
            shape = geometry(test, features["train"], mixed=number, seed=config.seed)
        figures = []
        if is_main():
            drawn = folder / "figures"
            found = {
                int(k.partition("@")[2]): v for k, v in values["test"].items() if k.startswith("recall@")
            }
            if len(found) > 1:
                figures.append(draw_recalls(drawn / "evaluation_recall.png", {"test": found}))
            kinds = nearest_of_each_kind(test, gallery, seed=config.seed)
            if len(kinds[0]):
                figures.append(draw_similarities(drawn / "similarities.png", *kinds))
            if config.pictures:
                figures.append(
                    draw_retrieved(
                        drawn / "retrieved.png",
                        (parts.test, test),
                        (parts.gallery or parts.test, gallery or test),
                        own=gallery is None,
                        number=config.pictures,
                        seed=config.seed,
                    )
                )

    columns = retrieval_columns(values["test"])
    queries = f"{len(parts.test):,} queries"
    searched = f"a gallery of {len(parts.gallery):,}" if parts.gallery is not None else "all others"
    console.table(
        f"{parts.test.name}: {queries} of {len(parts.test.classes):,} classes against {searched} (percent)",
        ["split", *METRICS.headings(*columns).values()],
        [[split, *(row.get(column) for column in columns)] for split, row in values.items()],
    )
    result: dict[str, Any] = {
        "model": str(config.model),
        "dataset": parts.test.name,
        "queries": len(parts.test),
        "gallery": len(parts.gallery) if parts.gallery is not None else None,
        "protocol": "cosine similarity; a query is left out of its own gallery; ties and queries without a "
        "positive count against the model; mAP@R over the first R ranks, R the number of positives",
        "metrics": {f"{split}/{name}": value for split, row in values.items() for name, value in row.items()},
    }
    if shape is not None:
        result["geometry"] = asdict(shape)
        console.table(
            "Geometry of the embeddings (squared distances on the unit sphere)",
            ["measure", "value", "meaning"],
            [
                ["alignment", shape.alignment, "test items of one class: mean distance"],
                ["uniformity", shape.uniformity, "test items: log mean exp(-2 distance), lower is more even"],
                ["utilisation", shape.utilisation, "test item to nearest training item"],
                [f"utilisation, {shape.mixed:,} mixtures", shape.mixed_utilisation, "and to nearest mixture"],
            ],
            digits=4,
        )
    if is_main():
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / "evaluation.json", _json(result))
    if not config.json:
        for figure in figures:
            console.result(f"Figure: {console.escape(str(figure))}")
    return result | {"figures": [str(figure) for figure in figures]}


def _json(content: Mapping[str, Any]) -> str:
    import json

    from wasskit.console import jsonable

    return json.dumps(jsonable(content), indent=2, allow_nan=False) + "\n"


command = Command(
    "metrix evaluate",
    MetrixEvaluate,
    body,
    "Measure retrieval and the geometry of a trained embedding.\n\n"
    "Recall@K (R@1/2/4/8, for Stanford Online Products 1/10/100/1000, for In-Shop 1/10/20/30/40/50 with queries "
    "and gallery), precision@1 and mAP@R on classes never trained on, exact; alignment and uniformity of the test "
    "embeddings; utilisation, the mean squared distance of a test embedding to the nearest training embedding, "
    "without and with mixtures of training embeddings.",
    (
        "wasskit metrix evaluate runs/metrix/digits",
        "wasskit metrix evaluate runs/metrix/cub --checkpoint best --recall 1,2,4,8,16,32",
        "wasskit metrix evaluate model.safetensors --dataset faces --data-root DATA",
    ),
)
