"""The contract of trained models, over every plugin that declares one: load, embed, export."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wasskit
from wasskit.data.transforms import Normalise
from wasskit.errors import UserError
from wasskit.plugins import BUILT_IN, load_plugin
from wasskit.plugins.models import kind_of
from wasskit.trained.data import image_loader, open_images
from wasskit.trained.kind import ModelKind

Cli = Callable[..., Any]

TRAININGS = {
    "mrl": ("mrl", "train", "--dims", "2,4,8", "--no-tensorboard", "--epochs", "1"),
    "ssl": ("ssl", "byol", "--projector", "16,8", "--no-tensorboard", "--epochs", "1", "--batch-size", "512"),
    "metrix": (
        "metrix", "train", "--embedding-size", "8", "--no-tensorboard", "--epochs", "1", "--compare", "no",
        "--batch-size", "60", "--max-triples", "300",
    ),
    "w2gn": ("w2gn", "toy", "--steps", "3", "--batch-size", "64", "--no-tensorboard"),
}  # fmt: skip
"""The shortest training of each plugin that trains models."""

KINDS = [name for name, target in BUILT_IN.items() if load_plugin(target).model is not None]
"""Of the declared plugins, so that a new kind cannot be forgotten."""


def kind(name: str) -> ModelKind[Any]:
    found = kind_of(name)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run directory of a short training of a plugin, made once."""
    from wasskit.cli import run

    folder = tmp_path_factory.mktemp("kinds")

    def of(name: str) -> Path:
        path = folder / name
        if not path.exists():
            assert run([*TRAININGS[name], "--run-dir", str(path), "-q"]) == 0
        return path

    return of


def inputs_of(name: str, run: Path, count: int = 5) -> torch.Tensor:
    described = kind(name).load(run).description
    shape = kind(name).input_shape(described)
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))


def test_every_plugin_that_trains_declares_its_kind() -> None:
    assert set(KINDS) == set(TRAININGS) == set(BUILT_IN) - {"study", "plot"}
    for name in KINDS:
        commands = load_plugin(BUILT_IN[name]).commands
        assert kind(name).name == name
        assert "export" in commands
        assert {"embed", "apply"} & set(commands), "a map is applied to points, all others embed images"


@pytest.mark.parametrize("name", KINDS)
def test_an_export_is_the_run(name: str, runs: Callable[[str], Path], run_cli: Cli, tmp_path: Path) -> None:
    run = runs(name)
    result = run_cli(name, "export", run, "-o", tmp_path / "model", "--json")
    assert result.exit_code == 0, result.stderr
    file = Path(json.loads(result.stdout)["weights"])
    assert file == tmp_path / "model.safetensors", "the suffix is added"
    x = inputs_of(name, run)
    trained, exported = wasskit.load(run), wasskit.load(str(file))
    assert trained.kind is exported.kind is kind(name)
    # As JSON, in which tuples are lists; the file's header has its writer's version besides.
    described = [json.loads(json.dumps(dict(m.description))) for m in (trained, exported)]
    assert described[1] | {"version": None} == described[0] | {"version": None}
    # The same weights in the same network on the same inputs: the very same numbers.
    assert torch.equal(trained.embed(x), exported.embed(x))
    again = run_cli(name, "export", file)
    assert (again.exit_code, "is exported already" in again.stderr) == (2, True), again.stderr
    other = run_cli(name, "export", run, "-o", tmp_path / "model.onnx")
    assert (other.exit_code, "must end in .safetensors" in other.stderr) == (2, True), other.stderr


@pytest.mark.parametrize("name", KINDS)
def test_embedding_in_python(name: str, runs: Callable[[str], Path]) -> None:
    model = wasskit.load(runs(name))
    x = inputs_of(name, runs(name))
    found = model.embed(x)
    assert (found.shape[0], found.ndim, found.dtype, found.requires_grad) == (5, 2, torch.float32, False)
    # An input has its embedding whatever else is in the batch. Sums of a matrix product over at most 1,024 terms may
    # be taken in another order: sqrt(1024) roundings of 2^-24 each, on each of some ten layers.
    bound = 10 * math.sqrt(1024) * 2**-24
    alone = model.embed(x, batch_size=2)
    assert (found - alone).abs().max() <= bound * (1 + found.abs().max())
    assert torch.equal(model.embed(x.double()), found), "computed in float32"
    with pytest.raises(UserError, match=r"takes inputs of shape \(N, "):
        model.embed(x[..., :1])
    with pytest.raises(UserError, match="takes inputs of shape"):
        model.embed(x[:0])
    with pytest.raises(UserError, match=r"floating-point inputs .*, not torch\.int64"):
        model.embed(x.long())


