"""What earlier versions wrote goes on working: command lines, recipes, runs, checkpoints, exports and JSON.

Each folder beside this file is one earlier version, recorded by ``make.py``.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import wasskit
from wasskit.cli import find_command
from wasskit.config import check_keys, display, fields_of
from wasskit.errors import UserError

pytestmark = pytest.mark.usefixtures("undrawn")

HERE = Path(__file__).parent
SURFACES = sorted(HERE.glob("*/surface.json"))
OUTPUTS = sorted(HERE.glob("*/outputs/*.json"))

NOT_COMPARED = {"wall_seconds", "samples_per_second", "waiting_share", "seconds", "bytes", "figures"}
"""Times, which differ from run to run; figures, which later versions may add, and the size of a page of them."""


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def differences(recorded: Any, now: Any, where: str = "") -> Iterator[str]:
    """Where a result lacks a recorded key, has another type, or a number beyond the tolerance.

    The runs are a few steps long, so that rounding to single precision grows to some 1e-5 of a loss at most on another
    machine, but samples close to a decision may fall to its other side. The smallest set that a percentage counts has
    179 of them; two may differ.
    """
    if where.rpartition(".")[2] in NOT_COMPARED:
        return
    if isinstance(recorded, dict) and isinstance(now, dict):
        for key, value in recorded.items():
            if key not in now:
                yield f"{where}.{key} is missing"
            else:
                yield from differences(value, now[key], f"{where}.{key}")
    elif isinstance(recorded, list) and isinstance(now, list):
        if len(recorded) != len(now):
            yield f"{where} has {len(now)} entries, recorded were {len(recorded)}"
        for index, (value, other) in enumerate(zip(recorded, now, strict=False)):
            yield from differences(value, other, f"{where}.{index}")
    elif type(recorded) is not type(now):
        yield f"{where} is {now!r}, recorded was {recorded!r}"
    elif isinstance(recorded, float):
        tolerance = 100 * 2.01 / 179 if abs(recorded) > 5 else 1e-3
        if not math.isclose(recorded, now, rel_tol=1e-3, abs_tol=tolerance):
            yield f"{where} is {now}, recorded was {recorded}"
    elif not isinstance(recorded, str) and recorded != now:
        yield f"{where} is {now}, recorded was {recorded}"


@pytest.mark.slow
@pytest.mark.parametrize("path", OUTPUTS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_a_recorded_command_gives_what_it_gave(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any]
) -> None:
    recorded = read(path)
    shutil.copytree(path.parent.parent / "recorded", tmp_path / "recorded")
    monkeypatch.chdir(tmp_path / "recorded")
    monkeypatch.delenv("WASSKIT_DATA", raising=False)
    result = run_cli(*recorded["argv"], "--json")
    assert result.exit_code == 0, result.stderr
    assert list(differences(recorded["result"], json.loads(result.stdout))) == []


def commands(surface: Path) -> list[tuple[str, dict[str, Any]]]:
    return list(read(surface)["commands"].items())


@pytest.mark.parametrize("surface", SURFACES, ids=lambda path: path.parent.name)
def test_flags_keys_and_choices_are_still_accepted(surface: Path) -> None:
    refused = []
    for path, had in commands(surface):
        declared = find_command(path)
        has = {flag for p in declared.build().params for flag in (*p.opts, *p.secondary_opts)}
        refused += [f"{path} {flag}" for flag in had["flags"] if flag not in has]
        keys = {name for f in fields_of(declared.options) for name in (f.name, *f.option.former)}
        refused += [f"{path} {key} in a recipe" for key in had["keys"] if key not in keys]
        choices = {f.flag: f.choices for f in fields_of(declared.options) if f.choices}
        choices |= {
            "--" + name.replace("_", "-"): tuple(meanings)
            for f in fields_of(declared.options)
            for name, meanings in f.option.former.items()
            if meanings
        }
        refused += [
            f"{path} {flag} {choice}"
            for flag, values in had["choices"].items()
            for choice in values
            if choice not in choices.get(flag, ())
        ]
    assert refused == []


MEANT = {
    # Batch norm is joint as before, but where ranks share a GPU: what they exchange there goes through host memory.
    ("sync_bn", "true", "none"),
    # `w2gn benchmark` has one rule for all dimensions; what runs were saved with, they keep.
    ("steps", "8000", "none"),
    ("batch_size", "1024", "none"),
    ("refine_evaluations", "10", "none"),
}
"""Defaults that were changed on purpose: the option, its former default and that of now."""


@pytest.mark.parametrize("surface", SURFACES, ids=lambda path: path.parent.name)
def test_defaults_are_the_same_but_for_those_meant(surface: Path) -> None:
    changed = []
    for path, had in commands(surface):
        fields = fields_of(find_command(path).options)
        now = {name: display(f.default) for f in fields for name in (f.name, *f.option.former)}
        changed += [
            f"{path} {key}"
            for key, default in had["defaults"].items()
            if now[key] != default and (key, default, now[key]) not in MEANT
        ]
    assert changed == []


@pytest.mark.parametrize("surface", SURFACES, ids=lambda path: path.parent.name)
def test_recipes_are_still_accepted(surface: Path) -> None:
    refused = []
    for name, document in read(surface)["recipes"].items():
        declared = find_command(document["command"])
        try:
            check_keys(declared.options, document.get("options", {}), f"recipe {name}")
        except UserError as error:
            refused.append(str(error))
    assert refused == []


MODELS = [
    path.parent if path.name == "map.safetensors" else path.parents[1] if path.suffix == ".pt" else path
    for pattern in (
        "runs/*/checkpoints/last.pt",
        "runs/sweep/*/checkpoints/last.pt",
        "runs/*/map.safetensors",
        "files/*.safetensors",
    )
    for path in sorted(HERE.glob(f"*/recorded/{pattern}"))
]


@pytest.mark.parametrize("path", dict.fromkeys(MODELS), ids=lambda path: "-".join(path.parts[-3:]))
def test_models_are_still_loaded_and_embed(path: Path) -> None:
    model = wasskit.load(path)
    shape = model.kind.input_shape(model.description)
    inputs = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    embeddings = model.embed(inputs)
    assert embeddings.shape[0] == 2
    assert embeddings.isfinite().all()
    if model.kind.takes_images:
        assert model.description["in_memory"], "all were trained on digits, but of mrl and ssl not all say so"
