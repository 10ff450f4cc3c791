"""Who the ranks are, how they agree, and that evaluation over shards counts each sample once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.distributed.harness import run_ranks
from wasskit.distributed.collectives import gather, reduce_sum
from wasskit.distributed.group import (
    any_rank,
    barrier,
    broadcast_object,
    close_group,
    group,
    init_group,
    is_main,
    local_rank,
    rank,
    rank_seed,
    world_size,
)
from wasskit.distributed.shard import shard_indices
from wasskit.errors import UserError


def test_without_a_group_there_is_one_rank() -> None:
    assert (rank(), local_rank(), world_size(), is_main()) == (0, 0, 1, True)
    assert any_rank(True) is True
    assert any_rank(False) is False
    payload = {"a": 1}
    assert broadcast_object(payload) is payload
    assert rank_seed(5) == 5
    assert shard_indices(7) == range(7)
    barrier()
    close_group()
    with group("cpu") as device:
        assert device == torch.device("cpu")
        assert not dist.is_initialized()


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert init_group("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="no CUDA device"):
        init_group("cuda")
    with pytest.raises(UserError, match="'gpu'"):
        init_group("gpu")


def test_an_incomplete_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="WORLD_SIZE, MASTER_ADDR, MASTER_PORT"):
        init_group("cpu")


def agreement() -> dict[str, Any]:
    with group("cpu") as device:
        inner = world_size(), device
    # The inner use has left the group open.
    barrier()
    generator = torch.Generator().manual_seed(rank_seed(11))
    return {
        "who": (rank(), local_rank(), world_size(), is_main()),
        "inner": inner,
        "none": any_rank(False),
        "second": any_rank(rank() == 1),
        "both": any_rank(True),
        "object": broadcast_object({"name": f"from {rank()}", "tensor": torch.full((2,), rank())}),
        "draw": torch.rand(3, generator=generator),
    }


@pytest.mark.distributed
def test_ranks_agree() -> None:
    first, second = run_ranks(agreement, 2)
    assert first["who"] == (0, 0, 2, True)
    assert second["who"] == (1, 1, 2, False)
    for found in (first, second):
        assert found["inner"] == (2, torch.device("cpu"))
        assert (found["none"], found["second"], found["both"]) == (False, True, True)
        assert found["object"]["name"] == "from 0"
        assert found["object"]["tensor"].tolist() == [0, 0]
    assert not torch.equal(first["draw"], second["draw"])
    assert torch.equal(first["draw"], torch.rand(3, generator=torch.Generator().manual_seed(11)))


def sharded_counts(sizes: list[int]) -> list[tuple[int, int, list[int], int]]:
    found = []
    for n in sizes:
        hits = (torch.arange(n) * 7 % 5 == 0).int()
        own = shard_indices(n)
        indices = torch.arange(own.start, own.stop)
        count, correct = reduce_sum(torch.stack([torch.tensor(len(own)), hits[indices].sum()])).tolist()
        found.append((count, correct, gather(indices).tolist(), len(own)))
    return found


@pytest.mark.distributed
def test_sharded_evaluation_counts_each_sample_once_and_in_order() -> None:
    sizes = [0, 1, 2, 3, 7, 10, 101]
    results = run_ranks(sharded_counts, 2, sizes)
    for case, n in enumerate(sizes):
        for result in results:
            count, correct, order, _ = result[case]
            assert count == n
            assert correct == sum(i * 7 % 5 == 0 for i in range(n))
            assert order == list(range(n))
        lengths = [result[case][3] for result in results]
        assert sum(lengths) == n
        assert max(lengths) - min(lengths) <= 1
