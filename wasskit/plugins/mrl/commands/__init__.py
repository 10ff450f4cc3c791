"""The commands of ``wasskit mrl``, one module each. None imports torch before it runs."""
