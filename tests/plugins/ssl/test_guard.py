"""When the measures of an epoch say collapse, and what then happens; and how a regulariser is asked for."""

from __future__ import annotations

import pytest
import torch

from wasskit.cli import run
from wasskit.errors import RunFailed, UserError
from wasskit.evaluation.uniformity import effective_rank, w2_uniformity
from wasskit.plugins.ssl.guard import check_collapse, collapse_of
from wasskit.plugins.ssl.options import UniformityOptions

POINT = {"w2": 1.41, "effective_rank": 5.0}


def measured(z: torch.Tensor) -> dict[str, float]:
    return {"w2": float(w2_uniformity(z)), "effective_rank": float(effective_rank(z))}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_collapse_is_named() -> None:
    point = torch.ones(300, 32) + 0.01 * normal(300, 32)
    line = normal(300, 1) * torch.ones(300, 64) + 0.001 * normal(300, 64)
    assert "complete collapse" in str(collapse_of(measured(point), 32))
    assert "dimensional collapse" in str(collapse_of(measured(line), 64))


def test_sound_projections_raise_no_alarm() -> None:
    """Uniform ones, and those of a first epoch, which share a direction."""
    for z in (normal(300, 32), normal(300, 32) + 2, normal(300, 32) * 0.8 ** torch.arange(32)):
        assert collapse_of(measured(z), 32) is None
    assert collapse_of({}, 32) is None


def test_it_is_said_or_ends_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    check_collapse(POINT, 32, 3, stop=False)
    assert "Epoch 3 shows complete collapse" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(RunFailed, match=r"Epoch 3 shows complete collapse.*--stop-on-collapse ended the run"):
        check_collapse(POINT, 32, 3, stop=True)


def test_former_spellings_are_the_same_term() -> None:
    for flags in ({"w2": True}, {"regulariser": "w2"}, {"w2": True, "regulariser": "w2"}):
        config = UniformityOptions(**flags)
        config.validate()
        assert (config.term, config.term_weights) == ("w2", (1.0, 1.0))
    assert UniformityOptions(regulariser="sigreg").term_weights == (0.05, 0.05)
    assert UniformityOptions(regulariser="vicreg", regulariser_weight=2, regulariser_weight_final=0).term_weights == (
        2,
        0,
    )
    assert UniformityOptions().term_weights == (0.0, 0.0)
    assert UniformityOptions(regulariser="w2", regulariser_weight=3).term_weights == (3, 3)
    assert UniformityOptions(lu=True, lu_weight=2, lu_weight_final=1).term_weights == (2, 1)


def test_contradictions_are_refused() -> None:
    with pytest.raises(UserError, match="--lu is another term than --regulariser vicreg"):
        UniformityOptions(lu=True, regulariser="vicreg").validate()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("--regulariser vicreg --slices 8", "--slices counts with --regulariser sigreg, visreg only; here is"),
        ("--regulariser-weight 2", "with --regulariser w2, lu, vicreg, sigreg, visreg only; here is --regulariser"),
        ("--lu --w2-weight 2", "--w2-weight counts with --regulariser w2 only; here is --lu (--regulariser lu): leave"),
        ("--w2 --slices 2", "with --regulariser sigreg, visreg only; here is --w2 (--regulariser w2): leave it out"),
        ("--lu --regulariser lu --slices 2", "visreg only; here is --regulariser lu: leave it out"),
    ],
)
def test_settings_of_other_terms_are_refused(asked: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ssl", "barlow", *asked.split()]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
