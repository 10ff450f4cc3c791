"""From values to a configuration and back: command line over recipe over default; former names; saved options."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from wasskit.config.declaration import CommandOptions, G, OptionGroup, RecipeOptions, groups_of
from wasskit.config.schema import NONE, Field, coerce, condition_phrase, display, fields_of
from wasskit.errors import UserError
from wasskit.system.hints import did_you_mean
from wasskit.text import short_text

C = TypeVar("C", bound=CommandOptions)


def recipe_fields(config_class: type[CommandOptions]) -> dict[str, Field]:
    """The options that a recipe or a saved configuration may set, by key."""
    return {f.name: f for f in fields_of(config_class) if not f.option.transient}


def check_keys(config_class: type[CommandOptions], options: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Validate the ``[options]`` of a recipe against a command; return them with their proper types.

    Raises:
        UserError: an unknown key (the nearest valid one is named), a wrong type or an out-of-range value.
    """
    known = recipe_fields(config_class)
    values = {}
    for key, value in options.items():
        where = f"Key {short_text(repr(key))} in {source}"
        name, value = current_name(config_class, key.replace("-", "_"), value, where)
        if name not in known:
            advice = did_you_mean(
                name, known, otherwise=" Keys are the options that --help lists, without their dashes."
            )
            raise UserError(f"Unknown key {short_text(repr(key))} in {source}.{advice}")
        if name in values:
            raise UserError(f"{where} is there twice, under two spellings: keep {name!r}.")
        values[name] = coerce(known[name], value, where)
    return values


def current_names(config_class: type[CommandOptions], options: Mapping[str, Any]) -> dict[str, Any]:
    """Saved options of an earlier version under the names and values that they have now."""
    return dict(current_name(config_class, name, value, name) for name, value in options.items())


def current_name(config_class: type[CommandOptions], name: str, value: Any, where: str) -> tuple[str, Any]:
    """The field that ``name`` means, whether its own name, its flag or a former one, and the value's present form."""
    fields = fields_of(config_class)
    if any(f.name == name for f in fields):
        return name, value
    for f in fields:
        if name == f.flag[2:].replace("-", "_"):
            return f.name, value
        if name in f.option.former:
            meanings = f.option.former[name]
            if not meanings:
                return f.name, value
            if not isinstance(value, str) or value not in meanings:
                raise UserError(f"{where}: {value!r} is not one of {', '.join(meanings)}.")
            return f.name, meanings[value]
    return name, value


def build(config_class: type[C], values: Mapping[str, Any]) -> C:
    """Make the configuration object from checked values by name and run its own validation."""
    config = _assembled(config_class, values, None)
    config.validate()
    return config


def changed(config: G, /, **values: Any) -> G:
    """The configuration with other values of the options named, wherever in it they are; without validation.

    Raises:
        TypeError: it has no option of a name.
    """
    unknown = values.keys() - {f.name for f in fields_of(type(config))}
    if unknown:
        raise TypeError(f"{type(config).__name__} has no option {', '.join(sorted(unknown))}")
    return _assembled(type(config), values, config)


def _assembled(kind: type[G], values: Mapping[str, Any], base: G | None) -> G:
    own: dict[str, Any] = {}
    groups = groups_of(kind)
    for f in dataclasses.fields(kind):
        if f.name in groups:
            before = f.default if base is None else getattr(base, f.name)
            own[f.name] = _assembled(groups[f.name], values, None if before is dataclasses.MISSING else before)
        elif f.name in values:
            own[f.name] = values[f.name]
    return kind(**own) if base is None else dataclasses.replace(base, **own)


def values_of(config: OptionGroup) -> dict[str, Any]:
    """The value of every option, by name."""
    return {f.name: getattr(functools.reduce(getattr, f.path, config), f.name) for f in fields_of(type(config))}


def values_of_effect(config: OptionGroup) -> dict[str, Any]:
    """`values_of`, but for options that are accepted or refused without an effect."""
    without = {f.name for f in fields_of(type(config)) if f.option.hidden}
    return {name: value for name, value in values_of(config).items() if name not in without}


def part(config: OptionGroup, kind: type[G]) -> G:
    """The group of a kind in a configuration, which has it as a field, in one of its groups, or by inheritance.

    Raises:
        TypeError: it has none.
    """
    if isinstance(config, kind):
        return config
    for value in vars(config).values():
        if isinstance(value, OptionGroup):
            with contextlib.suppress(TypeError):
                return part(value, kind)
    raise TypeError(f"{type(config).__name__} has no {kind.__name__}")


