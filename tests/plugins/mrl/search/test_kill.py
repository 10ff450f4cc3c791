"""A kill at any moment of a change leaves the index as it was or as it was to be, and nothing in others' way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.plugins.mrl.search.kill_child import BEFORE, CHANGES, vectors
from wasskit.errors import UserError
from wasskit.plugins.mrl.search.index import PrefixIndex
from wasskit.plugins.mrl.search.storage import is_index

ROOT = Path(__file__).parents[4]


def assert_holds(index: PrefixIndex, ids: list[int]) -> None:
    """The index has these ids, and of each its own vector, as the nearest to it."""
    assert sorted(index.ids.tolist()) == ids
    if ids:
        found = index.search(vectors(ids), 1, shortlist=len(ids))
        assert found.ids[:, 0].tolist() == ids
        np.testing.assert_allclose(found.similarities, 1, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs forks and kills")
def test_killed_before_every_step_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    command = [sys.executable, "-m", "tests.plugins.mrl.search.kill_child", str(tmp_path)]
    places = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in CHANGES:
        ended = list(tmp_path.glob(f"{name}-*"))
        assert len(ended) > 8, "few steps: is what they are counted by still what the index calls?"
        seen = {_check(path, name) for path in ended}
        assert seen == {False, True}, f"{name}: some kills come before the change is made, and some after"


def _check(path: Path, name: str) -> bool:
    """Whether the change was made; that the index is sound either way, and can be changed."""
    after = CHANGES[name][1]
    if not is_index(path):
        assert name == "create"
        with pytest.raises(UserError, match="There is no index at"):
            PrefixIndex(path)
        made = PrefixIndex.create(path, vectors(after), dim=4)
        assert_holds(made, after)
        _assert_clean(made)
        return False
    index = PrefixIndex(path)
    assert_holds(index, after if len(index) == len(after) else [*BEFORE])
    changed = len(index) == len(after) and (name != "compact" or len(index.description.segments) == 1)
    ids = sorted(index.ids.tolist())
    index.add(vectors([1000]), [1000])
    assert_holds(index, [*ids, 1000])
    _assert_clean(index)
    return changed


def _assert_clean(index: PrefixIndex) -> None:
    """What the killed writer left is gone."""
    offsets = {f"{segment.name}-offsets.npy" for segment in index.description.segments}
    left = {path.name for path in index.path.iterdir()} - {"index.json", ".lock"}
    assert left == index.description.files() - offsets
