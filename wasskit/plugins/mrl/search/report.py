"""What the commands on an index tell: the index, a change, neighbours."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wasskit import console
from wasskit.errors import UserError
from wasskit.plugins.mrl.search.index import Neighbours, PrefixIndex
from wasskit.plugins.mrl.search.storage import Description
from wasskit.report import Report, Table, tell
from wasskit.system.files import replacing
from wasskit.text import csv_cell


def told_index(index: PrefixIndex, *, following: bool = False) -> dict[str, Any]:
    """Print what an index holds. ``following``: and how it is searched."""
    of = index.description
    result = {
        "index": str(index.path), "rows": len(index), "deleted": sum(s.gone for s in of.segments),
        "segments": len(of.segments), "width": of.width, "dim": of.dim, "code": of.code, "axes": of.axes,
        "method": of.method, "shortlist": of.needed(10), "recall@10": of.found if of.recall else None,
        "model": of.model_source, "resident_bytes": index.resident_bytes, "stored_bytes": index.stored_bytes,
    }  # fmt: skip
    each = f"{index.resident_bytes / max(1, len(index)):,.0f} bytes a row"
    rows = [
        ["rows", f"{len(index):,} of {of.width} numbers, {result['deleted']:,} deleted, segments: {len(of.segments)}"],
        ["prefixes", f"{of.dim} numbers as {of.code}, {of.axes} axes, {of.method}"],
        ["shortlist", _shortlist(of)],
        ["in memory", f"{_size(index.resident_bytes)}, {each}"],
        ["on disk", _size(index.stored_bytes)],
        ["model", of.model_source or "none"],
    ]
    if of.found < of.recall:
        console.warn(
            f"the shortlist finds {100 * of.found:.1f} % of the 10 nearest, and {100 * of.recall:g} % were asked for: "
            "make the index with a larger --dim or another --code, or search with a longer --shortlist or --exact."
        )
    tell(Report(result, tables=[Table(("", str(index.path)), [[a, console.escape(b)] for a, b in rows])]), [])
    if following and not console.is_json():
        console.result("Next:")
        console.result(f"  {console.command_line('mrl search', index.path, 'QUERIES')}")
    return result


def _shortlist(of: Description) -> str:
    size = f"{of.needed(10):,} rows"
    return f"{size}, {100 * of.found:.1f} % of the 10 nearest" if of.recall else f"{size}, not measured"


def told_change(index: PrefixIndex, done: str, count: int, json: bool) -> dict[str, Any]:
    """Print how many rows were added or deleted, and how many there are."""
    if not json:
        console.result(f"{done} {count:,} rows: {console.escape(str(index.path))} has {len(index):,}.")
    return {"index": str(index.path), done.lower(): count, "rows": len(index)}


def told_neighbours(
    found: Neighbours, names: Sequence[Any], seconds: float, output: Path, *, shown: int
) -> dict[str, Any]:
    """Write all neighbours, and print those of the first ``shown`` queries, which are called by ``names``."""
    write_neighbours(output, found, names)
    count, k = found.ids.shape
    first = [
        {"query": name, "ids": ids, "similarities": values}
        for name, ids, values in zip(
            list(names[:shown]), found.ids[:shown].tolist(), found.similarities[:shown].tolist(), strict=False
        )
    ]
    rows = [
        [console.escape(str(one["query"])), rank, console.escape(str(id)), value]
        for one in first
        for rank, (id, value) in enumerate(zip(one["ids"], one["similarities"], strict=True), 1)
    ]
    queries = "query" if count == 1 else "queries"
    notes = [f"{count:,} {queries}, {k} neighbours of each, in {seconds:.2f} s."]
    if count > shown > 0:
        notes[0] += f" Those of the first {shown} are above."
    result = {"queries": count, "k": k, "seconds": seconds, "output": str(output), "neighbours": first}
    tables = [Table(("query", "rank", "id", "cosine"), rows, digits=4)] if rows else []
    told = tell(Report(result, tables=tables, notes=notes), [output])
    del told["figures"]
    return told


def write_neighbours(path: Path, found: Neighbours, names: Sequence[Any]) -> None:
    """Write ``query,rank,id,similarity`` (.csv), or the arrays ``ids`` and ``similarities`` (.npz)."""
    if not path.parent.is_dir():
        raise UserError(f"There is no folder {path.parent}: make it first.")
    with replacing(path) as temporary:
        if path.suffix.lower() == ".npz":
            ids = found.ids.astype(str) if found.ids.dtype == object else found.ids
            with temporary.open("wb") as file:
                np.savez(file, ids=ids, similarities=found.similarities)
            return
        with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as text:
            writer = csv.writer(text)
            writer.writerow(["query", "rank", "id", "similarity"])
            for name, ids, values in zip(names, found.ids, found.similarities, strict=True):
                writer.writerows(
                    [csv_cell(name), rank, csv_cell(id), value]
                    for rank, (id, value) in enumerate(zip(ids.tolist(), values.tolist(), strict=True), 1)
                )


def _size(count: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024  # type: ignore[assignment]
    return f"{count:,.1f} GiB"
