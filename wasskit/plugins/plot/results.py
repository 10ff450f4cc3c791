"""The page of results: a plan names its tables, the run directories fill them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from string import Formatter
from typing import Any

from wasskit.errors import UserError
from wasskit.plugins.plot.groups import Group, group_runs
from wasskit.plugins.plot.reports import table_report
from wasskit.plugins.plot.runs import Run, is_run, read_run, read_runs
from wasskit.report import Report
from wasskit.system.documents import read_csv_rows, read_text, read_toml
from wasskit.system.files import write_text
from wasskit.system.hints import did_you_mean
from wasskit.text import counted, markdown_text
from wasskit.training.metrics_csv import MetricsFile


@dataclass(frozen=True)
class Entry:
    """One table of the page.

    Args:
        title: its heading.
        command: what repeats it.
        text: what it shows and by which protocol, as Markdown.
        runs: patterns of run directories below the folder of runs.
        files: patterns of CSV files there, which commands have written; each is a table.
        where: of the files, the rows whose columns have these values; ``|`` between several.
        columns: of the files, these columns in this order; empty: all.
        across: of the files, the column whose values become columns, in the order in which they are found.
        cell: of the files with ``across``, what a cell says: text with columns of numbers in braces and how they are
            written, ``{mean:.2f} ± {deviation:.2f}``.
        names: what stands instead of a value of a cell or a heading.
        metrics: metrics of the runs, as ``plot table --metric`` takes them; empty: the main ones.
        digits: decimals of the metrics; by default as `plot table` has them.
        which: the last evaluation of each run, or the best.
        labels: names of the groups of runs, in the order of their paths.
        needs: what a machine must have; the entry says so where nothing was run.
    """

    title: str
    command: str
    text: str = ""
    runs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    where: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    across: str = ""
    cell: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    digits: int | None = None
    which: str = "final"
    labels: tuple[str, ...] = ()
    needs: str = ""


@dataclass(frozen=True)
class Plan:
    """The page: its title, what stands above its tables, and these."""

    title: str
    introduction: str
    entries: Sequence[Entry] = field(default_factory=tuple)


def read_plan(path: Path) -> Plan:
    """A plan from a TOML file: ``title``, ``introduction`` and a list ``[[table]]`` with the fields of `Entry`.

    Raises:
        UserError: a key is not known, a value is of another type, or there is no table.
    """
    document = read_toml(path)
    _refuse_unknown(path, "", document, ("title", "introduction", "table"))
    tables = document.get("table")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"{path} has no [[table]]: a plan of results lists its tables so.")
    entries = [_entry(path, number, table) for number, table in enumerate(tables, start=1)]
    title, introduction = (_text(path, key, document.get(key, "")) for key in ("title", "introduction"))
    return Plan(title or "Results", introduction, entries)


def _entry(path: Path, number: int, table: Mapping[str, Any]) -> Entry:
    where = f"table {number}: "
    _refuse_unknown(path, where, table, [f.name for f in fields(Entry)])
    for key in ("title", "command"):
        if not table.get(key):
            raise UserError(f"{path}, {where}it has no {key}.")
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key in ("where", "names"):
            if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
                raise UserError(f"{path}, {where}{key} must be a table of texts.")
            values[key] = value
        elif key in ("runs", "files", "columns", "metrics", "labels"):
            if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
                raise UserError(f"{path}, {where}{key} must be a list of texts.")
            values[key] = tuple(value)
        elif key == "digits":
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 10:
                raise UserError(f"{path}, {where}digits must be a whole number from 0 to 10.")
            values[key] = value
        else:
            values[key] = _text(path, where + key, value)
    entry = Entry(**values)
    if bool(entry.across) != bool(entry.cell):
        raise UserError(f"{path}, {where}across and cell go together: give both or neither.")
    try:
        _fill(entry.cell, dict.fromkeys(_fields(entry.cell), "0"))
    except ValueError as error:
        raise UserError(f"{path}, {where}cell is {entry.cell!r}: {error}.") from None
    if entry.which not in ("final", "best"):
        raise UserError(f"{path}, {where}which is {entry.which!r}: it must be final or best.")
    for pattern in (*entry.runs, *entry.files):
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts or not pattern:
            raise UserError(f"{path}, {where}{pattern!r} is not a pattern of paths below the folder of runs.")
    return entry


def _refuse_unknown(path: Path, where: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            raise UserError(f"{path}, {where}{key!r} is not one of {', '.join(known)}.{did_you_mean(key, known)}")


def _text(path: Path, key: str, value: object) -> str:
    if not isinstance(value, str):
        raise UserError(f"{path}, {key} must be a text.")
    return value.strip()


def results_report(plan: Plan, folder: Path, keep: Path | None = None) -> Report:
    """The page as Markdown, the report's file ``results``; what was not run is named with the command that would.

    Args:
        folder: of the runs.
        keep: folder to copy to what the tables are made of, with its provenance: the page can be made of it again.
    """
    parts, missing, result = [f"# {plan.title}", plan.introduction], [], {}
    for entry in plan.entries:
        runs = _runs_of(entry, folder)
        files = [path for pattern in entry.files for path in sorted(folder.glob(pattern)) if path.is_file()]
        parts += [f"## {entry.title}", entry.text]
        if runs:
            groups = group_runs(runs, labels=list(entry.labels) or None)
            parts += [_runs_table(entry, groups), _provenance(runs)]
            if keep is not None:
                for run in runs:
                    _keep_run(run, keep / run.path.relative_to(folder))
        for file in files:
            behind = _runs_behind(file)
            parts += [_file_table(file, entry), _provenance(behind)]
            if keep is not None:
                _keep(file, keep / file.relative_to(folder), behind)
        if not runs and not files:
            missing.append(entry.title)
            parts.append("Not measured" + (f": it needs {entry.needs}." if entry.needs else "."))
        parts.append(f"```bash\n{entry.command}\n```")
        result[entry.title] = {"runs": [str(run.path) for run in runs], "files": [str(path) for path in files]}
    page = "\n\n".join(part for part in parts if part) + "\n"
    remarks = [f"Not measured: {title}." for title in missing]
    return Report({"tables": result, "missing": missing}, remarks=remarks, files={"results": page})


def _runs_of(entry: Entry, folder: Path) -> list[Run]:
    """The finished runs of an entry; those that are not finished have no result."""
    paths = [path for pattern in entry.runs for path in sorted(folder.glob(pattern), key=_numbered) if path.is_dir()]
    return [run for run in read_runs(dict.fromkeys(paths)) if run.finished]


def _numbered(path: Path) -> list[tuple[str, int]]:
    """A path to sort by, in which 4 comes before 16."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", str(path))]


