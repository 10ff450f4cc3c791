"""The report: one page that fetches nothing, with what the run holds, whatever state it is in."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.plugins.plot.fabricate import make_run, top1_at

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects text and image sources; every element must be closed in its order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: dict[str, str] = {}
        self.words: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        if tag not in VOID:
            self.open.append(tag)
        assert tag not in ("script", "link", "iframe", "object")
        if tag == "img":
            self.images[values["alt"]] = values["src"]
        if tag == "a":
            self.links.append(values["href"])
        if "id" in values:
            self.anchors.add(values["id"])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _full_run(path: Path) -> Path:
    run = make_run(
        path, note="a <b> & c", paper={"source": "Authors, 2024", "metrics": {"test/top1": 91.0}}, dims=[8, 16, 32, 64]
    )
    (run / "figures").mkdir()
    Image.new("RGB", (40, 30), "red").save(run / "figures" / "samples.png")
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1800, 3)).astype(np.uint8)
    Image.fromarray(noise).save(run / "figures" / "large.png")
    (run / "figures" / "broken.png").write_bytes(b"\x89PNG broken")
    (run / "figures" / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    outcomes = [
        {"name": "single", "text": str(d), "metrics": {"map10": 50.0 + d}, "operations": d * 100} for d in (8, 16)
    ]
    (run / "retrieval.json").write_text(json.dumps({"gallery": "train", "outcomes": outcomes}))
    (run / "evaluation.json").write_text(json.dumps({"digits": {"linear_top1": 97.125}}))
    (run / "study.csv").write_text("m,w2\n2,0.5\n4,0.25\n")
    points = np.random.default_rng(0).normal(size=(60, 2))
    np.savez(run / "transport.npz", source=points, forward=points + 1)
    np.savez(run / "spectrum.npz", trained=np.array([0.0, -1.0, -2.0]))
    np.savez(run / "palette.npz", source=np.random.default_rng(0).random((30, 3)))
    (run / "damaged.json").write_text("{")
    return run


@pytest.mark.slow
def test_the_page_holds_everything_and_fetches_nothing(
    run_cli: Callable[..., Any], words: Callable[[str], str], tmp_path: Path
) -> None:
    run = _full_run(tmp_path / "run")
    result = run_cli("plot", "report", run)
    assert result.exit_code == 0, result.stderr
    source = (run / "report.html").read_text(encoding="utf-8")
    page = Page(source)
    outside = re.sub(r'src="data:[^"]*"', "", source)
    assert not re.search(r"https?://|//[a-z]|@import|url\(", outside)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in source
    assert all(src.startswith("data:image/") for src in page.images.values())
    assert page.links == [f"#{link[1:]}" for link in page.links if link[1:] in page.anchors]
    for expected in (
        "finished", "wasskit mrl train", f"{top1_at(5):.4g}", "91", f"{top1_at(5) - 91:+.4g}", "97.12",
        "a <b> & c", "8, 16, 32, 64", "3.11.2", "single", "study.csv", "0.25", "broken.png cannot be shown",
        "2024-05-01 10:00 UTC", "Authors, 2024.",
    ):  # fmt: skip
        assert expected in page.text, expected
    for figure in (
        "train loss", "test top-1", "test top-1 at each size", "singular spectrum", "retrieval: mAP@10", "transport",
        "palettes", "samples.png", "large.png", "drawing.svg",
    ):  # fmt: skip
        assert figure in page.images, figure
    assert "broken.png" not in page.images
    assert "damaged.json" in words(result.stderr)


@pytest.mark.slow
def test_large_images_are_made_smaller(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    run = _full_run(tmp_path / "run")
    run_cli("plot", "report", run, "-o", tmp_path / "page.html")
    images = Page((tmp_path / "page.html").read_text(encoding="utf-8")).images
    data = base64.b64decode(images["large.png"].partition(",")[2])
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ("JPEG", (1600, 1067))
    with Image.open(io.BytesIO(base64.b64decode(images["samples.png"].partition(",")[2]))) as image:
        assert (image.format, image.size) == ("PNG", (40, 30))


@pytest.mark.slow
def test_runs_in_every_state_have_a_page(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    unfinished = make_run(tmp_path / "unfinished", epochs=2, planned=9, finished=False)
    begun = make_run(tmp_path / "begun", epochs=0, finished=False)
    broken = make_run(tmp_path / "broken")
    (broken / "config.toml").write_text("x = [")
    for run, told in (
        (unfinished, "unfinished, at epoch 2 of 9"),
        (begun, "nothing recorded yet"),
        (broken, "not valid TOML"),
    ):
        result = run_cli("plot", "report", run, "--json")
        assert result.exit_code == 0, result.stderr
        assert told in Page(Path(json.loads(result.stdout)["report"]).read_text(encoding="utf-8")).text


@pytest.mark.slow
def test_a_moved_run_has_the_same_page_and_a_page_is_not_its_own_sample(
    run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    run = _full_run(tmp_path / "here" / "run")
    first = json.loads(run_cli("plot", "report", run, "--json").stdout)
    page = Path(first["report"]).read_text(encoding="utf-8")
    (tmp_path / "there").mkdir()
    moved = Path(shutil.move(run, tmp_path / "there" / "run"))
    run_cli("plot", "report", moved)
    again = (moved / "report.html").read_text(encoding="utf-8")
    assert again.replace(str(moved), "RUN") == page.replace(str(run), "RUN")


@pytest.mark.slow
def test_a_page_that_cannot_be_written_is_one_sentence(
    run_cli: Callable[..., Any], words: Callable[[str], str], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "file").write_text("")
    result = run_cli("plot", "report", run, "-o", tmp_path / "file" / "page.html")
    assert result.exit_code == 2
    assert "Cannot write" in words(result.stderr)


@pytest.mark.slow
def test_a_browser_shows_the_page(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    import subprocess

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium")
    run = _full_run(tmp_path / "run")
    run_cli("plot", "report", run)
    shot = tmp_path / "shot.png"
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --hide-scrollbars --window-size=500,1500"
    )
    command = [chromium, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}"]
    subprocess.run([*command, (run / "report.html").as_uri()], check=True, capture_output=True, timeout=120)
    with Image.open(shot) as image:
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 20


@pytest.mark.slow
def test_a_study_shows_its_own_figures_and_tables(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = run_cli("study", "icc", "--quick", "--seeds", "1", "--n", "100", "--run-dir", run)
    assert result.exit_code == 0, result.stderr
    assert run_cli("plot", "report", run).exit_code == 0
    source = (run / "report.html").read_text(encoding="utf-8")
    page = Page(source)
    assert list(page.images) == ["icc.png"]
    assert source.index('id="figures-of-the-run"') < source.index('id="results-in-files"')
    assert "icc.csv" in page.text
