"""What data sets there are and where their files lie. Imports neither torch nor numpy: completion needs it.

A new set adds a card here and a loader, decorated with ``wasskit.data.registry.register``, in the card's
module.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class DatasetCard:
    """The facts about one data set.

    ``splits`` are those that exist without ``validation``; ``num_classes`` is None where the folder decides.
    ``image_size`` is the side in pixels that the set is used at. ``files`` must all exist, relative to the
    data root or to one of ``folders`` in it; ``alternatives`` are other layouts that will do as well. No
    files: built in.
    """

    name: str
    title: str
    splits: tuple[str, ...]
    num_classes: int | None
    image_size: int
    channels: int
    tasks: tuple[str, ...]
    files: tuple[str, ...] = ()
    source: str = ""
    folders: tuple[str, ...] = ()
    alternatives: tuple[tuple[str, ...], ...] = ()
    module: str = "wasskit.data.sets"
    downloadable: bool = False
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def built_in(self) -> bool:
        return not self.files


MEASURES: dict[str, tuple[str, tuple[int, ...]]] = {
    "8gaussians": ("ring", (8,)),
    "25gaussians": ("grid", (5,)),
    "49gaussians": ("grid", (7,)),
    "100gaussians": ("grid", (10,)),
    "swissroll": ("swiss_roll", ()),
    "moons": ("two_moons", ()),
    "circles": ("two_circles", ()),
    "normal": ("normal", (2,)),
}
"""Measures in the plane: name -> the function of ``wasskit.data.toy`` that makes it, and its arguments."""

DOMAINS = ("digits-a", "digits-b", "mnist", "usps")
"""Domains of digits, which ``wasskit.data.domains`` loads besides the data sets."""

_CLASSIFY = ("classification", "ssl")
_METRIC = "wasskit.data.metric_sets"

_ALL = (
    DatasetCard(
        "digits",
        "handwritten digits of scikit-learn, 8x8",
        ("train", "val", "test"),
        10,
        8,
        1,
        ("classification", "ssl", "metric"),
        source="comes with scikit-learn",
        mean=(0.3053,),
        std=(0.3760,),
        counts={"train": 1259, "val": 179, "test": 359},
    ),
    DatasetCard(
        "cifar10",
        "CIFAR-10, 32x32 colour",
        ("train", "test"),
        10,
        32,
        3,
        _CLASSIFY,
        files=(
            *(f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)),
            "cifar-10-batches-py/test_batch",
            "cifar-10-batches-py/batches.meta",
        ),
        source="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz (unpack it)",
        folders=("cifar10", "CIFAR10", "cifar-10"),
        downloadable=True,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        counts={"train": 50_000, "test": 10_000},
    ),
    DatasetCard(
        "cifar100",
        "CIFAR-100 (fine labels), 32x32 colour",
        ("train", "test"),
        100,
        32,
        3,
        _CLASSIFY,
        files=("cifar-100-python/train", "cifar-100-python/test", "cifar-100-python/meta"),
        source="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz (unpack it)",
        folders=("cifar100", "CIFAR100", "cifar-100"),
        downloadable=True,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        counts={"train": 50_000, "test": 10_000},
    ),
    DatasetCard(
        "cifar10-jpeg",
        "CIFAR-10 as JPEG files in one blob (lossy), 32x32 colour",
        ("train", "test"),
        10,
        32,
        3,
        _CLASSIFY,
        files=("train.npz", "test.npz"),
        source="any JPEG copy of CIFAR-10, packed as blob, offsets and labels",
        folders=("cifar10-jpeg", "cifar10_jpeg"),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        counts={"train": 50_000, "test": 10_000},
    ),
    DatasetCard(
        "stl10",
        "STL-10, 96x96 colour, with 100,000 unlabelled images",
        ("train", "test", "unlabelled", "train+unlabelled"),
        10,
        96,
        3,
        _CLASSIFY,
        files=(
            "stl10_binary/train_X.bin",
            "stl10_binary/train_y.bin",
            "stl10_binary/test_X.bin",
            "stl10_binary/test_y.bin",
        ),
        source="http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz (unpack it)",
        folders=("stl10", "STL10", "stl-10"),
        downloadable=True,
        mean=(0.4467, 0.4398, 0.4066),
        std=(0.2603, 0.2566, 0.2713),
        counts={"train": 5_000, "test": 8_000, "unlabelled": 100_000, "train+unlabelled": 105_000},
    ),
    DatasetCard(
        "tiny-imagenet",
        "Tiny ImageNet, 64x64 colour (test: its 10,000 validation images)",
        ("train", "test"),
        200,
        64,
        3,
        _CLASSIFY,
        files=(
            "tiny-imagenet-200/wnids.txt",
            "tiny-imagenet-200/train",
            "tiny-imagenet-200/val/val_annotations.txt",
        ),
        source="http://cs231n.stanford.edu/tiny-imagenet-200.zip (unpack it)",
        folders=("tiny-imagenet", "tiny_imagenet", "TinyImageNet"),
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2770, 0.2691, 0.2821),
        counts={"train": 100_000, "test": 10_000},
    ),
    DatasetCard(
        "imagenet100",
        "ImageNet-100, the 100 classes of Tian et al. (test: the 5,000 validation images)",
        ("train", "test"),
        100,
        224,
        3,
        _CLASSIFY,
        files=("train/n02869837", "val"),
        source="https://image-net.org (the whole ImageNet folder will do), or the Hugging Face copy "
        "clane9/imagenet-100 with `pip install wasskit[datasets]`",
        folders=(
            "imagenet100",
            "imagenet-100",
            "ImageNet100",
            "ImageNet-100",
            "imagenet",
            "ImageNet",
            "ILSVRC2012",
        ),
        alternatives=(
            ("ILSVRC/Data/CLS-LOC/train/n02869837", "ILSVRC/Data/CLS-LOC/val"),
            ("dataset_dict.json",),
            ("data/train-*.parquet",),
        ),
        downloadable=True,
        counts={"train": 126_689, "test": 5_000},
    ),
    DatasetCard(
        "imagefolder",
        "your own images: class folders, a flat folder, or a CSV of path,label",
        ("train", "test", "all"),
        None,
        224,
        3,
        ("classification", "ssl", "metric"),
        files=(".",),
        source="give the folder or the CSV file by --data-root",
        folders=("imagefolder",),
    ),
    DatasetCard(
        "fake",
        "random images with a class-dependent tint, to try things out",
        ("train", "val", "test"),
        10,
        32,
        3,
        ("classification", "ssl", "metric"),
        source="generated",
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        counts={"train": 512, "val": 128, "test": 128},
    ),
    DatasetCard(
        "cub",
        "CUB-200-2011 birds, class-disjoint (100 / 100)",
        ("train", "test"),
        200,
        224,
        3,
        ("metric",),
        files=("CUB_200_2011/images.txt", "CUB_200_2011/images"),
        source="https://data.caltech.edu/records/65de6-vp158 (CUB_200_2011.tgz, unpack it)",
        folders=("cub", "cub200", "CUB", "cub200_subset"),
        module=_METRIC,
    ),
    DatasetCard(
        "cars",
        "Cars-196, class-disjoint (98 / 98)",
        ("train", "test"),
        196,
        224,
        3,
        ("metric",),
        files=("cars_annos.mat", "car_ims"),
        alternatives=(("devkit", "cars_train", "cars_test"),),
        source="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        folders=("cars", "cars196", "CARS196", "stanford_cars"),
        module=_METRIC,
    ),
    DatasetCard(
        "sop",
        "Stanford Online Products, class-disjoint (11,318 / 11,316)",
        ("train", "test"),
        22_634,
        224,
        3,
        ("metric",),
        files=("Stanford_Online_Products/Ebay_train.txt", "Stanford_Online_Products/Ebay_test.txt"),
        source="https://cvgl.stanford.edu/projects/lifted_struct/ (Stanford_Online_Products.zip, unpack it)",
        folders=("sop", "SOP", "online_products"),
        module=_METRIC,
    ),
    DatasetCard(
        "inshop",
        "In-Shop clothes retrieval of DeepFashion (query and gallery)",
        ("train", "query", "gallery"),
        7_982,
        224,
        3,
        ("metric",),
        files=("list_eval_partition.txt",),
        alternatives=(("Eval/list_eval_partition.txt",),),
        source="https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
        folders=(
            "inshop",
            "InShop_Clothes",
            "In-shop Clothes Retrieval Benchmark",
            "In-shop",
            "In_shop",
            "InShop",
        ),
        module=_METRIC,
    ),
    DatasetCard(
        "faces",
        "ORL faces, 40 people, class-disjoint",
        ("train", "test"),
        40,
        112,
        1,
        ("metric",),
        files=("att_faces/s1/1.pgm",),
        source="the ORL database of AT&T Laboratories Cambridge",
        folders=("orl_faces", "faces", "orl"),
        module=_METRIC,
        mean=(0.45,),
        std=(0.2,),
    ),
)

CARDS: dict[str, DatasetCard] = {card.name: card for card in _ALL}


def dataset_names(task: str | None = None) -> tuple[str, ...]:
    """The names of all sets, or of those that serve a task ("classification", "ssl", "metric", ...)."""
    return tuple(name for name, card in CARDS.items() if task is None or task in card.tasks)


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder to look in: the one given, else the environment's ``WASSKIT_DATA``, else ``data`` here."""
    if root is not None:
        return Path(root).expanduser()
    return Path(os.environ.get("WASSKIT_DATA") or "data").expanduser()


