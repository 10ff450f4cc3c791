"""The training loop, checkpoints, run directories, optimisers and schedules."""
