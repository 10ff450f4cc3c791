"""The sets that come with the package; importing this registers them."""

from wasskit.data.sets import builtin, cifar

__all__ = ["builtin", "cifar"]
