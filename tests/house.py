"""The counts that the house is held to: `python -m tests.house` prints them, tests demand that none is over."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "wasskit"
MODULES = sorted(PACKAGE.rglob("*.py"))
TOP = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
PLUGINS = {path.parent.name for path in (PACKAGE / "plugins").glob("*/__init__.py")}

FUNCTION, CLASS, FILE = 60, 250, 400
BODY = 40
SHARED = 6
"""The longest function, class, file and body of a command, in lines; lines that two plugins may not share."""

Place = tuple[str, ...]
"""The name of a module below the package, in parts."""


@functools.cache
def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


# --- Sizes ------------------------------------------------------------------------------------------------------------


def _length(node: ast.stmt) -> int:
    return (node.end_lineno or 0) - node.lineno + 1


def _without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function but for its docstring, whose length is that of its documentation."""
    return _length(node) - (_length(node.body[0]) if ast.get_docstring(node) is not None else 0)


def long_functions() -> list[str]:
    """Functions, and bodies of commands, that are too long."""
    return [
        f"{_name(path)}: {node.name}, {_without_docstring(node)} lines"
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and _without_docstring(node) > (BODY if node.name == "body" else FUNCTION)
    ]


def long_classes() -> list[str]:
    return [
        f"{_name(path)}: {node.name}, {_length(node)} lines"
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef) and _length(node) > CLASS
    ]


def long_files() -> list[str]:
    return [f"{_name(path)}: {len(lines_of(path))} lines" for path in MODULES if len(lines_of(path)) > FILE]


# --- Shared lines -----------------------------------------------------------------------------------------------------


def _is_text(node: ast.AST) -> TypeGuard[ast.Expr]:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _windows(path: Path) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every run of consecutive lines of code, without imports, docstrings, comments and blank lines."""
    left_out: set[int] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import | ast.ImportFrom) or _is_text(node):
            left_out |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    lines = [
        (number, line.strip())
        for number, line in enumerate(lines_of(path), 1)
        if number not in left_out and any(c.isalnum() for c in line) and not line.strip().startswith("#")
    ]
    for start in range(len(lines) - SHARED + 1):
        yield tuple(line for _, line in lines[start : start + SHARED]), lines[start][0]


def shared_lines() -> list[list[str]]:
    """Places in different plugins that begin the same run of lines."""
    found: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for path in MODULES:
        parts = path.relative_to(PACKAGE).parts
        if parts[0] == "plugins" and len(parts) > 2:
            for window, line in _windows(path):
                found[window].setdefault(parts[1], f"{_name(path)}:{line}")
    return [sorted(places.values()) for places in found.values() if len(places) > 1]


# --- Imports ----------------------------------------------------------------------------------------------------------


@functools.cache
def floors() -> dict[str, int]:
    """Name of a module or package -> its line in ARCHITECTURE.md, where the second column begins after two spaces."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    block = re.search(r"```floors\n(.*?)```", text, flags=re.DOTALL)
    assert block
    lines = [re.split(r"\s{2,}", line)[0].split() for line in block[1].splitlines()]
    return {name: floor for floor, names in enumerate(lines) for name in names}


def place_of(path: Path) -> Place:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts


@functools.cache
def imports(path: Path) -> dict[Place, bool]:
    """What a file imports of the package, wherever in it -> whether for type checkers only."""
    nodes = list(ast.walk(tree_of(path)))
    unseen: set[ast.AST] = set()
    for node in nodes:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            unseen |= {inner for statement in node.body for inner in ast.walk(statement)}
    found: dict[Place, bool] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == "wasskit" and rest and rest[0] in TOP:
                found[tuple(rest)] = found.get(tuple(rest), True) and node in unseen
    return found


def wrong_imports(path: Path) -> list[str]:
    """What a file imports from a higher floor, or of another plugin."""
    own, wrong = place_of(path), []
    for other in imports(path):
        if floors()[other[0]] > floors()[own[0]]:
            wrong.append(f"{_name(path)} imports {'.'.join(other)} from a higher floor")
        elif own[0] == other[0] == "plugins" and set(other[1:2]) & (PLUGINS - {*own[1:2]}) and len(own) > 1:
            wrong.append(f"{_name(path)} imports a plugin: {other[1]}")
    return wrong


def import_circles() -> list[str]:
    """Circles, also through imports inside functions, but for those of a package's own parts by its ``__init__``."""
    names = {place_of(path): path for path in MODULES}
    edges = {
        own: {
            place
            for other, for_types in imports(path).items()
            for place in (other, other[:-1])
            if not for_types and place in names and place != own and own[: len(place)] != place
        }
        for own, path in names.items()
    }
    done: set[Place] = set()
    circles = []

    def visit(place: Place, trail: tuple[Place, ...]) -> None:
        if place in trail:
            circles.append(" -> ".join(".".join(part) for part in (*trail[trail.index(place) :], place)))
        elif place not in done:
            for other in sorted(edges[place]):
                visit(other, (*trail, place))
            done.add(place)

    for place in sorted(names):
        visit(place, ())
    return circles


# --- In all -----------------------------------------------------------------------------------------------------------


def _kinds(path: Path) -> tuple[int, int, int]:
    """Lines of a file, those of documentation, and those with a comment."""
    text = {
        number
        for node in ast.walk(tree_of(path))
        if _is_text(node)
        for number in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    tokens = tokenize.generate_tokens(io.StringIO("\n".join(lines_of(path)) + "\n").readline)
    remarks = [token for token in tokens if token.type == tokenize.COMMENT and not token.string.startswith("# fmt:")]
    return len(lines_of(path)), len(text), len(remarks)


def main() -> None:
    lines, text, remarks = map(sum, zip(*map(_kinds, MODULES), strict=True))
    counts: dict[str, list[str]] = {
        "import circles": import_circles(),
        "upward imports": [line for path in MODULES for line in wrong_imports(path)],
        f"functions over {FUNCTION} lines, bodies of commands over {BODY}": long_functions(),
        f"classes over {CLASS} lines": long_classes(),
        f"files over {FILE} lines": long_files(),
        f"runs of {SHARED} lines that two plugins share": [" = ".join(places) for places in shared_lines()],
    }
    for name, found in counts.items():
        print(f"{len(found):7,} {name}")
        for line in found:
            print(f"          {line}")
    print(f"{lines:7,} lines in {len(MODULES)} files, {text / lines:.0%} documentation, {remarks / lines:.1%} comments")


if __name__ == "__main__":
    main()
