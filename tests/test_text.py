"""Text from outside changes neither the structure of what is written nor the state of a terminal, in every writer."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.plugins.plot.fabricate import make_run
from wasskit import console, text

HOSTILE = [
    "a\n\\input{/etc/passwd}",
    "a\r\n\\write18{id} % & ~ ^ # _ { } $x$ \\",
    "[0pt] *",
    '=HYPERLINK("http://x";"y")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1+1",
    "\uff1d1+1",
    "<script>alert(1)</script>",
    "\"><img src=x onerror='y'>",
    "`a` | **b** [c](javascript:d) ![e](f) ~~g~~",
    "[red]x[/red] [@click=app.bell]y[/] [/bold]",
    "\x1b]0;title\x07\x1b[2J\x9b2J",
    "abc\u202egnp.exe\u2066",
    "a\u2028b\u2029c\x85d\x0b\x0ce",
    "$\\frac{1$",
    "_hidden$",
    "\udcff",
]
CONTROLLING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def test_short_text_is_a_bounded_line() -> None:
    assert text.short_text("a" * 80) == "a" * 80
    assert text.short_text("a" * 81) == "a" * 77 + "..."
    assert text.short_text("a\nb", 4) == "a\\nb"
    assert len(text.short_text("\u202e" * 10**6)) == 80


@pytest.mark.parametrize("hostile", HOSTILE)
def test_plain_text_is_one_visible_line_and_tells_what_it_was(hostile: str) -> None:
    plain = text.plain_text(hostile)
    assert plain.isprintable()
    assert len(plain.splitlines()) == 1
    spelled = re.findall(r"\\(?:n|r|t|x[0-9a-f]{2}|u[0-9a-f]{4})", plain)
    assert len(spelled) >= sum(map(text.hidden, hostile))


def test_joiners_and_letters_of_all_scripts_are_left_alone() -> None:
    for name in ("Ünïcödé", "日本語", "می\u200cخواهم", "👩\u200d🔬", "a b\u00a0c"):
        assert text.plain_text(name) == name


@pytest.mark.parametrize("hostile", HOSTILE)
def test_latex_has_no_command_that_the_text_brought(hostile: str) -> None:
    written = text.latex_text(hostile)
    known = r"\\(?:textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar)\{\}|\\[&%$#_{}]"
    rest = re.sub(known, "", written)
    rest = rest.replace("{[}", "").replace("{]}", "").replace("{*}", "")
    assert not set("\\{}$&#^_%~[]*\n\r") & set(rest)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_html_text_is_read_back_as_text(hostile: str) -> None:
    class Reader(html.parser.HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: list[Any] = []
            self.found = ""

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.append((tag, attrs))

        def handle_data(self, data: str) -> None:
            self.found += data

    reader = Reader()
    written = text.html_text(hostile)
    reader.feed(f'<p title="{written}">{written}</p>')
    reader.close()
    assert reader.tags == [("p", [("title", text.plain_text(hostile))])]
    assert reader.found == text.plain_text(hostile)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_markdown_keeps_no_mark_of_its_own(hostile: str) -> None:
    written = text.markdown_text(hostile)
    rest = re.sub(r"\\[\\`*_\[\]|~$#!]|&(?:amp|lt|gt);", "", written)
    assert not set("\\`*[]|~$#!<>&\n\r") & set(rest)
    assert not re.search(r"(?<!\w)_|_(?!\w)", rest)
    assert text.markdown_text("loss_kind=a_b") == "loss_kind=a_b"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_the_terminal_shows_the_characters_and_obeys_none(hostile: str) -> None:
    from rich.console import Console

    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, width=400, highlight=False, emoji=False)
    terminal.print(console.escape(hostile), soft_wrap=True)
    terminal.print(console.make_table(hostile, [hostile], [[hostile], [1.0]]))
    printed = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())  # Rich's own bold of headings
    assert not CONTROLLING.search(printed)
    # A backslash at the end is doubled by Rich's own escape.
    assert printed.count(text.plain_text(hostile).rstrip("\\")) >= 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Glyph .* missing from")
@pytest.mark.parametrize("hostile", HOSTILE)
def test_figures_draw_the_characters_and_keep_their_legend(hostile: str, tmp_path: Path) -> None:
    from wasskit.pictures.style import figure, save_figure

    fig, ax = figure()
    ax.plot([0, 1], [0, 1], label=text.figure_text(hostile))
    ax.set_title(f"$m = 1$, {text.figure_text(hostile)}")
    ax.set_ylabel(text.figure_text(hostile))
    ax.legend()
    assert len(ax.get_legend().get_texts()) == 1
    with_formula, is_formula = ax.yaxis.label._preprocess_math(ax.get_ylabel())
    assert not is_formula
    assert with_formula.strip() == text.plain_text(hostile).strip()
    save_figure(fig, tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").is_file()


@pytest.mark.parametrize("hostile", HOSTILE)
def test_csv_cells_are_no_formulas_and_stay_one_cell(hostile: str) -> None:
    written = text.csv_text([[hostile, 1.5], ["b", -2]])
    rows = list(csv.reader(io.StringIO(written)))
    assert [len(row) for row in rows] == [2, 2]
    assert not re.match(r"\s*[=+\-@\uff1d]", rows[0][0])
    assert rows[0][0].removeprefix("'") == text.plain_text(hostile)
    assert (rows[0][1], rows[1]) == ("1.5", ["b", "-2"])


def test_csv_leaves_numbers_and_paths_usable(tmp_path: Path) -> None:
    for number in ("-1.5", "+3", "-1e-3", "-", "-inf"):
        assert text.csv_cell(number) == number
    assert text.csv_cell(Path("=1+1.png")) == "./=1+1.png"
    assert text.csv_cell(Path("photos/=1.png")) == "photos/=1.png"


# --- Writers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hostile_runs(tmp_path: Path) -> Path:
    """Two runs with every hostile string in the source of their published figures, a setting, the metrics' names."""
    source = " ".join(h for h in HOSTILE if h != "\udcff")
    for lr in (0.1, 0.2):
        run = make_run(
            tmp_path / "runs" / f"[red]=a$b_{lr}<b>", lr=lr, note=f"{source} {lr}", finished=True,
            paper={"source": source, "metrics": {"test/top1": 91.0}},
        )  # fmt: skip
        with (run / "extra.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([[h for h in HOSTILE if h != "\udcff"]] * 2)
    return tmp_path / "runs"


@pytest.mark.parametrize("kind", ["latex", "markdown", "csv"])
def test_tables_of_hostile_runs(run_cli: Callable[..., Any], hostile_runs: Path, kind: str) -> None:
    result = run_cli(
        "plot", "table", hostile_runs, "--against-paper", "--format", kind, "-m", "top1",
        "--labels", "=1+1,[red]$x$</td>|_",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert not CONTROLLING.search(result.stdout + result.stderr)
    lines = result.stdout.splitlines()
    if kind == "latex":
        assert not any(line.lstrip().startswith(r"\input") for line in lines)
        published = [line for line in lines if "Published:" in line]
        assert len(published) == 1
        assert published[0].startswith("% ")
        assert "{[}red{]}\\$x\\$\\textless{}" in result.stdout
    elif kind == "markdown":
        assert "<" not in result.stdout
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")}
        assert len(widths) == 1
    else:
        rows = list(csv.reader(io.StringIO(result.stdout)))
        assert len({len(row) for row in rows}) == 1
        assert not any(re.match(r"\s*[=@]", cell) for row in rows for cell in row)


@pytest.mark.slow
def test_report_and_figures_of_hostile_runs(run_cli: Callable[..., Any], hostile_runs: Path) -> None:
    first, _ = sorted(hostile_runs.iterdir())
    page = hostile_runs.parent / "page.html"
    result = run_cli("plot", "report", first, "-o", page, "--title", "<i>$x [red]")
    assert result.exit_code == 0, result.stderr
    written = page.read_text(encoding="utf-8")
    assert "<script" not in written
    assert "<img src=x" not in written
    assert "<i>" not in written
    assert not CONTROLLING.search(written)
    result = run_cli(
        "plot", "compare", hostile_runs, "-o", hostile_runs.parent / "plots", "--labels", "_a$,$\\frac{1$",
        "--title", "$\\frac{", "--style", "screen",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert not CONTROLLING.search(result.stdout + result.stderr)


def test_embeddings_of_hostile_classes_and_paths(tmp_path: Path) -> None:
    import torch

    from wasskit.evaluation.embedding import _write_table

    names = [f"=dir{number}/x" for number in range(len(HOSTILE))]
    _write_table(tmp_path / "table.csv", names, torch.arange(len(HOSTILE)), HOSTILE)
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["path"]) for row in rows] == [Path(name) for name in names]
    assert not any(re.match(r"\s*[=+\-@]", cell) for row in rows for cell in (row["path"], row["label"]))
    assert [row["label"].removeprefix("'") for row in rows] == [text.plain_text(h) for h in HOSTILE]


@pytest.mark.slow
def test_a_class_folder_with_a_hostile_name_is_searched_and_drawn(
    run_cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number, name in enumerate(("[red]$a", "=b\x1b[2J", "_c\u202e$", "d\ne")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for index in range(6):
            pixels = rng.integers(0, 64, (8, 8), dtype=np.uint8) + 48 * number
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"${index}.png")
    common = ("--dataset", "imagefolder", "--data-root", tmp_path / "photos")
    trained = run_cli(
        "metrix", "train", *common, "--epochs", "1", "--image-size", "8", "--images-per-class", "2",
        "--batch-size", "4", "--run-dir", tmp_path / "run",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.stderr
    found = run_cli("metrix", "search", tmp_path / "run", "0")
    assert found.exit_code == 0, found.stderr
    measured = run_cli("metrix", "evaluate", tmp_path / "run")
    assert measured.exit_code == 0, measured.stderr
    for result in (trained, found, measured):
        assert not CONTROLLING.search(result.stdout + result.stderr)


def test_a_grid_quotes_its_settings(tmp_path: Path) -> None:
    from wasskit.plugins.mrl.results import Row, rows_table
    from wasskit.report import Report, write

    rows = [Row({hostile: hostile}, 1, {"top1@2": 1.0}, {"top1@2": 0.0}) for hostile in HOSTILE[:-1]]
    (table,) = write(Report({}, files={"table.csv": rows_table(rows)}), tmp_path)
    with table.open(encoding="utf-8", newline="") as file:
        for cells in csv.reader(file):
            assert len(cells) == 6
            assert not re.match(r"\s*[=+\-@]", cells[0])


# --- Options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hostile", ["a\nb", "a\x1b[2J", "a\u202eb", "a\u2028b", "\x07"])
@pytest.mark.parametrize(
    "words",
    [
        ("mrl", "train", "--name"),
        ("mrl", "train", "--run-dir"),
        ("study", "means", "--name"),
        ("plot", "report", "runs", "--title"),
        ("plot", "table", "runs", "--caption"),
        ("plot", "compare", "runs", "--labels"),
        ("w2gn", "toy", "--name"),
        ("recipes", "show"),
        ("recipes", "copy", "mrl/imagenet100"),
    ],
)
def test_options_refuse_control_characters(
    run_cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], hostile: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_cli(*words, hostile)
    assert result.exit_code == 2
    assert "holds a control character, a line break or an override" in " ".join(result.stderr.split())
    assert not CONTROLLING.search(result.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_refuses_control_characters(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('command = "mrl train"\n[options]\nbackbone = "a\\nb"\n', encoding="utf-8")
    result = run_cli("recipes", "validate", recipe)
    assert result.exit_code == 2
    assert "holds a control character" in " ".join(result.stderr.split())


# --- Recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["../../..", "../pyproject", "../secret", "mrl/../../secret", "."])
@pytest.mark.parametrize("command", ["show", "copy", "validate"])
def test_recipe_names_lead_nowhere_else(
    run_cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, command: str
) -> None:
    from wasskit import recipes

    (tmp_path / "recipes" / "mrl").mkdir(parents=True)
    (tmp_path / "recipes" / "mrl" / "a.toml").write_text('command = "mrl train"\n', encoding="utf-8")
    (tmp_path / "secret.toml").write_text('command = "mrl train"\ntitle = "secret"\n', encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('command = "mrl train"\ntitle = "secret"\n', encoding="utf-8")
    monkeypatch.setattr(recipes, "recipes_folder", lambda: tmp_path / "recipes")
    (tmp_path / "here" / "below" / "it").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below" / "it")
    for name in (named, str(tmp_path / "secret")):
        result = run_cli("recipes", command, name)
        assert result.exit_code == 2
        assert 'secret"' not in result.stdout
        assert re.match(r"Error: No recipe (named|file at) ", " ".join(result.stderr.split()))
    assert list(Path().iterdir()) == []


def test_recipes_copy_follows_no_link(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mine.toml").symlink_to(tmp_path / "elsewhere.toml")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "imagenet100.toml").symlink_to(tmp_path / "elsewhere.toml")
    for destination in (tmp_path / "mine.toml", tmp_path / "folder"):
        result = run_cli("recipes", "copy", "mrl/imagenet100", destination)
        assert result.exit_code == 2
        assert "exists already" in " ".join(result.stderr.split())
        assert not (tmp_path / "elsewhere.toml").exists()
    assert run_cli("recipes", "copy", "mrl/imagenet100", tmp_path / "new.toml").exit_code == 0
    assert "imagenet100" in (tmp_path / "new.toml").read_text(encoding="utf-8")


def test_commands_to_try_next_are_quoted_for_a_shell(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    destination = tmp_path / "$(touch x); [red].toml"
    result = run_cli("recipes", "copy", "mrl/imagenet100", destination)
    assert f"wasskit recipes validate '{destination}'" in result.stdout
    shown = json.loads(run_cli("recipes", "copy", "mrl/imagenet100", f"{destination}2", "--json").stdout)
    assert shown["path"] == f"{destination}2"