def candidates(card: DatasetCard, root: Path) -> Iterator[Path]:
    """The folders a set is looked for in: the root itself, then its known folder names inside the root."""
    yield root
    for folder in dict.fromkeys((card.name, *card.folders)):
        yield root / folder
    # The root may also be the innermost folder, `.../cifar-10-batches-py` say.
    if card.files and root.name and root.name == card.files[0].split("/")[0]:
        yield root.parent


def locate(card: DatasetCard, root: Path) -> Path | None:
    """The folder that holds all files of one of the card's layouts, or None."""
    layouts: Iterable[tuple[str, ...]] = (card.files, *card.alternatives)
    if card.name == "imagefolder":
        # Any root would do, so only a folder of that name counts as found unasked.
        return next((path for path in (root / "imagefolder",) if path.exists()), None)
    for base in candidates(card, root):
        for files in layouts:
            if all(any(base.glob(f)) if "*" in f else (base / f).exists() for f in files):
                return base
    return None


def missing_files(card: DatasetCard, base: Path) -> tuple[str, ...]:
    """The files of the card's first layout that are not in a folder."""
    return tuple(file for file in card.files if not (base / file).exists())


def find_datasets(root: str | os.PathLike[str] | None = None) -> dict[str, Path | str]:
    """For each set the folder it was found in (a Path), or the reason it is missing (a str)."""
    base = data_root(root)
    found: dict[str, Path | str] = {}
    for name, card in CARDS.items():
        if name == "digits":
            spec = importlib.util.find_spec("sklearn")
            locations = list(spec.submodule_search_locations or ()) if spec else []
            found[name] = (
                Path(locations[0], "datasets", "data") if locations else "scikit-learn is not installed"
            )
        elif card.built_in:
            found[name] = Path("built in")
        elif name == "imagefolder":
            found[name] = locate(card, base) or "any folder of images or CSV file named by --data-root"
        elif not base.is_dir():
            found[name] = f"no folder {base}"
        else:
            found[name] = (
                locate(card, base) or f"needs {_listed(card.files)} in {base} or {base / card.folders[0]}"
            )
    return found


def _listed(files: tuple[str, ...], most: int = 3) -> str:
    return ", ".join(files[:most]) + (f" and {len(files) - most} more" if len(files) > most else "")
