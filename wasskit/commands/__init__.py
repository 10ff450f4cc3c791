"""Commands that belong to no method."""
