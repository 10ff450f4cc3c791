"""What the documents say can be typed, can be typed; their code runs; their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from wasskit.cli import GENERAL, GROUPS, find_command, load_command
from wasskit.commands.sweep import read_words
from wasskit.config import fields_of
from wasskit.plugins import load_plugin, plugin_targets

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BUILT = {DOCS / "reference" / f"{name}.md" for name in ("metrics", "recipes", "results", "architecture", "changelog")}
OTHERS = [f"reference/{page.stem}" for page in sorted(BUILT)]
PAGES = sorted(
    page
    for page in DOCS.rglob("*.md")
    if page not in BUILT and not {"_build", "commands"} & set(page.relative_to(DOCS).parts[:-1])
)


@dataclass(frozen=True)
class Block:
    """A fenced block, and what it needs that a test has not (from a comment ``<!-- needs: ... -->`` above it)."""

    language: str
    text: str
    needs: str

    @property
    def lines(self) -> list[str]:
        """Command lines, without comments, joined where they end in a backslash."""
        joined = self.text.replace("\\\n", " ")
        return [line.split(" #")[0].strip() for line in joined.splitlines() if line.startswith("wasskit ")]


def _blocks(page: Path, *languages: str) -> list[Block]:
    pattern = r"(?:<!-- needs: (?P<needs>[^\n]*?) -->\n\n?)?^```(?P<language>\w+)\n(?P<text>.*?)^```"
    found = re.finditer(pattern, page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    blocks = [Block(match["language"], match["text"], match["needs"] or "") for match in found]
    return [block for block in blocks if block.language in languages]


def _name(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_and_their_options_exist(page: Path) -> None:
    own, targets = {group.name: group for group in GROUPS}, plugin_targets()
    lines = [(shlex.split(line)[1:], line, block.needs) for block in _blocks(page, "bash") for line in block.lines]
    for words, line, needs in lines:
        if needs and words[0] not in {*own, *GENERAL.commands, *targets}:
            continue  # of the plugin that the page is about
        if words[0] in own:
            command = load_command(own[words[0]], words[1])
        elif words[0] in GENERAL.commands:
            command = load_command(GENERAL, words[0])
        else:
            grouped = words[1] in load_plugin(targets[words[0]]).groups
            command = find_command(" ".join(words[: 3 if grouped else 2]))
        if "--" in words:  # what follows are options of the command that a sweep trains by
            place = words.index("--")
            read_words([word for word in words[1:place] if not word.startswith("-")][:3] + words[place + 1 :])
            words = words[:place]
        options = fields_of(command.options)
        flags = {f.flag for f in options} | {f.option.short for f in options if f.option.short} | {"--help"}
        flags |= {"--no-" + flag[2:] for flag in flags}
        for word in words:
            assert not word.startswith("-") or word.partition("=")[0] in flags, f"`{line}`: no option {word}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if any(b.lines for b in _blocks(p, "bash"))], ids=_name)
def test_command_lines_work_in_their_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any]
) -> None:
    """In one folder, from nothing, after the code above them, but for blocks that say what they need."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WASSKIT_DATA", str(tmp_path))
    names: dict[str, Any] = {"__name__": "document"}
    for block in [block for block in _blocks(page, "bash", "python") if not block.needs]:
        if block.language == "python":
            exec(compile(block.text, _name(page), "exec", dont_inherit=True), names)
            continue
        for line in block.lines:
            words = [
                found for w in shlex.split(line) for found in (sorted(map(str, Path().glob(w))) if "*" in w else [w])
            ]
            result = run_cli(*words[1:])
            assert result.exit_code == 0, f"{_name(page)}, `{line}`: {result.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if _blocks(p, "python")], ids=_name)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page one after another, but for those that say what they need."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "document"}
    for number, block in enumerate(_blocks(page, "python"), start=1):
        if not block.needs:
            exec(compile(block.text, f"{_name(page)}, block {number}", "exec", dont_inherit=True), names)


@pytest.mark.parametrize("page", [*PAGES, *sorted(ROOT.glob("*.md"))], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path = (page.parent / target.partition("#")[0]).resolve()
        web = re.match(r"[a-z]+:", target) or target.startswith("#")
        assert web or path.exists() or path in BUILT, f"{page.name}: {target} is not there"


@pytest.mark.slow
def test_documents_become_a_site_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    pytest.importorskip("furo")
    pytest.importorskip("latex2mathml")
    from sphinx.cmd.build import build_main

    assert build_main(["--fail-on-warning", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path)]) == 0
    texts = {
        name: (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        for name in ("index", "plugins/mrl", "plugins/ssl", "reference/python", "reference/commands/ssl", *OTHERS)
    }
    assert "<math" in texts["plugins/ssl"], "equations are part of the page"
    assert "–w2" not in texts["reference/commands/ssl"], "an option keeps its two hyphens"
    for name, text in texts.items():
        assert not re.search(r"<(script|link)[^>]*https?://", text), f"{name} needs a network"


def test_every_public_name_is_in_the_reference() -> None:
    import wasskit

    text = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    missing = [name for name in wasskit.__all__ if name != "__version__" and f"wasskit.{name}\n" not in text]
    assert not missing, f"docs/reference/python.md leaves out {', '.join(missing)}"
