"""``wasskit completions``."""
