"""A transport map between two clouds in the plane, and back, as gradients of convex networks.

    python docs/examples/transport_map.py

It takes about half a minute on two cores.
"""

import math

import torch

from wasskit import TransportMap, energy_distance

generator = torch.Generator().manual_seed(0)


def ring(n: int) -> torch.Tensor:
    """Points around a circle."""
    angles = 2 * math.pi * torch.rand(n, generator=generator)
    return torch.stack([angles.cos(), angles.sin()], 1) * 2 + 0.1 * torch.randn(n, 2, generator=generator)


def blob(n: int) -> torch.Tensor:
    """Points of a Gaussian."""
    return torch.randn(n, 2, generator=generator)


transport = TransportMap(steps=300, random_state=0).fit(blob(3000).numpy(), ring(3000).numpy())
source, target = blob(2000), ring(2000)
moved = torch.as_tensor(transport.transform(source.numpy()))
back = torch.as_tensor(transport.inverse_transform(moved.numpy()))

print(
    f"energy distance to the ring: {energy_distance(source, target):.5f} before, "
    f"{energy_distance(moved, target):.5f} after, {energy_distance(ring(2000), target):.5f} between two samples"
)
print(f"mean distance moved: {(moved - source).norm(dim=1).mean():.3f}")
print(f"mean distance after going there and back: {(back - source).norm(dim=1).mean():.4f}")
