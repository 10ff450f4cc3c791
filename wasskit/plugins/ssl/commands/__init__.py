"""The commands of ``wasskit ssl``, one module each. None imports torch before it runs."""
