"""Reports: what is written, printed and returned; nothing before that."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from wasskit import console
from wasskit.errors import UserError
from wasskit.report import Entry, Report, Table, conclude, finish, published, write

TABLE = Table(("name", "value"), [("a", 0.125), ("=b", None)], "Title")


def report(**settings: Any) -> Report:
    return Report({"x": 1}, [TABLE], notes=["A note."], **settings)


def test_files_of_every_kind(tmp_path: Path) -> None:
    files = {
        "table.csv": TABLE,
        "text.txt": "text\n",
        "values.json": {"path": Path("p"), "nan": float("nan")},
        "raw.bin": lambda file: file.write(b"\x00\x01"),
    }
    written = write(report(files=files), tmp_path / "new" / "folder")
    assert [path.name for path in written] == list(files)
    # All digits; a cell that a spreadsheet would compute is quoted.
    assert written[0].read_text() == "name,value\na,0.125\n'=b,\n"
    assert written[1].read_text() == "text\n"
    assert json.loads(written[2].read_text()) == {"path": "p", "nan": None}
    assert written[3].read_bytes() == b"\x00\x01"


def test_an_entry_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    for name, values in (("digits", {"a": 1}), ("usps", {"a": 2}), ("digits", {"b": 3})):
        write(report(files={path.name: Entry(name, values)}), tmp_path)
    assert json.loads(path.read_text()) == {"digits": {"a": 1, "b": 3}, "usps": {"a": 2}}
    for damaged in ("[1]", '{"digits": 3}'):
        path.write_text(damaged)
        with pytest.raises(UserError, match="holds no table of metrics; remove it and measure again"):
            write(report(files={path.name: Entry("digits", {})}), tmp_path)
        assert path.read_text() == damaged


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        write(report(), tmp_path / "file" / "below")


def test_what_is_printed_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = finish(
        report(remarks=["A remark."], warnings=["A warning."], files={"t.csv": TABLE, "r.json": {}}), tmp_path
    )
    said = capsys.readouterr()
    assert told == {"x": 1, "figures": []}
    for words in ("Title", "0.12", "A note.", f"Table: {tmp_path / 't.csv'}", f"Results: {tmp_path / 'r.json'}"):
        assert words in said.out.replace("\n", "") or words in said.out
    assert "A remark." in said.err
    assert "A warning." in said.err
    assert "remark" not in said.out


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_numbers_stay_whole_in_a_terminal_of_any_width(width: int) -> None:
    names = [f"recall@{k}" for k in (1, 2, 4, 8, 16, 32, 64)] + ["M multiply-adds"]
    rows = [["Metrix/feature", "best on the test set (as published), 2", *(97.0 + i / 100 for i in range(7)), 1e6]]
    file = io.StringIO()
    Console(width=width, force_terminal=True, color_system=None, file=file).print(
        Table(["run", "epoch", *names], rows, "T")
    )
    words = file.getvalue().split()
    for shown in ["T", *names[:-1], *(f"{97 + i / 100:.2f}" for i in range(7)), "1000000.00"]:
        assert words.count(shown) == 1, shown
    assert max(map(len, file.getvalue().splitlines())) <= width


@pytest.mark.parametrize("width", [30, 40, 80, 200])
def test_figures_with_deviations_stay_whole_too(width: int) -> None:
    cells = ["93.10 ± 0.42", "-23.40 (< 0.001)", "+1.39 (0.452)", "128.0", "1,259", "-", "2e-05"]
    rows = [["matryoshka", *cells], ["wasserstein", *cells]]
    file = io.StringIO()
    Console(width=width, force_terminal=True, color_system=None, file=file).print(
        Table(["setting", *"abcdefg"], rows, None)
    )
    said = file.getvalue()
    for shown in cells:
        assert said.count(shown) >= 2, shown
    assert max(map(len, said.splitlines())) <= width


def test_a_table_of_numbers_alone_keeps_its_first_column_in_every_part() -> None:
    file = io.StringIO()
    rows = [[k, *(k + i / 100 for i in range(8))] for k in (1024, 2048)]
    Console(width=30, force_terminal=True, color_system=None, file=file).print(
        Table(["dimension", *"abcdefgh"], rows, None)
    )
    said = file.getvalue()
    assert said.count(" dimension ") == said.count(" 2048 ") == said.count("── \n") > 1


def test_names_of_rows_stay_whole_where_half_the_width_holds_them() -> None:
    file = io.StringIO()
    rows = [
        [f"metrix/cars-multisimilarity-{mode}", "wasskit metrix train", "MultiSimilarity + Metrix on Cars-196"]
        for mode in ("baseline", "embed")
    ]
    Console(width=80, force_terminal=True, color_system=None, file=file).print(
        Table(["Recipe", "Command", "What it is"], rows, None)
    )
    assert all(row[0] in file.getvalue() for row in rows)
    assert max(map(len, file.getvalue().splitlines())) <= 80


def test_words_that_begin_with_a_number_are_words() -> None:
    columns = console.make_table(None, ["a", "b", "c"], [["8gaussians", "2 > 4 > 8", "1 of 2"]]).columns
    assert not any(numeric for _, numeric in columns)


def test_a_file_gets_one_table_of_any_width() -> None:
    file = io.StringIO()
    wide = Table(["run", *(f"metric{i}" for i in range(20))], [["a", *map(float, range(20))]])
    Console(width=80, file=file, soft_wrap=True).print(wide)
    lines = [line.split() for line in file.getvalue().splitlines() if line.strip()]
    assert lines[-1] == ["a", *(f"{i:.2f}" for i in range(20))]


def test_what_is_said_once_is_said_once_by_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        console.configure()
        for _ in range(2):
            console.log_once("a note")
        console.log_once("another")
        assert capsys.readouterr().err == "a note\nanother\n"


def test_other_ranks_neither_write_nor_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def drawn() -> Any:
        raise AssertionError("drawn on another rank")

    monkeypatch.setenv("RANK", "1")
    told = finish(report(files={"t.csv": TABLE}, figures={"f": drawn}, warnings=["w"]), tmp_path / "r")
    assert told == {"x": 1, "figures": []}
    assert not (tmp_path / "r").exists()
    assert capsys.readouterr() == ("", "")


def test_figures_are_drawn_where_they_are_written(tmp_path: Path) -> None:
    from wasskit.pictures.style import figure

    told = finish(report(figures={"f": lambda: figure()[0]}), tmp_path, suffixes=(".png", ".svg"))
    assert told["figures"] == [str(tmp_path / "figures" / f"f{suffix}") for suffix in (".png", ".svg")]
    assert all(Path(path).stat().st_size > 0 for path in told["figures"])


def test_the_end_of_a_training(capsys: pytest.CaptureFixture[str]) -> None:
    run: Any = SimpleNamespace(path=Path("runs/a b"))
    summary: Any = SimpleNamespace(
        wall_seconds=2.0, samples_per_second=1234.5, waiting_share=0.125, as_dict=lambda: {"steps": 3}
    )
    told = conclude(run, summary, Report({"y": 2}), [], [("mrl evaluate", "--data-root", "d"), ("mrl export",)])
    said = capsys.readouterr()
    assert told == {"steps": 3, "run": "runs/a b", "y": 2, "figures": []}
    assert "Trained in 2.0 s, 1,234 images/s, 12.5 % of it waiting for data." in said.err
    assert said.out.splitlines() == [
        "Next:", "  wasskit mrl evaluate 'runs/a b' --data-root d", "  wasskit mrl export 'runs/a b'",
    ]  # fmt: skip


def test_the_source_of_published_figures() -> None:
    assert published({"metrics": {"test/top1": 1.0}, "source": "A paper"}) == ["Published: A paper"]
    assert published({"source": "A paper"}) == published({"metrics": {"a": 1}}) == published({}) == []


@pytest.mark.parametrize("order", ["max", "min"])
def test_what_is_no_number_is_not_the_best(order: Any) -> None:
    for rows in ([[float("nan")], [0.5]], [[0.5], [float("nan")]], [[float("nan")], [float("nan")]]):
        cells = console.make_table(None, ["top1"], rows, best={0: order}).rows
        assert not any("[bold]nan" in cell for (cell,) in cells)
