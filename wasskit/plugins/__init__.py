"""The subcommands: one package per method, mounted lazily by the command line. See :mod:`wasskit.plugin`."""

from wasskit.plugin import BUILT_IN, Plugin, declared_metrics, declared_models, load_plugin, plugin_targets

__all__ = ["BUILT_IN", "Plugin", "declared_metrics", "declared_models", "load_plugin", "plugin_targets"]
