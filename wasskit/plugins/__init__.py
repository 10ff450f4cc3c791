"""The subcommands: one package per method, mounted lazily by the command line."""
