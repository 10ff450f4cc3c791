"""A search by short prefixes in an index on disk against faiss on the whole vectors: time, memory, recall.

The vectors are synthetic: 4 clusters per thousand rows, in a space whose variances fall as j to the power of
-1.5 (``--decay``), each row at its cluster's centre plus a deviation of its own that is as large as the centres are
apart; all turned by one random rotation, so that no coordinate is better than another. A tenth of the length of every
vector is a mean that all share. Real spectra fall as fast: those of the covariances of the unit rows of Banking77
(Universal Sentence Encoder, 512 numbers) and CUB (EfficientNet-Lite0, 1,280 numbers) with the powers -1.52 and -1.47
(least squares of the logarithms from rank 10 to 60 % of the width). Queries are drawn as the rows are. Similarity is
the cosine; the truth is the exact search of the index, in float32.

``memory`` is what must lie in the memory for the search: codes, or the whole index of faiss. Of several settings of
the index the shortlist grows, ``measured`` is the one that was found when the index was made; of HNSW the candidates
(efSearch). All searches are interleaved and repeated, the fastest counts, by the wall clock or, on a machine that
others use too, by the time of the processors (``--cpu-time``). Without faiss, ``flat`` is the exact search of the
index, a product of matrices as well.

    python benchmarks/mrl_search.py [--rows 1000000] [--width 512] [--queries 1000] [--threads 2]
        [--codes int8x64,binaryx128] [--ivf int8x96] [--decay 1] [--no-hnsw] [--cpu-time]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.harness import Case, Work, benchmark
from wasskit import PrefixIndex
from wasskit.plugins.mrl.search.codes import CodeName
from wasskit.plugins.mrl.search.storage import Method

K = 10
CHUNK = 65_536
SHORTLISTS = (50, 100, 150, 200, 400)
EF = (64, 128, 256)


class Sample:
    """Rows of unit length, drawn by their number: the same whatever the size of a part."""

    def __init__(self, rows: int, width: int, decay: float) -> None:
        generator = torch.Generator().manual_seed(0)
        self.scale = torch.arange(1, width + 1).float() ** (-decay / 2)
        self.centres = torch.randn(max(1, rows // 250), width, generator=generator)
        self.turn = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
        self.mean = 0.33 * F.normalize(torch.randn(width, generator=generator), dim=0)

    def draw(self, rows: int, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        of = torch.randint(len(self.centres), (rows,), generator=generator)
        x = self.centres[of] + torch.randn(rows, self.centres.shape[1], generator=generator)
        return F.normalize(F.normalize((x * self.scale) @ self.turn.T, dim=1) + self.mean, dim=1)


@dataclass
class Entry:
    """One way to search: its time to be built, its memory, and what it finds."""

    name: str
    build: float
    bytes: int
    search: Callable[[], NDArray[Any]]
    recall: float = 0.0
    seconds: float = float("inf")


def write(path: Path, sample: Sample, rows: int, width: int) -> None:
    stored = np.lib.format.open_memmap(path, "w+", np.float32, (rows, width))
    for start in range(0, rows, CHUNK):
        stored[start : start + CHUNK] = sample.draw(min(CHUNK, rows - start), 1 + start).numpy()
    stored.flush()


def prefixes(
    folder: Path, path: Path, queries: NDArray[Any], codes: list[str], method: Method, now: Callable[[], float]
) -> Iterator[Entry]:
    for setting in codes:
        code, _, dim = setting.partition("x")
        began = now()
        index = PrefixIndex.create(
            folder / f"{setting}-{method}.index", path, dim=int(dim), code=cast(CodeName, code), method=method
        )
        build, measured = now() - began, index.description.needed(K)
        for size in (None, *SHORTLISTS):

            def search(index: PrefixIndex = index, size: int | None = size) -> NDArray[Any]:
                return index.search(queries, K, shortlist=size).ids

            name = f"{code} x {dim}" + ("" if method == "exhaustive" else f" {method}")
            shortlist = f"measured {measured}" if size is None else f"shortlist {size}"
            yield Entry(f"{name}, {shortlist}", build, index.resident_bytes, search)


def by_faiss(
    path: Path, queries: NDArray[Any], *, hnsw: bool, threads: int, now: Callable[[], float]
) -> Iterator[Entry]:
    import faiss

    faiss.omp_set_num_threads(threads)
    vectors = np.load(path, mmap_mode="r")
    rows, width = vectors.shape
    made: list[tuple[str, Any, int, tuple[int, ...]]] = [("flat", faiss.IndexFlatIP(width), 4 * width * rows, (0,))]
    if hnsw:
        # Links: 32 of a row upwards, 64 in the lowest layer, of 4 bytes each.
        graph = faiss.IndexHNSWFlat(width, 32, faiss.METRIC_INNER_PRODUCT)
        made.append(("HNSW", graph, (4 * width + 4 * 64 + 12) * rows, EF))
    for name, index, size, efforts in made:
        began = now()
        for start in range(0, rows, CHUNK):
            index.add(np.ascontiguousarray(vectors[start : start + CHUNK]))
        build = now() - began
        for effort in efforts:

            def search(index: Any = index, effort: int = effort) -> NDArray[Any]:
                if effort:
                    index.hnsw.efSearch = effort
                found: NDArray[Any] = index.search(queries, K)[1]
                return found

            yield Entry(f"faiss {name}" + (f", efSearch {effort}" if effort else ""), build, size, search)


@benchmark(
    "ten nearest by an index of int8 prefixes",
    plain="the exact search of the index, by products of blocks",
    quick={"rows": 2000, "width": 64, "queries": 20, "dim": 16},
)
def search(
    *, rows: int = 100_000, width: int = 512, queries: int = 500, dim: int = 96, decay: float = 1.5
) -> Iterator[Case]:
    """One setting of the script's table, at a tenth of its rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        sample = Sample(rows, width, decay)
        write(path, sample, rows, width)
        asked = sample.draw(queries, 0).numpy()
        index = PrefixIndex.create(Path(folder) / "int8.index", path, dim=dim, code="int8")

        def short() -> NDArray[Any]:
            return index.search(asked, K).ids

        def exact() -> NDArray[Any]:
            return index.search(asked, K, exact=True).ids

        def flat() -> Work:
            flats = by_faiss(path, asked, hnsw=False, threads=torch.get_num_threads(), now=time.perf_counter)
            return next(flats).search

        def note() -> str:
            pairs = zip(short().tolist(), exact().tolist(), strict=True)
            recall = np.mean([len({*a} & {*b}) for a, b in pairs]) / K
            share = index.resident_bytes / (4 * width * rows)
            return f"recall@10 {recall:.3f} with {share:.3f} of the memory of the vectors"

        yield Case(f"{rows:,} x {width}, {queries:,} queries", short, exact, {"faiss, flat": flat}, note=note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--codes", default="int8x64,int8x96,int8x128,binaryx128", help="with their prefixes")
    parser.add_argument("--ivf", default="", help="codes with their prefixes whose shortlists faiss finds by IVF")
    parser.add_argument("--decay", type=float, default=1.5, help="power with which the variances fall")
    parser.add_argument("--no-hnsw", action="store_true")
    parser.add_argument("--cpu-time", action="store_true", help="time of the processors, instead of the wall clock")
    parser.add_argument("--folder", type=Path, help="for the vectors and indexes; otherwise a temporary one")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    now = time.process_time if args.cpu_time else time.perf_counter
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        path = folder / "vectors.npy"
        sample = Sample(args.rows, args.width, args.decay)
        write(path, sample, args.rows, args.width)
        queries = sample.draw(args.queries, 0).numpy()
        entries = [*prefixes(folder, path, queries, args.codes.split(","), "exhaustive", now)]
        exact = PrefixIndex(folder / f"{args.codes.split(',')[0]}-exhaustive.index")
        whole = 4 * args.width * args.rows
        truth = exact.search(queries, K, exact=True).ids
        try:
            flats = by_faiss(path, queries, hnsw=not args.no_hnsw, threads=args.threads, now=now)
            if args.ivf:
                entries += prefixes(folder, path, queries, args.ivf.split(","), "ivf", now)
            entries = [*flats, *entries]
        except ImportError:
            print("faiss is not installed (wasskit[faiss]): flat is the exact search of the index")
            entries.insert(0, Entry("flat", 0.0, whole, lambda: exact.search(queries, K, exact=True).ids))
        for turn in range(args.rounds):
            for entry in entries:
                if turn and entry.seconds > 60:
                    continue
                began = now()
                found = entry.search()
                entry.seconds = min(entry.seconds, now() - began)
                same = [len({*a} & {*b}) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
                entry.recall = float(np.mean(same)) / K
    flat = entries[0]
    print(f"{args.rows:,} x {args.width}, {args.queries:,} queries, {args.threads} threads; of flat: times and shares")
    print(f"{'':32}{'build s':>9}{'MiB':>9}{'of flat':>9}{'queries/s':>11}{'of flat':>9}{'recall@10':>11}")
    for entry in entries:
        rate = args.queries / entry.seconds
        print(
            f"{entry.name:32}{entry.build:9.1f}{entry.bytes / 2**20:9.1f}{entry.bytes / whole:9.3f}"
            f"{rate:11.0f}{flat.seconds / entry.seconds:9.1f}{entry.recall:11.4f}"
        )


if __name__ == "__main__":
    main()
