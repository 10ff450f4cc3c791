"""One declaration per option: dataclass field -> command line option -> recipe key -> saved configuration.

A command declares a frozen dataclass whose fields are made by :func:`option` and :func:`argument`, or are groups of
them (:class:`OptionGroup`). From it come the command line (:class:`Command`), the accepted recipe keys, the validation
with one wording for every source, and the ``config.toml`` of a run, all of them flat: groups do not show.
Precedence: command line, then recipe, then default.

This package imports neither torch nor numpy: it is on the path of ``--help`` and of tab completion.
"""

from wasskit.config.command import Command, Invocation
from wasskit.config.declaration import (
    ByCommand,
    ByWords,
    CommandOptions,
    OptionGroup,
    RecipeOptions,
    argument,
    group,
    option,
    same,
)
from wasskit.config.resolution import (
    build,
    changed,
    check_keys,
    current_names,
    differing,
    fixed_keys,
    part,
    recipe_fields,
    to_options,
    values_of,
    values_of_effect,
)
from wasskit.config.schema import Field, bounds_phrase, coerce, condition_phrase, display, fields_of, kind_of

__all__ = [
    "ByCommand",
    "ByWords",
    "Command",
    "CommandOptions",
    "Field",
    "Invocation",
    "OptionGroup",
    "RecipeOptions",
    "argument",
    "bounds_phrase",
    "build",
    "changed",
    "check_keys",
    "coerce",
    "condition_phrase",
    "current_names",
    "differing",
    "display",
    "fields_of",
    "fixed_keys",
    "group",
    "kind_of",
    "option",
    "part",
    "recipe_fields",
    "same",
    "to_options",
    "values_of",
    "values_of_effect",
]
