"""The index against brute force in float64, and its laws."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import wasskit
from wasskit.errors import UserError
from wasskit.evaluation.retrieval import nearest
from wasskit.plugins.mrl.search import calibration
from wasskit.plugins.mrl.search.codes import CODES
from wasskit.plugins.mrl.search.index import PrefixIndex
from wasskit.plugins.mrl.search.parts import shortlist_codes
from wasskit.plugins.mrl.search.scan import QUERIES
from wasskit.plugins.mrl.search.storage import Change, Store

Array = NDArray[Any]


def clusters(rows: int, width: int = 24, seed: int = 0) -> NDArray[np.float32]:
    """Vectors in clusters, with a falling spectrum, of lengths from 1 to 3."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(12, width))
    x = centres[rng.integers(12, size=rows)] + 0.5 * rng.normal(size=(rows, width))
    x /= np.arange(1, width + 1) ** 0.7
    x *= rng.uniform(1, 3, (rows, 1)) / np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x, np.float32)


def cosines(queries: Array, rows: Array) -> NDArray[np.float64]:
    q, x = queries.astype(np.float64), rows.astype(np.float64)
    found: NDArray[np.float64] = q @ x.T / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(x, axis=1)
    return found


def assert_nearest(found: Any, queries: Array, rows: Array, ids: Array, k: int) -> None:
    """The ids are those of the largest cosines, which are these.

    Of rows whose cosines differ by less than rounding makes of them, either may come first: sums of D products of
    numbers up to 1 in size, and the norms, in float32, are off by less than (D + 4) 2^-24.
    """
    truth = cosines(queries, rows)
    bound = (queries.shape[1] + 4) * 2**-23
    places = {id: place for place, id in enumerate(ids.tolist())}
    chosen = np.array([[places[id] for id in row] for row in found.ids.tolist()])
    assert chosen.shape == (len(queries), k)
    assert all(len(set(row)) == k for row in chosen.tolist())
    own = np.take_along_axis(truth, chosen, 1)
    np.testing.assert_allclose(found.similarities, own, atol=bound)
    np.testing.assert_allclose(own, -np.sort(-truth, axis=1)[:, :k], atol=bound)


def assert_same(a: Any, b: Any) -> None:
    """The same neighbours, with the same cosines to the bit."""
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.similarities, b.similarities)


# --- Against brute force ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["given", "principal"])
def test_the_whole_vector_as_its_own_prefix_gives_the_exact_neighbours(tmp_path: Path, axes: Any) -> None:
    x, q = clusters(700), clusters(300, seed=1)
    index = PrefixIndex.create(tmp_path / "x", x, dim=24, code="float32", axes=axes)
    assert_nearest(index.search(q, 10, shortlist=10), q, x, np.arange(700), 10)
    assert_nearest(index.search(q, 10, exact=True), q, x, np.arange(700), 10)


@pytest.mark.parametrize("code", CODES)
def test_a_coordinate_that_no_row_uses_does_not_drown_the_others(tmp_path: Path, code: Any) -> None:
    """Of a query that does, all rows are as far in this coordinate: the neighbours are those of the others."""
    x, q = clusters(900), clusters(30, seed=1)
    x[:, 5], q[:, 5] = 0, 2
    index = PrefixIndex.create(tmp_path / "x", x, dim=24, axes="given", code=code)
    found, truth = index.search(q, 10, shortlist=100).ids, index.search(q, 10, exact=True).ids
    recall = np.mean([len({*a} & {*b}) / 10 for a, b in zip(found.tolist(), truth.tolist(), strict=True)])
    assert recall > 0.9, "a hundred rows at random hold a ninth"


@pytest.mark.parametrize("code", CODES)
def test_a_shortlist_of_all_rows_gives_the_exact_neighbours(tmp_path: Path, code: Any) -> None:
    x, q = clusters(150), clusters(40, seed=1)
    index = PrefixIndex.create(tmp_path / "x", x, dim=3, code=code)
    assert_nearest(index.search(q, 150, shortlist=1), q, x, np.arange(150), 150)
    assert_nearest(index.search(q, 7, shortlist=150), q, x, np.arange(150), 7)


