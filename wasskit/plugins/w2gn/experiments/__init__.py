"""The experiments, one module each: measures, evaluation and report. They take no command line."""
