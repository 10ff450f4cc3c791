"""Data sets, augmentations, samplers and loaders."""