def test_the_shortlist_is_that_of_the_cosines_of_prefixes(tmp_path: Path) -> None:
    x, q = clusters(900), clusters(30, seed=1)
    index = PrefixIndex.create(tmp_path / "x", x, dim=6, code="float32", axes="given")
    rows = shortlist_codes(index._opened.parts, index._opened.code, torch.from_numpy(q), 50).numpy()
    truth = cosines(q[:, :6], x[:, :6])
    np.testing.assert_allclose(
        np.take_along_axis(truth, rows, 1), -np.sort(-truth, axis=1)[:, :50], atol=10 * 2**-23
    )  # sums of 6 products


def test_bytes_find_nearly_what_numbers_find(tmp_path: Path) -> None:
    """Recall against exact search: bytes lose at most a hundredth of what float32 prefixes find, bits something."""
    x, q = clusters(2000), clusters(100, seed=1)
    recall = {}
    for code in CODES:
        index = PrefixIndex.create(tmp_path / code, x, dim=12, code=code)
        found, truth = index.search(q, 10, shortlist=40).ids, index.search(q, 10, exact=True).ids
        recall[code] = np.mean([len({*a} & {*b}) / 10 for a, b in zip(found.tolist(), truth.tolist(), strict=True)])
    assert recall["float32"] > 0.95
    assert recall["float16"] == pytest.approx(recall["float32"], abs=0.003)
    assert recall["int8"] == pytest.approx(recall["float32"], abs=0.01)
    assert 0.4 < recall["binary"] < recall["int8"]
    assert (recall["float32"] - recall["binary"]) > 0


