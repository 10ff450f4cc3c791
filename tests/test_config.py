"""One declaration per option: types, bounds, precedence, the round trip through TOML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import tomli_w

from wasskit.config import (
    Command,
    CommandOptions,
    Invocation,
    OptionGroup,
    RecipeOptions,
    argument,
    build,
    changed,
    check_keys,
    display,
    fields_of,
    fixed_keys,
    group,
    kind_of,
    option,
    part,
    to_options,
    values_of,
)
from wasskit.config.resolution import resolve as resolve_options
from wasskit.errors import UserError
from wasskit.options import DeviceOptions
from wasskit.system.documents import read_toml


@dataclass(frozen=True, kw_only=True)
class Sample(RecipeOptions):
    """One option of each type."""

    paths: tuple[Path, ...] = argument((), help="Paths.")
    epochs: int = option(10, help="Epochs.", min=1)
    lr: float = option(0.1, help="Rate.", above=0)
    dims: tuple[int, ...] | None = option(None, help="Dimensions.", min=1)
    mode: Literal["fast", "slow"] = option("fast", help="Mode.")
    clip: float | None = option(1.0, help="Clip.", above=0)
    w2: bool = option(False, help="Uniformity.")
    root: Path | None = option(None, help="Root.", runtime=True)
    label: str = option("x", help="A label.")


def body(config: Sample, invocation: Invocation) -> Mapping[str, Any]:
    return {"options": to_options(config)}


@dataclass(frozen=True, kw_only=True)
class Hiding(Sample):
    """A command that ignores a group of options."""

    machine: DeviceOptions = group(DeviceOptions(), hidden=True)


COMMAND = Command("test sample", Sample, body, "A command.")


def resolve(**given: Any) -> Sample:
    return resolve_options(Sample, COMMAND.path, given)[0]


def test_command_line_texts_become_typed_values() -> None:
    config = resolve(
        epochs="3", lr="2e-5", dims="8,16, 32", mode="slow", clip="none", w2=True, root="~/data", paths=["a", "b"]
    )
    assert config.epochs == 3
    assert config.lr == 2e-5
    assert config.dims == (8, 16, 32)
    assert config.mode == "slow"
    assert config.clip is None
    assert config.w2 is True
    assert config.root == Path("~/data").expanduser()
    assert config.paths == (Path("a"), Path("b"))


@pytest.mark.parametrize(
    ("given", "fragments"),
    [
        ({"epochs": "three"}, ["--epochs", "whole number", "'three'"]),
        ({"epochs": "1.5"}, ["--epochs", "whole number"]),
        ({"epochs": "0"}, ["--epochs", "at least 1"]),
        ({"lr": "0"}, ["--lr", "above 0"]),
        ({"lr": "nan"}, ["--lr", "finite"]),
        ({"lr": "inf"}, ["--lr", "finite"]),
        ({"lr": "1e300"}, ["--lr", "too large"]),
        ({"epochs": "1" + "0" * 400}, ["--epochs", "too large"]),
        ({"dims": "8,x"}, ["--dims", "whole numbers"]),
        ({"dims": "8,0"}, ["--dims", "at least 1"]),
        ({"mode": "fats"}, ["--mode", "fast, slow", "Did you mean 'fast'?"]),
        ({"root": ""}, ["--root", "empty"]),
    ],
)
def test_bad_values_are_refused_with_option_and_range(given: dict[str, str], fragments: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        resolve(**given)
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ({"epoch": 3}, ["Unknown key 'epoch'", "Did you mean 'epochs'?", "my.toml"]),
        ({"epochs": "three"}, ["Key 'epochs'", "whole number", "my.toml"]),
        ({"epochs": 3.0}, ["Key 'epochs'", "whole number"]),
        ({"epochs": True}, ["Key 'epochs'", "whole number"]),
        ({"w2": 1}, ["Key 'w2'", "true or false"]),
        ({"dims": 8}, ["Key 'dims'", "list"]),
        ({"lr": -1}, ["Key 'lr'", "above 0"]),
        ({"lr": 10**400}, ["Key 'lr'", "number"]),
        ({"json": True}, ["Unknown key 'json'"]),
        ({"label": 3}, ["Key 'label'", "text"]),
    ],
)
def test_bad_recipe_keys_are_refused_with_key_and_file(options: dict[str, Any], fragments: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        check_keys(Sample, options, "my.toml")
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_recipe_keys_may_be_written_as_on_the_command_line() -> None:
    assert check_keys(Sample, {"lr": 1, "dims": [1, 2]}, "x") == {"lr": 1.0, "dims": (1, 2)}


def test_numbers_are_displayed_in_full() -> None:
    assert [display(x) for x in (1.0, 2e-5, 0.12345678, 2**31 - 1)] == ["1", "2e-05", "0.12345678", "2147483647"]


def test_command_line_wins_over_recipe_over_default(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('command = "test sample"\n[options]\nepochs = 7\nlr = 0.5\n')
    config = resolve(recipe=str(recipe), lr="0.25")
    assert (config.epochs, config.lr, config.mode) == (7, 0.25, "fast")


def test_a_saved_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = resolve(epochs="3", dims="8,16", clip="none", root="/d", w2=True)
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps({"command": "test sample", "options": to_options(config)}))
    values = check_keys(Sample, read_toml(path)["options"], str(path))
    assert Sample(**values) == config


def test_fixed_keys_leave_out_the_machine_and_the_invocation() -> None:
    fixed = fixed_keys(Sample)
    assert "epochs" in fixed
    assert not fixed & {"root", "json", "recipe", "paths"}


@pytest.mark.parametrize("arguments", [("--dims", "8", "--dims", "16"), ("--dims=8", "--lr", "1", "--dims=8")])
def test_a_list_that_is_given_twice_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"--dims is given more than once: .* separated by commas, as in --dims A,B"):
        COMMAND.build().main([*arguments], standalone_mode=False)


def test_help_is_given_whatever_else_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    COMMAND.build().main(["--dims", "8", "--dims", "16", "--help"], standalone_mode=False)
    assert "Usage:" in capsys.readouterr().out


def test_a_hidden_group_is_accepted_and_not_shown() -> None:
    by_name = {f.name: f for f in fields_of(Hiding)}
    assert by_name["nproc"].option.hidden
    assert by_name["nproc"].option.min == 1
    assert not by_name["w2"].option.hidden
    assert build(Hiding, {"nproc": 2}).machine.nproc == 2


@dataclass(frozen=True, kw_only=True)
class Conditional(OptionGroup):
    margin: float = option(0.5, help="Margin.", counts_with={"loss": ("pairs",)})
    width: int = option(8, help="Width.")


@dataclass(frozen=True, kw_only=True)
class Conditions(CommandOptions):
    """``loss`` may be left to ``fast``; in this command the width of the group counts nowhere."""

    group: Conditional = group(Conditional(), counts_with={"width": {}})
    loss: Literal["auto", "pairs", "proxies"] = option("auto", help="Loss.")
    fast: bool = option(False, help="Proxies.")
    file: str | None = option(None, help="File.")
    scale: int = option(1, help="Scale.", counts_with={"file": (None,)})
    resume: str | None = option(None, help="Resume.")

    def in_effect(self, name: str) -> Any:
        if name == "loss" and self.loss == "auto":
            return "proxies" if self.fast else "pairs"
        return super().in_effect(name)


@dataclass(frozen=True, kw_only=True)
class ConditionsOfMany(Conditions):
    jobs: int = option(1, help="Jobs.")


@pytest.mark.parametrize(
    ("kind", "given", "refusal"),
    [
        (Conditions, "--margin 1", ""),
        (Conditions, "--margin 1 --loss pairs --fast", ""),
        (Conditions, "--fast", ""),
        (Conditions, "--scale 2", ""),
        (Conditions, "--margin 1 --fast", "--margin counts with --loss pairs only; here is --loss proxies"),
        (Conditions, "--scale 2 --file a", "--scale counts without --file only; here is --file a"),
        (Conditions, "--loss proxies --margin 0.5", "--margin counts with --loss pairs only; here is --loss proxies"),
        (Conditions, "--width 8", "--width has no effect in `wasskit test conditions`"),
        (Conditions, "--margin 1 --fast --resume run", ""),
        (ConditionsOfMany, "--margin 1 --fast", ""),
    ],
)
def test_an_option_that_would_not_count_is_refused(kind: type[Conditions], given: str, refusal: str) -> None:
    """Beside what is in effect, by whichever option; not where a saved run or the axes of a grid decide that."""
    command = Command("test conditions", kind, lambda config, invocation: None, "A command.")
    if not refusal:
        command.build().main(given.split(), standalone_mode=False)
        return
    with pytest.raises(UserError, match=f"{refusal}.*: leave it out"):
        command.build().main(given.split(), standalone_mode=False)


def test_unsupported_types_fail_when_declared() -> None:
    with pytest.raises(TypeError):
        kind_of(dict[str, int])
    with pytest.raises(TypeError):
        kind_of(int | str)


def test_a_command_knows_the_command_line_that_it_was_called_by() -> None:
    """Also within another command's process: it is not the process's own."""
    seen: list[tuple[str, ...]] = []

    def note(config: Sample, invocation: Invocation) -> None:
        seen.append(invocation.argv)
        if len(seen) == 1:
            inner.build().main(["b"], standalone_mode=False, obj=("test", "inner", "b"))
            seen.append(invocation.argv)

    outer, inner = (Command(f"test {name}", Sample, note, "A command.") for name in ("outer", "inner"))
    outer.build().main(["a"], standalone_mode=False, obj=("test", "outer", "a"))
    assert seen == [("test", "outer", "a"), ("test", "inner", "b"), ("test", "outer", "a")]


@dataclass(frozen=True, kw_only=True)
class Length(OptionGroup):
    epochs: int = option(100, help="Epochs.", panel="Optimisation", min=1)
    every: int | None = option(None, help="Epochs between.", panel="Run", show_default="a tenth")


@dataclass(frozen=True, kw_only=True)
class Place(OptionGroup):
    path: Path = argument(help="A path.")
    wide: bool = option(False, help="Wide.", panel="Data")

    def validate(self) -> None:
        super().validate()
        if self.wide:
            raise UserError("--wide is too much.")


@dataclass(frozen=True, kw_only=True)
class Grouped(RecipeOptions):
    """A command of groups: one with other defaults and help, one with a required argument."""

    rate: float = option(0.1, help="Rate.", panel="Method")
    length: Length = group(Length(epochs=25, every=5), help={"epochs": "Epochs of this."})
    place: Place


def test_groups_are_flat_outside_and_typed_inside() -> None:
    options = {f.name: f for f in fields_of(Grouped)}
    assert list(options) == ["path", "rate", "wide", "epochs", "every", "json", "quiet", "verbose", "recipe"]
    assert (options["epochs"].default, options["epochs"].option.help) == (25, "Epochs of this.")
    assert (options["every"].default, options["every"].option.show_default) == (5, None)
    assert fields_of(Length)[1].option.show_default == "a tenth"

    given = check_keys(Grouped, {"epochs": 3, "rate": 0.2}, "a recipe")
    config = build(Grouped, {**given, "path": Path("a")})
    assert (config.length, config.rate, config.place.path) == (Length(epochs=3, every=5), 0.2, Path("a"))
    assert to_options(config) == {"rate": 0.2, "wide": False, "epochs": 3, "every": 5}
    assert values_of(config)["epochs"] == 3
    other = changed(config, every=None, rate=0.3)
    assert (other.length, other.rate, other.place) == (Length(epochs=3), 0.3, config.place)
    with pytest.raises(TypeError, match=r"Grouped has no option epoch$"):
        changed(config, epoch=3)
    assert part(config, Length) is config.length
    assert part(config.length, Length) is config.length
    with pytest.raises(TypeError, match="Length has no Place"):
        part(config.length, Place)


def test_groups_are_validated_and_share_no_name() -> None:
    with pytest.raises(UserError, match="--wide is too much"):
        build(Grouped, {"path": Path("a"), "wide": True})

    @dataclass(frozen=True, kw_only=True)
    class Twice(CommandOptions):
        one: Sample = Sample()
        two: Sample = Sample()

    with pytest.raises(TypeError, match="the same name: clip, clip"):
        fields_of(Twice)
