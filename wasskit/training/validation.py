"""Checks of a whole checkpoint before anything of a run is touched: every key, every type, every shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wasskit.errors import UserError
from wasskit.models.rebuild import is_text
from wasskit.models.weights import difference
from wasskit.training.checkpoint import rng_state

Rules = Mapping[str, Callable[[Any], bool]]


def check_content(content: Mapping[str, Any], path: Path, device: torch.device) -> None:
    """Check what the training loop wrote, in itself.

    Raises:
        UserError: a key is missing or has a wrong value; the first is named.
    """
    check = _Check(path)
    check.keys(content, _CONTENT, "")
    state = content["state"]
    check.keys(state, _STATE, "state.")
    check.keys(state["clock"], _CLOCK, "state.clock.")
    if state["best"] is not None:
        check.keys(state["best"], _BEST, "state.best.")
    ranks = content["ranks"]
    for name, own in rng_state(device).items():
        given = content["rng"].get(name)
        fits = isinstance(given, Tensor) and given.dtype == own.dtype and given.shape == (ranks, *own.shape)
        # The state of a generator of another kind of device cannot be loaded: it starts from the seed.
        check.require(fits or (name == device.type and given is None), f"rng.{name}")
    for name, place in (("python", -1), ("numpy", -2)):
        words = content["rng"][name]
        check.require(bool(((words >= 0) & (words < 1 << 32)).all() and (words[:, place] <= 624).all()), f"rng.{name}")
    for words in content["rng"]["torch"]:
        try:
            torch.Generator().set_state(words.clone())
        except RuntimeError:
            check.require(False, "rng.torch")
    for entry in content["meter"]:
        check.keys(entry, _METER, "meter.")
        rows = entry["rows"]
        fits = rows.ndim == 3 and rows.shape == (ranks, len(entry["steps"]), len(entry["names"]))
        check.require(fits and 0 < entry["watched"] <= len(entry["names"]), "meter.rows")


def check_fit(
    content: Mapping[str, Any],
    path: Path,
    *,
    task: nn.Module,
    extra: Mapping[str, Any],
    optimisers: Mapping[str, torch.optim.Optimizer],
    updates: int,
    batches: int,
) -> None:
    """Check that a checkpoint is of the networks and optimisers of this run, and lies within its length.

    Args:
        extra: ``task.extra_state()``: what a checkpoint has to hold besides, by key.
        updates, batches: of an epoch.

    Raises:
        UserError: names the first tensor or key that does not fit.
    """
    check = _Check(path)
    reason = difference(task.state_dict(), content["task"])
    if reason is None:
        held = content["extra"]
        reason = next(
            (
                f"it lacks extra.{key}"
                for key, own in extra.items()
                if key not in held or isinstance(held[key], Mapping) != isinstance(own, Mapping)
            ),
            None,
        )
    if reason is None and list(content["optimisers"]) != list(optimisers):
        held = ", ".join(map(str, content["optimisers"]))[:80]
        reason = f"it holds the optimisers {held}, not {', '.join(optimisers)}"
    if reason is None:
        reason = next(
            (
                f"of the optimiser {name}: {found}"
                for name, own in optimisers.items()
                if (found := _optimiser_difference(own, content["optimisers"][name])) is not None
            ),
            None,
        )
    if reason is not None:
        raise UserError(f"The checkpoint {path} does not fit the networks of this run: {reason}.")
    groups = [len(own.param_groups) for own in optimisers.values()]
    check.require([len(rates) for rates in content["rates"]] == groups, "rates")
    state = content["state"]
    check.require(state["batch"] < batches, "state.batch")
    check.require(state["epoch"] <= state["step"] // updates + 1, "state.epoch")


def _optimiser_difference(own: torch.optim.Optimizer, given: Any) -> str | None:
    """How a saved state differs in form from what an optimiser can load; None where it fits."""
    if not (isinstance(given, dict) and set(given) == {"state", "param_groups"} and isinstance(given["state"], dict)):
        return "it has no state and groups"
    groups = given["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(own.param_groups):
        return "it has other groups of parameters"
    parameters: dict[int, Tensor] = {}
    for ours, theirs in zip(own.param_groups, groups, strict=True):
        numbers = theirs.get("params") if isinstance(theirs, dict) else None
        if not isinstance(numbers, list) or len(numbers) != len(ours["params"]):
            return "its groups have other parameters"
        if not all(type(number) is int and number not in parameters for number in numbers):
            return "its parameters are not numbered"
        for key, value in ours.items():
            if key == "params" or (key in _DEFAULTED and key not in theirs):
                continue
            if key not in theirs or not _compatible(value, theirs[key]):
                return f"its {key!r} is missing or has a wrong value"
        parameters.update(zip(numbers, ours["params"], strict=True))
    for number, entries in given["state"].items():
        if number not in parameters or not isinstance(entries, dict):
            return "its state is of no parameter"
        for key, value in entries.items():
            if not isinstance(value, Tensor):
                fits = (value is None and isinstance(own, torch.optim.SGD)) or (_number(value) and key == "step")
            elif key == "step":
                fits = value.numel() == 1
            else:
                fits = value.shape == parameters[number].shape
            if not fits:
                return f"its {str(key)[:40]!r} of parameter {number} has a wrong value or shape"
        # A state without entries is one that has not begun.
        if isinstance(own, torch.optim.Adam) and entries and not set(entries) >= _ADAM:
            return f"its state of parameter {number} lacks {', '.join(sorted(_ADAM - set(entries)))}"
    return None


def _compatible(own: Any, given: Any) -> bool:
    """Whether a saved setting of an optimiser can stand for its own."""
    numbers = (int, float)
    if isinstance(own, tuple | list):
        return isinstance(given, tuple | list) and len(given) == len(own) and all(map(_compatible, own, given))
    if type(own) in numbers or isinstance(own, Tensor):
        return (type(given) in numbers and math.isfinite(given)) or isinstance(given, Tensor)
    return type(given) in (type(own), bool, type(None))


_ADAM = frozenset(("step", "exp_avg", "exp_avg_sq"))
_DEFAULTED = frozenset(
    (
        "nesterov", "amsgrad", "maximize", "foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay",
        "initial_lr",
    )
)  # fmt: skip
"""Settings that optimisers know defaults of when they are loaded: older versions of torch did not have them."""


class _Check:
    """Refuses a checkpoint by the name of a key."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def require(self, holds: bool, key: str) -> None:
        if not holds:
            raise UserError(f"The checkpoint {self.path} is damaged: {key!r} has a wrong value; go on from another.")

    def keys(self, content: Any, rules: Rules, prefix: str) -> None:
        self.require(isinstance(content, Mapping), prefix.rstrip(".") or "content")
        for key, holds in rules.items():
            if key not in content:
                raise UserError(
                    f"The checkpoint {self.path} is damaged: it lacks {prefix + key!r}; go on from another."
                )
            self.require(holds(content[key]), prefix + key)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _numbers(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(k, str) and _number(v) for k, v in value.items())


