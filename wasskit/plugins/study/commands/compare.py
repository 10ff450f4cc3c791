"""``wasskit study compare``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, Invocation, argument, option
from wasskit.errors import UserError
from wasskit.plugins.study.commands.measure import complete_embedded
from wasskit.plugins.study.options import ReportOptions


@dataclass(frozen=True, kw_only=True)
class StudyCompare(ReportOptions):
    """Options of ``wasskit study compare``."""

    first: Path = argument(
        help="Embeddings (N, m): a file (as for `measure`), or a run directory.",
        complete=complete_embedded,
        metavar="FILE|RUN",
    )
    second: Path = argument(
        help="Those to compare with, of the same width.", complete=complete_embedded, metavar="FILE|RUN"
    )
    permutations: int = option(
        199, help="Random relabellings; p-values are multiples of 1 / (permutations + 1).", panel="Study", min=19
    )
    directions: int = option(128, help="Directions of the sliced distances.", panel="Study", min=1, max=4096)


def body(config: StudyCompare, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.evaluation.two_sample import compare_samples
    from wasskit.plugins.study.commands.measure import embeddings_of
    from wasskit.plugins.study.comparison import comparison_report
    from wasskit.plugins.study.session import run_study

    (x, first), (y, second) = (embeddings_of(path, config.machine.device) for path in (config.first, config.second))
    if x.shape[1] != y.shape[1]:
        raise UserError(f"{second} has vectors of {y.shape[1]} numbers, {first} of {x.shape[1]}.")
    return run_study(
        config, invocation, f"compare-{first.resolve().stem}-{second.resolve().stem}",
        lambda config, device: comparison_report(
            compare_samples(
                x, y, permutations=config.permutations, directions=config.directions, seed=config.seed
            ),
            str(first), str(second),
        ),
    )  # fmt: skip


command = Command(
    "study compare",
    StudyCompare,
    body,
    "Tell whether two sets of embeddings come from one distribution.\n\n"
    "Frechet, sliced W2 and energy distance, each with a permutation p-value that holds exactly where rows are "
    "independent. Embeddings are compared as they are, not normalised.",
    (
        "wasskit study compare before.npy after.npy",
        "wasskit study compare runs/ssl/byol-w2-digits runs/ssl/byol-digits --permutations 999",
    ),
)
