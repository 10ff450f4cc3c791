r"""The settings of the continuous Wasserstein-2 benchmark, by one rule for all dimensions. Free of torch.

It was chosen by short runs on the pairs of 2, 16 and 64 dimensions, judged on points drawn for that purpose, which are
no test points; `docs/plugins/w2gn.md` has the figures.

**Widths.** At least 128, 128, 64, and 2 D, 2 D, D: up to 32 dimensions, those of the two networks of which the true
potential is the mean, side by side. Twice the widths double the time of a step and gain nothing at equal steps.

**Conjugates.** L-BFGS gets :math:`6 + 2 \log_2 D` evaluations. A potential with creases is solved for slowly: at
D = 16, ten evaluations leave a tenth of the second network's error, which is as large as that of the finished map, and
fifteen a hundredth; at D = 2 ten leave nothing.

**Members.** From 3 to 16 dimensions the answer is the mean of two pairs of potentials, for seven tenths of the steps
each on its own and then trained as a mean: what either misses is not all the same, and a training of half as many steps
is nearly as far. At D = 16, 0.60 % becomes 0.48 in the same time. Short trainings and more dimensions need the steps.

**Points.** 1,024 in a batch, and beyond 64 dimensions :math:`2^{16} / D`, down to a power of two. Short runs do as well
with fewer points and more steps, long ones do not: at D = 2, 8,000 steps end at 0.09 % with 512 points and at 0.05 %
with 1,024; at D = 64 the error stands at 4 % with 256 points and falls below 1 % with 1,024.

**Steps.** As many as `SECONDS` of one core hold, after the seconds of the steps of second order.

**Second order.** Pairs of two dimensions need few weights (widths 64, 64, 32), and for few weights Gauss-Newton steps
are cheap: they take away a fifth to two fifths of the error that Adam's steps end with, which as long a training by
Adam does not. At D = 4 they gain less than Adam.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

SECONDS = 1000.0
"""Length of a training on one core. It leaves a sixth of twenty minutes for slower cores, batches and evaluations."""

GAUSS_NEWTON_STEPS = 60
"""In two dimensions."""

GAUSS_NEWTON_SECONDS = 12.0
"""Time of one core for one of them, with the widths of two dimensions."""


MOST_DIMENSIONS_OF_MEANS = 16
"""Up to which two pairs of potentials are trained: beyond, a training of half the steps is far from its end."""


def rule(dim: int, *, second_order: bool = True, members: int | None = None) -> dict[str, Any]:
    """The settings for pairs in ``dim`` dimensions, by the names of the options.

    ``second_order`` allows Gauss-Newton steps, where there would be any; ``members`` are chosen already.
    """
    newton = GAUSS_NEWTON_STEPS if second_order and dim <= 2 and members in (None, 1) else 0
    members = members or (2 if 2 < dim <= MOST_DIMENSIONS_OF_MEANS else 1)
    hidden = (64, 64, 32) if newton else (max(2 * dim, 128), max(2 * dim, 128), max(dim, 64))
    evaluations = round(6 + 2 * math.log2(dim))
    batch = min(1024, 2 ** max(int(math.log2(2**16 / dim)), 0))
    seconds = SECONDS - newton * GAUSS_NEWTON_SECONDS
    steps = int(seconds / (batch * members * seconds_for(dim, hidden, evaluations)))
    return {
        "hidden": hidden,
        "members": members,
        "refine_evaluations": evaluations,
        "batch_size": batch,
        "steps": max(1000, round(steps, -2)),
        "gauss_newton_steps": newton,
    }


def seconds_for(dim: int, hidden: tuple[int, ...], evaluations: int) -> float:
    """Time of one core for a point of a step.

    An evaluation of a potential takes a point 0.9 microseconds, and 0.057 for every thousand of its products with
    weights; a step takes 1.3 times the evaluations of the conjugate, by the directions of L-BFGS, and seven more for
    both networks and their derivatives. Measured at D = 2, 4, 16 and 64 with batches of 1,024.
    """
    products = 2 * dim * sum(hidden) + sum(a * b for a, b in itertools.pairwise(hidden))
    return (1.3 * evaluations + 7) * (0.9 + 0.057e-3 * products) * 1e-6
