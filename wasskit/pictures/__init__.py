"""Arrays in, figures out: one module per kind of picture. matplotlib is imported where something is drawn."""
