"""What a metric is called, which way is better, in which unit, and how it is measured: each declared once.

A name may hold numbers: ``recall@{k}`` declares ``recall@1`` and ``recall@8``. A metric of one nested dimension is
``name@dimension`` and needs no declaration of its own. Names are as in ``metrics.csv``, without the split.

Nothing heavy is imported here, so that help and completion may read it. What a plugin alone measures it declares in
its own ``metrics.py``, which its :class:`wasskit.plugins.Plugin` names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

Order = Literal["max", "min"]

_PLACE = re.compile(r"\{(\w+)\}")
_NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)?"
_NESTED = re.compile(r"(?P<base>.+)@(?P<dimension>\d+)")


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: as recorded; ``{k}`` stands for a number, ``{name}`` for a word.
        order: whether larger (``max``) or smaller (``min``) is better; None where neither is.
        heading: its name in tables and figures, with the same placeholders.
        protocol: how it is measured, in words.
        unit: ``%`` for shares in percent.
    """

    name: str
    order: Order | None
    heading: str
    protocol: str
    unit: str = ""

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        pieces = _PLACE.split(self.name)
        for i, piece in enumerate(pieces):
            content = r"\w+" if piece == "name" else _NUMBER
            pieces[i] = f"(?P<{piece}>{content})" if i % 2 else re.escape(piece)
        return re.compile("".join(pieces))

    def named(self, name: str) -> Metric | None:
        """This declaration with the numbers of ``name`` filled in; None where it does not declare ``name``."""
        found = self._pattern.fullmatch(name)
        if found is None:
            return None
        return replace(self, name=name, heading=self.heading.format(**found.groupdict()))


class Metrics:
    """Declared metrics, found by the name under which a value is recorded.

    Args:
        declared: what is declared here.
        common: what is declared elsewhere and found here too.
    """

    def __init__(self, declared: Iterable[Metric], common: Metrics | None = None) -> None:
        # A name without placeholders is meant before one that only fits.
        self.declared = tuple(sorted(declared, key=lambda metric: len(_PLACE.findall(metric.name))))
        self.common = common

    def find(self, name: str) -> Metric | None:
        """The metric of that name, or of that name at a nested dimension; None where it is not declared."""
        for metric in self.declared:
            found = metric.named(name)
            if found is not None:
                return found
        found = None if self.common is None else self.common.find(name)
        nested = _NESTED.fullmatch(name)
        if found is not None or nested is None:
            return found
        base = self.find(nested["base"])
        return base and replace(base, name=name, heading=f"{base.heading}@{nested['dimension']}")

    def __getitem__(self, name: str) -> Metric:
        """The metric of that name, or all ``name@k`` of one that counts ranks together.

        An undeclared one has its name as its heading and no direction.
        """
        found = self.find(name)
        if found is None and self.counts_ranks(name):
            first = self[f"{name}@1"]
            found = replace(first, name=name, heading=first.heading.removesuffix("@1"))
        return found or Metric(name, None, name, "")

    def headings(self, *names: str) -> dict[str, str]:
        """Each name with its heading."""
        return {name: self[name].heading for name in names}

    def counts_ranks(self, base: str) -> bool:
        """Whether the number after ``base@`` counts retrieved items rather than dimensions."""
        own = any(metric.named(f"{base}@1") for metric in self.declared)
        return own or (self.common is not None and self.common.counts_ranks(base))


def share(name: str, heading: str, protocol: str, order: Order | None = "max") -> Metric:
    """A metric in percent."""
    return Metric(name, order, heading, protocol, "%")


_NEIGHBOURS = "vote of the k nearest labelled training images by cosine"
_CLASSES = "classes ranked by the classifier's outputs"
_QUERIES = "every image queries the gallery, itself left out; ties count against the model"

#: What training records of itself and what several plugins measure.
COMMON = Metrics(
    [
        Metric("loss", "min", "loss", "the training objective, mean over the batch"),
        Metric("lr", None, "learning rate", "of the optimiser's first group"),
        Metric("lr_{name}", None, "learning rate, {name}", "of the named optimiser's first group"),
        Metric("grad_norm", None, "gradient norm", "before clipping"),
        Metric("grad_norm_{name}", None, "gradient norm, {name}", "before clipping"),
        Metric("wall_seconds", "min", "wall seconds", "of the whole training"),
        Metric("samples_per_second", "max", "samples per second", "mean over the training"),
        share("top{k}", "top-{k}", f"share of images whose class is among the first k; {_CLASSES}"),
        share("map{k}", "mAP@{k}", f"mean reciprocal rank of the true class within the first k; {_CLASSES}"),
        share("knn", "k-NN", _NEIGHBOURS),
        share("knn{k}_top{n}", "{k}-NN top-{n}", f"{_NEIGHBOURS}, weighed by exp(cosine)"),
        share("knn{k}t{t}_top{n}", "{k}-NN (T = {t}) top-{n}", f"{_NEIGHBOURS}, weighed by exp(cosine / T)"),
        share("recall@{k}", "recall@{k}", f"share of queries with a positive among the first k; {_QUERIES}"),
        share("precision@{k}", "precision@{k}", f"share of positives among the first k; {_QUERIES}"),
        share("map@{k}", "mAP@{k}", f"average precision over the first k, by min(R, k); {_QUERIES}"),
        share("map@r", "MAP@R", f"average precision over the first R of R positives; {_QUERIES}"),
        Metric("sigreg", "min", "SIGReg", "mean Epps-Pulley statistic of embeddings along random directions"),
        Metric("w2", "min", "W2", "Gaussian 2-Wasserstein distance of unit embeddings to N(0, I / m)"),
        Metric("lu", "min", "L_U", "log of the mean Gaussian potential exp(-2 |x - y|^2) of pairs of unit embeddings"),
        Metric("alignment", "min", "alignment", "mean |x - y|^2 of positive pairs of unit embeddings"),
        Metric("effective_rank", "max", "effective rank", "exp of the entropy of the covariance's spectrum"),
        Metric("rankme", "max", "RankMe", "entropy rank of the singular values, not centred"),
    ]
)
