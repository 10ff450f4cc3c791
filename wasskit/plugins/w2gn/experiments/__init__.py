"""The experiments, one module each: measures, evaluation and report. None knows of a command line."""
