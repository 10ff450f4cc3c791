"""Scikit-learn's handwritten digits."""

from __future__ import annotations

import importlib.util
import typing
from pathlib import Path

from wasskit.data.card import DatasetCard, Request, register
from wasskit.errors import UserError

if typing.TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wasskit.data.base import ImageDataset


def _look(root: Path) -> Path | str:
    spec = importlib.util.find_spec("sklearn")
    locations = list(spec.submodule_search_locations or ()) if spec else []
    return Path(locations[0], "datasets", "data") if locations else "scikit-learn is not installed"


@register(
    DatasetCard(
        "digits",
        "handwritten digits of scikit-learn, 8x8",
        ("train", "val", "test"),
        num_classes=10,
        image_size=8,
        channels=1,
        source="comes with scikit-learn",
        mean=(0.3053,),
        std=(0.3760,),
        counts={"train": 1259, "val": 179, "test": 359},
        look=_look,
    )
)
def digits(request: Request) -> ImageDataset:
    """1,797 handwritten digits, 8x8: 1,259 train, 179 val, 359 test, stratified, the same split for every seed.

    The grey levels 0..16 become 0..255.
    """
    import numpy as np
    import torch

    from wasskit.data.splits import stratified_split

    table = _table()
    images = torch.from_numpy(np.rint(table[:, :64] * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    labels = torch.from_numpy(table[:, 64].astype(np.int64))
    train, test = stratified_split(labels, 0.2, seed=0)
    rest, val = stratified_split(labels[train], 0.125, seed=1)
    index = {"train": train[rest], "val": train[val], "test": test}[request.split]
    return request.dataset(classes=[str(d) for d in range(10)], labels=labels[index], images=images[index])


def _table() -> NDArray[np.float64]:
    """1,797 rows: 64 grey levels and the digit."""
    import numpy as np

    folder = _look(Path())
    if isinstance(folder, str):
        raise UserError("the data set digits comes with scikit-learn, which is not installed: pip install scikit-learn")
    if (file := folder / "digits.csv.gz").exists():
        return np.loadtxt(file, delimiter=",")
    # Its place is not promised; importing scikit-learn, which takes seconds, finds it in any case.
    from sklearn.datasets import load_digits

    data = load_digits()
    return np.column_stack([data.data, data.target]).astype(np.float64)
