"""``wasskit w2gn domain``: adapt the features of one domain to a classifier trained on another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.data.catalog import DOMAINS
from wasskit.errors import UserError
from wasskit.options import DataPlaceOptions
from wasskit.plugins.w2gn.options import ObjectiveOptions, StagedOptions, StepOptions


def complete_domains(typed: str) -> Iterable[str]:
    """Names of domains."""
    return [name for name in DOMAINS if name.startswith(typed)]


@dataclass(frozen=True, kw_only=True)
class W2gnDomain(StagedOptions):
    """Options of ``wasskit w2gn domain``."""

    # Published weights. Solved conjugates match the few features more closely, and classify the images worse for it.
    objective: ObjectiveOptions = ObjectiveOptions(refine="none", cycle=500.0, cycle_source=500.0)
    training: StepOptions = StepOptions(batch_size=256, steps=1000, lr=1e-3)

    source: str = option(
        "digits-b", help="Domain that is moved: " + ", ".join(DOMAINS) + ", or a data set.", panel="Data",
        complete=complete_domains, metavar="NAME",
    )  # fmt: skip
    target: str = option(
        "digits-a", help="Domain that the classifier is trained on.", panel="Data", complete=complete_domains,
        metavar="NAME",
    )  # fmt: skip
    place: DataPlaceOptions = DataPlaceOptions()
    classifier_steps: int | None = option(
        None,
        help="Training steps of the classifier.",
        panel="Classifier",
        min=1,
        show_default="five epochs, at least 1000",
    )
    classifier_lr: float = option(1e-3, help="Its learning rate.", panel="Classifier", above=0)

    def validate(self) -> None:
        super().validate()
        if self.source == self.target:
            raise UserError(f"--source and --target are both {self.source}: there is nothing to adapt.")


def body(config: W2gnDomain, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.data.domains import load_domain
    from wasskit.plugins.w2gn.experiments.domain import Adaptation, ClassifierStage
    from wasskit.plugins.w2gn.fitting import conclude, train_staged
    from wasskit.training.session import training_session

    with training_session(config, invocation, name=f"{config.source}-{config.target}") as session:
        config = session.config
        source, target = (load_domain(name, config.place.data_root) for name in (config.source, config.target))
        batch = 128
        steps = config.classifier_steps or max(5 * len(target.train_images) // batch, 1000)
        stage = ClassifierStage(source, target, batch, config.classifier_lr, config.run.seed)
        adaptation = Adaptation(stage)
        trained = train_staged(
            session, stage, 84, adaptation.scores, first_steps=steps, floor=config.start_floor,
            about={"source": config.source, "target": config.target},
        )  # fmt: skip
        report = adaptation.report(trained.transport, trained.final, seed=config.run.seed, floor=config.start_floor)
        return conclude(trained, report, ("domain", "--source", config.target, "--target", config.source))


command = Command(
    "w2gn domain",
    W2gnDomain,
    body,
    "Adapt the features of one domain to a classifier trained on another.\n\n"
    "Trains a classifier on the target domain, "
    "fits the optimal map from its features of the source domain to those of the target, and gives the accuracy of "
    "nearest neighbours and of the classifier before and after, beside discrete optimal transport.",
    (
        "wasskit w2gn domain",
        "wasskit w2gn domain --source usps --target mnist --data-root ~/data",
        "wasskit w2gn domain --recipe w2gn/usps-mnist",
    ),
)
