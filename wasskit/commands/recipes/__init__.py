"""``wasskit recipes``."""
