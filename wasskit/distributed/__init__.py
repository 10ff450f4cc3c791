"""Process groups, differentiable collectives, launching and device placement."""
