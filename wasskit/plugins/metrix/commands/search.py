"""``wasskit metrix search``."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, Invocation, argument, option
from wasskit.errors import UserError
from wasskit.options import complete_local_paths
from wasskit.plugins.metrix.options import ModelDataOptions

if typing.TYPE_CHECKING:
    from wasskit.data.base import ImageDataset


@dataclass(frozen=True, kw_only=True)
class MetrixSearch(ModelDataOptions):
    """Options of ``wasskit metrix search``."""

    image: str = argument(
        help="Image file, or the number of an image of the model's test set.",
        complete=complete_local_paths,
        metavar="IMAGE",
    )
    gallery: Path | None = option(
        None,
        help="Folder of images to search, or a CSV of path,label.",
        panel="Data",
        complete=complete_local_paths,
        show_default="the model's test set",
    )
    k: int = option(8, help="How many images to find.", panel="Output", min=1, short="-k")


def body(config: MetrixSearch, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.data.loaders import EvalLoader
    from wasskit.distributed.group import group, is_main
    from wasskit.evaluation.embedding import extract_features
    from wasskit.evaluation.retrieval import nearest
    from wasskit.plugins.metrix.data import parts_of_model
    from wasskit.plugins.metrix.figures import draw_neighbours, picture
    from wasskit.plugins.metrix.trained import KIND
    from wasskit.trained.data import open_images
    from wasskit.trained.files import data_root_of, results_folder

    path = Path(config.image)
    by_number = not path.exists() and config.image.isdecimal()
    if not path.exists() and not by_number:
        raise UserError(f"There is no image {path}: name a file, or a number of the model's test set.")
    with group(config.device) as device:
        name = f"figures/search_{path.stem}.png"
        folder = results_folder(
            config.model, config.output, plugin="metrix", claim=config.claim, files=(name,)
        )
        figure = folder / name
        model = KIND.load(config.model, device, config.checkpoint)
        tested = None
        if by_number or config.gallery is None:
            parts = parts_of_model(
                model.description,
                dataset=config.dataset,
                root=config.data_root or data_root_of(config.model, config.dataset, plugin="metrix"),
                corrupt=config.corrupt,
            )
            tested = parts.test
        if by_number:
            assert tested is not None
            number = int(config.image)
            if number >= len(tested):
                raise UserError(
                    f"IMAGE: the test set of {tested.name} has {len(tested):,} images, counted from 0; there is no "
                    f"{number}."
                )
            query = tested.subset([number])
        else:
            query = open_images(path, model.description, name="query")
        if config.gallery is not None:
            gallery = open_images(config.gallery, model.description, corrupt=config.corrupt, name="gallery")
        else:
            gallery = parts.gallery if parts.gallery is not None else parts.test
        own = by_number and gallery is tested

        def embed(dataset: ImageDataset) -> Any:
            size = min(config.batch_size, len(dataset))
            loader = EvalLoader(dataset, size, device=device, workers=config.workers)
            features = extract_features(model.network, loader)
            loader.close()
            return features.features

        similarities, indices = nearest(embed(query), config.k + own, gallery=embed(gallery))
        found = [
            (float(s), int(i))
            for s, i in zip(similarities[0].tolist(), indices[0].tolist(), strict=True)
            if not (own and i == int(config.image))
        ][: config.k]
        label = _label(query, 0)
        rows = [
            (place, s, _label(gallery, i), _name(gallery, i)) for place, (s, i) in enumerate(found, start=1)
        ]
        if is_main():
            draw_neighbours(
                figure,
                [picture(query, 0)],
                [[picture(gallery, i) for _, i in found]],
                similarities=[[s for s, _ in found]],
                right=[[None if label is None or row[2] is None else row[2] == label for row in rows]],
                titles=[label or "query"],
            )

    console.table(
        f"Nearest to {config.image}{f' ({label})' if label else ''} among {len(gallery):,} images",
        ["rank", "cosine", "class", "image"],
        rows,
        digits=3,
    )
    if not config.json:
        console.result(f"Picture: {console.escape(str(figure))}")
    return {
        "query": config.image,
        "class": label,
        "gallery": len(gallery),
        "found": [{"rank": r, "similarity": s, "class": c, "image": name} for r, s, c, name in rows],
        "picture": str(figure),
    }


def _label(dataset: ImageDataset, index: int) -> str | None:
    if dataset.labels is None or int(dataset.labels[index]) < 0:
        return None
    return dataset.classes[int(dataset.labels[index])]


def _name(dataset: ImageDataset, index: int) -> str:
    return str(dataset.paths[index]) if dataset.paths is not None else f"{dataset.name} number {index}"


command = Command(
    "metrix search",
    MetrixSearch,
    body,
    "Find the images nearest to an image, as a table and as a picture.",
    (
        "wasskit metrix search runs/metrix/digits 0",
        "wasskit metrix search runs/metrix/cub bird.jpg --gallery photos/ -k 12",
        "wasskit metrix search model.safetensors bird.jpg --gallery photos/",
    ),
)
