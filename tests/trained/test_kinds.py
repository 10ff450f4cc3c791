"""The contract of trained models, over every plugin that declares one: load, embed, export."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import wasskit
from wasskit.data.loaders import EvalLoader
from wasskit.data.registry import load_dataset
from wasskit.data.transforms import Normalise
from wasskit.errors import UserError
from wasskit.evaluation.embedding import extract_features
from wasskit.models.export import save_weights
from wasskit.plugin import BUILT_IN, kinds_of, load_plugin
from wasskit.trained.data import fitted, with_in_memory
from wasskit.trained.kind import ModelKind, TrainedModel

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]

Cli = Callable[..., Any]

TRAININGS = {
    "mrl": ("mrl", "train", "--dims", "2,4,8", "--no-tensorboard", "--epochs", "1"),
    "ssl": ("ssl", "byol", "--projector", "16,8", "--no-tensorboard", "--epochs", "1", "--batch-size", "512"),
    "metrix": (
        "metrix", "train", "--embedding-size", "8", "--no-tensorboard", "--epochs", "1", "--compare", "no",
        "--batch-size", "60", "--max-triples", "300",
    ),
    "mrl-adaptor": ("mrl", "adapt", "--dims", "2,4,8", "--hidden", "4", "--no-tensorboard", "--epochs", "1"),
    "w2gn-map": ("w2gn", "toy", "--steps", "3", "--batch-size", "64", "--no-tensorboard"),
}  # fmt: skip
"""The shortest training of each kind of model, by its header."""

DECLARED = {name: kinds_of(name) for name in BUILT_IN if kinds_of(name)}
KINDS = [kind.header or kind.name for kinds in DECLARED.values() for kind in kinds]
"""Of the declared plugins, so that a new kind cannot be forgotten."""
IMAGE_KINDS = ["mrl", "ssl", "metrix"]


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for the order of sums, which depends on the batch: of at most 1,024 terms a matrix product is wrong by
    sqrt(1024) roundings of 2^-24 each, over some ten layers.
    """
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 10 * math.sqrt(1024) * 2**-24 * (1 + expected.abs().max())


def write_images(folder: Path, images: torch.Tensor) -> Path:
    """Grey images (N, 1, H, W) uint8 as files without loss, named by their number."""
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"{number}.png")
    return folder


def plugin_of(name: str) -> str:
    return name.partition("-")[0]


def kind(name: str) -> ModelKind[Any]:
    return next(kind for kind in DECLARED[plugin_of(name)] if (kind.header or kind.name) == name)


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
    assert set(KINDS) == set(TRAININGS)
    assert set(DECLARED) == set(BUILT_IN) - {"study", "plot"}
    for name in KINDS:
        commands = load_plugin(BUILT_IN[plugin_of(name)]).commands
        assert kind(name).name == plugin_of(name)
        assert "export" in commands
        assert {"embed", "apply"} & set(commands), "a map is applied to points, all others embed"


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_an_export_is_the_run(name: str, runs: Callable[[str], Path], run_cli: Cli, tmp_path: Path) -> None:
    run = runs(name)
    result = run_cli(plugin_of(name), "export", run, "-o", tmp_path / "model", "--json")
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
    again = run_cli(plugin_of(name), "export", file)
    assert (again.exit_code, "is exported already" in again.stderr) == (2, True), again.stderr
    other = run_cli(plugin_of(name), "export", run, "-o", tmp_path / "model.onnx")
    assert (other.exit_code, "must end in .safetensors" in other.stderr) == (2, True), other.stderr


@pytest.mark.parametrize("name", KINDS)
def test_embedding_in_python(name: str, runs: Callable[[str], Path]) -> None:
    model = wasskit.load(runs(name))
    x = inputs_of(name, runs(name))
    found = model.embed(x)
    assert (found.shape[0], found.ndim, found.dtype, found.requires_grad) == (5, 2, torch.float32, False)
    # An input has its embedding whatever else is in the batch.
    assert_close(model.embed(x, batch_size=2), found)
    assert torch.equal(model.embed(x.double()), found), "computed in float32"
    with pytest.raises(UserError, match=r"takes inputs of shape \(N, "):
        model.embed(x[..., :1])
    with pytest.raises(UserError, match="takes inputs of shape"):
        model.embed(x[:0])
    with pytest.raises(UserError, match=r"floating-point inputs .*, not torch\.int64"):
        model.embed(x.long())


