"""Nothing grows beyond what can be read in one sitting, and no two plugins share code that belongs below them."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

PACKAGE = Path(__file__).resolve().parents[1] / "wasskit"
PARSED = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}

FUNCTION, CLASS, FILE = 60, 250, 400
BODY = 40
SHARED = 6


def _without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function but for its docstring, whose length is that of its documentation."""
    documented = ast.get_docstring(node) is not None
    first = node.body[0]
    text = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (node.end_lineno or 0) - node.lineno + 1 - text


def test_no_function_is_long() -> None:
    long = [
        f"{path.relative_to(PACKAGE)}: {node.name}, {_without_docstring(node)} lines"
        for path, tree in PARSED.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and _without_docstring(node) > (BODY if node.name == "body" else FUNCTION)
    ]
    assert long == []


def test_no_class_is_long() -> None:
    long = [
        f"{path.relative_to(PACKAGE)}: {node.name}, {(node.end_lineno or 0) - node.lineno + 1} lines"
        for path, tree in PARSED.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno + 1 > CLASS
    ]
    assert long == []


def test_no_file_is_long() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PARSED}
    assert [f"{p.relative_to(PACKAGE)}: {n} lines" for p, n in lengths.items() if n > FILE] == []


def _is_text(node: ast.AST) -> TypeGuard[ast.Expr]:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _windows(path: Path, tree: ast.Module) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every run of consecutive lines of code, without imports, docstrings, comments and blank lines."""
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) or _is_text(node):
            left_out |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    lines = [
        (number, line.strip())
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if number not in left_out and any(c.isalnum() for c in line) and not line.strip().startswith("#")
    ]
    for start in range(len(lines) - SHARED + 1):
        yield tuple(line for _, line in lines[start : start + SHARED]), lines[start][0]


def test_plugins_share_no_code() -> None:
    found: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for path, tree in PARSED.items():
        parts = path.relative_to(PACKAGE).parts
        if parts[0] == "plugins" and len(parts) > 2:
            for window, line in _windows(path, tree):
                found[window].setdefault(parts[1], f"{path.relative_to(PACKAGE)}:{line}")
    assert [sorted(places.values()) for places in found.values() if len(places) > 1] == []
