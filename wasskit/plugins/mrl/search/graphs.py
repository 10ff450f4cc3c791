"""Shortlists by faiss: a graph (HNSW) or inverted lists (IVF) of the prefixes of a segment. The extra ``faiss``."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wasskit.errors import UserError
from wasskit.plugins.mrl.search.codes import PrefixCode
from wasskit.plugins.mrl.search.storage import Change, Method
from wasskit.system.files import replacing
from wasskit.system.readers import Damage, reader

LEAST = 10_000
"""Rows of the smallest segment that gets a graph; in fewer, codes are compared one by one."""
_CHUNK = 65_536
_LINKS = 32


def check_faiss() -> Any:
    """The module faiss. Raises ``UserError`` where it is missing."""
    try:
        import faiss
    except ImportError as error:
        raise UserError("hnsw and ivf are made by faiss: install wasskit[faiss], or leave --method out.") from error
    return faiss


def write_graph(change: Change, name: str, vectors: NDArray[Any], code: PrefixCode, method: Method) -> int:
    """Write the graph or the lists of the prefixes of a segment's vectors (N, D), a byte for each coordinate.

    Returns the file's checksum.
    """
    faiss = check_faiss()
    lists = max(1, round(4 * math.sqrt(len(vectors))))
    kind = f"HNSW{_LINKS},SQ8" if method == "hnsw" else f"IVF{lists},SQ8"
    index = faiss.index_factory(code.dim, kind, faiss.METRIC_INNER_PRODUCT)

    def prefixes(rows: slice | NDArray[Any]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = code.prefixes(torch.from_numpy(np.array(vectors[rows]))).numpy()
        return found

    drawn = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))[: max(_CHUNK, 40 * lists)]
    index.train(prefixes(drawn.sort().values.numpy()))
    for start in range(0, len(vectors), _CHUNK):
        index.add(prefixes(slice(start, start + _CHUNK)))
    with replacing(change.folder / name) as temporary:
        faiss.write_index(index, str(temporary))
    return _checksum(change.folder / name)


@reader("file of faiss", suffixes=(".faiss",), advice="make the index again by `wasskit mrl index compact`")
def read_graph(path: Path, rows: int, dim: int, checksum: int) -> Any:
    """What :func:`write_graph` wrote of so many rows and coordinates.

    The checksum comes first: faiss believes what it reads.
    """
    if _checksum(path) != checksum:
        raise Damage("it is not as it was written")
    index = check_faiss().read_index(str(path))
    if index.ntotal != rows or index.d != dim:
        raise Damage(f"it holds {index.ntotal:,} rows of {index.d} numbers, not {rows:,} of {dim}")
    return index


def _checksum(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            found = zlib.crc32(part, found)
    return found


def faiss_rows(index: Any, prefixes: Tensor, size: int, deleted: NDArray[np.int64], probes: int | None) -> Tensor:
    """Rows (Q, size) that are probably the nearest to unit prefixes (Q, d); -1 where there are fewer.

    Args:
        deleted: rows that are left out.
        probes: lists of an IVF that are looked into, candidates of an HNSW that are followed; None: a sixteenth of the
            lists, or as many as there are rows wanted.
    """
    faiss = check_faiss()
    chosen = faiss.IDSelectorNot(faiss.IDSelectorBatch(deleted)) if len(deleted) else None
    if isinstance(index, faiss.IndexHNSW):
        settings = faiss.SearchParametersHNSW(efSearch=max(size, probes or 0), sel=chosen)
    else:
        settings = faiss.SearchParametersIVF(nprobe=min(index.nlist, probes or max(1, index.nlist // 16)), sel=chosen)
    found = index.search(np.ascontiguousarray(prefixes.numpy()), min(size, index.ntotal), params=settings)[1]
    return torch.from_numpy(found)
