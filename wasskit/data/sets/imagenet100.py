"""ImageNet-100 (Tian, Krishnan & Isola, 2020)."""

from __future__ import annotations

import shutil
import typing
from pathlib import Path
from typing import Any

from wasskit.data.card import DatasetCard, Request, register
from wasskit.errors import UserError

if typing.TYPE_CHECKING:
    from PIL import Image

    from wasskit.data.base import ImageDataset

HUGGING_FACE_COPY = "clane9/imagenet-100"

# fmt: off
IMAGENET100_WNIDS = (
    "n02869837", "n01749939", "n02488291", "n02107142", "n13037406", "n02091831", "n04517823",
    "n04589890", "n03062245", "n01773797", "n01735189", "n07831146", "n07753275", "n03085013",
    "n04485082", "n02105505", "n01983481", "n02788148", "n03530642", "n04435653", "n02086910",
    "n02859443", "n13040303", "n03594734", "n02085620", "n02099849", "n01558993", "n04493381",
    "n02109047", "n04111531", "n02877765", "n04429376", "n02009229", "n01978455", "n02106550",
    "n01820546", "n01692333", "n07714571", "n02974003", "n02114855", "n03785016", "n03764736",
    "n03775546", "n02087046", "n07836838", "n04099969", "n04592741", "n03891251", "n02701002",
    "n03379051", "n02259212", "n07715103", "n03947888", "n04026417", "n02326432", "n03637318",
    "n01980166", "n02113799", "n02086240", "n03903868", "n02483362", "n04127249", "n02089973",
    "n03017168", "n02093428", "n02804414", "n02396427", "n04418357", "n02172182", "n01729322",
    "n02113978", "n03787032", "n02089867", "n02119022", "n03777754", "n04238763", "n02231487",
    "n03032252", "n02138441", "n02104029", "n03837869", "n03494278", "n04136333", "n03794056",
    "n03492542", "n02018207", "n04067472", "n03930630", "n03584829", "n02123045", "n04229816",
    "n02100583", "n03642806", "n04336792", "n03259280", "n02116738", "n02108089", "n03424325",
    "n01855672", "n02090622",
)
"""The 100 classes drawn at random by Tian, Krishnan and Isola, "Contrastive Multiview Coding" (ECCV 2020)."""
# fmt: on


@register(
    DatasetCard(
        "imagenet100",
        "ImageNet-100, the 100 classes of Tian et al. (test: the 5,000 validation images)",
        ("train", "test"),
        num_classes=100,
        image_size=224,
        channels=3,
        tasks=("classification", "ssl"),
        files=("train/n02869837", "val"),
        source="https://image-net.org (the whole ImageNet folder will do), or the Hugging Face copy "
        f"{HUGGING_FACE_COPY} with `pip install wasskit[datasets]`",
        folders=("imagenet100", "imagenet-100", "ImageNet100", "ImageNet-100", "imagenet", "ImageNet", "ILSVRC2012"),
        alternatives=(
            ("ILSVRC/Data/CLS-LOC/train/n02869837", "ILSVRC/Data/CLS-LOC/val"),
            ("dataset_dict.json",),
            ("data/train-*.parquet",),
        ),
        downloadable=True,
        counts={"train": 126_689, "test": 5_000},
    )
)
def imagenet100(request: Request) -> ImageDataset:
    """ImageNet-100: from a folder of its 100 classes, from the whole ImageNet, or from the Hugging Face copy.

    "test" is the validation part (50 images per class). Classes are in the order of their WordNet numbers.
    """
    import torch

    from wasskit.data.decode import without_bad_images
    from wasskit.data.folder import class_folders, list_images

    base = request.obtain(_download)
    if (base / "dataset_dict.json").exists() or any(base.glob("data/train-*.parquet")):
        return _hugging_face(request, base)
    data = base / "ILSVRC" / "Data" / "CLS-LOC"
    folder = (data if data.is_dir() else base) / ("train" if request.split == "train" else "val")
    classes = sorted(IMAGENET100_WNIDS)
    have = {path.name for path in class_folders(folder)}
    solution = base / "LOC_val_solution.csv"
    if request.split != "train" and not have and solution.exists():
        paths, labels = _validation_by_table(folder, solution, classes)
    else:
        missing = [wnid for wnid in classes if wnid not in have]
        if missing:
            raise UserError(
                f"{folder} lacks {len(missing)} of the 100 class folders of ImageNet-100, {missing[0]} among them; "
                "unpack them, sorted into one folder per class"
            )
        paths = [path for wnid in classes for path in list_images(folder / wnid)]
        number = {wnid: i for i, wnid in enumerate(classes)}
        labels = [number[path.relative_to(folder).parts[0]] for path in paths]
    dataset = request.dataset(
        classes=classes,
        labels=torch.tensor(labels, dtype=torch.int64),
        paths=paths,
        notes=request.count_notes(len(paths)),
    )
    return without_bad_images(dataset, request.corrupt)


