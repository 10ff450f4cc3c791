"""Where between its start and what it learned an adaptor lies best: chosen by a first training.

Labels say how the classes of the training are told apart, which others, met later, may not want. The weights between
the start and the end of the training have most of both (see :class:`Adaptor`); how far to go depends on the data, and
on whose classes the vectors to come are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from wasskit import console
from wasskit.data.seeds import derive_seed
from wasskit.data.splits import stratified_split
from wasskit.errors import Interrupted
from wasskit.plugins.mrl.adapt.data import Vectors
from wasskit.plugins.mrl.adapt.network import principal_axes
from wasskit.plugins.mrl.adapt.options import AdaptTrainingOptions
from wasskit.plugins.mrl.adapt.starting import FEWEST, MEASURED, ROWS, prefix_errors, projected, some
from wasskit.plugins.mrl.adapt.task import adapt, trained_alone
from wasskit.plugins.mrl.adapt.trained import HEADER
from wasskit.system.signals import Stopped, name_of, number_of
from wasskit.trained.files import read_model

BLENDS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
UNCHOSEN = 0.5
"""The blend where there are too few classes to leave some out."""
HELD = 0.2
"""Share of the vectors of the learned classes that are kept from the first training."""


def with_blend(
    config: AdaptTrainingOptions,
    vectors: Vectors,
    test: Vectors | None,
    device: torch.device,
    *,
    seed: int,
    resumed: Path | None = None,
) -> AdaptTrainingOptions:
    """The configuration with a blend where it has none: that of the checkpoint that is resumed, or a chosen one.

    Of ``test`` nothing is looked at but whose labels there are.
    """
    if config.blend is not None:
        return config
    if resumed is not None:
        return replace(config, blend=read_model(resumed, "mrl", kinds=(HEADER,))[1]["blend"])
    known = config.classes == "known" or (config.classes == "auto" and _among(test, vectors))
    try:
        blend = choose_blend(config, vectors, device, known=known, seed=seed)
    except (Interrupted, Stopped, KeyboardInterrupt) as error:
        # The first training has no run directory: its steps are none of the run's.
        number = number_of(error)
        raise Interrupted(
            number,
            f"Stopped by {name_of(number)} while the blend was being chosen (--blend), before the training itself: "
            "nothing was there to save. Start the command again.",
        ) from None
    console.log(_told(blend, vectors, known))
    return replace(config, blend=blend)


def _among(test: Vectors | None, vectors: Vectors) -> bool:
    """Whether all classes of the test vectors are those of others; False where that is not said."""
    if test is None or test.labels is None or vectors.labels is None:
        return False
    return bool(torch.isin(test.labels, vectors.labels).all())


def _told(blend: float, vectors: Vectors, known: bool) -> str:
    assert vectors.labels is not None
    if known and blend == 0:
        return (
            "Nothing of what is learned will be kept (--blend 0): in a trial the start served vectors of the same "
            "classes (--classes known) no worse."
        )
    if known:
        return f"Of what is learned {blend:g} will be kept (--blend), as it serves the same classes (--classes known)."
    if len(vectors.labels.unique()) < FEWEST:
        return f"Of what is learned {blend:g} will be kept (--blend): there are too few classes to try others on."
    if blend == 0:
        return (
            "Nothing of what is learned will be kept: in a trial it serves classes left out less than principal "
            "components do. Where no other classes are to come, give --classes known."
        )
    return f"Of what is learned {blend:g} will be kept (--blend), as it serves classes left out."


def choose_blend(
    config: AdaptTrainingOptions,
    vectors: Vectors,
    device: torch.device | str = "cpu",
    *,
    known: bool = False,
    seed: int = 0,
) -> float:
    r"""The blend that serves known and new classes best together, and new ones no worse than principal components.

    A first training learns half of the classes. At each prefix d, :math:`e_d` is the share of vectors whose nearest
    one is of another class, among the other half of the classes, and :math:`k_d` that of vectors kept from the
    training among those of it; :math:`e_d^0` and :math:`k_d^0` are those of principal components. Of the blends with
    :math:`\overline{\log (e_d / e_d^0)} \le 0`, means over the prefixes, the one with the least
    :math:`\overline{\log (e_d / e_d^0)} + \overline{\log (k_d / k_d^0)}` is taken. Where only ``known`` classes are to
    come, the first training learns all of them, and the blend with the least
    :math:`\overline{\log (k_d / k_d^0)}` is taken.
    ``config`` learns from the labels of ``vectors``. The global random numbers are left as they were.
    """
    assert vectors.labels is not None
    labels, device = vectors.labels, torch.device(device)
    classes = labels.unique()
    if len(classes) < FEWEST and not known:
        return UNCHOSEN
    generator = torch.Generator().manual_seed(derive_seed(seed, "blend"))
    taught = len(classes) if known else len(classes) // 2
    learned = torch.isin(labels, classes[torch.randperm(len(classes), generator=generator)[:taught]])
    both, others = some(vectors, learned, ROWS, generator), some(vectors, ~learned, MEASURED, generator)
    rest, part = stratified_split(both.labels, HELD, seed)
    train, held = (some(both, torch.isin(torch.arange(len(both)), rows), ROWS, generator) for rows in (rest, part))
    task = trained_alone(replace(config, blend=1.0), "labels", train, device, seed=seed)

    def errors(embed: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Of new classes, and of known ones, where there are any."""
        dims, found = task.model.dims, []
        if not known:
            found.append(prefix_errors(embed(others.rows), others.labels, dims))
        if len(held):
            found.append(prefix_errors(embed(held.rows), held.labels, dims, embed(train.rows), train.labels))
        return found

    mean, axes = principal_axes(train.rows)
    first = errors(lambda rows: projected(rows, mean, axes))
    scores = {}
    for blend in BLENDS:
        task.network.blend = blend
        found = errors(lambda rows: adapt(task.network, rows, device))
        changes = [float((one / other).log().mean()) for one, other in zip(found, first, strict=True)]
        if known or changes[0] <= 0:
            scores[blend] = sum(changes)
    return max(scores, key=lambda blend: (-scores[blend], blend), default=BLENDS[0])
