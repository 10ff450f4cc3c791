"""L_U at every degree of collapse: one sweep over nested dimensions against one pass per dimension.

    python benchmarks/study_potentials.py [N] [D]

Both visit all pairs of the same N points (default 4,000) at 24 dimensions up to D (default 1,024), on one thread. The
baseline is ``gaussian_uniformity`` on each prefix; times are CPU seconds, the ratio is what counts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from wasskit.evaluation.uniformity import gaussian_uniformity
from wasskit.plugins.study.samples import draw_normals, log_potentials

T = TypeVar("T")


def timed(run: Callable[[], T]) -> tuple[float, T]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def main() -> None:
    torch.set_num_threads(1)
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 4_000
    d = int(sys.argv[2]) if len(sys.argv) > 2 else 1_024
    dims = sorted({max(1, round(d * (i + 1) / 24)) for i in range(24)})
    normals = draw_normals(0, n, d)
    inverse = torch.stack([1 / normals[:, :k].norm(dim=1) for k in dims], dim=1)
    one_pass, separate = timed(lambda: [float(gaussian_uniformity(normals[:, :k])) for k in dims])
    sweep, (nested, _) = timed(lambda: log_potentials(normals, dims, inverse, [2.0]))
    error = max(abs(a - b[0]) for a, b in zip(separate, nested, strict=True))
    print(f"N = {n}, {len(dims)} dimensions up to {d}")
    print(f"one pass per dimension {one_pass:8.2f} s")
    print(f"one nested sweep       {sweep:8.2f} s   {one_pass / sweep:.2f} times as fast; values agree to {error:.1e}")


if __name__ == "__main__":
    main()
