"""k-nearest-neighbour classification by cosine similarity: exact, block by block, never an N x N matrix.

Each of the k training samples most similar to a test sample votes for its class, with weight exp(s / T) for
the similarity s. Without a temperature (T = 1) this is the protocol of "Rethinking the Uniformity Metric in
Self-Supervised Learning", with T = 0.07 that of Wu et al. (2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from wasskit.distributed.collectives import reduce_sum
from wasskit.distributed.shard import shard_indices
from wasskit.errors import UserError
from wasskit.evaluation.ranking import UNRANKED
from wasskit.evaluation.rows import all_finite, is_positive_integer
from wasskit.evaluation.ties import nearest_blocks

Weights = Literal["exp", "uniform"]


@torch.no_grad()
def knn_ranks(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    k: int,
    temperature: float | None = None,
    weights: Weights = "exp",
) -> Tensor:
    """Rank of each test sample's true class among the classes ordered by their votes.

    Arguments as :func:`knn_accuracy`, which checks them; returns int64 (M,), from 1. Of two classes with equal votes
    that with the larger sum of similarities comes first, then that with the smaller label. A class without a vote is
    not predicted: its rank is ``UNRANKED``.
    """
    if len(test_features) == 0:
        return torch.empty(0, dtype=torch.int64, device=test_labels.device)
    sizes = [len(train_labels), len(test_labels)]
    classes, numbers = torch.cat([train_labels.long(), test_labels.long()]).unique(return_inverse=True)
    train_labels, test_labels = numbers.split(sizes)
    num_classes = len(classes)
    class_index = torch.arange(num_classes, device=test_labels.device)
    ranks = []
    asked, bank = _unit(test_features, train_features), _unit(train_features, test_features)
    for rows, similarities, indices in nearest_blocks(asked, bank, k):
        true = test_labels[rows]
        voted = train_labels[indices]
        if weights == "uniform":
            ballots = torch.ones_like(similarities)
        else:
            # Relative to the nearest neighbour's vote, so that no temperature overflows or silences all.
            below = similarities - similarities[:, :1]
            ballots = (below / (1.0 if temperature is None else temperature)).exp()
        zeros = similarities.new_zeros(len(similarities), num_classes)
        votes = zeros.scatter_add(1, voted, ballots)
        closeness = zeros.scatter_add(1, voted, similarities)
        named = zeros.scatter(1, voted, 1.0) > 0
        mine, my_closeness = votes.gather(1, true[:, None]), closeness.gather(1, true[:, None])
        nearer = (closeness > my_closeness) | ((closeness == my_closeness) & (class_index < true[:, None]))
        # A vote may vanish at a low temperature: then classes without any have as many.
        ahead = named & ((votes > mine) | ((votes == mine) & nearer))
        chosen = named.gather(1, true[:, None]).squeeze(1)
        ranks.append(torch.where(chosen, ahead.sum(dim=1) + 1, UNRANKED))
    return torch.cat(ranks)


def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    k: int = 200,
    temperature: float | None = None,
    weights: Weights = "exp",
    *,
    topk: Sequence[int] = (1,),
    sharded: bool = False,
) -> Tensor:
    """Accuracy of k-nearest-neighbour classification, in [0, 1].

    train_features (N, D), train_labels (N,), test_features (M, D), test_labels (M,), on one device, labels of any
    integer type; features need not be normalised, and are compared in float32, of float64 in float64.
    ``weights="exp"`` votes with exp(cosine / temperature), the temperature 1 if None; ``"uniform"`` counts heads.
    Returns float64 (len(topk),), or a scalar for the default top-1: the share of test samples whose true class is
    among the t classes with the most votes (ties: see :func:`knn_ranks`).

    ``sharded=True``: all processes hold all features, each classifies its share of the test samples, and the
    counts are summed; the result is the same on each. Raises UserError for k > N, a temperature that is not
    positive, features that are not finite, or sets that do not fit together.

    Example:
        >>> import torch, wasskit
        >>> train, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
        >>> wasskit.knn_accuracy(train, labels, torch.tensor([[2.0, 1.0], [1.0, 3.0]]), labels, k=1)
        tensor(1., dtype=torch.float64)
    """
    _check(train_features, train_labels, test_features, test_labels, temperature, weights)
    if not topk or any(t < 1 for t in topk):
        raise UserError(f"k-NN accuracies are top-1, top-2, ...: topk cannot be {tuple(topk)}.")
    total = len(test_features)
    if total == 0:
        raise UserError("k-NN needs at least one test sample: is the test split empty?")
    _check_k(k, len(train_features))
    if sharded:
        mine = torch.as_tensor(shard_indices(total), dtype=torch.int64, device=test_features.device)
        test_features, test_labels = test_features[mine], test_labels[mine]
    ranks = knn_ranks(train_features, train_labels, test_features, test_labels, k, temperature, weights)
    correct = torch.stack([(ranks <= t).sum() for t in topk])
    if sharded:
        correct = reduce_sum(correct)
    accuracy = correct.to(torch.float64) / total
    return accuracy[0] if tuple(topk) == (1,) else accuracy


def _unit(features: Tensor, like: Tensor) -> Tensor:
    """Unit rows in float32, or in float64 where the features or those ``like`` them are."""
    dtype = torch.promote_types(torch.promote_types(features.dtype, like.dtype), torch.float32)
    return F.normalize(features.to(dtype), dim=1)


def _check_k(k: int, samples: int) -> None:
    if not is_positive_integer(k) or k > samples:
        raise UserError(f"k-NN asks for {k} neighbours among {samples} training samples: choose 1 to {samples}.")


def _check(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    temperature: float | None,
    weights: str,
) -> None:
    if train_features.ndim != 2 or test_features.ndim != 2 or train_labels.ndim != 1 or test_labels.ndim != 1:
        raise UserError("k-NN needs features of shape (N, D) and labels of shape (N,).")
    if len(train_features) != len(train_labels) or len(test_features) != len(test_labels):
        raise UserError(
            f"k-NN needs a label per sample: there are {len(train_labels)} for {len(train_features)} training "
            f"and {len(test_labels)} for {len(test_features)} test samples."
        )
    if train_labels.is_floating_point() or test_labels.is_floating_point():
        raise UserError(f"k-NN labels are integers, not {train_labels.dtype} and {test_labels.dtype}.")
    if not (all_finite(train_features) and all_finite(test_features)):
        raise UserError("k-NN features contain NaN or infinite values: no neighbour is nearest.")
    if bool((train_labels < 0).any()) or bool((test_labels < 0).any()):
        raise UserError("k-NN needs a label per sample, and some samples have none: choose a labelled split.")
    if train_features.shape[1] != test_features.shape[1]:
        raise UserError(
            f"k-NN compares features of one width, not {train_features.shape[1]} with {test_features.shape[1]}."
        )
    if temperature is not None and not temperature > 0:
        raise UserError(f"the k-NN temperature must be positive, not {temperature}.")
    if weights not in ("exp", "uniform"):
        raise UserError(f"k-NN votes are weighted 'exp' or 'uniform', not '{weights}'.")
