"""What curves and spectra show, read back from the axes."""

from __future__ import annotations

import math

import pytest

from wasskit.pictures.curves import Panel, draw_curves, remarks
from wasskit.pictures.look import Look
from wasskit.pictures.spectra import draw_spectra

LOOK = Look("paper", "double")


def test_panels_of_a_run_have_legends_of_their_own() -> None:
    """Lines of different kinds share colours, so that one legend for all would not tell them apart."""
    panels = [
        Panel.of_run("loss", {"a": {0.5: 2.0, 1.0: 1.0}, "none": {}, "b": {1.0: 3.0}}),
        Panel.of_run("top-1 (%)", {"8": {1.0: 10.0}, "16": {1.0: 20.0}}, shaded="dimension"),
        Panel.of_run("alone", {"c": {1.0: 1.0}}),
    ]
    fig = draw_curves(panels, LOOK)
    losses, accuracies, alone = fig.axes
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["a", "b"]  # type: ignore[union-attr]
    assert accuracies.get_legend().get_title().get_text() == "dimension"  # type: ignore[union-attr]
    assert alone.get_legend() is None
    assert fig.legends == []
    assert losses.lines[0].get_xydata().tolist() == [[0.5, 2.0], [1.0, 1.0]]  # type: ignore[union-attr]
    assert losses.get_xlabel() == "epoch"


@pytest.mark.parametrize(("low", "levels", "linear"), [(1.0, {}, False), (0.0, {}, True), (1.0, {"z": -1.0}, True)])
def test_what_a_logarithmic_axis_cannot_show_is_known_before_drawing(
    low: float, levels: dict[str, float], linear: bool
) -> None:
    panel = Panel.of_run("loss", {"a": {1.0: low, 2.0: 5.0}}, levels=levels)
    notes = remarks([panel], log_y=True)
    assert notes == (["loss is not positive throughout: its axis stays linear."] if linear else [])
    assert remarks([panel], log_y=False) == []
    fig = draw_curves([panel], LOOK, log_y=True)
    assert fig.axes[0].get_yscale() == ("linear" if linear else "log")


@pytest.mark.parametrize(
    ("heights", "labels"),
    [((4.0, 63.0), {"5", "10", "20", "50"}), ((0.002, 700.0), {"0.01", "0.1", "1", "10", "100"}), ((2e-5, 0.5), None)],
)
def test_ticks_of_a_logarithmic_axis_are_plain_where_short(
    heights: tuple[float, float], labels: set[str] | None
) -> None:
    fig = draw_curves([Panel.of_run("loss", {"a": dict(enumerate(heights, 1))})], LOOK, log_y=True)
    fig.canvas.draw()
    ax = fig.axes[0]
    low, high = ax.get_ylim()
    texts = {text.get_text() for text in ax.get_yticklabels() if low <= text.get_position()[1] <= high}
    assert any("10^" in text for text in texts) if labels is None else labels <= texts
    if labels is not None:
        assert not any(text.get_text() for text in ax.get_yticklabels(minor=True))


def test_spectra_count_their_zeros_and_stand_beside_references() -> None:
    fig = draw_spectra({"x": [-1.0, -1.01, -math.inf]}, LOOK, references={"uniform": [-1.1, -1.1, -1.1]})
    (ax,) = fig.axes
    drawn, reference = ax.lines
    assert drawn.get_ydata().tolist() == [-1.0, -1.01]  # type: ignore[union-attr]
    assert drawn.get_label() == "x (1 of 3 zero)"
    assert reference.get_ydata().tolist() == [-1.1, -1.1, -1.1]  # type: ignore[union-attr]
    low, high = ax.get_ylim()
    assert high - low == pytest.approx(3.0), "a flat spectrum looks flat"
