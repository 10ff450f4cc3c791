"""Every command on made-up runs and files: what it writes, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.plugins.plot.fabricate import DIMS, make_run, top1_at, write_metrics
from wasskit.pictures import costs
from wasskit.pictures.look import Look

MAGIC = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in (0, 1):
        make_run(tmp_path / "runs" / f"a{seed}", seed=seed)
    make_run(tmp_path / "runs" / "b", lr=0.05, lift=2, epochs=3, planned=5, finished=False)
    return tmp_path / "runs"


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.width, image.height


@pytest.mark.slow
def test_compare_draws_everything_in_every_format(run_cli: Callable[..., Any], runs: Path, tmp_path: Path) -> None:
    result = run_cli("plot", "compare", runs, "-o", tmp_path / "out", "--format", "png,pdf,svg", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    names = {f"compare-{name}.{kind}" for name in ("loss", "metrics", "dims", "grid", "bars") for kind in MAGIC}
    assert {Path(path).name for path in found["figures"]} == names
    for path in found["figures"]:
        assert Path(path).read_bytes().startswith(MAGIC[Path(path).suffix[1:]])
    assert [group["label"] for group in found["groups"]] == ["lr=0.1", "lr=0.05"]
    assert found["table"][0]["test/top1"] == pytest.approx(top1_at(5) + 0.5)
    assert f"{runs / 'b'}: unfinished, at epoch 3 of 5" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("options", "inches", "dpi"),
    [
        (["--style", "paper", "--width", "single"], 3.5, 300),
        (["--style", "paper", "--width", "double"], 7.2, 300),
        (["--style", "screen", "--width", "single"], 6.4, 144),
    ],
)
def test_sizes_are_those_of_columns(
    run_cli: Callable[..., Any], runs: Path, tmp_path: Path, options: list[str], inches: float, dpi: int
) -> None:
    path = tmp_path / "x.png"
    assert run_cli("plot", "curves", runs, "-m", "loss", "-o", path, *options).exit_code == 0
    assert _size(path)[0] == pytest.approx(inches * dpi, abs=1)


def test_the_same_runs_give_the_same_bytes(run_cli: Callable[..., Any], runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "moved")
    for folder, name in ((runs, "a.svg"), (tmp_path / "moved", "b.svg")):
        run_cli("plot", "curves", folder, "--smooth", "0.6", "--log-y", "-o", tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_dims_holds_the_values(run_cli: Callable[..., Any], runs: Path, tmp_path: Path) -> None:
    result = run_cli("plot", "dims", runs, "-o", tmp_path / "dims.pdf", "--json")
    assert (tmp_path / "dims.pdf").read_bytes().startswith(b"%PDF")
    values = json.loads(result.stdout)["values"][0]
    assert values == {f"test/top1@{d}": pytest.approx(top1_at(5) + 0.5 - 8 / d) for d in DIMS}


@pytest.mark.slow
def test_one_broken_run_does_not_keep_the_others_from_being_drawn(
    run_cli: Callable[..., Any], words: Callable[[str], str], runs: Path, tmp_path: Path
) -> None:
    (runs / "b" / "config.toml").unlink()
    (runs / "b" / "metrics.csv").write_text("not,a,metrics,file\n\xff\xfe", encoding="utf-8")
    make_run(runs / "begun", epochs=0, finished=False, lr=0.7)
    result = run_cli("plot", "compare", runs, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert "it has no config.toml; 1 line of metrics.csv cannot be read" in words(result.stderr)
    assert "begun: unfinished, nothing recorded yet" in words(result.stderr)


def test_a_logarithmic_axis_needs_positive_values(
    run_cli: Callable[..., Any], words: Callable[[str], str], tmp_path: Path
) -> None:
    path = make_run(tmp_path / "a")
    write_metrics(path / "metrics.csv", [(e, 10 * e, "test", "lu", -1.0 - e) for e in (1, 2, 3)])
    result = run_cli("plot", "curves", path, "-m", "lu", "--log-y", "--log-x", "-o", tmp_path / "x.png")
    assert result.exit_code == 0
    assert "test/lu is not positive throughout" in words(result.stderr)


# --- Arrays and files -------------------------------------------------------------------------------------------------


def test_spectrum_of_embeddings_is_that_of_their_covariance(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 6)) * [3, 2, 1, 1, 0.5, 0.1]
    np.save(tmp_path / "e.npy", rows)
    result = run_cli("plot", "spectrum", tmp_path / "e.npy", "--no-normalise", "-o", tmp_path / "s.png", "--json")
    expected = np.log(np.sort(np.linalg.eigvalsh(np.cov(rows.T)))[::-1])
    assert json.loads(result.stdout)["spectra"]["e"] == pytest.approx(expected.tolist(), rel=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rounding_of_stored_embeddings_is_no_part_of_their_spectrum(
    dtype: str, run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 3)) @ np.linalg.qr(rng.normal(size=(12, 12)))[0][:3]
    np.save(tmp_path / "e.npy", rows.astype(dtype))
    result = run_cli("plot", "spectrum", tmp_path / "e.npy", "-o", tmp_path / "s.png", "--json")
    spectrum = json.loads(result.stdout)["spectra"]["e"]
    assert [value is not None and np.isfinite(value) for value in spectrum] == [True] * 3 + [False] * 9


def test_spectra_of_runs_from_arrays_and_json(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", lr=0.2)
    np.savez(a / "spectrum.npz", trained=np.array([0.0, -1.0, -np.inf]))
    (b / "evaluation.json").write_text(json.dumps({"spectrum": {"untrained": [-1.0, -2.0], "trained": [-1.0, None]}}))
    result = run_cli("plot", "spectrum", a, b, "-o", tmp_path / "s.png", "--json")
    spectra = json.loads(result.stdout)["spectra"]
    assert spectra == {"a": [0.0, -1.0, None], "b untrained": [-1.0, -2.0], "b trained": [-1.0, None]}


def test_files_of_one_name_are_all_drawn(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    files = [tmp_path / run / "embeddings" / "test.npy" for run in "abc"]
    for number, path in enumerate(files):
        path.parent.mkdir(parents=True)
        np.save(path, np.random.default_rng(number).normal(size=(20, 3)))
    result = run_cli("plot", "spectrum", *files, "-o", tmp_path / "s.png", "--json")
    spectra = json.loads(result.stdout)["spectra"]
    assert list(spectra) == ["test", "embeddings/test", "c/embeddings/test"]
    assert len({tuple(values) for values in spectra.values()}) == 3


def _maps(tmp_path: Path, dims: int) -> list[Path]:
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(300, dims)), rng.normal(size=(250, dims)) + 3
    paths = [tmp_path / name for name in ("source.npy", "target.npy", "mapped.npy")]
    for path, cloud in zip(paths, (source, target, source + 3), strict=True):
        np.save(path, cloud)
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 5])
def test_transport_from_clouds(
    run_cli: Callable[..., Any], words: Callable[[str], str], tmp_path: Path, dims: int
) -> None:
    paths = _maps(tmp_path, dims)
    result = run_cli("plot", "transport", *paths, "-o", tmp_path / "t.png")
    assert result.exit_code == 0
    told = "first two principal components" if dims > 2 else "interpolated between the points"
    assert told in words(result.stderr)
    assert run_cli("plot", "transport", paths[0], paths[2], "-o", tmp_path / "u.png").exit_code == 0
    assert (tmp_path / "t.png").read_bytes() != (tmp_path / "u.png").read_bytes()


def test_transport_from_a_run_with_a_grid_and_an_inverse(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", command="w2gn toy")
    rng = np.random.default_rng(1)
    source, target = rng.normal(size=(100, 2)), rng.normal(size=(80, 2))
    side = np.linspace(-2, 2, 5)
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1)
    np.savez(
        run / "transport.npz", source=source, target=target, forward=source * 2, inverse=target / 2, grid=grid,
        grid_forward=grid * 2,
    )  # fmt: skip
    result = run_cli("plot", "transport", run, "-o", tmp_path / "t.png", "--json")
    assert json.loads(result.stdout)["notes"] == []
    assert _size(tmp_path / "t.png")[0] == pytest.approx(7.2 * 300, abs=1)


def test_points_on_a_line_have_no_grid(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    line = np.stack([np.linspace(0, 1, 50), np.zeros(50)], axis=1)
    np.save(tmp_path / "a.npy", line)
    np.save(tmp_path / "b.npy", line + 1)
    assert run_cli("plot", "transport", tmp_path / "a.npy", tmp_path / "b.npy", "-o", tmp_path / "t.png").exit_code == 0


def test_palettes_of_images_of_every_kind(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    red = np.zeros((6, 5, 3), np.uint8)
    red[..., 0] = 255
    Image.fromarray(red).save(tmp_path / "rgb.png")
    Image.fromarray(np.full((4, 4), 51, np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.full((4, 4), 13107, np.uint16)).save(tmp_path / "deep.png")
    half = np.dstack([red, np.where(np.arange(5) < 2, 0, 255)[None, :, None].repeat(6, 0).astype(np.uint8)])
    Image.fromarray(half, "RGBA").save(tmp_path / "alpha.png")
    paths = [tmp_path / f"{name}.png" for name in ("rgb", "grey", "deep", "alpha")]
    result = run_cli("plot", "palette", *paths, "-o", tmp_path / "out.png", "--json")
    found = json.loads(result.stdout)["palettes"]
    assert found["rgb"]["mean"] == pytest.approx([1, 0, 0])
    assert found["grey"]["mean"] == pytest.approx([0.2] * 3, abs=1e-6)
    assert found["deep"]["mean"] == pytest.approx([0.2] * 3, abs=1e-6)
    assert (found["alpha"]["colours"], found["alpha"]["mean"]) == (18, pytest.approx([1, 0, 0]))


def test_palette_of_a_run(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", command="w2gn color")
    colours = np.random.default_rng(0).integers(0, 256, size=(50, 3)).astype(np.uint8)
    np.savez(run / "palette.npz", source=colours, target=colours / 255, forward=colours)
    result = run_cli("plot", "palette", run, "-o", tmp_path / "p.png", "--json")
    found = json.loads(result.stdout)["palettes"]
    assert list(found) == ["source", "source, transferred", "target"]
    assert found["source"]["mean"] == pytest.approx(found["target"]["mean"])


def _outcomes(path: Path, shift: float = 0.0) -> None:
    outcomes = [
        {"name": name, "text": f"{8 * 2**i} > 64", "metrics": {"map10": 50.0 + 10 * i + shift, "top1": 60.0 + i},
         "operations": 1000 * 2**i}
        for name in ("single shot", "funnel") for i in range(3)
    ]  # fmt: skip
    (path / "retrieval.json").write_text(json.dumps({"model": "x", "outcomes": outcomes}))


@pytest.mark.slow
def test_retrieval_of_one_and_several_runs(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", lr=0.2)
    _outcomes(a)
    _outcomes(b, 5)
    result = run_cli("plot", "retrieval", a, "-o", tmp_path / "r.pdf", "--json")
    found = json.loads(result.stdout)
    assert (found["metric"], found["cost"]) == ("map10", "operations")
    result = run_cli("plot", "retrieval", a, b / "retrieval.json", "-m", "top1", "-o", tmp_path / "r.svg", "--json")
    assert json.loads(result.stdout)["metric"] == "top1"


def test_results_of_one_name_are_all_drawn(
    run_cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [make_run(tmp_path / name) for name in ("a/digits", "b/digits", "c/digits")]
    for number, run in enumerate(runs):
        _outcomes(run, number)
    drawn: list[str] = []

    def draw(series: Mapping[str, Any], look: Look, **settings: Any) -> Any:
        drawn.extend(series)
        return look.figure()[0]

    monkeypatch.setattr(costs, "draw_costs", draw)
    files = [run / "retrieval.json" for run in runs]
    assert run_cli("plot", "retrieval", *files, "-o", tmp_path / "r.svg").exit_code == 0
    names = ("retrieval.json", "digits/retrieval.json", "c/digits/retrieval.json")
    assert drawn == [f"{name} {strategy}" for name in names for strategy in ("single shot", "funnel")]


# --- Requests that cannot be met --------------------------------------------------------------------------------------


@pytest.fixture
def clutter(tmp_path: Path) -> Path:
    """Files that are not what they seem."""
    run = make_run(tmp_path / "run")
    make_run(tmp_path / "begun", epochs=0, finished=False)
    (tmp_path / "text.npy").write_text("nothing")
    (tmp_path / "text.png").write_text("nothing")
    (tmp_path / "bad.json").write_text("{")
    np.save(tmp_path / "two.npy", np.zeros((9, 2)))
    np.save(tmp_path / "none.npy", np.zeros((0, 3)))
    np.save(tmp_path / "three.npy", np.zeros((9, 3)))
    np.save(tmp_path / "fewer.npy", np.zeros((8, 2)))
    np.save(tmp_path / "nan.npy", np.array([[0.0, 1.0], [np.nan, 1.0], [0.0, 2.0]]))
    np.save(tmp_path / "line.npy", np.zeros((9, 1)))
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "other.npz", weights=np.zeros((3, 3)))
    Image.new("RGBA", (3, 3), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert run.is_dir()
    return tmp_path


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("compare nowhere", "There is no run directory nowhere"),
        ("compare begun", "there is nothing to compare"),
        ("compare run --only dims -m train/loss", "the runs have no data for that"),
        ("compare run -o x.png", "this command draws several figures, so name a folder"),
        ("compare run -o bad.json", "neither .png, .pdf nor .svg"),
        ("compare run --only pies", "'pies' is not one of loss, metrics, dims, grid, bars"),
        ("curves begun", "there is nothing to draw"),
        ("curves run -m tpo1", "Did you mean 'top1'"),
        ("curves run --smooth 1", "out of range"),
        ("curves run --format gif", "'gif' is not one of png, pdf, svg"),
        ("curves run -o x.png --format pdf", "--output x.png is one .png file"),
        ("dims run -m loss", "no run has recorded 'loss'"),
        ("spectrum run", "holds no spectrum"),
        ("spectrum text.npy", "text.npy is not a readable .npy file of numbers"),
        ("spectrum objects.npy", "objects.npy is not a readable .npy file of numbers: it holds Python objects"),
        ("spectrum nan.npy", "not finite, the first is row 1"),
        ("spectrum bad.json", "bad.json is not a readable JSON file"),
        ("spectrum text.png", "a spectrum is drawn from"),
        ("spectrum nowhere.npy", "There is no file or run directory nowhere.npy"),
        ("transport run", "holds no transport*.npz"),
        ("transport two.npy", "two or three .npy files"),
        ("transport two.npy three.npy", "the source has 2 coordinates, the image of the source has 3"),
        ("transport two.npy fewer.npy", "9 points but 8 images"),
        ("transport line.npy line.npy", "has one coordinate"),
        ("transport other.npz", "must hold 'source'"),
        ("palette run", "holds no palette*.npz"),
        ("palette text.png", "text.png is not a readable image"),
        ("palette clear.png", "no visible pixel"),
        ("palette two.npy", "expected colours of shape (N, 3)"),
        ("palette none.npy", "none.npy has shape (0, 3): expected colours of shape (N, 3)"),
        ("palette nowhere.png", "There is no file or run directory nowhere.png"),
        ("retrieval run", "holds no results against cost"),
        ("retrieval bad.json", "bad.json is not a readable JSON file"),
        ("report begun/metrics.csv", "is a file"),
        ("report .", "a report is on one"),
    ],
)
def test_wrong_requests_are_one_sentence(
    run_cli: Callable[..., Any], words: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, clutter: Path,
    command: str, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(clutter)
    result = run_cli("plot", *command.split())
    assert result.exit_code == 2, result.stderr
    assert message in words(result.stderr)
    assert "Traceback" not in result.stderr
    assert not (clutter / "plots").exists()
