"""The commands of ``wasskit plot``, one module each. None imports numpy or matplotlib before it runs."""
