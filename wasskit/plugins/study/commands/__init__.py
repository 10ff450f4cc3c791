"""The commands of `wasskit study`, one per file."""
