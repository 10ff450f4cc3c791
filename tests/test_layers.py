"""The floors of ARCHITECTURE.md: a lower one never imports a higher one, plugins never import each other."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from wasskit.plugins import BUILT_IN

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "wasskit"
MODULES = sorted(PACKAGE.rglob("*.py"))
TOP = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
PLUGINS = {path.parent.name for path in (PACKAGE / "plugins").glob("*/__init__.py")}


def _floors() -> dict[str, int]:
    """Name of a module or package -> its line in the list, whose second column begins after two spaces."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    block = re.search(r"```floors\n(.*?)```", text, flags=re.DOTALL)
    assert block
    lines = [re.split(r"\s{2,}", line)[0].split() for line in block[1].splitlines()]
    return {name: floor for floor, names in enumerate(lines) for name in names}


FLOORS = _floors()


def _parts(path: Path) -> tuple[str, ...]:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts


@functools.cache
def _nodes(path: Path) -> tuple[list[ast.AST], set[ast.AST]]:
    """The nodes of a file, and those of them that only type checkers see."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    for_types: set[ast.AST] = set()
    for node in nodes:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for_types |= {inner for statement in node.body for inner in ast.walk(statement)}
    return nodes, for_types


def _imports(path: Path, *, for_types: bool = True) -> Iterator[tuple[str, ...]]:
    """The modules of the package that a file imports, wherever in it; with or without those for type checkers only."""
    nodes, left_out = _nodes(path)
    for node in nodes:
        if node in left_out and not for_types:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == "wasskit" and rest and rest[0] in TOP:
                yield tuple(rest)


def test_every_module_has_a_floor() -> None:
    assert set(FLOORS) == TOP


def test_every_plugin_is_registered() -> None:
    assert set(BUILT_IN) == PLUGINS
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    points = project.partition('[project.entry-points."wasskit.plugins"]')[2].partition("[tool")[0]
    assert dict(re.findall(r'^(\w+) = "(.+)"$', points, flags=re.MULTILINE)) == BUILT_IN


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_to_lower_floors(path: Path) -> None:
    own = _parts(path)
    for other in _imports(path):
        assert FLOORS[other[0]] <= FLOORS[own[0]], f"{path} imports {'.'.join(other)} from a higher floor"
        if own[0] == other[0] == "plugins" and len(own) > 1 and len(other) > 1:
            assert other[1] == own[1] or other[1] not in PLUGINS, f"{path} imports a plugin: {other[1]}"


def test_there_is_no_circle_of_imports() -> None:
    """Also none through imports inside functions, but for those of a package's own parts by its ``__init__``."""
    names = {_parts(path): path for path in MODULES}
    edges = {
        own: {
            place
            for other in _imports(path, for_types=False)
            for place in (other, other[:-1])
            if place in names and place != own and own[: len(place)] != place
        }
        for own, path in names.items()
    }
    done: set[tuple[str, ...]] = set()

    def visit(place: tuple[str, ...], trail: tuple[tuple[str, ...], ...]) -> None:
        assert place not in trail, " -> ".join(".".join(p) for p in (*trail[trail.index(place) :], place))
        if place not in done:
            for other in sorted(edges[place]):
                visit(other, (*trail, place))
            done.add(place)

    for place in sorted(names):
        visit(place, ())
