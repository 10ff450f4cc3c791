"""Benchmarks: each file declares some, and runs alone; `run.py` runs all of them."""