def _runs_behind(file: Path) -> list[Run]:
    """The runs that a file is made from: those below its folder where it is of a grid, or the folder itself."""
    return read_runs([file.parent]) if is_run(file.parent) else [read_run(file.parent)]


def _keep(file: Path, copy: Path, runs: Sequence[Run]) -> None:
    """Copy a file, with what :func:`_provenance` tells of its runs."""
    told = _told(max(runs, key=lambda run: str(run.environment.get("started", ""))))
    seeds = sorted({seed for run in runs for seed in _seeds(run)})
    write_text(copy, read_text(file))
    write_text(copy.parent / "environment.json", json.dumps({**told, "seed": seeds}, indent=2) + "\n")


def _keep_run(run: Run, copy: Path) -> None:
    """Copy what a table takes of a run: its settings, its summary, its last metrics and where it was made."""
    for name in ("config.toml", "summary.json"):
        write_text(copy / name, read_text(run.path / name))
    metrics = MetricsFile(copy / "metrics.csv")
    metrics.create()
    for row in run.rows:
        if row.step == run.rows[-1].step:
            metrics.append(row.epoch, row.step, row.split, {row.metric: row.value})
    write_text(copy / "environment.json", json.dumps(_told(run), indent=2) + "\n")


def _told(run: Run) -> dict[str, Any]:
    """What :func:`_provenance` tells of a run's environment."""
    return {key: run.environment[key] for key in ("started", "versions", "device") if key in run.environment}


def _runs_table(entry: Entry, groups: Sequence[Group]) -> str:
    report = table_report(
        groups, "best" if entry.which == "best" else "final", metric=list(entry.metrics) or None, digits=entry.digits,
        against_paper=any(group.paper.get("metrics") for group in groups), text="markdown",
    )  # fmt: skip
    return str(report.files["table"]).rstrip()


