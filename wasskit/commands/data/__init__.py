"""``wasskit data``."""
