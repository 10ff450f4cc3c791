"""What the scikit-learn estimators of the plugins share."""

from __future__ import annotations

import numbers
from typing import Any, TypeVar

from sklearn.utils import check_random_state

from wasskit.config import OptionGroup, changed, coerce, fields_of
from wasskit.errors import UserError

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # before scikit-learn 1.6

    def validate_data(estimator: Any, *data: Any, **checks: Any) -> Any:
        return estimator._validate_data(*data, **checks)


__all__ = ["checked", "seed_of", "validate_data"]

G = TypeVar("G", bound=OptionGroup)


def checked(config: G, /, **values: Any) -> G:
    """The configuration with other values, each checked as on the command line; numpy's numbers and arrays count as
    Python's.

    Raises:
        ValueError: a value is of another type, out of its bounds, or does not fit the others.
    """
    known = {f.name: f for f in fields_of(type(config))}
    try:
        given = {name: coerce(known[name], _plain(value), name) for name, value in values.items()}
        made = changed(config, **given)
        made.validate()
    except UserError as error:
        raise ValueError(str(error)) from None
    return made


def seed_of(random_state: Any) -> int:
    """The seed that a ``random_state`` stands for: a whole number is one, from None and generators one is drawn.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(random_state, numbers.Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value
