"""``wasskit study measure``."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasskit.candidates import complete_local_paths, complete_runs
from wasskit.config import Command, Invocation, argument, option
from wasskit.errors import UserError
from wasskit.plugins.study.options import PotentialOptions, ReportOptions
from wasskit.system.arrays import VECTORS

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class StudyMeasure(ReportOptions):
    """Options of ``wasskit study measure``."""

    file: Path = argument(
        help="Embeddings (N, m): a file (.npy, .npz:KEY, .safetensors:KEY, .parquet:COLUMN, .csv); or a run directory: "
        "the embeddings of its test images.",
        complete=lambda typed: complete_embedded(typed), metavar="FILE|RUN",
    )  # fmt: skip
    pairs: Path | None = option(
        None, help="Second views of the same samples, row by row: adds the alignment.", panel="Study",
        transient=True, complete=complete_local_paths,
    )  # fmt: skip
    views: Path | None = option(
        None, help="Views (n, q, m) of samples (.npy), q of each: adds LiDAR.", panel="Study", transient=True,
        complete=complete_local_paths,
    )  # fmt: skip
    potential: PotentialOptions = PotentialOptions()


def complete_embedded(typed: str) -> list[str]:
    """Runs whose method embeds images, and files."""
    from wasskit.plugins import Plugin, load_plugin, plugin_targets

    runs: list[str] = []
    for name, target in plugin_targets().items():
        with contextlib.suppress(Exception):  # a broken foreign plugin is named when it is called, not at every TAB
            plugin = load_plugin(target)
            if isinstance(plugin, Plugin) and plugin.embeddings is not None:
                runs += complete_runs(typed, name)
    files = [p for p in complete_local_paths(typed) if p.endswith((*VECTORS, "/"))]
    return sorted({*runs, *(p for p in files if not (Path(p) / "config.toml").is_file())})


def body(config: StudyMeasure, invocation: Invocation) -> Mapping[str, Any]:
    import time

    from wasskit import console
    from wasskit.data.embeddings import open_embeddings, read_tensor
    from wasskit.plugins.study.diagnosis import measure_report
    from wasskit.plugins.study.label_free import measure_label_free
    from wasskit.plugins.study.session import finish, study_run, write_report
    from wasskit.plugins.study.verdict import cautions, check_embeddings, measure_embeddings

    started = time.perf_counter()
    features, path = embeddings_of(config.file, config.machine.device)
    check_embeddings(features, str(path))
    views = open_embeddings(config.pairs).whole(check=False) if config.pairs is not None else None
    if views is not None and views.shape != features.shape:
        raise UserError(
            f"{config.pairs} holds {tuple(views.shape)} and {path} {tuple(features.shape)}: pairs are two views of the "
            "same samples, row by row."
        )
    if views is not None:
        check_embeddings(views, str(config.pairs))
    several = read_tensor(config.views) if config.views is not None else None
    with study_run(config, invocation, f"measure-{path.resolve().stem}") as (run, device):
        wanted = None if config.potential.exact_lu else 100_000_000
        measured = measure_embeddings(
            features, pairs_of=views, t=config.potential.t, pairs=wanted, seed=config.seed, device=device
        )
        for line in cautions(measured):
            console.warn(line)
        label_free = measure_label_free(features, views=several, seed=config.seed, device=device)
        report = measure_report(measured, str(path), label_free)
        return finish(run, report.result, write_report(run, report), started)


def embeddings_of(path: Path, device: str) -> tuple[Tensor, Path]:
    """The embeddings of a run's test images, or of a file, and the path they come from."""
    from wasskit.data.embeddings import open_embeddings
    from wasskit.trained.files import embeddings_of_run

    features = embeddings_of_run(path, device)
    if features is not None:
        return features, path

    found = _find(path)
    # Rows that are not finite are named by what measures them, as for embeddings of a run.
    return open_embeddings(found).whole(check=False), found


def _find(path: Path) -> Path:
    """The file of embeddings that is meant."""
    from wasskit.data.embeddings import is_part

    if not path.exists() and not is_part(path):
        raise UserError(f"There is no file or run directory {path}.")
    if path.is_dir():
        found = sorted([*path.glob("*.npy"), *path.glob("embeddings/*.npy")])
        if not found:
            raise UserError(
                f"{path} holds no embeddings: neither *.npy nor a trained run of mrl, ssl or metrix. Save them as a "
                "matrix (N, m) with numpy.save, and name the file."
            )
        if len(found) > 1:
            names = ", ".join([*(str(f.relative_to(path)) for f in found[:6]), *(["..."] if found[6:] else [])])
            raise UserError(f"{path} holds several embeddings ({names}): name one of the files.")
        return found[0]
    return path


command = Command(
    "study measure",
    StudyMeasure,
    body,
    "Measure the uniformity of embeddings, with a verdict on their collapse.\n\n"
    "Rows are divided by their length first. Every figure stands beside what a uniform sample of the same size shows.",
    (
        "wasskit study measure embeddings.npy",
        "wasskit study measure runs/ssl/byol-w2-digits",
        "wasskit study measure view1.npy --pairs view2.npy",
        "wasskit study measure embeddings.npy --json",
    ),
)
