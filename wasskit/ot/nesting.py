"""Nested dimensions. Free of torch: the command line checks them before anything heavy is loaded."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def check_dims(dims: Sequence[int], width: int | None = None) -> tuple[int, ...]:
    """The nested dimensions as a tuple, or ``ValueError`` saying which of the rules they break."""
    checked = tuple(int(d) for d in dims)
    if not checked:
        raise ValueError("at least one dimension is needed")
    if any(d != c for d, c in zip(dims, checked, strict=True)):
        raise ValueError(f"dimensions must be whole numbers, not {list(dims)}")
    if checked[0] < 1:
        raise ValueError(f"dimensions must be positive, but {checked[0]} is not")
    for smaller, larger in itertools.pairwise(checked):
        if larger == smaller:
            raise ValueError(f"dimensions must differ, but {larger} is repeated")
        if larger < smaller:
            raise ValueError(f"dimensions must increase, but {larger} follows {smaller}")
    if width is not None and checked[-1] > width:
        raise ValueError(f"dimension {checked[-1]} is larger than the embedding, which has {width}")
    return checked
