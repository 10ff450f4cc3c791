"""No command writes over a file of the user's unless --overwrite is given; what it says, and that nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]

MINE = "mine\n"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small run of each method, exported weights, and images."""
    from wasskit.cli import run

    folder = tmp_path_factory.mktemp("work")
    small = ["--epochs", "1", "--batch-size", "512", "--no-tensorboard", "-q"]
    assert run(["mrl", "train", *small, "--dims", "2,8", "--run-dir", str(folder / "mrl")]) == 0
    assert run(["ssl", "byol", *small, "--projector", "8,4", "--run-dir", str(folder / "ssl")]) == 0
    metrix = ["--compare", "no", "--embedding-size", "8", "--run-dir", str(folder / "metrix")]
    assert run(["metrix", "train", *small, *metrix]) == 0
    toy = ["--steps", "2", "--batch-size", "16", "--hidden", "4", "--start-samples", "64", "--test-size", "100", "-q"]
    assert run(["w2gn", "toy", *toy, "--no-tensorboard", "--run-dir", str(folder / "w2gn")]) == 0
    assert run(["mrl", "export", str(folder / "mrl"), "-o", str(folder / "weights.safetensors"), "-q"]) == 0
    (folder / "photos").mkdir()
    for i in range(2):
        Image.new("L", (16, 16), 60 * i).save(folder / "photos" / f"{i}.png")
    np.save(folder / "points.npy", np.zeros((4, 2), dtype=np.float32))
    return folder


#: The command line, the file that is in its way (O stands for the folder of outputs), whether it runs in that folder.
LINES = {
    "mrl embed": ("mrl embed mrl photos -o O/e.npy", "O/e.npy"),
    "mrl embed, the table": ("mrl embed mrl photos -o O/e.npy", "O/e.csv"),
    "metrix embed": ("metrix embed metrix photos -o O/e.npy", "O/e.npy"),
    "ssl embed, without suffix": ("ssl embed ssl photos -o O/e", "O/e.npy"),
    "mrl export": ("mrl export mrl -o O/m.safetensors", "O/m.safetensors"),
    "metrix export": ("metrix export metrix -o O/m.safetensors", "O/m.safetensors"),
    "ssl export": ("ssl export ssl -o O/m", "O/m.safetensors"),
    "mrl evaluate": ("mrl evaluate mrl --no-neighbours -o O", "O/evaluation.json"),
    "mrl evaluate, the figure": ("mrl evaluate mrl --no-neighbours -o O", "O/figures/evaluation.png"),
    "mrl evaluate, beside weights": ("mrl evaluate weights.safetensors --no-neighbours", "evaluation.json"),
    "mrl retrieve": ("mrl retrieve mrl -o O", "O/retrieval.json"),
    "mrl classify": ("mrl classify mrl -o O", "O/cascade.json"),
    "metrix evaluate": ("metrix evaluate metrix --no-geometry -o O", "O/evaluation.json"),
    "metrix search": ("metrix search metrix 0 -o O", "O/figures/search_0.png"),
    "ssl linear": ("ssl linear ssl --probe-epochs 1 -o O", "O/linear.safetensors"),
    "ssl evaluate": ("ssl evaluate ssl --no-probe -o O", "O/spectrum-digits.npz"),
    "w2gn apply": ("w2gn apply w2gn points.npy -o O/p.npy", "O/p.npy"),
    "w2gn apply, beside": ("w2gn apply w2gn points.npy", "points-mapped.npy"),
    "plot curves": ("plot curves mrl -o O/c.png", "O/c.png"),
    "plot curves, folder": ("plot curves mrl -o O", "O/curves.png"),
    "plot table": ("plot table mrl -o O/t.csv", "O/t.csv"),
    "plot report": ("plot report mrl -o O/r.html", "O/r.html"),
    "recipes copy": ("recipes copy mrl/imagenet100 O/r.toml", "O/r.toml"),
    "completions write": ("completions write O", "O/_wasskit"),
}


@pytest.fixture
def outputs(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(work)
    before = set(work.iterdir())
    yield tmp_path
    for path in set(work.iterdir()) - before:
        if path.is_file():
            path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("case", LINES)
def test_a_file_that_is_there_is_kept_unless_told_otherwise(
    run_cli: Callable[..., Any], words: Callable[[str], str], work: Path, outputs: Path, case: str
) -> None:
    line, blocked = LINES[case]
    argv = [word.replace("O/", f"{outputs}/") if word != "O" else str(outputs) for word in line.split()]
    path = Path(blocked.replace("O/", f"{outputs}/"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(MINE)
    listing = sorted(outputs.rglob("*"))
    refused = run_cli(*argv, "-q")
    assert refused.exit_code == 2, refused.stderr
    assert f"{path} exists already: choose another" in words(refused.stderr)
    assert "or replace it by --overwrite." in words(refused.stderr)
    assert path.read_text() == MINE
    assert sorted(outputs.rglob("*")) == listing
    assert run_cli(*argv, "-q", "--overwrite").exit_code == 0
    assert path.read_bytes() != MINE.encode()


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    ["mrl evaluate mrl --no-neighbours", "mrl export mrl", "ssl evaluate ssl --no-probe", "plot report mrl",
     "plot curves mrl"],
)  # fmt: skip
def test_what_is_wasskits_own_is_made_again(run_cli: Callable[..., Any], outputs: Path, line: str) -> None:
    """Results in the run directory and figures in plots/ replace those of an earlier call."""
    for _ in range(2):
        result = run_cli(*line.split(), "-q")
        assert result.exit_code == 0, result.stderr


@pytest.mark.slow
def test_a_dangling_link_is_a_file_that_is_there(run_cli: Callable[..., Any], outputs: Path) -> None:
    (outputs / "r.toml").symlink_to(outputs / "elsewhere")
    assert run_cli("recipes", "copy", "mrl/imagenet100", outputs / "r.toml").exit_code == 2
    assert not (outputs / "elsewhere").exists()


def test_two_inputs_of_one_name_are_not_written_to_one_file(
    run_cli: Callable[..., Any], words: Callable[[str], str], work: Path, outputs: Path
) -> None:
    for name in ("a", "b"):
        (outputs / name).mkdir()
        np.save(outputs / name / "x.npy", np.zeros((3, 2), dtype=np.float32))
    result = run_cli("w2gn", "apply", "w2gn", outputs / "a/x.npy", outputs / "b/x.npy", "-o", outputs / "o")
    assert result.exit_code == 2
    assert "Two inputs of one name" in words(result.stderr)
    assert not (outputs / "o").exists()


def test_the_former_flag_still_overwrites(run_cli: Callable[..., Any], outputs: Path) -> None:
    (outputs / "p.npy").write_text(MINE)
    line = ("w2gn", "apply", "w2gn", "points.npy", "-o", outputs / "p.npy", "-q")
    assert run_cli(*line).exit_code == 2
    assert run_cli(*line, "--force").exit_code == 0
    assert "--force" not in run_cli("w2gn", "apply", "--help").stdout
