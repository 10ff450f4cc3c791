"""The bench for a real GPU reports, counts and stops as it says, and passes on the CPU and on a logical device."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_checks import losses, runs, trainings
from benchmarks.gpu_checks.bench import Bench, Case, Finding, Section
from benchmarks.gpu_checks.machine import Peaks, Roofline
from tests.gpu.device import LogicalCuda
from wasskit.training.stepper import UpdateStepper

ROOT = Path(__file__).resolve().parents[2]


def section(name: str, seconds: float, **checks: Callable[[], Finding]) -> Section:
    def cases(bench: Bench) -> Iterable[Case]:
        return checks.items()

    return Section(name, seconds, cases)


def a_bench(tmp_path: Path, seconds: float = 60.0) -> Bench:
    return Bench(torch.device("cpu"), dry=True, seconds=seconds, out=tmp_path)


def passes() -> Finding:
    return Finding(True, "1", "1")


def test_lines_table_and_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def raises() -> Finding:
        raise ValueError("of no use\nin two lines")

    bench = a_bench(tmp_path)
    checks = section("some", 1, good=passes, bad=lambda: Finding(False, "2 | 3", "1"), broken=raises)
    assert not bench.run([checks])
    said = capsys.readouterr().out
    assert "CHECK some/good: PASS 1 (1)\n" in said
    assert "CHECK some/bad: FAIL 2 | 3 (1)\n" in said
    assert "CHECK some/broken: FAIL ValueError: of no use (no error)\n" in said
    assert "2 failed of 3 checks" in said
    with (tmp_path / "gpu.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[1:3] == [["some/good", "PASS", "1", "1"], ["some/bad", "FAIL", "2 | 3", "1"]]
    assert r"| some/bad | FAIL | 2 \| 3 | 1 |" in (tmp_path / "gpu.md").read_text()
    assert a_bench(tmp_path).run([section("some", 1, good=passes)])


def test_what_there_is_no_time_for_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A check that hangs ends with its section's time; what is kept for later sections is theirs."""

    def hangs() -> Finding:
        threading.Event().wait()
        return passes()

    bench = a_bench(tmp_path, seconds=60.5)
    assert bench.run([section("first", 0, hangs=hangs, never=passes), section("second", 60, runs=passes)])
    said = capsys.readouterr().out
    assert "LEFT first: hangs, never\n" in said
    assert "CHECK second/runs: PASS" in said
    assert "first/never,LEFT,," in (tmp_path / "gpu.csv").read_text()


def test_roofline_of_a_product() -> None:
    """2 n^3 operations at the peak, or its bytes, or the smallest operation, whichever takes longest; no views."""
    n = 8
    a, b = torch.ones(n, n), torch.ones(n, n)
    for peaks, wanted in (
        (Peaks({torch.float32: 1.0}), 2.0 * n**3),
        (Peaks({torch.float32: 1e9}, bandwidth=1.0), 3.0 * 4 * n**2),
        (Peaks({torch.float32: 1e9}, operation=7.0), 7.0),
    ):
        with Roofline(peaks) as roofline:
            a @ b.T.unsqueeze(0).squeeze(0)
        assert roofline.operations == 1
        assert roofline.seconds == wanted


@pytest.mark.slow
def test_trainings_on_a_logical_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a real one, waits are counted from torch's own warnings; one more than is known fails."""
    with LogicalCuda():
        bench = Bench(torch.device("cuda"), dry=True, seconds=600.0, out=tmp_path)
        found = {name: case() for name, case in trainings.cases(bench)}
        assert all(finding.passed for finding in found.values()), found
        assert "0 waits in a steady step of 6" in found["w2gn-toy"].measured
        plain: Callable[..., Any] = UpdateStepper.update

        def update(stepper: UpdateStepper, *names: str) -> None:
            torch.ones((), device="cuda").item()
            plain(stepper, *names)

        monkeypatch.setattr(UpdateStepper, "update", update)
        bench = Bench(torch.device("cuda"), dry=True, seconds=600.0, out=tmp_path)
        name, case = next(iter(trainings.cases(bench)))
        waiting = case()
    assert name == "mrl-train"
    assert not waiting.passed
    assert "1 waits in a steady step" in waiting.measured


@pytest.mark.slow
def test_losses_on_a_logical_device(tmp_path: Path) -> None:
    """No loss mixes devices, forward or backward. The host's own values are made without the device."""
    bench = Bench(torch.device("cuda"), dry=True, seconds=600.0, out=tmp_path)
    cases: dict[str, Any] = {name: case for name, case in losses.cases(bench) if name.endswith("-fp32")}
    for case in cases.values():
        _, loss, _, reference = case.args
        reference.append(loss.at(torch.device("cpu"), torch.float64))
    with LogicalCuda():
        found = {name: case() for name, case in cases.items()}
    assert len(found) > 30
    assert {name: finding for name, finding in found.items() if not finding.passed} == {}


@pytest.mark.slow
def test_runs_on_a_logical_device(tmp_path: Path) -> None:
    """Stopped and resumed; with and without CUDA graphs; out of memory."""
    with LogicalCuda():
        bench = Bench(torch.device("cuda"), dry=True, seconds=600.0, out=tmp_path)
        found = {name: case() for cases in (runs.resume_cases, runs.memory_cases) for name, case in cases(bench)}
    assert set(found) == {"w2gn-toy", "w2gn-toy-without-graphs", "message"}
    assert {name: finding for name, finding in found.items() if not finding.passed} == {}


@pytest.mark.slow
@pytest.mark.distributed
def test_a_dry_run_passes(tmp_path: Path) -> None:
    """All sections on the CPU, where products are rounded as TF32 rounds them."""
    argv = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--dry", "--seconds", "3000", "--out", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    sections = set(re.findall(r"^CHECK (\w+)/\S+: PASS ", done.stdout, re.MULTILINE))
    assert sections == {"machine", "losses", "trainings", "kernels", "steps", "resume", "ranks", "memory", "compiled"}
    assert "LEFT" not in done.stdout
    assert len((tmp_path / "gpu.csv").read_text().splitlines()) == 1 + done.stdout.count("\nCHECK ") + 1


@pytest.mark.slow
def test_without_a_gpu_it_says_how_to_try(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    argv = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--out", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "torch finds no GPU here; --dry tries the checks on the CPU." in done.stderr


WITHOUT = """
import runpy, sys

sys.modules.update(dict.fromkeys({missing}))
sys.argv = ["gpu.py", *sys.argv[1:]]
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.mark.slow
def test_with_torch_alone_the_sections_that_need_no_more_go_on(tmp_path: Path) -> None:
    missing = ("typer", "click", "rich", "tomli_w", "scipy", "sklearn", "matplotlib", "geomloss", "timm", "safetensors")
    code = WITHOUT.format(missing=missing, script=str(ROOT / "benchmarks" / "gpu.py"))
    wanted = ["--dry", "--only", "machine,kernels,steps,trainings", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *wanted], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    assert (
        "There is no check of trainings, resuming, ranks and memory without typer, rich, tomli_w, sklearn, scipy; of "
        "the figures of runs without matplotlib; of the published divergence of mrl without geomloss" in done.stdout
    )
    failed = re.findall(r"^CHECK (\S+): FAIL (.*)", done.stdout, re.MULTILINE)
    assert failed == [("trainings", "needs the package typer, which is missing (no error)")]
    assert {"machine", "kernels", "steps"} == set(re.findall(r"^CHECK (\w+)/\S+: PASS", done.stdout, re.MULTILINE))
