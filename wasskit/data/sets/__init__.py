"""The sets that come with the package; importing this registers them."""

from wasskit.data.sets import binary, builtin, cifar, folders

__all__ = ["binary", "builtin", "cifar", "folders"]
