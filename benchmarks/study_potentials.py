"""L_U at every degree of collapse: one sweep over nested dimensions against one pass per dimension.

Both visit all pairs of the same N points at 24 dimensions up to D. The baseline is ``gaussian_uniformity`` on each
prefix.

    python benchmarks/study_potentials.py [--threads 1] [--points 4000] [--dim 1024]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.harness import Case, benchmark, main
from wasskit.evaluation.uniformity import gaussian_uniformity
from wasskit.plugins.study.samples import draw_normals, log_potentials


@benchmark(
    "L_U of 24 nested dimensions",
    plain="a pass for each dimension",
    quick={"points": 200, "dim": 48},
    full={"points": 2000},
)
def potentials(*, points: int = 4_000, dim: int = 1_024) -> Iterator[Case]:
    dims = sorted({max(1, round(dim * (i + 1) / 24)) for i in range(24)})
    normals = draw_normals(0, points, dim)
    inverse = torch.stack([1 / normals[:, :k].norm(dim=1) for k in dims], dim=1)

    def agree(mine: list[float], theirs: list[float]) -> None:
        assert max(abs(a - b) for a, b in zip(mine, theirs, strict=True)) < 1e-4

    yield Case(
        f"{points:,} points, {len(dims)} dimensions up to {dim:,}",
        lambda: [row[0] for row in log_potentials(normals, dims, inverse, [2.0])[0]],
        lambda: [float(gaussian_uniformity(normals[:, :k])) for k in dims],
        agree=agree,
    )


if __name__ == "__main__":
    main(__doc__, potentials)
