"""Evaluations called from Python: a report in hand, and nothing written or printed before it is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wasskit.plugins.w2gn.core.transport import W2GN
from wasskit.plugins.w2gn.experiments.gaussians import gaussian_pair
from wasskit.plugins.w2gn.experiments.pairs import dimensions_report
from wasskit.plugins.w2gn.experiments.toy import Toy
from wasskit.report import Table, write


def test_a_map_is_judged_without_a_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    toy, identity = Toy("normal", "8gaussians", test_size=200), W2GN.dense(2, hidden=(4,))
    history = {"test/energy_forward": {10: 0.2, 20: 0.1}, "test/energy_inverse": {10: -0.1}}
    report = toy.report(identity, history=history)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")
    # The identity moves nothing: the scores are those of the measures themselves.
    assert report.result["final"]["test/cycle_error"] < 1e-6
    assert report.result["final"]["test/modes_of"] == 8
    assert dict(toy.report(identity, report.result["final"]).result) == dict(report.result)
    (table,) = report.tables
    assert isinstance(table, Table)
    values = {row[0]: row[1] for row in table.rows}
    assert values["  of the target"] == f"{report.result['final']['test/near_modes_target']:.2f}"
    assert "  forward, under the Gaussian map" not in values, "the identity is where this one began"
    (begun,) = toy.report(W2GN.dense(2, hidden=(4,), start=(toy.x, toy.y))).tables
    assert isinstance(begun, Table)
    start = {row[0]: row[1] for row in begun.rows}
    assert start["  forward, under the Gaussian map"] == pytest.approx(start["energy distance, forward"], rel=1e-4)
    written = write(report, tmp_path)
    assert [path.name for path in written] == ["transport.npz", "maps.png", "energy.png"]
    with np.load(tmp_path / "transport.npz") as clouds:
        # The strong convexity stretches the identity by 1e-6, a few float32 roundings come on top.
        np.testing.assert_allclose(clouds["forward"], toy.x, rtol=1e-5, atol=1e-6)
        assert clouds["grid_forward"].shape == (21, 21, 2)


def test_the_table_over_dimensions_names_what_is_not_known() -> None:
    pair = gaussian_pair(3, 0, 500)
    identity = W2GN.dense(3, hidden=(4,))
    begun = pair.scores(identity)["test"]
    result = pair.report({f"test/{name}": value for name, value in begun.items()}, begun).result
    # The identity leaves all of the displacement unexplained.
    moved = float((pair.x - pair.y).double().square().sum(1).mean())
    assert result["scores"]["uvp_forward"] == pytest.approx(100 * moved / pair.target_variance, rel=1e-5)
    trained = {**result, "steps": 7, "wall_seconds": 90.0}
    report = dimensions_report("gaussians", {3: trained}, {"published": {2: "<1"}})
    (table,) = report.tables
    rows = {row[0]: row[1:] for row in table.rows}  # type: ignore[attr-defined]
    assert rows["steps"] == ["7"]
    assert rows["minutes"] == ["1.5"]
    assert rows["published"] == rows["L2-UVP inverse solved"] == ["-"]
    assert torch.isfinite(torch.tensor(float(rows["L2-UVP forward"][0])))
