"""Grids of trainings: axes of options, their combinations, what trains them, and one table and figure of all."""
