"""The cases of the empirical studies and their metrics, each stated once for samples and for the law itself.

Both metrics of a case need two figures of the sphere beneath it (``Sphere``), besides E|z|^2 = 1: tr S^{1/2} and L_U.

``collapse``, ``dimension``  z on the sphere of ``kept`` of ``total`` coordinates
``fcc``  features cloned: (z, z, ..., z), k + 1 times, not divided by its new length. Its covariance is that of z
times a matrix of ones:
         E|.|^2 and tr S^{1/2} grow (k+1) and sqrt(k+1) times, all squared distances (k+1) times.
``fbc``  feature baby: k blocks of m zeros appended. Only the target N(0, I/m) changes, to (k+1) m coordinates.
``icc``  instances cloned: the whole sample k + 1 times. Moments stay, pairs of a point with itself join.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from wasskit.plugins.study.expectations import Expected, root_of_gamma, sphere_excess, sphere_lu_error
from wasskit.plugins.study.laws import SphereLaw, cloned_instances_lu
from wasskit.plugins.study.options import Rounding, kept_and_total
from wasskit.plugins.study.seed_metrics import SeedMetrics

Kind = Literal["collapse", "dimension", "fcc", "fbc", "icc"]


class Sphere(Protocol):
    """A sample of the unit sphere, or its law."""

    @property
    def root_trace(self) -> float: ...
    def lu(self, t: float) -> float: ...


@dataclass(frozen=True)
class Case:
    """One point of a study: ``kept`` of ``m`` coordinates left by a collapse of ``eta``, and ``k`` clones or blocks.

    ``total`` is ``m`` unless the rounding of the published code has lost a coordinate.
    """

    kind: Kind
    m: int
    eta: float
    kept: int
    total: int
    k: int = 0


class CaseResult(NamedTuple):
    """The metrics of a case over seeds: ``n`` points of each sample, ``pairs`` that its L_U is the mean over."""

    case: Case
    n: int
    pairs: int
    metrics: SeedMetrics


def collapsed(
    kind: Kind, m: int, eta: float, rounding: Rounding = "intended", copies: Iterable[int] = (0,)
) -> list[Case]:
    """The cases of m coordinates of which a share ``eta`` is zero; see ``kept_and_total``."""
    kept, total = kept_and_total(m, eta, rounding)
    return [Case(kind, m, eta, kept, total, k) for k in copies]


def metrics(case: Case, sphere: Sphere, n: int, t: float = 2.0) -> tuple[float, float]:
    """W2 and L_U of a case from its sphere; ``n`` points before any cloning of instances."""
    clones, blocks = (case.k + 1 if case.kind == kind else 1 for kind in ("fcc", "fbc"))
    w2_squared = clones + 1 - 2 * sphere.root_trace / math.sqrt(case.total * blocks)
    lu = sphere.lu(t * clones)
    if case.kind == "icc":
        lu = cloned_instances_lu(lu, n, case.k + 1)
    return math.sqrt(max(0.0, w2_squared)), lu


def expected(case: Case, n: int, pairs: int, t: float = 2.0) -> Expected:
    """What one sample of ``n`` points is to show of a case, with L_U over ``pairs`` pairs; see `expectations.py`.

    With r = sqrt(d / total), W2^2 = clones + 1 - 2 r + r (2 - 2 tr S^{1/2} / sqrt d).
    """
    clones, blocks = (case.k + 1 if case.kind == kind else 1 for kind in ("fcc", "fbc"))
    share = math.sqrt(case.kept / (case.total * blocks))
    excess, variance = sphere_excess(case.kept, n)
    w2, w2_error = root_of_gamma(clones + 1 - 2 * share + share * excess, share**2 * variance)
    lu_error = sphere_lu_error(case.kept, pairs, t * clones)
    if case.kind == "icc" and case.k > 0:
        # A point and its clones are always together; the other pairs, which vary, make up the rest of the potential.
        together = cloned_instances_lu(-math.inf, n, case.k + 1)
        lu_error *= -math.expm1(together - cloned_instances_lu(SphereLaw(case.kept).lu(t), n, case.k + 1))
    return Expected(w2, w2_error, lu_error)


def needed_ts(cases: Iterable[Case], t: float) -> list[float]:
    """The t at which L_U of the spheres is needed, ascending multiples of ``t``."""
    return [t * k for k in sorted({1} | {case.k + 1 for case in cases if case.kind == "fcc"})]


def case_results(
    cases: Sequence[Case], spheres: Sequence[Mapping[Case, Sphere]], n: int, pairs: int, t: float = 2.0
) -> list[CaseResult]:
    """The metrics of every case, from its spheres of all seeds."""
    results = []
    for case in cases:
        measured = [metrics(case, by_case[case], n, t) for by_case in spheres]
        w2, lu = (_mean([-each[place] for each in measured]) for place in (0, 1))
        exact, one = metrics(case, SphereLaw(case.kept), n, t), expected(case, n, pairs, t)
        results.append(CaseResult(case, n, pairs, SeedMetrics.beside_law(w2, lu, exact, one, len(spheres))))
    return results


def _mean(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean over seeds and its standard error; None for a single one."""
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, math.sqrt(variance / count)
