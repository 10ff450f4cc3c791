"""The history of measurements as tables: a page of the documents, and a part of the README. Text in, text out."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["HISTORY", "PAGE", "README", "latest", "page_of", "read_history", "readme_of", "write_tables"]

ROOT = Path(__file__).resolve().parents[1]
HISTORY = ROOT / "benchmarks" / "history.jsonl"
PAGE = ROOT / "docs" / "reference" / "benchmarks.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- speed -->", "<!-- /speed -->"

OURS = ("Python", "wasskit", "torch", "numpy", "scipy")
"""Packages that each measurement depends on; other packages are told where one is compared with them."""

Run = dict[str, Any]
Row = dict[str, Any]


def read_history(path: Path = HISTORY) -> list[Run]:
    """A run of ``make bench`` a line, the oldest first."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def latest(history: Sequence[Run], titles: Mapping[str, str] | None = None) -> Run | None:
    """The last run of all benchmarks, with what later runs of some have measured anew in its place.

    Its conditions are the last one's where none was complete. Results of other days bear their date.

    Args:
        titles: of all benchmarks that there are, by name: those without a result are named in the tables.
    """
    if not history:
        return None
    whole = max((place for place, run in enumerate(history) if run["complete"]), default=None)
    base = history[-1 if whole is None else whole]
    joined: Run = {**base, "results": [], "benchmarks": {}}
    for run in history[whole or 0 :]:
        renewed = {row["benchmark"] for row in run["results"]}
        kept = [row for row in joined["results"] if row["benchmark"] not in renewed]
        dated = {} if run["date"][:10] == base["date"][:10] else {"date": run["date"]}
        again = [{**row, **dated} for row in run["results"]]
        joined = {**joined, "results": kept + again, "benchmarks": joined["benchmarks"] | run["benchmarks"]}
    return joined | {
        "unmeasured": [title for name, title in (titles or {}).items() if name not in joined["benchmarks"]]
    }


def _by_size(rows: Iterable[Row]) -> list[tuple[str, str, dict[int, Row]]]:
    """Rows of one benchmark and size together, by their threads."""
    found: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        found.setdefault((row["benchmark"], row["size"]), {})[row["threads"]] = row
    return [(name, size, threads) for (name, size), threads in found.items()]


def _times(values: Iterable[float | None]) -> str:
    """``3.1 / 2.9`` for one and two threads."""
    return " / ".join("-" if value is None else f"{value:.3g}" for value in values)


def _names(rows: Mapping[int, Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows.values() for name in row["ratios"]))