def to_options(config: CommandOptions) -> dict[str, Any]:
    """The configuration as plain TOML values: what :func:`check_keys` reads back to an equal configuration."""
    options: dict[str, Any] = {}
    values = values_of(config)
    for name, f in recipe_fields(type(config)).items():
        value = values[name]
        if value is None:
            if f.default is not None:
                options[name] = NONE
        elif isinstance(value, tuple):
            options[name] = [str(v) if isinstance(v, Path) else v for v in value]
        else:
            options[name] = str(value) if isinstance(value, Path) else value
    return options


def fixed_keys(config_class: type[CommandOptions]) -> set[str]:
    """The keys that a resumed run may not change: all but those declared ``runtime``."""
    return {name for name, f in recipe_fields(config_class).items() if not f.option.runtime}


def differing(config: RecipeOptions, options: Mapping[str, Any], source: str) -> list[tuple[Field, Any, Any]]:
    """The fixed settings of a run with the saved ``options`` that are other than those of ``config``, by their names:
    each option with its value there and now.

    Raises:
        UserError: the saved options are not those of such a command; ``source`` is named.
    """
    kind = type(config)
    saved, fields, now = check_keys(kind, options, source), recipe_fields(kind), values_of(config)
    found = []
    for key in sorted(fixed_keys(kind)):
        there = saved.get(key, fields[key].before)
        if there == fields[key].option.former_default:
            there = fields[key].default
        if there != now[key]:
            found.append((fields[key], there, now[key]))
    return found


def resolve(config_class: type[C], command: str, given: Mapping[str, Any]) -> tuple[C, Mapping[str, Any] | None]:
    """Merge command line values (unconverted, by the names of their fields) over the recipe over the defaults.

    Returns:
        The configuration, and the whole recipe if one was named.

    Raises:
        UserError: a value, a key or the recipe is wrong.
    """
    by_name = {f.name: f for f in fields_of(config_class)}
    values: dict[str, Any] = {}
    recipe = None
    named = given.get("recipe")
    if isinstance(named, str) and issubclass(config_class, RecipeOptions):
        from wasskit.recipes import load_recipe

        recipe = load_recipe(named, command=command)
        values.update(check_keys(config_class, recipe.options, f"recipe {recipe.path}"))
    for name, value in given.items():
        f = by_name[name]
        values[name] = coerce(f, value, f.flag)
    return build(config_class, values), recipe.document if recipe else None


def refuse_idle(config: CommandOptions, given: Collection[str], command: str) -> None:
    """Refuse options of the command line (``given``: names of fields) that would not count beside the others.

    Raises:
        UserError: names the first, and what it counts with.
    """
    fields = {f.name: f for f in fields_of(type(config))}
    for f in fields.values():
        needed = f.option.counts_with
        if f.name not in given or needed is None:
            continue
        if not needed:
            raise UserError(f"{f.flag} has no effect in `wasskit {command}`: leave it out.")
        here = {name: functools.reduce(getattr, fields[name].path, config).in_effect(name) for name in needed}
        if not any(here[name] in values for name, values in needed.items()):
            now = ", ".join(_as_typed(fields[name], display(value), given) for name, value in here.items())
            raise UserError(
                f"{f.flag} counts {condition_phrase(f.option)} only; here is {now}: leave it out or change that."
            )


def _as_typed(f: Field, value: str, given: Collection[str]) -> str:
    """An option with its value here: ``--w2 (--regulariser w2)`` where the option ``--w2`` stands for that."""
    text = f"{f.flag} {value}"
    return text if f.name in given or value not in given else f"--{value} ({text})"


def given_by_name(config_class: type[CommandOptions], given: Mapping[str, Any]) -> dict[str, Any]:
    """Command line values by the names of their fields, whatever former names they were given under.

    Raises:
        UserError: an option is given under two names.
    """
    values: dict[str, Any] = {}
    for typed, value in given.items():
        flag = "--" + typed.replace("_", "-")
        name, value = current_name(config_class, typed, value, flag)
        if name in values:
            raise UserError(f"{flag} is the former name of --{name.replace('_', '-')}: give one of them.")
        values[name] = value
    return values