def _table(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _rates(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(rates, list) and all(map(_number, rates)) for rates in value)


_SCALER = frozenset(("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"))
_CONTENT: Rules = {
    "command": is_text, "config": _table, "steps_per_epoch": _count, "accumulate": _count, "state": _table,
    "task": _table, "extra": _table, "optimisers": _table, "rates": _rates,
    "scaler": lambda value: value is None or (_numbers(value) and set(value) >= _SCALER),
    "ranks": lambda value: _count(value) and value > 0,
    "rng": _table, "meter": lambda value: isinstance(value, list), "metrics_rows": _count,
}  # fmt: skip
_CLOCK: Rules = {"wall": _number, "training": _number, "waiting": _number, "batches": _count}
_STATE: Rules = {
    "step": _count, "epoch": _count, "batch": _count, "evaluated_at": lambda value: value == -1 or _count(value),
    "results": _numbers, "best": lambda value: value is None or _table(value), "clock": _table,
}  # fmt: skip
_BEST: Rules = {"metric": is_text, "value": _number, "step": _count, "epoch": _count, "metrics": _numbers}
_METER: Rules = {
    "names": lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(map(is_text, value)),
    "watched": _count,
    "steps": lambda value: isinstance(value, list | tuple) and all(map(_count, value)),
    "rows": lambda value: isinstance(value, Tensor) and value.is_floating_point(),
}