def _medians(rows: Mapping[int, Row], name: str) -> str:
    return _times(row["ratios"][name][0] if name in row["ratios"] else None for row in rows.values())


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _filled(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def conditions(run: Run) -> str:
    """Where, when and with what, in a sentence."""
    machine = run["machine"]
    compared = tuple({name.lower() for row in run["results"] for name in row["ratios"]})
    versions = ", ".join(
        f"{name} {version}"
        for name, version in run["versions"].items()
        if name in OURS or name.lower().startswith(compared)
    )
    threads = " / ".join(map(str, run["threads"]))
    return _filled(
        f"Measured on {run['date'][:10]} on {machine['processor']}, {machine['cores']} cores, {machine['system']}, "
        f"threads: {threads}; {versions}."
    )


def readme_of(run: Run) -> str:
    """The README's table: the first size of every benchmark that is compared with something."""
    lines: list[list[str]] = []
    seen: set[str] = set()
    for name, size, rows in _by_size(run["results"]):
        about = run["benchmarks"][name]
        if name in seen or not _names(rows):
            continue
        seen.add(name)
        peers = [f"{peer} {_medians(rows, peer)}" for peer in _names(rows) if peer != "plain"]
        lines.append([f"{about['title']} ({size})", _medians(rows, "plain"), ", ".join(peers) or "-"])
    words = (
        "How many times as long the same result takes by a plain form of the same precision, and by other packages: "
        "medians of paired turns, for one number of threads after the other. More than 1: `wasskit` is faster. "
        "`make bench` repeats it; spreads, floors and memory are in [the whole table](docs/reference/benchmarks.md)."
    )
    lacking = run.get("unmeasured", ())
    if lacking:
        more = "1 more benchmark, named there, has" if len(lacking) == 1 else f"{len(lacking)} more, named there, have"
        words += f" {more} no figure of this version."
    return f"{_filled(words)}\n\n{_table(['', 'plain form', 'packages'], lines)}\n{conditions(run)}\n"


def page_of(run: Run) -> str:
    """The page with all sizes, quartiles, floors, memory and notes."""
    words = (
        "Written by `make bench` from `benchmarks/history.jsonl`, to which each run adds a line. Each piece of work is "
        "done in turns with the others (A B C A B C ...), in one process for each number of threads: a ratio is the "
        "time of another way by ours in the same turn, given as the median of all turns, with the quartiles in "
        "brackets. More than 1 means that `wasskit` is faster. With one thread the time is that of the thread, with "
        "more that of the clock, and for loaders that of all processes together. *Of the floor* is our time by that of "
        "the part that no way can leave out, where it is known. Memory is the growth of a process's peak in MiB, each "
        "way alone."
    )
    parts = ["# Speed and memory\n", f"{_filled(words)}\n", f"{conditions(run)}\n"]
    if run["missing"]:
        parts.append(f"Not installed, and so not compared: {', '.join(run['missing'])}.\n")
    if run.get("unmeasured"):
        parts.append(_filled(f"Without a figure of this version: {'; '.join(run['unmeasured'])}.") + "\n")
    by_name: dict[str, list[tuple[str, dict[int, Row]]]] = {}
    for name, size, rows in _by_size(run["results"]):
        by_name.setdefault(name, []).append((size, rows))
    for name, sizes in by_name.items():
        parts += _section(name, run["benchmarks"][name], sizes, run["date"][:10])
    return "\n".join(parts)


def _section(name: str, about: Mapping[str, str], sizes: Sequence[tuple[str, dict[int, Row]]], day: str) -> list[str]:
    words = [f"`--only {name}`, in {about['dtype']}."]
    words += [f"Plain form: {about['plain']}."] if about["plain"] else []
    words += [f"Floor: {about['floor']}."] if about["floor"] else []
    others = list(dict.fromkeys(other for _, rows in sizes for other in _names(rows)))
    measured = any(row["floor"] for _, rows in sizes for row in rows.values())
    kept = any(row.get("memory") for _, rows in sizes for row in rows.values())
    heading = ["", "threads", "ms", *others, *["of the floor"] * measured, *["MiB"] * kept]
    lines: list[list[str]] = []
    notes: list[str] = []
    for size, rows in sizes:
        for threads, row in rows.items():
            ratios = [
                "{:.2f} [{:.2f}, {:.2f}]".format(*row["ratios"][other]) if other in row["ratios"] else "-"
                for other in others
            ]
            floor = [f"{row['floor']:.2f}" if row["floor"] else "-"] * measured
            memory = [", ".join(f"{way} {mib:.0f}" for way, mib in row.get("memory", {}).items()) or "-"] * kept
            lines.append([size, str(threads), f"{1e3 * row['seconds']:.4g}", *ratios, *floor, *memory])
        first = next(iter(rows.values()))
        later = first.get("date", day)[:10]
        said = [first["note"]] * bool(first["note"]) + [f"measured on {later}"] * (later != day)
        if said:
            notes.append(f"- {size}: {'; '.join(said)}.\n")
    title = about["title"]
    parts = [f"## {title[0].upper()}{title[1:]}\n", _filled(" ".join(words)) + "\n", _table(heading, lines)]
    return [*parts, "".join(notes)] if notes else parts


def write_tables(history: Sequence[Run], titles: Mapping[str, str]) -> None:
    """The page and the part of the README between its marks."""
    run = latest(history, titles)
    if run is None:
        return
    PAGE.write_text(page_of(run), encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n{readme_of(run)}{END}{after}", encoding="utf-8")