def test_an_adaptor_embeds_a_file_as_it_reads_it(
    runs: Callable[[str], Path], run_cli: Cli, words: Callable[[str], str], tmp_path: Path
) -> None:
    """More rows than a batch, in float16, of which none but the current batch is in memory."""
    run, x, output = runs("mrl-adaptor"), tmp_path / "x.npy", tmp_path / "z.npy"
    rows = torch.rand(8192 + 5, 64, generator=torch.Generator().manual_seed(0)).half()
    np.save(x, rows.numpy())
    result = run_cli("mrl", "embed", run, x, "-o", output, "--dim", "4", "--unit", "--dtype", "float16", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"vectors": len(rows), "dim": 4, "embeddings": str(output)}
    model = wasskit.load(run)
    found, expected = np.load(output), model.embed(rows.float(), batch_size=8192, dim=4, unit=True)
    assert np.array_equal(found, expected.half().numpy())
    assert torch.equal(model.embed(x, dim=4, unit=True), expected), "a file in Python"
    np.save(x, rows[:3, :5].numpy())
    result = run_cli("mrl", "embed", run, x, "-o", tmp_path / "other.npy")
    assert result.exit_code == 2
    assert f"{x} has vectors of 5 numbers; the model takes 64" in words(result.stderr)
    assert not (tmp_path / "other.npy").exists()
    with pytest.raises(UserError, match="of the kind mrl-adaptor, which this command does not take"):
        load_plugin("wasskit.plugins.mrl.trained:KIND").load(run)


def test_the_test_vectors_of_an_adaptor_are_measured_like_embeddings(runs: Callable[[str], Path]) -> None:
    from wasskit.plugins.mrl.trained import test_embeddings

    found = test_embeddings(runs("mrl-adaptor"), "cpu")
    digits = load_dataset("digits", "test")
    assert digits.images is not None
    assert_close(found, wasskit.load(runs("mrl-adaptor")).embed(digits.images.flatten(1) / 255))


@pytest.mark.slow
def test_an_adaptor_is_written_as_onnx(runs: Callable[[str], Path], run_cli: Cli, tmp_path: Path) -> None:
    import onnxruntime

    run = runs("mrl-adaptor")
    result = run_cli("mrl", "export", run, "--onnx", "--dim", "4", "-o", tmp_path / "model", "--json")
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    assert said["dims"] == [2, 4, 8]
    assert said["onnx_error"] < 1e-4, "the tolerance of the export for unit vectors"
    x = inputs_of("mrl-adaptor", run)
    session = onnxruntime.InferenceSession(said["onnx"], providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"vectors": x.numpy()})
    assert_close(torch.from_numpy(found), wasskit.load(run).embed(x, dim=4))


@pytest.mark.parametrize("name", IMAGE_KINDS)
def test_floats_go_into_the_network_as_they_are(name: str, runs: Callable[[str], Path]) -> None:
    model = wasskit.load(runs(name))
    images = (255 * inputs_of(name, runs(name))).to(torch.uint8)
    floats = Normalise(model.description["mean"], model.description["std"])(images)
    assert_close(model.embed(images), model.embed(floats))


@pytest.mark.parametrize("name", IMAGE_KINDS)
def test_files_and_the_same_pixels_have_the_embeddings_of_the_evaluation(
    name: str, runs: Callable[[str], Path], run_cli: Cli, tmp_path: Path
) -> None:
    """In memory the digits are whole, so files of them must not lose the margin that photographs lose."""
    model = wasskit.load(runs(name))
    assert model.description["in_memory"] is True
    digits = fitted(load_dataset("digits", "test").subset(range(3)), model.description)
    assert digits.images is not None
    expected = extract_features(kind(name).embedder(model.model), EvalLoader(digits)).features
    assert_close(model.embed(digits.images), expected)
    photos = write_images(tmp_path / "photos", digits.images)
    assert_close(model.embed(photos), expected)
    for what, rows in (("photos", slice(0, 3)), ("photos/1.png", slice(1, 2))):
        output = tmp_path / f"{Path(what).stem}.npy"
        idle = ["--download", "--data-root", tmp_path] if name == "ssl" else []
        result = run_cli(name, "embed", runs(name), tmp_path / what, "-o", output, "--workers", "0", "--json", *idle)
        assert result.exit_code == 0, result.stderr
        said = json.loads(result.stdout)
        assert (said["images"], said["dim"], said["skipped"]) == (len(expected[rows]), expected.shape[1], [])
        assert_close(torch.from_numpy(np.load(said["embeddings"])), expected[rows])


