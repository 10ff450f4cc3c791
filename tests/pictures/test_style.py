"""Figures: files that are there, the same bytes twice, nothing global changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wasskit.errors import UserError
from wasskit.pictures.style import COLOURS, PALETTE, figure, label_points, legend_above, save_figure, series_style


@pytest.mark.slow
def test_saved_files_are_reproducible(tmp_path: Path) -> None:
    for suffix in ("png", "pdf", "svg"):
        written = []
        for place in range(2):
            fig, ax = figure(width="single")
            ax.plot([1, 2, 3], [3, 1, 2], label="a")
            ax.set_title("title")
            ax.legend()
            written.append(save_figure(fig, tmp_path / f"{place}.{suffix}").read_bytes())
        assert written[0] == written[1]
        assert len(written[0]) > 1000


def test_size_and_axes(tmp_path: Path) -> None:
    fig, axes = figure(2, 3, width="double", ratio=1.0)
    assert axes.shape == (2, 3)
    assert tuple(fig.get_size_inches()) == pytest.approx((7.2, 4.8))
    fig, ax = figure(projection="3d", height=2.0)
    ax.scatter([1], [2], [3])
    assert save_figure(fig, tmp_path / "deep" / "cloud") == tmp_path / "deep" / "cloud.png"
    assert (tmp_path / "deep" / "cloud.png").read_bytes().startswith(b"\x89PNG")


def test_series_differ_in_colour_line_and_marker() -> None:
    styles = [series_style(i) for i in range(len(PALETTE))]
    for key in ("color", "linestyle", "marker"):
        assert len({str(style[key]) for style in styles}) == len(PALETTE)
    _, ax = figure()
    lines = [ax.plot([0, 1], [i, i])[0] for i in range(3)]
    assert [line.get_color() for line in lines] == list(PALETTE[:3])
    assert [line.get_marker() for line in lines] == [style["marker"] for style in styles[:3]]
    assert COLOURS["blue"] == "#0072B2"


def test_titles_and_legends_take_the_small_sizes(tmp_path: Path) -> None:
    fig, ax = figure()
    ax.plot([0, 1], [0, 1], label="a")
    legend = ax.legend()
    ax.set_title("t")
    save_figure(fig, tmp_path / "f.png")
    assert ax.title.get_fontsize() == 9
    assert legend.get_texts()[0].get_fontsize() == 8


def test_labels_of_points_never_cover_one_another_nor_leave_the_axes() -> None:
    from itertools import combinations

    fig, ax = figure(width=5.0)
    rng = np.random.default_rng(0)
    xs, ys = (np.concatenate([rng.random(40), np.full(5, 0.5)]), np.concatenate([rng.random(40), np.full(5, 1.0)]))
    ax.plot(xs, ys, linestyle="", label="points")
    legend_above(ax)
    label_points(fig, ax, [(x, y, f"{number:.3f}", "black") for number, (x, y) in enumerate(zip(xs, ys, strict=True))])
    fig.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) > 20
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    low, high = ax.get_window_extent().y0, ax.get_window_extent().y1
    pixel = 1.0  # boxes are of whole pixels
    assert all(low - pixel <= box.y0 and box.y1 <= high + pixel for box in boxes)


@pytest.mark.slow
def test_nothing_global_is_changed(tmp_path: Path) -> None:
    code = """
import sys
from wasskit.pictures.style import figure, save_figure
assert "matplotlib" not in sys.modules
import matplotlib
def settings():  # reading the backend would choose one
    return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if not key.startswith("backend")}
before = settings()
fig, ax = figure()
ax.plot([1, 2])
save_figure(fig, sys.argv[1])
assert settings() == before
assert "matplotlib.pyplot" not in sys.modules
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "f.png")], check=True)


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    fig, _ = figure()
    with pytest.raises(UserError, match="file"):
        save_figure(fig, tmp_path / "file" / "f.png")
