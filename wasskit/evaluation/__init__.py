"""Measures of representations and of transport maps."""
