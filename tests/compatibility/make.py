"""Record what a version of wasskit leaves behind, for ``test_earlier_runs.py``.

Check out the version to record beside this tree, and run this file with it::

    git worktree add --detach ../published REVISION
    WASSKIT_DATA= OMP_NUM_THREADS=1 PYTHONPATH=../published python tests/compatibility/make.py VERSION

It writes ``VERSION/surface.json`` (flags, keys and choices of every command, and the recipes), ``VERSION/runs``
(run directories, finished and interrupted, and the files that commands wrote) and ``VERSION/outputs`` (command lines
with the JSON that they printed). The tests take every folder that has them; none is ever made again or edited.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NANO = ["--backbone", "nano", "--epochs", "2", "--batch-size", "256"]
SOLVER = ["--hidden", "4,4", "--steps", "20", "--batch-size", "32", "--eval-every", "5", "--log-every", "5"]

TRAININGS: dict[str, tuple[list[str], int | None]] = {
    "mrl": (["mrl", "train", "--dims", "4,8", *NANO], 6),
    "byol": (["ssl", "byol", "--w2", "--projector", "8,4", "--predictor-hidden", "4", "--eval-every", "1", *NANO], 5),
    "moco": (["ssl", "moco", "--projector", "8,4", "--queue", "512", "--eval-every", "1", *NANO], 5),
    "metrix": (["metrix", "train", "--loss", "contrastive", "--mode", "feature", "--embedding-size", "4", *NANO], 5),
    "anchor": (["metrix", "train", "--loss", "proxyanchor", "--embedding-size", "4", *NANO], 5),
    "toy": (["w2gn", "toy", "--start-samples", "256", "--test-size", "100", *SOLVER], 14),
    "gaussians": (["w2gn", "gaussians", "--dim", "2", "--start-samples", "256", "--test-size", "100", *SOLVER], 14),
    "latent": (
        ["w2gn", "latent", "--filters", "2", "--latent", "2", "--autoencoder-steps", "5", "--start-samples", "64",
         *SOLVER],
        None,
    ),
    "domain": (["w2gn", "domain", "--classifier-steps", "5", "--start", "identity", *SOLVER], None),
}  # fmt: skip
"""Name: the command, and the optimiser's step after which its interrupted twin is told to stop."""

SWEEP = ["mrl", "sweep", "beta=0.1,1", "--dims", "4,8", "--backbone", "tiny", "--epochs", "1", "--batch-size", "512"]
"""Its trainings are processes of their own, which do not know `nano`."""

WRITERS = {
    "mrl-export": ["mrl", "export", "runs/mrl", "--output", "out/mrl.safetensors"],
    "mrl-embed": ["mrl", "embed", "runs/mrl", "images", "--output", "out/mrl.npz"],
    "ssl-export": ["ssl", "export", "runs/byol", "--output", "out/ssl.safetensors"],
    "ssl-embed": ["ssl", "embed", "runs/byol", "images", "--output", "out/ssl.npz"],
    "metrix-export": ["metrix", "export", "runs/metrix", "--output", "out/metrix.safetensors"],
    "metrix-embed": ["metrix", "embed", "runs/metrix", "images", "--output", "out/metrix.npz"],
}
"""Commands whose files the readers below are given."""

READERS = {
    "mrl-evaluate": ["mrl", "evaluate", "runs/mrl"],
    "mrl-evaluate-export": ["mrl", "evaluate", "files/mrl.safetensors", "--dataset", "digits"],
    "mrl-retrieve": ["mrl", "retrieve", "runs/mrl"],
    "mrl-classify": ["mrl", "classify", "runs/mrl"],
    "mrl-embed-export": ["mrl", "embed", "files/mrl.safetensors", "images", "--output", "out/again.npz"],
    "ssl-knn": ["ssl", "knn", "runs/byol"],
    "ssl-linear": ["ssl", "linear", "runs/byol", "--probe-epochs", "2"],
    "ssl-evaluate": ["ssl", "evaluate", "runs/moco", "--probe-epochs", "2"],
    "metrix-evaluate": ["metrix", "evaluate", "runs/metrix"],
    "metrix-evaluate-anchor": ["metrix", "evaluate", "runs/anchor"],
    "metrix-evaluate-export": ["metrix", "evaluate", "files/metrix.safetensors", "--dataset", "digits"],
    "metrix-search": ["metrix", "search", "runs/metrix", "images/0.png", "--gallery", "images"],
    "metrix-embed-export": [
        "metrix", "embed", "files/metrix.safetensors", "images", "--output", "out/again-metrix.npz",
    ],
    "w2gn-apply": ["w2gn", "apply", "runs/toy", "points.npy", "--output", "out/applied.npy"],
    "w2gn-apply-map": ["w2gn", "apply", "runs/gaussians/map.safetensors", "points.npy", "--output", "out/mapped.npy"],
    "study-measure": ["study", "measure", "files/mrl.npz.npy", "--run-dir", "measured"],
    "study-icc": [
        "study", "icc", "--quick", "--seeds", "1", "--n", "200", "--dim", "8", "--levels", "0,0.5", "--copies", "2",
        "--run-dir", "again",
    ],
    "plot-table": ["plot", "table", "runs/mrl", "runs/byol", "runs/metrix", "runs/toy"],
    "plot-compare": ["plot", "compare", "runs/metrix", "runs/anchor", "--output", "out"],
    "plot-curves": ["plot", "curves", "runs/mrl", "runs/toy", "--output", "out/curves.png"],
    "plot-dims": ["plot", "dims", "runs/sweep", "--output", "out/dims.png"],
    "plot-spectrum": ["plot", "spectrum", "runs/byol", "--output", "out/spectrum.png"],
    "plot-transport": ["plot", "transport", "runs/toy", "--output", "out/transport.png"],
    "plot-report": ["plot", "report", "runs/study", "--output", "out/report.html"],
}  # fmt: skip
"""Commands that read what is recorded."""