@pytest.mark.parametrize("name", IMAGE_KINDS)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (13, 21)])
def test_a_model_of_photographs_crops_files_and_pixels_alike(
    name: str, height: int, width: int, runs: Callable[[str], Path], tmp_path: Path
) -> None:
    """As in the evaluation on files: the shorter side to 256/224 of the network's, then the centre."""
    small = wasskit.load(runs(name)).model
    model = TrainedModel(kind(name), replace(small, description={**small.description, "in_memory": False}))
    pixels = torch.randint(0, 256, (2, 1, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    side, resized = 8, 9  # 8 * 256 / 224 = 9.1
    wide, high = (round(length * resized / min(height, width)) for length in (width, height))
    cropped = []
    for image in pixels:
        scaled = Image.fromarray(image[0].numpy()).resize((wide, high), Image.Resampling.BILINEAR)
        left, top = round((wide - side) / 2), round((high - side) / 2)
        cropped.append(torch.from_numpy(np.array(scaled.crop((left, top, left + side, top + side))))[None])
    floats = Normalise(model.description["mean"], model.description["std"])(torch.stack(cropped))
    expected = model.embed(floats)
    assert_close(model.embed(pixels), expected)
    assert_close(model.embed(write_images(tmp_path / "photos", pixels)), expected)


def test_what_an_earlier_version_did_not_say_is_that_of_the_data_set() -> None:
    for dataset, held in (("digits", True), ("tiny-imagenet", True), ("imagenet100", False), ("elsewhere", False)):
        assert with_in_memory({"dataset": dataset})["in_memory"] is held
    assert with_in_memory({"dataset": "digits", "in_memory": False})["in_memory"] is False


@pytest.mark.parametrize("name", KINDS)
def test_a_description_without_a_key_is_refused(name: str, runs: Callable[[str], Path], tmp_path: Path) -> None:
    model = wasskit.load(runs(name))
    declared = kind(name)
    keys = set(declared.rules) or {"potential"}
    keys |= {"backbone", "mean", "classes"} if declared.takes_images else set()
    for key in keys:
        header = {k: value for k, value in model.description.items() if k != key}
        save_weights(tmp_path / "m.safetensors", declared.weights(model.model), header)
        named = f"'{key}' is missing" if declared.rules or declared.takes_images else "does not describe its networks"
        with pytest.raises(UserError, match=named):
            wasskit.load(tmp_path / "m.safetensors")
    header = {**model.description, "kind": "toy"}
    save_weights(tmp_path / "m.safetensors", declared.weights(model.model), header)
    with pytest.raises(UserError, match=rf"is not a model saved by `wasskit {plugin_of(name)}` \(it holds toy\)"):
        declared.load(tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="holds no trained model: it was made by `wasskit toy`"):
        wasskit.load(tmp_path / "m.safetensors")
    save_weights(tmp_path / "m.safetensors", declared.weights(model.model), {**model.description, "kind": {"a": 1}})
    with pytest.raises(UserError, match=r"is not a model saved by"):
        declared.load(tmp_path / "m.safetensors")
    with pytest.raises(UserError):
        wasskit.load(tmp_path / "m.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match="has no wasskit header"):
        wasskit.load(tmp_path / "bare.safetensors")


def test_the_choices_of_a_plugin(runs: Callable[[str], Path]) -> None:
    model, x = wasskit.load(runs("mrl")), inputs_of("mrl", runs("mrl"))
    assert torch.equal(model.embed(x, dim=2), model.embed(x)[:, :2])
    unit = model.embed(x, dim=2, unit=True)
    torch.testing.assert_close(unit, torch.nn.functional.normalize(model.embed(x, dim=2)))
    with pytest.raises(UserError, match="9 is larger than the embedding, which has 8"):
        model.embed(x, dim=9)
    model, x = wasskit.load(runs("ssl")), inputs_of("ssl", runs("ssl"))
    features = model.embed(x)
    torch.testing.assert_close(model.embed(x, what="projections"), model.model.encoder.projector(features).detach())


def test_a_map_embeds_by_its_forward_map(runs: Callable[[str], Path]) -> None:
    model, x = wasskit.load(runs("w2gn-map")), inputs_of("w2gn-map", runs("w2gn-map"))
    assert torch.equal(model.embed(x), model.model.transport.forward_map(x))


def test_a_map_is_not_written_as_onnx(runs: Callable[[str], Path], run_cli: Cli, tmp_path: Path) -> None:
    result = run_cli("w2gn", "export", runs("w2gn-map"), "--onnx", "-o", tmp_path / "m")
    assert (result.exit_code, "a model of `wasskit w2gn` cannot be" in result.stderr) == (2, True), result.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_trained_model_is_named(
    runs: Callable[[str], Path], run_cli: Cli, words: Callable[[str], str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"no run directory|There is no"):
        wasskit.load(tmp_path / "nowhere")
    (tmp_path / "icc").mkdir()
    (tmp_path / "icc" / "config.toml").write_text('command = "study icc"\n')
    with pytest.raises(UserError, match="holds no trained model: it was made by `wasskit study`"):
        wasskit.load(tmp_path / "icc")
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "config.toml").write_text('command = "w2gn toy"\n')
    unfinished = "holds no map.safetensors: its training has not finished; go on with --resume"
    with pytest.raises(UserError, match=unfinished):
        wasskit.load(tmp_path / "toy")
    result = run_cli("w2gn", "apply", tmp_path / "toy", tmp_path / "points.npy")
    assert (result.exit_code, unfinished in words(result.stderr)) == (2, True), result.stderr
    with pytest.raises(UserError, match="keeps its last model only"):
        wasskit.load(runs("w2gn-map"), checkpoint="best")
    with pytest.raises(UserError, match="is the state of a training: name its run directory"):
        wasskit.load(runs("w2gn-map") / "checkpoints" / "last.pt")
    weights = tmp_path / "map.safetensors"
    assert run_cli("w2gn", "export", runs("w2gn-map"), "-o", weights).exit_code == 0
    for name in ("mrl", "ssl", "metrix"):
        result = run_cli(name, "export", weights, "-o", tmp_path / "m.safetensors")
        assert (result.exit_code, f"wasskit {name}" in result.stderr) == (2, True), result.stderr