def _validation_by_table(folder: Path, table: Path, classes: list[str]) -> tuple[list[Path], list[int]]:
    """The validation images of one flat folder, by the table that comes with the challenge's files."""
    from wasskit.system.documents import read_csv_rows

    number = {wnid: i for i, wnid in enumerate(classes)}
    paths: list[Path] = []
    labels: list[int] = []
    for _, row in read_csv_rows(table):
        wnid = row[1].split(" ")[0] if len(row) > 1 else ""
        if wnid in number:
            paths.append(folder / f"{row[0]}.JPEG")
            labels.append(number[wnid])
    return paths, labels


class _Column:
    """The images of a Hugging Face table, one at a time as their files' bytes are."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __call__(self, index: int) -> Image.Image:
        from wasskit.data.images import opened

        stored = self.table[int(index)]["image"]
        return opened(stored["path"] if stored["bytes"] is None else stored["bytes"])


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(
            "the Hugging Face copy of ImageNet-100 needs the package datasets: pip install 'wasskit[datasets]'"
        ) from None
    return datasets


def _hugging_face(request: Request, base: Path) -> ImageDataset:
    import torch

    from wasskit.data.decode import without_bad_images

    library = _datasets()
    try:
        if (base / "dataset_dict.json").exists():
            tables = library.load_from_disk(str(base))
        else:
            tables = library.load_dataset(str(base))
        features = {name: dict(table.features) for name, table in tables.items()}
    except Exception as error:
        raise UserError(f"cannot read the Hugging Face data set in {base}: {error}") from error
    wanted = "train" if request.split == "train" else "validation"
    if wanted not in features:
        raise UserError(
            f"the Hugging Face data set in {base} has no split {wanted!r}: it has {', '.join(features)}; "
            f"get the whole of {HUGGING_FACE_COPY}"
        )
    classes: list[Any] = [getattr(columns.get("label"), "names", None) for columns in features.values()]
    if "image" not in features[wanted] or None in classes:
        raise UserError(
            f"the Hugging Face data set in {base} should have the columns image and label, label naming its "
            f"classes, as {HUGGING_FACE_COPY} has; it has {', '.join(features[wanted])}"
        )
    if len(classes[0]) != request.card.num_classes or any(names != classes[0] for names in classes):
        counts = ", ".join(str(len(names)) for names in classes)
        raise UserError(
            f"the Hugging Face data set in {base} should have the {request.card.num_classes} classes of "
            f"{HUGGING_FACE_COPY}, the same in every split; its splits {', '.join(features)} have {counts}"
        )
    try:
        # Undecoded, so that each image is read as those of folders are.
        table = tables[wanted].cast_column("image", library.Image(decode=False))
        labels = torch.tensor(list(table["label"]), dtype=torch.int64)
    except Exception as error:
        raise UserError(f"cannot read the Hugging Face data set in {base}: {error}") from error
    notes = request.count_notes(len(labels))
    dataset = request.dataset(classes=classes[0], labels=labels, reader=_Column(table), notes=notes)
    return without_bad_images(dataset, request.corrupt)


def _download(request: Request, target: Path) -> None:
    # Better now than when hours of downloading have nowhere to go.
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(
            f"{target} is there but is not a copy of {request.name}: move it away, or name another --data-root"
        )
    library = _datasets()
    # A copy that a kill cut short must not be taken for a whole one.
    draft = target.with_name(f".{target.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    library.load_dataset(HUGGING_FACE_COPY).save_to_disk(str(draft))
    draft.rename(target)