def call(argv: list[str], stop_at: int | None = None) -> tuple[int, Any]:
    """Run a command in this process; tell it to stop after the given step of any optimiser."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from wasskit.cli import run

    steps = 0

    def hook(*_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    handle = register_optimizer_step_post_hook(hook)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = run([*argv, "--json"])
    handle.remove()
    text = printed.getvalue()
    print(code, " ".join(argv), flush=True)
    return code, json.loads(text) if text.strip() else None


def record(folder: Path, name: str, argv: list[str], result: Any, **more: Any) -> None:
    document = {"argv": argv, **more, "result": result}
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def surface() -> dict[str, Any]:
    """Flags, recipe keys with their defaults and choices of every command; the recipes as they are.

    The keys of a recipe are those of a saved ``config.toml`` too.
    """
    from wasskit.cli import find_command
    from wasskit.config import display, fields_of, recipe_fields
    from wasskit.plugins import load_plugin, plugin_targets
    from wasskit.recipes import find_recipe, parse_recipe, recipe_names

    commands = {}
    own = {name: target for name, target in plugin_targets().items() if target.startswith("wasskit.")}
    for plugin, target in own.items():
        for name in load_plugin(target).commands:
            declared = find_command(f"{plugin} {name}")
            options = [p for p in declared.build().params if p.param_type_name == "option"]
            flags = {flag for p in options for flag in (*p.opts, *p.secondary_opts)}
            keys = recipe_fields(declared.options)
            choices = {f.flag: sorted(f.choices) for f in fields_of(declared.options) if f.choices}
            defaults = {name: display(f.default) for name, f in keys.items() if not f.required}
            commands[declared.path] = {
                "flags": sorted(flags), "keys": sorted(keys), "choices": choices, "defaults": defaults
            }  # fmt: skip
    recipes = {name: dict(parse_recipe(*find_recipe(name)).document) for name in recipe_names()}
    return {"commands": commands, "recipes": recipes}


def images() -> None:
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    Path("images").mkdir()
    for index, image in enumerate(load_digits().images[:4]):
        Image.fromarray((image * 15.9).astype(np.uint8)).save(f"images/{index}.png")
    np.save("points.npy", np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32))


def scrub(root: Path) -> None:
    """Leave out what tests do not read, the larger copies of states, and this machine's names."""
    for path in sorted(root.rglob("*"), reverse=True):
        relative = path.relative_to(root).as_posix()
        interrupted = relative.startswith("runs/interrupted/")
        dropped = (
            path.name in (".lock", "previous.pt", "out")
            or relative == "files/evaluation.json"
            or (path.suffix in (".png", ".tex", ".pdf", ".svg") and not relative.startswith("images/"))
            or (path.name == "checkpoints" and relative.startswith(("runs/sweep/", "runs/domain/")))
            or (interrupted and (path.name == "best.pt" or "baseline/checkpoints" in relative))
        )
        if dropped and path.is_dir():
            shutil.rmtree(path)
        elif dropped:
            path.unlink()
        elif path.name == "environment.json":
            text = path.read_text(encoding="utf-8")
            path.write_text(re.sub(r'"command_line": "\S*make.py', '"command_line": "wasskit', text), encoding="utf-8")
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def main(version: str) -> None:
    spec = importlib.util.spec_from_file_location("nano_backbone", HERE / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nano_backbone"] = module
    spec.loader.exec_module(module)
    module.register_nano()

    folder = (HERE / version).resolve()
    outputs = folder / "outputs"
    outputs.mkdir(parents=True)
    (folder / "surface.json").write_text(json.dumps(surface(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    root = folder / "recorded"
    root.mkdir()
    os.chdir(root)
    images()
    for name, (argv, stop_at) in TRAININGS.items():
        argv = [*argv, "--no-tensorboard"]
        code, result = call([*argv, "--run-dir", f"runs/{name}"])
        assert code == 0
        line = [*argv[:2], "--resume", f"runs/interrupted/{name}"] if stop_at else argv
        record(outputs, f"train-{name}", line, result)
        if stop_at:
            code, _ = call([*argv, "--run-dir", f"runs/interrupted/{name}"], stop_at)
            assert code not in (0, 2), f"{name} was not interrupted"
    sweep = [*SWEEP, "--no-tensorboard", "--run-dir", "runs/sweep"]
    study = [*READERS["study-icc"][:-2], "--run-dir", "runs/study"]
    code, result = call(sweep)
    assert code == 0
    record(outputs, "sweep", sweep, result)
    assert call(study)[0] == 0
    Path("out").mkdir()
    for commands in (WRITERS, READERS):
        for name, argv in commands.items():
            code, result = call(argv)
            if code:
                print("FAILED", name)
            record(outputs, name, argv, result)
        if commands is WRITERS:
            shutil.copytree("out", "files")
    shutil.rmtree("measured")
    shutil.rmtree("again")
    scrub(root)


if __name__ == "__main__":
    main(sys.argv[1])
