"""Checkpoints survive kills, full disks and damage; random numbers come back; other configurations are refused."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wasskit.errors import UserError
from wasskit.training import checkpoint
from wasskit.training.checkpoint import (
    Checkpoints,
    check_same_config,
    load_checkpoint,
    preserved_rng,
    rng_state,
    save_checkpoint,
    seed_all,
    set_rng_state,
)

CPU = torch.device("cpu")


def state(value: float, size: int = 1000) -> dict[str, Any]:
    return {"step": int(value), "task": {"w": torch.full((size,), float(value))}}


def value_of(path: Path) -> float:
    return float(load_checkpoint(path)["task"]["w"][-1])


def test_plain_values_come_back(tmp_path: Path) -> None:
    content = {
        "tensors": OrderedDict(a=torch.arange(3), b=torch.eye(2, dtype=torch.bfloat16)),
        "plain": [1, 2.5, True, None, "text", (1, (2,)), {3: "three"}],
        "numpy": np.float64(0.5),
        "path": tmp_path,
    }
    save_checkpoint(tmp_path / "c.pt", content)
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert loaded["plain"] == content["plain"]
    assert (loaded["numpy"], loaded["path"]) == (0.5, str(tmp_path))
    assert torch.equal(loaded["tensors"]["a"], torch.arange(3))
    assert loaded["tensors"]["b"].dtype == torch.bfloat16


@pytest.mark.parametrize("value", [object(), {1, 2}, lambda: None, np.zeros(2)])
def test_anything_else_is_refused_when_it_is_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match="plain values"):
        save_checkpoint(tmp_path / "c.pt", {"x": [value]})
    assert list(tmp_path.iterdir()) == []


def test_last_previous_and_best(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "checkpoints")
    kept.save(state(1), best=True)
    kept.save(state(2))
    kept.save(state(3))
    assert (value_of(kept.last), value_of(kept.previous), value_of(kept.best)) == (3, 2, 1)
    kept.save(state(4), best=True)
    assert (value_of(kept.last), value_of(kept.previous), value_of(kept.best)) == (4, 3, 4)
    assert sorted(p.name for p in kept.folder.iterdir()) == ["best.pt", "last.pt", "previous.pt"]


def test_file_systems_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    kept = Checkpoints(tmp_path)
    kept.save(state(1), best=True)
    kept.save(state(2))
    assert (value_of(kept.last), value_of(kept.previous), value_of(kept.best)) == (2, 1, 1)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_damage_is_named_and_the_previous_one_offered(tmp_path: Path, damage: str) -> None:
    kept = Checkpoints(tmp_path)
    kept.save(state(1))
    kept.save(state(2))
    data = bytearray(kept.last.read_bytes())
    middle = data.index(np.float32(2).tobytes() * 4) + 8
    if damage == "flipped":
        data[middle] ^= 1
    broken = {
        "truncated": data[: len(data) // 2],
        "flipped": data,
        "empty": bytearray(),
        "text": bytearray(b"no checkpoint"),
    }[damage]
    kept.last.unlink()
    kept.last.write_bytes(broken)

    again = Checkpoints(tmp_path)
    with pytest.raises(UserError) as caught:
        again.load()
    assert str(kept.last) in str(caught.value)
    assert f"--resume {kept.previous}" in str(caught.value)

    again.load(again.previous)
    again.save(state(3))
    assert (value_of(again.last), value_of(again.previous)) == (3, 1), "the damaged file must not replace the good one"


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "last.pt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match="foreign"):
        load_checkpoint(tmp_path / "foreign.pt")


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (os.system, (f"touch {tmp_path}/ran",))

    torch.save({"format": 1, "x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="holds Python objects beside its tensors and is not loaded"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


# Writers that are killed are forked from a server without threads: in a fork of this process, whose OpenMP threads may
# be running, torch could wait for ever.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["wasskit.training.checkpoint"])


def write_on(folder: Path, first: int, saves: Connection, kill_at: int | None) -> None:
    """Save one checkpoint after another, sending how long each took; or two, killed at an access to the file system.

    Args:
        kill_at: the access (an open, link, rename, removal ..., counted from 0 after loading) at which to be killed.
    """
    torch.set_num_threads(1)
    writer = Checkpoints(folder)
    writer.load()
    accesses = itertools.count()

    def killer(event: str, _: object) -> None:
        if event in ("open", "os.link", "os.rename", "os.remove", "os.mkdir") and next(accesses) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    if kill_at is not None:
        sys.addaudithook(killer)
    for number in range(first, first + 2) if kill_at is not None else itertools.count(first):
        began = time.perf_counter()
        writer.save(state(number, 300_000), best=number % 2 == 0)
        saves.send(time.perf_counter() - began)


def writer_of(folder: Path, first: int, kill_at: int | None = None) -> tuple[ForkServerProcess, Connection]:
    ours, theirs = _SERVER.Pipe()
    process = _SERVER.Process(target=write_on, args=(folder, first, theirs, kill_at), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def check_after_kill(kept: Checkpoints, reached: int) -> int:
    """All three files are whole and belong together; the number of the last save."""
    last = int(value_of(kept.last))
    assert last >= reached
    assert value_of(kept.previous if kept.previous.exists() else kept.last) in (last, last - 1)
    assert value_of(kept.best) >= last - last % 2, "last.pt knows of a best.pt that was never written"
    return last


@pytest.mark.slow
def test_kill_at_any_moment_leaves_a_loadable_checkpoint(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    kept.save(state(0), best=True)
    chance = random.Random(0)
    reached = 0
    for _ in range(8):
        process, saves = writer_of(tmp_path, reached + 1)
        for _ in range(chance.randint(1, 3)):
            assert saves.poll(60), "the writer saves nothing"
            took = saves.recv()
            reached += 1
        time.sleep(took * chance.random())  # somewhere within the next save
        process.kill()
        process.join()
        reached = check_after_kill(kept, reached)
    Checkpoints(tmp_path).save(state(reached + 1))
    assert not list(tmp_path.glob(".*")), "leftovers of killed writers are swept up"


@pytest.mark.slow
def test_kill_at_every_access_to_the_file_system(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    kept.save(state(0), best=True)
    reached = 0
    for access in itertools.count():
        process, saves = writer_of(tmp_path, reached + 1, access)
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        while saves.poll():
            try:
                saves.recv()
            except EOFError:
                break
            reached += 1
        reached = check_after_kill(kept, reached)
        if process.exitcode == 0:
            break
    assert access >= 12, "two saves open, link and rename at least so often"


def test_failing_write_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Checkpoints(tmp_path)
    kept.save(state(1))

    def full(content: object, file: Any) -> None:
        file.write(b"x" * 100)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"last\.pt: No space left.*--resume") as caught:
        kept.save(state(2))
    monkeypatch.undo()
    assert caught.value.exit_code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    assert value_of(kept.last) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_full_disk(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        kept = Checkpoints(tmp_path)
        kept.save(state(1, 100_000), best=True)
        with pytest.raises(UserError, match=r"last\.pt: No space left"):
            kept.save(state(2, 400_000))
        assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pt", "last.pt"]
        assert (value_of(kept.last), value_of(kept.best)) == (1, 1)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def draws() -> list[float]:
    numbers = np.random.standard_normal(1)  # noqa: NPY002
    return [random.gauss(0, 1), random.random(), float(numbers[0]), float(torch.randn(())), float(torch.rand(()))]


def test_random_numbers_come_back() -> None:
    seed_all(5)
    draws()  # leaves a spare normal number in Python's and numpy's generators
    before = rng_state(CPU)
    sizes = {name: value.shape for name, value in before.items()}
    expected = draws()
    assert {name: value.shape for name, value in rng_state(CPU).items()} == sizes
    set_rng_state(before, CPU)
    assert draws() == expected


def test_random_numbers_come_back_from_a_row_of_many_ranks() -> None:
    seed_all(6)
    others = rng_state(CPU)
    seed_all(5)
    own = rng_state(CPU)
    expected = draws()
    set_rng_state({name: torch.stack([others[name], own[name]])[1] for name in own}, CPU)
    assert draws() == expected


def test_preserved_random_numbers() -> None:
    seed_all(5)
    expected = draws()
    seed_all(5)
    with preserved_rng(CPU, 1):
        inside = draws()
    assert draws() == expected
    with preserved_rng(CPU, 1):
        assert draws() == inside


def test_the_generator_of_metal_is_preserved_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [torch.tensor([1, 2], dtype=torch.uint8)]
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: now[0].clone())
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: now.__setitem__(0, state))
    with preserved_rng(torch.device("mps"), 1):
        now[0] = torch.tensor([0, 0], dtype=torch.uint8)  # which torch.manual_seed does
    assert now[0].tolist() == [1, 2]


def test_same_config_passes() -> None:
    saved = {"lr": 0.1, "dims": [8, 16], "data": {"root": "a", "name": "digits"}}
    check_same_config(saved, {"lr": 0.1, "dims": (8, 16), "data": {"root": "b", "name": "digits"}}, {"data.root"})


def test_other_config_is_refused_by_key() -> None:
    saved = {"lr": 0.1, "data": {"name": "digits"}, "old": 1}
    with pytest.raises(UserError) as caught:
        check_same_config(saved, {"lr": 0.2, "data": {"name": "cifar10"}, "new": 2}, where="the checkpoint X")
    for part in ("the checkpoint X", "lr (0.1 there, 0.2 now)", "data.name", "old", "new ('not set' there, 2 now)"):
        assert part in str(caught.value)


def test_a_refused_config_is_one_short_line_whatever_it_holds() -> None:
    saved = {"name": "\x1b[31m" + "x" * 10**6, "k" * 5000: 1, **{f"key{i}": i for i in range(100)}}
    with pytest.raises(UserError) as caught:
        check_same_config(saved, {"name": "digits"})
    sentence = str(caught.value)
    assert sentence.isprintable()
    assert len(sentence) < 12 * 300
    assert "'digits' now" in sentence
    assert "and 90 more" in sentence


def test_checks_cover_every_stored_byte(tmp_path: Path) -> None:
    """Flipping any one byte of the tensors' data is noticed."""
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"w": torch.arange(64, dtype=torch.int64)})
    data = path.read_bytes()
    start = data.index(torch.arange(64).numpy().tobytes())
    for offset in range(start, start + 512, 37):
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1 :])
        with pytest.raises(UserError, match="damaged"):
            checkpoint.load_checkpoint(path)
