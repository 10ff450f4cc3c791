"""The sets that come with the package, one file each; importing this declares them, without torch or numpy."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