def test_the_shortlist_is_as_long_as_the_recall_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brute force: of every row, the places of its ten nearest others among all others by the prefix."""
    monkeypatch.setattr(calibration, "SHORTEST", 1)
    x, q = clusters(500), clusters(300, seed=1)
    whole, short = cosines(x, x), cosines(x[:, :6], x[:, :6])
    for of in (whole, short):
        np.fill_diagonal(of, -np.inf)
    nearest = np.argsort(-whole, axis=1)[:, :10]
    places = np.take_along_axis(np.argsort(np.argsort(-short, axis=1), axis=1), nearest, 1)
    share = (places[:, :, None] < np.arange(1, 500)).mean(1)  # (rows, size)
    bound = share.mean(0) - 1.645 * share.std(0, ddof=1) / 500**0.5
    sizes = []
    for recall in (0.8, 0.9, 0.98):
        path = tmp_path / str(recall)
        index = PrefixIndex.create(path, x, dim=6, code="float32", axes="given", recall=recall)
        size = index.description.shortlist
        # Cosines of prefixes that differ by rounding alone may change places.
        assert abs(size - (bound >= recall).argmax() - 1) <= 1
        assert index.description.found == pytest.approx(share.mean(0)[size - 1], abs=1e-3)
        assert_same(index.search(q), index.search(q, shortlist=size))
        sizes.append(size)
    assert sizes[0] < sizes[1] < sizes[2]
    index.add(clusters(250, seed=2))
    assert index.description.needed(10) == math.ceil(1.5 * sizes[2])
    assert index.description.needed(30) == math.ceil(4.5 * sizes[2])
    index.compact()
    assert index.description.needed(10) == index.description.shortlist
    # Rows of one class, and none but themselves: the list of all rows is as good as it gets.
    alone = PrefixIndex.create(tmp_path / "alone", x[:2], recall=0.98)
    assert alone.search(x[:2], 2).ids.tolist() == [[0, 1], [1, 0]]
    coarse = PrefixIndex.create(tmp_path / "coarse", clusters(3000), dim=1, code="binary").description
    assert (coarse.shortlist, coarse.recall) == (2048, 0.98)
    assert coarse.found < 0.98
    unmeasured = PrefixIndex.create(tmp_path / "unmeasured", x, recall=0).description
    assert (unmeasured.shortlist, unmeasured.needed(300)) == (200, 300)


def test_exact_search_finds_what_a_flat_index_of_faiss_finds(tmp_path: Path) -> None:
    """Cosines as inner products of rows of unit length; distances likewise, in `nearest`. Nothing ties."""
    faiss = pytest.importorskip("faiss")
    x, q = clusters(700), clusters(40, seed=1)
    units, asked = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, q))
    flat = faiss.IndexFlatIP(x.shape[1])
    flat.add(units)
    similarities, ids = flat.search(asked, 10)
    found = PrefixIndex.create(tmp_path / "x", x, dim=6).search(q, 10, exact=True)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.similarities, similarities, atol=(x.shape[1] + 4) * 2**-23)
    flat = faiss.IndexFlatL2(x.shape[1])
    flat.add(x)
    squares, ids = flat.search(q, 10)
    closeness, items = nearest(torch.from_numpy(q), 10, gallery=torch.from_numpy(x), metric="euclidean")
    np.testing.assert_array_equal(items.numpy(), ids)
    np.testing.assert_allclose(closeness.numpy() ** 2, squares, rtol=1e-5, atol=(x.shape[1] + 4) * 9 * 2**-22)


@pytest.mark.parametrize("method", ["hnsw", "ivf"])
def test_faiss_finds_the_shortlist(tmp_path: Path, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr("wasskit.plugins.mrl.search.building.LEAST", 500)
    x, q = clusters(3000), clusters(50, seed=1)
    index = PrefixIndex.create(tmp_path / "x", x, dim=16, method=method)
    assert index.description.segments[0].graph is not None
    assert index.description.found >= 0.98
    truth = index.search(q, 10, exact=True)
    found = index.search(q, 10, shortlist=200, probes=100)
    same = np.mean([len({*a} & {*b}) / 10 for a, b in zip(found.ids.tolist(), truth.ids.tolist(), strict=True)])
    assert same > 0.97
    index.add(clusters(200, seed=2))  # fewer rows than a graph is made of
    gone = np.unique(truth.ids[:, :2])
    index.delete(gone)
    again = PrefixIndex(tmp_path / "x").search(q, 10, shortlist=200, probes=100)
    assert not np.isin(again.ids, gone).any()
    assert (again.ids >= 3000).any()
    graph = tmp_path / "x" / str(index.description.segments[0].graph)
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="faiss: it is not as it was written; make the index again"):
        PrefixIndex(tmp_path / "x")


# --- Laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("texts", [False, True])
def test_added_and_deleted_rows_are_those_of_an_index_made_afresh(tmp_path: Path, code: Any, texts: bool) -> None:
    x, q = clusters(300), clusters(20, seed=1)
    names: Any = np.array([f"näme {i * 7 % 300}" for i in range(300)]) if texts else np.arange(300) * 7 % 300
    index = PrefixIndex.create(tmp_path / "x", x[:200], ids=names[:200], dim=8, code=code)
    index.add(x[200:280], names[200:280])
    index.delete(names[50:250])
    index.add(x[280:], names[280:])
    index.add(x[100:101], names[100:101])
    kept = np.r_[0:50, 250:300, 100]
    fresh = PrefixIndex.create(tmp_path / "y", x[kept], ids=names[kept], dim=8, code=code)
    assert len(index) == len(fresh) == 101
    np.testing.assert_array_equal(index.ids, fresh.ids)
    np.testing.assert_array_equal(index.ids, names[kept])
    whole = fresh.search(q, 101)
    assert_nearest(whole, q, x[kept], names[kept], 101)
    assert_same(index.search(q, 101), whole)
    assert_same(PrefixIndex(tmp_path / "x").search(q, 101), whole)
    index.compact()
    assert len(index.description.segments) == 1
    # Now with the same code: also through a short list.
    assert_same(index.search(q, 5, shortlist=9), fresh.search(q, 5, shortlist=9))
    assert {path.name for path in (tmp_path / "x").iterdir()} == index.description.files() - (
        set() if texts else {f"{index.description.segments[0].name}-offsets.npy"}
    ) | {"index.json", ".lock"}


@pytest.mark.parametrize("code", ["int8", "binary"])
@pytest.mark.parametrize("texts", [False, True])
def test_equal_rows_stand_in_the_order_of_their_ids(tmp_path: Path, code: Any, texts: bool) -> None:
    """Also where the shortlist ends among them, wherever they lie, and by text as text."""
    x = clusters(60)
    repeated = np.concatenate([x[:5], np.repeat(x[7:8], 50, 0), x[5:30], np.repeat(x[7:8], 9, 0)])
    ids: Any = np.arange(len(repeated))
    index = PrefixIndex.create(tmp_path / "x", repeated, ids=ids.astype(str) if texts else ids, dim=6, code=code)
    expected = [*range(5, 55), 57, *range(80, 89)]
    expected = sorted(map(str, expected)) if texts else expected
    found = index.search(x[7:8], 40, shortlist=60)
    assert found.ids[0].tolist() == expected[:40]
    assert len(set(found.similarities[0].tolist())) == 1
    if not texts:
        assert index.search(x[7:8], 8, shortlist=10).ids[0].tolist() == expected[:8]
    turned = PrefixIndex.create(tmp_path / "y", repeated, ids=-ids, dim=6, code=code)
    assert turned.search(x[7:8], 60, shortlist=89).ids[0].tolist() == [*range(-88, -79), -57, *range(-54, -4)]


def test_a_query_s_length_and_company_change_nothing(tmp_path: Path) -> None:
    x, q = clusters(500), clusters(300, seed=1)
    index = PrefixIndex.create(tmp_path / "x", x, dim=8)
    together = index.search(q, 5, shortlist=20)
    alone = index.search(q[290:291] * 4, 5, shortlist=20)  # a power of two: to the bit
    assert_same(alone, type(together)(together.ids[290:291], together.similarities[290:291]))
    assert_same(index.search(torch.from_numpy(q).double(), 5, shortlist=20), together)


@pytest.mark.slow
def test_work_in_small_portions_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, q = clusters(3000), clusters(30, seed=1)
    index = PrefixIndex.create(tmp_path / "x", x, dim=8)
    at_once = index.search(q, 20, shortlist=50)
    monkeypatch.setattr("wasskit.plugins.mrl.search.parts._RANKED", 7 * 24)
    monkeypatch.setattr("wasskit.plugins.mrl.search.scan._KEPT", 4 * 50)
    monkeypatch.setattr("wasskit.plugins.mrl.search.scan._TILE", 4 * 200)
    assert_same(index.search(q, 20, shortlist=50), at_once)
    assert_same(index.search(q, 20, exact=True), PrefixIndex(tmp_path / "x").search(q, 20, shortlist=3000))


def test_more_neighbours_than_rows_and_none(tmp_path: Path) -> None:
    x, q = clusters(6), clusters(3, seed=1)
    index = PrefixIndex.create(tmp_path / "x", x, dim=4)
    assert_nearest(index.search(q, 100), q, x, np.arange(6), 6)
    assert index.delete([1, 3, 3]) == 2
    assert index.search(q, 100).ids.shape == (3, 4)
    assert index.delete([0, 2, 4, 5]) == 4
    assert len(index) == len(index.ids) == index.search(q).ids.size == 0
    assert index.search(q).ids.shape == (3, 0)
    index.compact()
    assert index.add(x[:2]).tolist() == [6, 7], "no id is used twice"
    found = PrefixIndex(tmp_path / "x").search(x[1:2], 1)
    assert (found.ids[0, 0], found.similarities[0, 0]) == (7, pytest.approx(1, abs=1e-6))
    assert index.search(q[:0]).ids.shape == (0, 2)


def test_zeros_are_as_far_from_everything(tmp_path: Path) -> None:
    x = clusters(20)
    x[4] = 0
    index = PrefixIndex.create(tmp_path / "x", x, dim=5)
    assert (index.search(np.zeros((1, 24)), 20).similarities == 0).all()
    found = index.search(x[:1], 20)
    assert found.similarities[0, found.ids[0] == 4] == 0


def test_numbers_are_stored_as_they_came(tmp_path: Path) -> None:
    x, q = clusters(50), clusters(9, seed=1)
    for dtype, stored in (("f2", "f2"), ("f4", "f4"), ("f8", "f4"), ("i4", "f4")):
        given = (10 * x).astype(dtype)
        path = tmp_path / f"{dtype}.npy"
        np.save(path, given)
        index = PrefixIndex.create(tmp_path / dtype, path, dim=24, code="float32")
        kept = np.load(tmp_path / dtype / f"{index.description.segments[0].name}-vectors.npy")
        assert kept.dtype == stored
        np.testing.assert_array_equal(kept, given.astype(stored))
        assert_nearest(index.search(q, 5), q, given.astype(stored), np.arange(50), 5)
    index = PrefixIndex(tmp_path / "f2")
    index.add(x)
    assert_nearest(index.search(q, 5, shortlist=50), q, np.r_[(10 * x).astype("f2"), x], np.arange(100), 5)


@pytest.mark.slow
def test_codes_are_learned_anew_when_the_index_has_grown(tmp_path: Path) -> None:
    x, q = clusters(900), clusters(50, seed=1)
    index = PrefixIndex.create(tmp_path / "x", x[:2], dim=8)
    for start in range(2, 900, 50):
        index.add(x[start : start + 50])
    assert index.description.learned_from > 200
    assert len(index.description.segments) < 18
    truth = index.search(q, 10, exact=True)
    assert_nearest(truth, q, x, np.arange(900), 10)
    fresh = PrefixIndex.create(tmp_path / "y", x, dim=8)
    shares = [np.mean([np.isin(a, b).mean() for a, b in zip(i.search(q).ids, truth.ids, strict=True)])
              for i in (index, fresh)]  # fmt: skip
    assert shares[0] > shares[1] - 0.02


def test_what_is_in_memory_is_told(tmp_path: Path) -> None:
    x = clusters(1000)
    for code, size in (("float32", 32), ("float16", 16), ("int8", 8), ("binary", 1)):
        index = PrefixIndex.create(tmp_path / code, x, dim=8, code=code)  # type: ignore[arg-type]
        assert index.resident_bytes == 1000 * size
        assert index.stored_bytes > 1000 * (size + 4 * 24 + 8)


# --- Changes by several processes -------------------------------------------------------------------------------------


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    x = clusters(20)
    index = PrefixIndex.create(tmp_path / "x", x)
    held = (
        "import sys; from pathlib import Path; from wasskit.system.locks import held\n"
        "with held(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", held, str(tmp_path / "x" / ".lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "held\n"
        for change in (lambda: index.add(x), lambda: index.delete([0]), index.compact):
            with pytest.raises(UserError, match=rf"Another process \(process {other.pid} .* is changing the index"):
                change()
        assert len(index.search(x, 20).ids) == 20, "reading needs no lock"
        other.stdin.close()
    assert index.delete([0]) == 1


def test_two_threads_do_not_meet(tmp_path: Path) -> None:
    """A lock is its process's: the files of one thread's change would be leftovers to the other."""
    x = clusters(20)
    index = PrefixIndex.create(tmp_path / "x", x)
    with index._store.changing(), ThreadPoolExecutor(1) as pool:
        change = pool.submit(PrefixIndex(tmp_path / "x").add, x)
        with pytest.raises(UserError, match=r"this one, in another thread.* is changing the index"):
            change.result()
    assert len(index.add(x)) == 20


def test_a_search_goes_on_with_what_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another thread adds so many rows between two of its blocks that the code is learned anew."""
    x, q, codes = clusters(60), clusters(QUERIES + 10, seed=1), []
    index = PrefixIndex.create(tmp_path / "x", x, dim=6)
    expected = index.search(q, 10, shortlist=20)

    def shortlist(parts: Any, code: Any, *given: Any, **options: Any) -> Any:
        codes.append(code)
        if len(codes) == 1:
            index.add(clusters(300, seed=2))
        return shortlist_codes(parts, code, *given, **options)

    monkeypatch.setattr("wasskit.plugins.mrl.search.index.shortlist_codes", shortlist)
    assert_same(index.search(q, 10, shortlist=20), expected)
    assert len(codes) == 2
    assert index._opened.code is not codes[1]


