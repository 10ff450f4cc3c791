"""Seeds as pure functions of what is being drawn, so that nothing depends on what was drawn before."""

from __future__ import annotations

import hashlib

_MASK = (1 << 64) - 1


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) that depends on every part, in order: ``derive_seed(seed, "order", epoch)``.

    The same parts give the same seed on every machine and Python; different parts give unrelated seeds.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def sample_seed(base: int, position: int) -> int:
    """The seed of one sample: the SplitMix64 finaliser of ``base + position``, in [0, 2**63)."""
    z = (base + (position + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) >> 1
