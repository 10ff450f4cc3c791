"""The guard of products in full precision, for either interface that allows less."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from wasskit.ot import precision
from wasskit.ot.polar import polar_factor
from wasskit.ot.precision import full_precision
from wasskit.ot.sinkhorn import nested_sinkhorn_divergences

backends: Any = torch.backends
by_backend = pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9 has one interface"
)
KINDS = ("cuda", "cpu")
WORDS = ("none", "ieee", "tf32")


class On:
    """What the guard asks of a tensor, for a device that need not be there."""

    def __init__(self, kind: str) -> None:
        self.device = torch.device(kind)


def settings() -> list[Any]:
    """All that a user can read of either interface."""
    found: list[Any] = []
    for read in (torch.get_float32_matmul_precision, lambda: torch.backends.cuda.matmul.allow_tf32):
        try:
            found.append(read())
        except RuntimeError:
            found.append("mixed")
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        chains = [chain for kind in KINDS for chain in precision._chains(kind)]
        found += [place.fp32_precision for chain in chains for place in chain]
        # A change of what all inherit from shows which of them do.
        kept = backends.fp32_precision
        backends.fp32_precision = "ieee" if kept != "ieee" else "tf32"
        found += [place.fp32_precision for chain in chains for place in chain[:-1]]
        backends.fp32_precision = kept
    return found


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        for kind in KINDS:
            for place in (place for chain in precision._chains(kind) for place in chain):
                place.fp32_precision = "none"
        backends.cudnn.allow_tf32 = True  # as it is to begin with
    assert torch.get_float32_matmul_precision() == "highest"


def in_force(kind: str, convolutions: bool = False) -> str:
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        return str(precision._chains(kind)[convolutions][0].fp32_precision)
    if convolutions:
        return "tf32" if kind == "cuda" and torch.backends.cudnn.allow_tf32 else "ieee"
    return {"highest": "ieee"}.get(torch.get_float32_matmul_precision(), "tf32")


def test_convolutions_which_take_tf32_unless_told_otherwise_are_guarded_and_restored() -> None:
    assert in_force("cuda", convolutions=True) == "tf32"
    before = settings()
    with full_precision(On("cuda")), full_precision(On("cuda")):  # type: ignore[arg-type]
        assert in_force("cuda", convolutions=True) == "ieee"
        assert in_force("cuda") in ("ieee", "none")
    assert in_force("cuda", convolutions=True) == "tf32"
    assert settings() == before
    torch.backends.cudnn.allow_tf32 = False
    with full_precision(On("cuda")):  # type: ignore[arg-type]
        assert in_force("cuda", convolutions=True) in ("ieee", "none")
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("word", ["highest", "high", "medium"])
def test_the_function_is_guarded_and_restored(kind: str, word: str) -> None:
    torch.set_float32_matmul_precision(word)
    before = settings()
    with full_precision(On(kind)):  # type: ignore[arg-type]
        assert in_force(kind) in ("ieee", "none")
        with full_precision(On(kind)):  # type: ignore[arg-type]
            assert in_force(kind) in ("ieee", "none")
        assert in_force(kind) in ("ieee", "none")
    assert settings() == before
    assert torch.get_float32_matmul_precision() == word


@by_backend
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("kind", "words"),
    [("cuda", words) for words in itertools.product(WORDS, repeat=3)]
    + [("cpu", words) for words in itertools.product(WORDS, repeat=2)],
)
@pytest.mark.parametrize("convolutions", [False, True])
def test_every_level_of_the_backends_is_guarded_and_restored(
    kind: str, words: tuple[str, ...], convolutions: bool
) -> None:
    for place, word in zip(precision._chains(kind)[convolutions], words, strict=True):
        place.fp32_precision = word
    before = settings()
    with full_precision(On(kind)):  # type: ignore[arg-type]
        assert in_force(kind, convolutions) in ("ieee", "none")
    assert settings() == before
    with pytest.raises(KeyError), full_precision(On(kind)), full_precision(On(kind)):  # type: ignore[arg-type]
        raise KeyError
    assert settings() == before


@by_backend
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("level", [0, -1])
def test_guarded_losses_run_after_either_form_of_the_newer_interface(level: int) -> None:
    """On the CPU's own setting and on the one that all backends inherit, after which the function raises."""
    x = torch.nn.functional.normalize(torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), dim=1)

    def values() -> tuple[torch.Tensor, torch.Tensor]:
        return nested_sinkhorn_divergences(x, [2, 4, 8]), polar_factor(x)

    expected = values()
    for kind in KINDS:
        precision._chains(kind)[0][level].fp32_precision = "tf32"
    with pytest.raises(RuntimeError):
        torch.get_float32_matmul_precision()
    for found, known in zip(values(), expected, strict=True):
        assert torch.equal(found, known)


def test_autocast_is_off_inside_and_on_again_after() -> None:
    a = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_precision(a):
            assert (a @ a).dtype == torch.float32
        assert (a @ a).dtype == torch.bfloat16
