"""Hints at the nearest word."""

from __future__ import annotations

from pathlib import Path

from wasskit.system.hints import did_you_mean, nearest

PACKAGE = Path(__file__).resolve().parents[2] / "wasskit"


def test_the_nearest_words_come_closest_first() -> None:
    known = ["digits", "cifar10", "cifar100", "cifar10"]
    assert nearest("cifar1", known, 3) == ["cifar10", "cifar100"]
    assert nearest("cifar1", known) == ["cifar10"]
    assert nearest("zzz", known) == []


def test_the_sentence_offers_them_or_the_alternative() -> None:
    assert did_you_mean("digitz", ["digits"]) == " Did you mean 'digits'?"
    assert did_you_mean("cifar1", ["cifar10", "cifar100"], 2) == " Did you mean 'cifar10' or 'cifar100'?"
    assert did_you_mean("zzz", ["digits"]) == ""
    assert did_you_mean("zzz", ["digits"], otherwise=" Look again.") == " Look again."


def test_one_module_looks_for_near_words() -> None:
    users = [path.name for path in PACKAGE.rglob("*.py") if "difflib" in path.read_text(encoding="utf-8")]
    assert users == ["hints.py"]
