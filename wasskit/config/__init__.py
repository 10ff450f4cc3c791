"""One declaration per option: dataclass field -> command line option -> recipe key -> saved configuration.

A command declares a frozen dataclass whose fields are made by :func:`option` and :func:`argument`. From it come the
command line (:class:`Command`), the accepted recipe keys, the validation with one wording for every source, and the
``config.toml`` of a run. Precedence: command line, then recipe, then default.

This package imports neither torch nor numpy: it is on the path of ``--help`` and of tab completion.
"""

from wasskit.config.command import Command, Invocation
from wasskit.config.resolution import build, check_keys, current_names, fixed_keys, recipe_fields, to_options
from wasskit.config.schema import (
    ByCommand,
    CommandOptions,
    Field,
    RecipeOptions,
    argument,
    bounds_phrase,
    coerce,
    display,
    fields_of,
    kind_of,
    option,
)

__all__ = [
    "ByCommand",
    "Command",
    "CommandOptions",
    "Field",
    "Invocation",
    "RecipeOptions",
    "argument",
    "bounds_phrase",
    "build",
    "check_keys",
    "coerce",
    "current_names",
    "display",
    "fields_of",
    "fixed_keys",
    "kind_of",
    "option",
    "recipe_fields",
    "to_options",
]
