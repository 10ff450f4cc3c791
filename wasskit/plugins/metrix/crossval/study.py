"""A comparison from its folder to its results: tuning, then repeats. Every fold's model leaves an entry of its own.

::

    cache/                              what a frozen trunk made of the images
    tuning/LOSS-MODE/trial-T-fold-F.json
    repeats/R/LOSS-MODE.json            scores of a repeat; while it is not complete, LOSS-MODE/ holds its fold models

Entries appear whole or not at all, and only where their settings are those of now: a comparison that was stopped, at
whatever moment, goes on with the first that is missing.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wasskit import console
from wasskit.config import Invocation, differing, display, to_options
from wasskit.data.metric_sets import MetricSplits
from wasskit.errors import Interrupted, RunFailed, UserError
from wasskit.plugins.metrix.crossval.models import FrozenTrunk, TrainedTrunk, Trunk
from wasskit.plugins.metrix.crossval.options import CrossvalOptions
from wasskit.plugins.metrix.crossval.plan import (
    Entrant,
    Fold,
    Settings,
    entrants,
    fold_count,
    folds,
    settings,
    training,
)
from wasskit.plugins.metrix.crossval.reports import PROTOCOLS, Protocol, Result, Trial
from wasskit.plugins.metrix.crossval.scores import SCORES, TestLabels, joined
from wasskit.plugins.metrix.data import load_parts
from wasskit.system.arrays import read_archive
from wasskit.system.documents import read_json
from wasskit.system.files import replace_file, write_text, writing
from wasskit.system.signals import Stopped, name_of, number_of
from wasskit.training.run import RunDirectory

MAY_GROW = {"losses", "modes", "repeats"}
"""Options that a comparison may be gone on with differently: what is there stays valid."""


@contextlib.contextmanager
def open_study(config: CrossvalOptions, invocation: Invocation, device: torch.device) -> Iterator[Study]:
    """The comparison in ``--run-dir`` (or ``runs/metrix/crossval-DATASET``), begun or gone on with.

    Raises:
        UserError: the data set or the folder does not fit; another process is at work there.
        Interrupted: a signal; all fold models that were finished are kept.
    """
    # Before there is a run directory, so that a data set that is not there leaves none behind.
    parts = load_parts(training(config, entrants(config)[0], {}, config.seed))
    number = fold_count(config, len(parts.train.classes))
    name = config.run.name or f"crossval-{config.data.dataset}"
    path = config.run.run_dir or Path("runs") / "metrix" / name
    paper = invocation.recipe.get("paper") if invocation.recipe else None
    run = _folder(path, config, invocation, paper, device)
    with run.claimed():
        run.remove_summary()
        run.reconfigure(to_options(config), paper)
        for note in dict.fromkeys((*parts.train.notes, *parts.test.notes)):
            console.log(console.escape(note))
        study = Study(config, run, parts, number, device)
        console.log(f"{study.total} fold models in {console.escape(str(run.path))}")
        try:
            yield study
        except (Interrupted, Stopped, KeyboardInterrupt) as error:
            stop = number_of(error)
            raise Interrupted(
                stop,
                f"Stopped by {name_of(stop)}; {study.done} of {study.total} fold models are done and kept in "
                f"{shlex.quote(str(run.path))}: the same command goes on.",
            ) from None


def _folder(
    path: Path, config: CrossvalOptions, invocation: Invocation, paper: Mapping[str, Any] | None, device: torch.device
) -> RunDirectory:
    """The folder of the comparison, made, or reopened where it has the same settings."""
    if not (path / "config.toml").is_file():
        return RunDirectory.create(
            path, command=invocation.command, options=to_options(config), paper=paper, seed=config.seed, device=device,
            argv=invocation.argv, resumable=False,
        )  # fmt: skip
    run = RunDirectory.open(path)
    if run.command != invocation.command:
        raise UserError(f"{path} is of `wasskit {run.command}`: choose another --run-dir.")
    others = [
        f"{f.flag} ({display(there)} there, {display(now)} now)"
        for f, there, now in differing(config, run.options, str(path / "config.toml"))
        if f.name not in MAY_GROW
    ]
    if others:
        raise UserError(f"{path} was begun with other settings: {', '.join(others)}. Choose another --run-dir.")
    return run


class Study:
    """The trainings of a comparison and their entries; of ``total`` fold models ``done`` are there, as far as known."""

    def __init__(
        self, config: CrossvalOptions, run: RunDirectory, parts: MetricSplits, number: int, device: torch.device
    ) -> None:
        self.config, self.run, self.parts, self.number, self.device = config, run, parts, number, device
        self.done = 0
        self.total = len(entrants(config)) * number * (config.comparison.trials + config.comparison.repeats)
        gallery = None if parts.gallery is None else parts.gallery.filled_labels()
        self.labels = TestLabels(parts.test.filled_labels(), gallery)
        self.protocol = Protocol(
            parts.test.name, number, config.comparison.trials, config.loop.epochs, len(parts.test),
            len(parts.test.classes), config.frozen,
        )  # fmt: skip

    @cached_property
    def trunk(self) -> Trunk:
        """What trains the fold models. A frozen trunk sees all images when this is first asked for."""
        if not self.config.frozen:
            return TrainedTrunk(self.parts, self.config.data.workers, self.device)
        modes = self.config.comparison.modes
        first = Entrant(self.config.comparison.losses[0], "feature" if "feature" in modes else "baseline")
        setting = training(self.config, first, {}, self.config.seed)
        return FrozenTrunk(self.parts, setting, self.run.path / "cache", modes, self.device)

    def results(self) -> list[Result]:
        """Train what is missing: all tuning first, then repeat by repeat, so that a stopped comparison is balanced."""
        every = entrants(self.config)
        trials = {entrant: self.tuned(entrant) for entrant in every}
        chosen = {entrant: best_trial(entrant, trials[entrant]) for entrant in every}
        repeats = [
            {entrant: self.repeated(entrant, trials[entrant][chosen[entrant]].settings, number) for entrant in every}
            for number in range(self.config.comparison.repeats)
        ]
        return [
            Result(
                entrant.loss, entrant.mode, trials[entrant], chosen[entrant],
                [fold["epoch"] for each in repeats for fold in each[entrant]["folds"]],
                *([each[entrant][protocol] for each in repeats] for protocol in PROTOCOLS),
            )
            for entrant in every
        ]  # fmt: skip

    def untrained(self) -> dict[str, float] | None:
        """Scores of the frozen trunk's features, or of raw pixels, unchanged; ``validation``: on the tuning's folds."""
        model = self.trunk.untrained(self._folds("tuning"))
        if model is None:
            return None
        return {**self.labels.score(model.embeddings), "validation": model.validation["map@r"]}

    def tuned(self, entrant: Entrant) -> list[Trial]:
        """Every trial's settings and the mean MAP@R of its folds' validation; None where a fold's model failed."""
        found = []
        for trial in range(self.config.comparison.trials):
            chosen = settings(entrant.loss, trial, self.config)
            scores = [
                self._tried(f"tuning/{entrant.folder}/trial-{trial}-fold-{place}", entrant, chosen, fold)
                for place, fold in enumerate(self._folds("tuning"))
            ]
            failed = next((score for score in scores if isinstance(score, str)), None)
            mean = None if failed else statistics.fmean(score for score in scores if not isinstance(score, str))
            self._say(f"{entrant.name}, trial {trial}: validation {'failed' if mean is None else f'{mean:.2f}'}")
            found.append(Trial(chosen, mean, failed))
        return found

    def repeated(self, entrant: Entrant, chosen: Settings, number: int) -> Mapping[str, Any]:
        """The entry of a repeat: its "folds" and the test scores, "separate", the mean of the folds' models, and
        "concatenated", of their joined embeddings."""
        place = f"repeats/{number}/{entrant.folder}"
        entry = self._kept(place, chosen)
        if entry is None:
            models = [
                self._tested(f"{place}/fold-{k}", entrant, chosen, fold) for k, fold in enumerate(self._folds(number))
            ]
            scores = [fold["test"] for fold, _ in models]
            entry = {
                "folds": [{key: fold[key] for key in ("epoch", "validation", "test")} for fold, _ in models],
                "separate": {name: statistics.fmean(score[name] for score in scores) for name in SCORES},
                "concatenated": self.labels.score(joined([embeddings for _, embeddings in models])),
            }
            self._keep(place, chosen, entry)
        else:
            self.done += self.number
        shutil.rmtree(self.run.path / place, ignore_errors=True)
        values = ", ".join(f"{protocol} {entry[protocol]['map@r']:.2f}" for protocol in PROTOCOLS)
        self._say(f"{entrant.name}, repeat {number}: MAP@R {values}")
        return entry

    def _folds(self, part: int | str) -> list[Fold]:
        return folds(len(self.parts.train.classes), self.number, self.config.seed, part)

    def _tried(self, place: str, entrant: Entrant, chosen: Settings, fold: Fold) -> float | str:
        """The validation MAP@R of a fold's model, or why it failed: that a training diverges is a result, too."""
        entry = self._kept(place, chosen)
        if entry is None:
            try:
                model = self.trunk.train(training(self.config, entrant, chosen, fold.seed), fold, test=False)
                entry = {"epoch": model.epoch, "validation": model.validation}
            except RunFailed as error:
                entry = {"failed": str(error)}
            self._keep(place, chosen, entry)
        self.done += 1
        return float(entry["validation"]["map@r"]) if "validation" in entry else str(entry["failed"])

    def _tested(
        self, place: str, entrant: Entrant, chosen: Settings, fold: Fold
    ) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
        """The entry of a fold's model with its test scores, and its test embeddings, which lie beside the entry until
        the repeat is complete."""
        entry, path = self._kept(place, chosen), self.run.path / f"{place}.npz"
        if entry is None or not path.is_file():
            model = self.trunk.train(training(self.config, entrant, chosen, fold.seed), fold, test=True)
            arrays: dict[str, Any] = {name: value.numpy() for name, value in model.embeddings.items()}
            entry = {"epoch": model.epoch, "validation": model.validation, "test": self.labels.score(model.embeddings)}
            with writing(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, lambda file: np.savez(file, **arrays))
            self._keep(place, chosen, entry)
        self.done += 1
        return entry, {name: torch.from_numpy(value) for name, value in read_archive(path).items()}

    def _kept(self, place: str, chosen: Settings) -> dict[str, Any] | None:
        """An entry, where there is one with these settings."""
        path = self.run.path / f"{place}.json"
        entry = read_json(path) if path.is_file() else None
        return entry if isinstance(entry, dict) and entry.get("settings") == _plain(chosen) else None

    def _keep(self, place: str, chosen: Settings, values: Mapping[str, Any]) -> None:
        text = json.dumps({"settings": _plain(chosen), **values}, indent=1) + "\n"
        write_text(self.run.path / f"{place}.json", text)

    def _say(self, words: str) -> None:
        console.log(f"[{self.done}] {words}".replace("[", "\\["))


def _plain(chosen: Settings) -> dict[str, Any]:
    """Settings as JSON gives them back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}


def best_trial(entrant: Entrant, trials: Sequence[Trial]) -> int:
    """The trial with the best validation, the first of equals.

    Raises:
        RunFailed: none of them could be trained.
    """
    scored = [(trial.validation, -place) for place, trial in enumerate(trials) if trial.validation is not None]
    if not scored:
        raise RunFailed(f"No setting of {entrant.name} could be trained; of the first: {trials[0].failed}")
    return -max(scored)[1]