@pytest.mark.parametrize("name", ["mrl", "ssl", "metrix"])
def test_pixels_are_normalised_as_in_training(name: str, runs: Callable[[str], Path]) -> None:
    model = wasskit.load(runs(name))
    images = (255 * inputs_of(name, runs(name))).to(torch.uint8)
    floats = Normalise(model.description["mean"], model.description["std"])(images)
    assert torch.equal(model.embed(images), model.embed(floats))


@pytest.mark.parametrize("name", ["mrl", "ssl", "metrix"])
def test_a_folder_is_embedded_as_in_python(
    name: str, runs: Callable[[str], Path], run_cli: Cli, tmp_path: Path
) -> None:
    from PIL import Image

    model = wasskit.load(runs(name))
    side = model.description["image_size"]
    pixels = np.random.default_rng(0).integers(0, 256, (3, side, side), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / "photos" / f"{number}.png")
    # As files are read for a model; a model trained on images in memory may read them at the size they have.
    photos = open_images(tmp_path / "photos", model.description)
    loader = image_loader(kind(name), model.model, photos, "cpu", workers=0)
    expected = torch.cat([model.embed(batch.images) for batch in loader])
    loader.close()
    if name == "metrix":
        assert (expected - model.embed(torch.from_numpy(pixels)[:, None])).abs().max() < 1e-5
    for what, rows in (("photos", 3), ("photos/1.png", 1)):
        result = run_cli(
            name, "embed", runs(name), tmp_path / what, "-o", tmp_path / f"{rows}.npy", "--workers", "0", "--json"
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        said = json.loads(result.stdout)
        assert (said["images"], said["dim"], said["skipped"]) == (rows, expected.shape[1], [])
        found = torch.from_numpy(np.load(said["embeddings"]))
        wanted = expected if rows == 3 else expected[1:2]
        # As above: another order of the sums, over some ten layers.
        assert (found - wanted).abs().max() <= 10 * math.sqrt(1024) * 2**-24 * (1 + expected.abs().max())


def test_the_choices_of_a_plugin(runs: Callable[[str], Path]) -> None:
    model, x = wasskit.load(runs("mrl")), inputs_of("mrl", runs("mrl"))
    assert torch.equal(model.embed(x, dim=2), model.embed(x)[:, :2])
    unit = model.embed(x, dim=2, unit=True)
    torch.testing.assert_close(unit, torch.nn.functional.normalize(model.embed(x, dim=2)))
    with pytest.raises(UserError, match="9 is larger than the embedding, which has 8"):
        model.embed(x, dim=9)
    model, x = wasskit.load(runs("ssl")), inputs_of("ssl", runs("ssl"))
    features = model.embed(x)
    torch.testing.assert_close(
        model.embed(x, what="projections"), model.model.encoder.projector(features).detach()
    )


def test_a_map_embeds_by_its_forward_map(runs: Callable[[str], Path]) -> None:
    model, x = wasskit.load(runs("w2gn")), inputs_of("w2gn", runs("w2gn"))
    assert torch.equal(model.embed(x), model.model.transport.forward_map(x))


def test_what_is_no_trained_model_is_named(runs: Callable[[str], Path], run_cli: Cli, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run directory|There is no"):
        wasskit.load(tmp_path / "nowhere")
    (tmp_path / "icc").mkdir()
    (tmp_path / "icc" / "config.toml").write_text('command = "study icc"\n')
    with pytest.raises(UserError, match="holds no trained model: it was made by `wasskit study`"):
        wasskit.load(tmp_path / "icc")
    with pytest.raises(UserError, match="is the state of a training: name its run directory"):
        wasskit.load(runs("w2gn") / "checkpoints" / "last.pt")
    weights = tmp_path / "map.safetensors"
    assert run_cli("w2gn", "export", runs("w2gn"), "-o", weights).exit_code == 0
    for name in ("mrl", "ssl", "metrix"):
        result = run_cli(name, "export", weights, "-o", tmp_path / "m.safetensors")
        assert (result.exit_code, f"wasskit {name}" in result.stderr) == (2, True), result.stderr
