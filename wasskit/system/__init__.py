"""What the rest stands on: files, readers, signals. Free of torch."""
