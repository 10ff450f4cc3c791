"""The commands of ``wasskit w2gn``, one module each. None imports torch before it runs."""