def _file_table(path: Path, entry: Entry) -> str:
    """A CSV file as a Markdown table; rows that are shorter than its heading are filled up."""
    rows = [row for _, row in read_csv_rows(path)]
    if not rows:
        raise UserError(f"{path} is empty: write it again, or leave it out of the plan.")
    head = rows[0]
    for column in filter(None, (*entry.where, *entry.columns, entry.across, *_fields(entry.cell))):
        if column not in head:
            raise UserError(f"{path} has no column {column!r}: it has {', '.join(head)}.{did_you_mean(column, head)}")
    records = [dict(zip(head, [*row, *[""] * len(head)], strict=False)) for row in rows[1:]]
    records = [record for record in records if all(_holds(record[c], wanted) for c, wanted in entry.where.items())]
    chosen = entry.columns or tuple(column for column in head if column not in (entry.across, *_fields(entry.cell)))
    lines = [[_say(column, entry) for column in chosen]]
    if entry.across:
        try:
            lines = _spread(records, chosen, entry)
        except ValueError as error:
            raise UserError(f"{path}: cell {entry.cell!r} takes columns of numbers: {error}.") from None
    else:
        lines += [[_say(record[column], entry) for column in chosen] for record in records]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], ["---"] * len(lines[0]), *lines[1:]))


def _say(text: str, entry: Entry) -> str:
    """A value or a heading by the name that the entry gives it."""
    return entry.names.get(text, _cell(text))


def _holds(value: str, wanted: str) -> bool:
    """Whether a value is the one that is wanted, or one of several that are joined by ``|``."""
    return value in wanted.split("|")


def _spread(records: Sequence[Mapping[str, str]], chosen: Sequence[str], entry: Entry) -> list[list[str]]:
    """A line for each combination of the ``chosen`` columns, a column for each value of ``entry.across``."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for record in records:
        key = tuple(record[column] for column in chosen)
        found.setdefault(key, {})[record[entry.across]] = _fill(entry.cell, record)
    across = list(dict.fromkeys(record[entry.across] for record in records))
    lines = [
        [*(_say(part, entry) for part in key), *(cells.get(one, "") for one in across)] for key, cells in found.items()
    ]
    return [[_say(heading, entry) for heading in (*chosen, *across)], *lines]


def _fields(cell: str) -> list[str]:
    """The columns that a cell is made of."""
    return [name for _, name, _, _ in Formatter().parse(cell) if name]


def _fill(cell: str, record: Mapping[str, str]) -> str:
    """A cell with the numbers of a line; a dash where there is none. Raises ``ValueError`` for a malformed cell."""
    parts = []
    for text, name, spec, _ in Formatter().parse(cell):
        number = record[name] if name else ""
        parts += [text, "" if not name else format(float(number), spec or "") if number else "-"]
    return "".join(parts)


def _cell(text: str) -> str:
    try:
        return f"{float(text):.4g}" if "." in text or "e" in text.lower() else markdown_text(text)
    except ValueError:
        return markdown_text(text)


def _provenance(runs: Sequence[Run]) -> str:
    """Seeds, machine, versions, dates and time of the runs, each value once."""
    seeds = sorted({seed for run in runs for seed in _seeds(run)})
    days = sorted({str(run.environment.get("started", ""))[:10] for run in runs} - {""})
    seconds = [run.final()["run/wall_seconds"] for run in runs if "run/wall_seconds" in run.final()]
    facts = [
        f"seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}" if seeds else "",
        *sorted({_machine(run.environment) for run in runs} - {""}),
        *sorted({_versions(run.environment) for run in runs} - {""}),
        " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "",
        f"{sum(seconds) / len(seconds):.0f} s a run" if seconds else "",
    ]
    text = "; ".join(markdown_text(fact) for fact in facts if fact)
    return text[:1].upper() + text[1:] + "." if text else ""


def _seeds(run: Run) -> list[int]:
    """The seed of a run, or those of the runs behind a file that was kept."""
    kept = run.environment.get("seed")
    return [seed for seed in (kept if isinstance(kept, list) else [run.seed]) if isinstance(seed, int)]


def _machine(environment: Mapping[str, Any]) -> str:
    device = environment.get("device")
    if not isinstance(device, Mapping):
        return ""
    ranks, threads = device.get("ranks", 1), device.get("threads")
    parts = [str(device.get("name", "")), f"{ranks} ranks" if ranks != 1 else ""]
    parts += [counted(threads, "thread")] if device.get("type") == "cpu" and threads else []
    return ", ".join(part for part in parts if part)


def _versions(environment: Mapping[str, Any]) -> str:
    versions = environment.get("versions")
    if not isinstance(versions, Mapping):
        return ""
    return ", ".join(f"{name} {versions[name]}" for name in ("wasskit", "torch") if name in versions)
