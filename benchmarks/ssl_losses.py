"""Losses of self-supervised learning, forward and backward, against plain forms and lightly.

The symmetric MoCo loss with a queue of keys, and Barlow Twins. At the published sizes a loss is two products of
matrices and their gradients, and every way is bound by them.

    python benchmarks/ssl_losses.py [--threads 2] [--device cpu] [--batch 256] [--dim 128] [--queue 16384]
        [--width 1024]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.harness import Case, Work, benchmark, main
from wasskit.plugins.ssl.losses import barlow_twins_loss, moco_loss

TEMPERATURE, OFF_DIAGONAL = 0.2, 0.08


def stepped(loss: Tensor, *leaves: Tensor) -> Tensor:
    torch.autograd.grad(loss, leaves)
    return loss.detach()


@benchmark(
    "MoCo loss and its gradient",
    plain="logits in one matrix for each view, `cross_entropy`",
    floor="the products with the queue, and those of their gradients",
    quick={"batch": 32, "queue": 256},
)
def moco(*, batch: int = 256, dim: int = 128, queue: int = 16_384, device: str = "cpu") -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)
    q1, q2, k1, k2 = F.normalize(torch.randn(4, batch, dim, generator=generator), dim=-1).to(device)
    bank = F.normalize(torch.randn(queue, dim, generator=generator)).to(device)
    q1, q2 = q1.clone().requires_grad_(), q2.clone().requires_grad_()

    def half(query: Tensor, key: Tensor) -> Tensor:
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ bank.T], dim=1) / TEMPERATURE
        return F.cross_entropy(logits, torch.zeros(batch, dtype=torch.long, device=device))

    def lightly() -> Work:
        from lightly.loss import NTXentLoss

        loss = NTXentLoss(temperature=TEMPERATURE, memory_bank_size=(queue, dim))
        loss.memory_bank.bank, loss.memory_bank.bank_ptr = bank.T.contiguous(), torch.zeros(1, dtype=torch.long)
        # Its keys are kept from the bank: the update of the queue is no part of the loss here.
        loss.memory_bank.forward = lambda output, labels=None, update=False: (output, loss.memory_bank.bank)
        return lambda: stepped(loss(q1, k2) + loss(q2, k1), q1, q2)

    def products() -> None:
        for query in (q1.detach(), q2.detach()):
            torch.mm(torch.mm(query, bank.T), bank)

    yield Case(
        f"({batch}, {dim}), queue of {queue:,}",
        lambda: stepped(moco_loss(q1, q2, k1, k2, bank, TEMPERATURE), q1, q2),
        lambda: stepped(half(q1, k2) + half(q2, k1), q1, q2),
        {"lightly": lightly},
        floor=products,
        agree=lambda mine, theirs: torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-5),
    )


@benchmark(
    "Barlow Twins loss and its gradient",
    plain="standardised columns, their correlations",
    floor="the product, and those of its gradients",
    quick={"batch": 32, "width": 64},
)
def barlow(*, batch: int = 256, width: int = 1024, device: str = "cpu") -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, width, generator=generator).to(device).requires_grad_()
    y = (x.detach() + torch.randn(batch, width, generator=generator).to(device)).requires_grad_()

    def plain() -> Tensor:
        a, b = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (x, y))
        c = a.T @ b / batch
        on = torch.eye(width, dtype=torch.bool, device=device)
        return stepped((c[on] - 1).square().sum() + OFF_DIAGONAL * c[~on].square().sum(), x, y)

    def lightly() -> Work:
        from lightly.loss import BarlowTwinsLoss

        loss = BarlowTwinsLoss(lambda_param=OFF_DIAGONAL)
        return lambda: stepped(loss(x, y), x, y)

    def products() -> None:
        c = torch.mm(x.detach().T, y.detach())
        torch.mm(y.detach(), c.T)
        torch.mm(x.detach(), c)

    yield Case(
        f"({batch}, {width})",
        lambda: stepped(barlow_twins_loss(x, y, OFF_DIAGONAL), x, y),
        plain,
        {"lightly": lightly},
        floor=products,
        agree=lambda mine, theirs: torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-5),
    )


if __name__ == "__main__":
    main(__doc__, moco, barlow)
