"""What a forest plot shows, read back from the axes."""

from __future__ import annotations

from typing import Any

from matplotlib.colors import to_hex

from wasskit.evaluation.intervals import Estimate
from wasskit.pictures.forest import Panel, draw_forest
from wasskit.pictures.look import Look

GROUPS = [("one", ["baseline", "embed"]), ("two", ["baseline", "embed"])]
SCORES = [Estimate(60, 58, 62, 5), Estimate(61, 60, 62, 5), Estimate(50, None, None, 1), Estimate(52, 51, 53, 5)]
DIFFERENCES = [None, Estimate(1.0, -0.5, 2.5, 5), None, Estimate(2.0, 0.5, 3.5, 5)]


def lines(ax: Any) -> list[Any]:
    return [line for line in ax.lines if line.get_marker() not in ("|", "None", "")]


def test_rows_intervals_and_the_reference() -> None:
    fig = draw_forest(
        GROUPS, [Panel("MAP@R (%)", SCORES), Panel("difference", DIFFERENCES, 0.0)], Look("paper", "double")
    )
    drawn: Any = fig.axes
    scores, differences = drawn
    captions = scores.get_yticklabels()
    assert [text.get_text() for text in captions] == ["one", "baseline", "embed", "two", "baseline", "embed"]
    assert [text.get_fontweight() for text in captions] == ["bold", "normal", "normal", "bold", "normal", "normal"]
    assert [text.get_text() for text in differences.get_yticklabels()] == [""] * 6
    assert [line.get_xydata().tolist() for line in lines(scores)] == [[[60, 1]], [[61, 2]], [[50, 4]], [[52, 5]]]
    whiskers = [line.get_xydata().tolist() for line in scores.lines if line.get_marker() == "|"]
    assert whiskers == [[[58, 1], [62, 1]], [[60, 2], [62, 2]], [[51, 5], [53, 5]]]
    assert [line.get_xydata().tolist() for line in lines(differences)] == [[[1.0, 2]], [[2.0, 5]]]
    assert scores.get_ylim()[0] > scores.get_ylim()[1]  # from the top down
    assert (scores.get_xlabel(), differences.get_xlabel()) == ("MAP@R (%)", "difference")


def test_a_marker_is_filled_where_the_reference_is_left_out() -> None:
    fig = draw_forest(GROUPS, [Panel("difference", DIFFERENCES, 0.0)], Look("paper", "single"))
    unclear, clear = lines(fig.axes[0])
    assert to_hex(unclear.get_markerfacecolor()) == "#ffffff"
    assert clear.get_markerfacecolor() == clear.get_color()
    assert any(line.get_xdata() == [0.0, 0.0] for line in fig.axes[0].lines)


def test_a_row_keeps_its_colour_across_groups() -> None:
    fig = draw_forest(GROUPS, [Panel("MAP@R (%)", SCORES)], Look("paper", "single"))
    colours = [line.get_color() for line in lines(fig.axes[0])]
    assert colours[0] == colours[2] != colours[1] == colours[3]
