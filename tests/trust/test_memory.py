"""Memory that grows with N, not with N x N; a long training that needs no more of it, nor of files, at its end.

With ``--trials 10`` or more each measure runs on 60,000 float32 embeddings of 2,048 dimensions (480 MB) below 4 GiB.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.trust

ROOT = Path(__file__).parents[2]
GIB = 1 << 30
MEASURES = {
    "w2_uniformity": "w2_uniformity(x)",
    "gaussian_uniformity": "gaussian_uniformity(x)",
    "alignment": "alignment(x, x.flip(0))",
    "singular_spectrum": "singular_spectrum(x)",
    "effective_rank": "uniformity.effective_rank(x)",
    "rankme": "rankme(x)",
    "alpha_req": "alpha_req(x)",
    "lidar": "lidar(x.view(n // 2, 2, m))",
    "sigreg_statistic": "sigreg_statistic(x)",
    "sliced_uniformity": "sliced_uniformity(x)",
    "recall_at_k": "recall_at_k(x, y, k=(1, 10))",
    "map_at_r": "map_at_r(x, y)",
    "retrieval_metrics": "retrieval.retrieval_metrics(x, y, recall=(), map_k=(10,), map_r=False)",
    "query_metrics": "query_metrics(x, y, wanted=per_query.Wanted(average=(10,), ndcg=(10,)))",
    "query_metrics, whole rankings": "query_metrics(x[: n // 4], y[: n // 4], wanted=per_query.Wanted(full=True))",
    "nearest": "retrieval.nearest(x, 10)",
    "knn_accuracy": "knn_accuracy(x[: n // 2], y[: n // 2], x[n // 2 :], y[n // 2 :])",
    "topk_accuracy": "topk_accuracy(x, y, 5)",
    "class_map_at_k": "class_map_at_k(x, y)",
    "compression_rows": "compression_rows({'x': x}, (8, m), reference=x, labels=y, codes=('float32',))",
    "frechet_distance": "transport.gaussian_distance(x[: n // 2], x[n // 2 :])",
}
_PROGRAM = """
import sys
from tests.trust.memory import peak_memory
import numpy as np, torch
from wasskit.evaluation import *
from wasskit.evaluation import per_query, retrieval, transport, uniformity
n, m = int(sys.argv[1]), int(sys.argv[2])
torch.manual_seed(0)
x, y = torch.randn(n, m), torch.randint(100, (n,))
{measure}
print(peak_memory())
"""


def run_child(command: list[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_public_measure_of_embeddings_is_weighed() -> None:
    from wasskit import evaluation

    # l2_uvp compares two maps point by point.
    assert set(evaluation.__all__) - {"l2_uvp"} <= set(MEASURES)


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_needs_no_matrix_of_pairs(name: str, complete: bool) -> None:
    if not complete and name not in ("gaussian_uniformity", "recall_at_k"):
        pytest.skip("the sample weighs two measures; --trials 10 all of them")
    # The sample: a matrix of all pairs would take 1.9 GiB alone, torch and the tiles of a search 0.9 GiB.
    n, m, limit = (60_000, 2048, 4 * GIB) if complete else (22_500, 32, 1.5 * GIB)
    program = _PROGRAM.format(measure=MEASURES[name])
    assert int(run_child([sys.executable, "-c", program, str(n), str(m)])) < limit


_MEASURE_COMMAND = """
import sys
from tests.trust.memory import peak_memory
from wasskit.cli import run
code = run(sys.argv[1:])
sys.stderr.write(f"\\n{peak_memory()}")
sys.exit(code or 0)
"""


@pytest.mark.slow
def test_study_measure_of_a_large_file(tmp_path: Path, complete: bool) -> None:
    """The command's own measures and figures, from a file of the full size; the sample has an eighth of its width."""
    import numpy as np

    n, m = 60_000 if complete else 10_000, 2048 if complete else 64
    path = tmp_path / "embeddings.npy"
    data = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, m))
    generator = np.random.default_rng(0)
    for start in range(0, n, 5000):
        data[start : start + 5000] = generator.standard_normal((min(5000, n - start), m), dtype=np.float32)
    data.flush()
    del data
    words = ["study", "measure", str(path), "--run-dir", str(tmp_path / "run"), "--json", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", "NO_COLOR": "1"}
    command = [sys.executable, "-c", _MEASURE_COMMAND, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    json.loads(done.stdout)
    # torch and matplotlib take 0.6 GiB; a matrix of the sample's pairs would be 0.4 GiB in float32.
    assert int(done.stderr.split()[-1]) < (4 * GIB if complete else 1.1 * GIB)


COMMANDS = {
    "mrl retrieve": ["mrl retrieve q.npy --labels q_labels.npy --gallery x.npy --gallery-labels x_labels.npy"],
    "mrl classify": [
        "mrl classify q.npy --labels q_labels.npy --train x.npy --train-labels x_labels.npy --dims 64 --ridge 1"
    ],
    "mrl search": ["mrl index create x.npy", "mrl search x.index q.npy"],
    "mrl adapt, labels": [
        "mrl adapt x.npy --labels x_labels.npy --epochs 1 --dims 16,64 --blend 1 --no-baselines --codes float32"
    ],
    "mrl adapt, neighbours": ["mrl adapt x.npy --epochs 1 --dims 16,64 --no-baselines --codes float32"],
    "study compare": ["study compare x.npy q.npy --permutations 19"],
    "w2gn fit": ["w2gn fit x.npy q.npy --steps 5 --hidden 16"],
}
"""Commands on files, one after another in a process; `study predict` measures as `study measure` does."""


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_commands_on_large_files(tmp_path: Path, complete: bool, name: str) -> None:
    """60,000 x 2,048 float32 in ``x.npy``, and an eighth as many rows in ``q.npy``; the sample is 16,000 x 64."""
    import numpy as np

    n, m = (60_000, 2048) if complete else (16_000, 64)
    generator = np.random.default_rng(0)
    for file, rows in (("x", n), ("q", n // 8)):
        data = np.lib.format.open_memmap(tmp_path / f"{file}.npy", mode="w+", dtype=np.float32, shape=(rows, m))
        for start in range(0, rows, 5000):
            data[start : start + 5000] = generator.standard_normal((min(5000, rows - start), m), dtype=np.float32)
        data.flush()
        np.save(tmp_path / f"{file}_labels.npy", generator.integers(0, 100, rows))
    del data
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", "NO_COLOR": "1"}
    for line in COMMANDS[name]:
        command = [sys.executable, "-c", _MEASURE_COMMAND, *line.split(), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        json.loads(done.stdout)
        # A matrix of the sample's pairs would be 1 GiB in float32; torch, scikit-learn and matplotlib take 0.7 GiB.
        assert int(done.stderr.split()[-1]) < (4 * GIB if complete else 1.3 * GIB)


_STREAM = """
import sys
from pathlib import Path
from tests.trust.memory import peak_memory
from wasskit.data.embeddings import open_embeddings
found = open_embeddings(Path(sys.argv[1]))
rows = sum(len(part) for part in found.chunks())
assert rows == len(found) == int(sys.argv[2]), rows
print(peak_memory())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's /proc")
def test_a_large_file_is_streamed(tmp_path: Path, complete: bool) -> None:
    """10 million x 768 in float16 (14 GiB, sparse on disk) through 1.25 GiB: torch takes 0.4 GiB, a chunk in both types
    and its check a quarter, the allocator's holes as much. The sample is a tenth of it, and still more than the limit.
    """
    import numpy as np

    rows = 10_000_000 if complete else 1_000_000
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (rows, 768)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 2 * 768 * rows)
    assert int(run_child([sys.executable, "-c", _STREAM, str(path), str(rows)])) < 1.25 * GIB < path.stat().st_size


_SOAK = """
import json, os, sys
from pathlib import Path
from wasskit.cli import run
from wasskit.training.loop import Loop

seen, plain = [], Loop._update
PAGE = os.sysconf("SC_PAGE_SIZE")

def update(self, batches):
    plain(self, batches)
    if self.state.step % (self.plan.total_steps // 50) == 0:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
        seen.append((self.state.step, resident, len(os.listdir("/proc/self/fd"))))

Loop._update = update
code = run(sys.argv[1:])
print(json.dumps(seen))
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    "words",
    [
        ("w2gn", "toy", "--hidden", "16,8", "--batch-size", "16", "--test-size", "100", "--refine", "none"),
        ("ssl", "moco", "--projector", "16,8", "--batch-size", "64", "--w2"),
    ],
    ids=["w2gn", "ssl"],
)
def test_memory_and_handles_stay_flat(words: tuple[str, ...], tmp_path: Path, complete: bool) -> None:
    """The allowance is one for the allocator's holes: 16 MB between the second fifth and the last, which a leak of
    one small tensor's 4 KB per step over 5,000 steps would exceed.
    """
    if not complete and words[0] == "ssl":
        pytest.skip("the sample soaks one command")
    steps = 5000 if complete else 500
    length = ("--steps", str(steps)) if words[0] == "w2gn" else ("--epochs", str(-(-steps // 22)))
    rare = ("--eval-every", str(steps if words[0] == "w2gn" else -(-steps // 22)), "--quiet", "--device", "cpu")
    command = [sys.executable, "-c", _SOAK, *words, *length, *rare, "--run-dir", str(tmp_path / "run")]
    said = run_child(command).splitlines()[-1]
    seen = [(step, resident, handles) for step, resident, handles in json.loads(said)]
    middle, last = seen[len(seen) // 5 : len(seen) * 2 // 5], seen[-len(seen) // 5 :]
    growth = min(resident for _, resident, _ in last) - max(resident for _, resident, _ in middle)
    assert growth < 16 << 20, seen
    assert max(handles for *_, handles in last) <= max(handles for *_, handles in middle), seen
