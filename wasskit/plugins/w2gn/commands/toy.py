"""``wasskit w2gn toy``: measures in the plane, or any two clouds of points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.options import complete_local_paths, override
from wasskit.plugins.w2gn.options import SamplingOptions, StepOptions, TransportOptions

MEASURES = (
    "8gaussians",
    "25gaussians",
    "49gaussians",
    "100gaussians",
    "swissroll",
    "moons",
    "circles",
    "normal",
)


def complete_measures(typed: str) -> Iterable[str]:
    """Names of measures and paths of files."""
    return [name for name in MEASURES if name.startswith(typed)] + list(complete_local_paths(typed))


_LONGER = ("49gaussians", "100gaussians", "swissroll")
"""Targets that want more steps than the default, each with a recipe."""


@dataclass(frozen=True, kw_only=True)
class W2gnToy(TransportOptions, SamplingOptions):
    """Options of ``wasskit w2gn toy``."""

    target: str = option(
        "8gaussians",
        help="Target measure: " + ", ".join(MEASURES) + ", or a .npy file of points (N, D).",
        panel="Data",
        complete=complete_measures,
        metavar="NAME|PATH",
    )
    source: str = option(
        "normal",
        help="Source measure, likewise.",
        panel="Data",
        complete=complete_measures,
        metavar="NAME|PATH",
    )
    whiten: bool | None = option(
        None,
        help="Give the target mean 0 and covariance the identity, as published.",
        panel="Data",
        show_default="for named targets; points of a file stay where they are",
    )
    steps: int = override(StepOptions, "steps", 1000)
    test_size: int = option(
        4096, help="Points of each measure in evaluations and figures.", panel="Run", min=100
    )


def body(config: W2gnToy, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.plugins.w2gn.core.task import dense_transport
    from wasskit.plugins.w2gn.experiments.toy import evaluation, measures, plane_grid
    from wasskit.plugins.w2gn.fitting import history, next_steps, sampler, save_clouds, say_where, train
    from wasskit.training.session import training_session

    with training_session(config, invocation, name=Path(config.target).stem) as session:
        config = session.config
        source, target, whitening = measures(config)
        device = session.device
        x = sampler(source, config.seed, "source", config.sampling, device)
        y = sampler(target, config.seed, "target", config.sampling, device)
        transport = dense_transport(config, source.dim, x, y)
        test_x = source.draw(config.test_size, config.seed, "test source", device=device)
        test_y = target.draw(config.test_size, config.seed, "test target", device=device)
        evaluate = evaluation(config.target, target, test_x, test_y, whitening, config.seed)
        trained = train(
            session, transport, x, y, evaluate, monitor="test/energy_forward",
            about={"source": config.source, "target": config.target},
        )  # fmt: skip
        final = trained.summary.final
        figures: list[Path | None] = []
        if console.is_main_process():
            from wasskit.plugins.w2gn import figures as draw

            folder = session.run.figures
            if source.dim == 2:
                shown = trained.transport.to(device)
                forward, inverse = shown.forward_map(test_x), shown.inverse_map(test_y)
                figures.append(draw.plane_maps(folder / "maps.png", test_x, test_y, forward, inverse))
                grid = plane_grid(test_x)
                save_clouds(
                    session.run.path / "transport.npz", source=test_x, target=test_y, forward=forward, inverse=inverse,
                    grid=grid, grid_forward=shown.forward_map(grid.flatten(0, 1)).view_as(grid),
                )  # fmt: skip
            names = {"energy_forward": "forward", "energy_inverse": "inverse"}
            series = history(session, "test", list(names))
            figures.append(
                draw.curves(
                    folder / "energy.png",
                    {names[k]: v for k, v in series.items()},
                    ylabel="energy distance",
                    lines={"two samples of the target (rms)": final["test/energy_floor"]},
                )
            )
        rows = [
            ["energy distance, forward", final["test/energy_forward"]],
            ["energy distance, inverse", final["test/energy_inverse"]],
            ["  between two samples of the target (rms)", final["test/energy_floor"]],
            ["forward and back, % of the variance", final["test/cycle_error"]],
            ["half squared W2 distance", final["test/half_w2"]],
        ]
        if "test/modes" in final:
            rows.append([f"modes reached, of {final['test/modes_of']:.0f}", f"{final['test/modes']:.0f}"])
            rows.append(["points within 3 std of a mode, %", final["test/near_modes"]])
            rows.append(["  of the target", final["test/near_modes_target"]])
        console.table(f"{config.source} to {config.target}", ["on test points", "value"], rows, digits=5)
        missed = int(final.get("test/modes_of", 0) - final.get("test/modes", 0))
        if missed:
            console.warn(
                f"{missed} of {final['test/modes_of']:.0f} modes {'gets' if missed == 1 else 'get'} less than half "
                f"the share of points: train longer (--steps {3 * config.steps}) or wider (--hidden 256,256,128)."
            )
        say_where(figures, trained.map_path)
        longer = config.target in _LONGER and config.steps <= W2gnToy.steps
        another = config.target if longer else next(name for name in _LONGER if name != config.target)
        next_steps(
            ("apply", trained.map_path, "POINTS.npy"),
            ("toy", "--recipe", f"w2gn/toy-{another}"),
        )
    return trained.summary.as_dict() | {"map": str(trained.map_path), "run": str(session.run.path)}


command = Command(
    "w2gn toy",
    W2gnToy,
    body,
    "Map a normal to a mixture, a spiral or any cloud of points.\n\n"
    "Trains both maps, draws them, and measures how far "
    "the mapped points are from the target by the energy distance. Two .npy files give maps between any two clouds.",
    (
        "wasskit w2gn toy",
        "wasskit w2gn toy --target swissroll --steps 4000",
        "wasskit w2gn toy --source a.npy --target b.npy",
    ),
)