def test_who_comes_too_late_leaves_the_lock_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that make an index in one new folder the second must not clean up under the first."""
    changing, folder = Store.changing, tmp_path / "x"
    with contextlib.ExitStack() as first, monkeypatch.context() as patch:

        def late(store: Store) -> Any:
            patch.setattr(Store, "changing", changing)
            first.enter_context(changing(Store(folder)))
            return changing(store)

        patch.setattr(Store, "changing", late)
        with pytest.raises(UserError, match="is changing the index"):
            PrefixIndex.create(folder, clusters(20))
        assert (folder / ".lock").exists()


def test_an_open_index_goes_on_with_what_others_have_made(tmp_path: Path) -> None:
    x = clusters(40)
    one = PrefixIndex.create(tmp_path / "x", x[:10])
    other = PrefixIndex(tmp_path / "x")
    other.add(x[10:20])
    other.compact()
    assert one.search(x, 10).ids.max() == 9, "what it has opened is still there"
    assert one.add(x[20:30]).tolist() == list(range(20, 30))
    assert len(one) == 30
    assert_nearest(one.search(x, 30), x, x[:30], np.arange(30), 30)


def test_a_change_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = clusters(40)
    index = PrefixIndex.create(tmp_path / "x", x[:10])
    before = {path.name for path in (tmp_path / "x").iterdir()}
    bad = x[10:].copy()
    bad[25, 3] = np.nan
    for change in (lambda: index.add(bad), lambda: PrefixIndex.create(tmp_path / "new", bad)):
        with pytest.raises(UserError, match=r"the array of vectors has 1 rows with values that are not finite.*row 25"):
            change()
    monkeypatch.setattr(Change, "commit", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        index.add(x[10:])
    assert {path.name for path in (tmp_path / "x").iterdir()} == before
    assert not (tmp_path / "new").exists()
    assert len(PrefixIndex(tmp_path / "x")) == 10


# --- Wrong requests ---------------------------------------------------------------------------------------------------


def test_wrong_requests_are_one_sentence(tmp_path: Path) -> None:
    x = clusters(10)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    index = PrefixIndex.create(tmp_path / "x", x)
    named = PrefixIndex.create(tmp_path / "named", x[:2], ids=["a", "b"])
    last = PrefixIndex.create(tmp_path / "last", x[:1], ids=[2**63 - 2])
    create = PrefixIndex.create
    new = tmp_path / "new"
    cases: list[tuple[Any, str]] = [
        (lambda: PrefixIndex(tmp_path), "There is no index at .*: make one by `wasskit mrl index create`"),
        (lambda: create(tmp_path / "x", x), "is an index already: choose another --output, or replace it"),
        (lambda: create(tmp_path / "full", x), "is a folder with other files"),
        (lambda: create(tmp_path / "file", x, overwrite=True), "is a file: choose another place"),
        (lambda: create(new, x, dim=25), "--dim: 25 is not from 1 to 24, the numbers of the vectors"),
        (lambda: create(new, x[0]), r"the array of vectors must be a matrix \(N, D\), not of shape \(24,\)"),
        (lambda: create(new, x[:0]), "the array of vectors has no rows"),
        (lambda: create(new, x.astype(str)), "the array of vectors holds <U.*, not numbers"),
        (lambda: create(new, x, ids=range(9)), "9 ids do not fit the 10 rows of the array of vectors"),
        (lambda: create(new, x, ids=[0] * 10), r"The id 0 occurs more than once \(1 do\)"),
        (lambda: create(new, x, ids=[0.5] * 10), "ids are whole numbers, or texts"),
        (lambda: create(new, x, ids=np.arange(10, dtype=np.uint64) + np.uint64(2**63)), "9223372036854775817 is too l"),
        (lambda: create(new, x, ids=[*range(9), 2**63 - 1]), "the id 9223372036854775807 is too large"),
        (lambda: last.add(x), "has used its last id, 9223372036854775806: give ids for the new rows"),
        (lambda: create(new, x, ids=["a\udcff", *"bcdefghij"]), "an id is not valid UTF-8"),
        (lambda: index.add(x[:, :3]), "has vectors of 3 numbers, the index .*x 24"),
        (lambda: index.add(x, range(5, 15)), r"The id 5 is in the index already \(5 are\)"),
        (lambda: index.add(x[:1], ["a"]), "are whole numbers, not texts such as 'a'"),
        (lambda: named.add(x), "are texts: give one for each new row"),
        (lambda: index.delete([3, 10, 11]), r"There is no id 10 in the index .*x \(2 of 3 are not there\): noth"),
        (lambda: named.delete(["c"]), "There is no id 'c' in the index"),
        (lambda: index.search(x[:, :3]), "has vectors of 3 numbers, the index .*x 24"),
        (lambda: index.search(x, 0), "expected at least 1"),
    ]
    for call, said in cases:
        with pytest.raises(UserError, match=said):
            call()
    assert len(index) == 10
    assert len(PrefixIndex(last.path)) == 1
    assert not new.exists()
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"


def test_faiss_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"made by faiss: install wasskit\[faiss\]"):
        PrefixIndex.create(tmp_path / "x", clusters(10), method="hnsw")


def test_an_index_can_be_replaced(tmp_path: Path) -> None:
    x = clusters(30)
    PrefixIndex.create(tmp_path / "x", x[:10])
    index = PrefixIndex.create(tmp_path / "x", x, ids=np.arange(30) + 5, code="binary", overwrite=True)
    assert (len(index), index.ids[0], index.description.code) == (30, 5, "binary")
    (tmp_path / "x" / "index.json").write_text("{")
    assert len(PrefixIndex.create(tmp_path / "x", x[:4], overwrite=True)) == 4


def _saved(path: Path, values: list[int], text: str) -> str:
    np.save(path, np.array(values))
    return text


DAMAGES: dict[str, tuple[Any, str]] = {
    "no json": (lambda folder, text: "{", "is not a readable JSON file"),
    "a list": (lambda folder, text: "[]", "is damaged: it does not describe an index"),
    "a missing entry": (lambda folder, text: text.replace('"width"', '"w"'), "does not describe an index"),
    "a negative count": (lambda folder, text: text.replace('"rows": 30', '"rows": -1'), "does not describe an index"),
    "another file": (lambda folder, text: text.replace("000002", "../../x"), "does not describe an index"),
    "another version": (lambda folder, text: text.replace('"format": 1', '"format": 2'), "of another version"),
    "another count": (lambda folder, text: text.replace('"rows": 30', '"rows": 29'), "do not fit its description"),
    "another code": (lambda folder, text: text.replace('"int8"', '"float16"'), "do not fit its description"),
    "another prefix": (lambda folder, text: text.replace('"dim": 6', '"dim": 5'), "it does not fit the index's"),
    "no vectors": (lambda folder, text: (folder / "000002-vectors.npy").unlink() or text, "There is no file"),
    "cut vectors": (lambda folder, text: (folder / "000002-vectors.npy").write_bytes(b"x") and text, "not a readable"),
    "other ids": (lambda folder, text: _saved(folder / "000002-ids.npy", [0, 1, 2], text), "no id for each row"),
    "other deletions": (
        lambda folder, text: _saved(folder / "000003-deleted.npy", [2, 99], text),
        "do not fit its description",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_indexes_are_one_sentence(tmp_path: Path, name: str) -> None:
    PrefixIndex.create(tmp_path / "x", clusters(30), dim=6).delete([4, 5])
    path = tmp_path / "x" / "index.json"
    damage, said = DAMAGES[name]
    path.write_text(damage(tmp_path / "x", path.read_text()))
    with pytest.raises(UserError, match=said):
        PrefixIndex(tmp_path / "x")


def test_the_description_is_small_and_readable(tmp_path: Path) -> None:
    index = PrefixIndex.create(tmp_path / "x", clusters(30), dim=6)
    content = json.loads((tmp_path / "x" / "index.json").read_text())
    assert (content["width"], content["dim"], content["code"], content["segments"][0]["rows"]) == (24, 6, "int8", 30)
    assert wasskit.PrefixIndex is PrefixIndex
    assert repr(index) == f"PrefixIndex({str(tmp_path / 'x')!r}: 30 x 24, int8 codes of 6)"
