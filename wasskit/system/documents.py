"""Readers of text, JSON, TOML and CSV, bounded in size and in nesting. Free of torch and numpy."""

from __future__ import annotations

import csv
import itertools
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wasskit.system.readers import Damage, reader

LARGEST_TEXT, LARGEST_JSON = 1 << 28, 1 << 26
"""Bytes; parsed JSON takes up to twenty times its size in memory."""
LARGEST_TOML = 1 << 20
"""Bytes of the largest recipe or saved configuration. Parsing takes time quadratic in the parts of a key."""
DEEPEST = 64
"""Levels of nesting from which a JSON or TOML file is refused: what shows and compares them is recursive."""
MOST_PARTS = 16
"""Parts of the longest dotted key of a TOML file."""
_WIDEST_INT = 1 << 63
# Strings and comments of TOML, in which marks mean nothing.
_QUOTED = re.compile(
    r'"""(?:\\[\s\S]?|[^\\])*?(?:"""|\Z)'
    r"|'''[\s\S]*?(?:'''|\Z)"
    r'|"(?:\\.|[^"\\\n])*"?'
    r"|'[^'\n]*'?|#[^\n]*"
)
_WORD = re.compile(r"[^\s.\[\]{}=,]+")
_LONG_KEY = re.compile(rf"(?:k[ \t]*\.[ \t]*){{{MOST_PARTS}}}")


@reader("text file", suffixes=(".txt", ""), advice="get the file again", largest=LARGEST_TEXT)
def read_text(path: Path, *, errors: str = "strict") -> str:
    """The text of a UTF-8 file, without a byte order mark."""
    return path.read_text(encoding="utf-8-sig", errors=errors)


@reader("JSON file", suffixes=(".json",), advice="repair it, or remove it and make it again", largest=LARGEST_JSON)
def read_json(path: Path) -> Any:
    """The content of a JSON file; whole numbers beyond 64 bits and deep nesting are refused."""
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str) -> Any:
    """JSON as :func:`read_json` takes it. Raises ``ValueError`` for invalid JSON, `Damage` for what is refused."""
    content = json.loads(text)
    _check_values(content)
    return content


@reader("TOML file", suffixes=(".toml",), advice="repair that line", largest=LARGEST_TOML)
def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file; deep nesting, keys of more than 16 parts and, as TOML itself says, whole numbers
    beyond 64 bits are refused."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    text = path.read_text(encoding="utf-8-sig")
    marks = _WORD.sub("k", _QUOTED.sub("k", text))
    if _LONG_KEY.search(marks):
        raise Damage(f"one of its keys has more than {MOST_PARTS} parts")
    depths = itertools.accumulate({"[": 1, "{": 1, "]": -1, "}": -1}.get(mark, 0) for mark in marks)
    if max(depths, default=0) > DEEPEST:
        raise Damage("it is nested too deeply")
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Damage(f"it is not valid TOML: {error}") from error
    _check_values(document)
    return document


@reader("CSV file in UTF-8", suffixes=(".csv",), advice="repair that line or get the file again", largest=LARGEST_TEXT)
def read_csv_rows(path: Path) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file that are not blank, each with the number of its last line."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = csv.reader(stream)
        return [(rows.line_num, row) for row in rows if any(map(str.strip, row))]


def _check_values(content: Any) -> None:
    """Refuse what later code would stumble over. Level by level: recursion would fail on just what is refused."""
    level = [content]
    for _ in range(DEEPEST):
        for value in level:
            if isinstance(value, int) and not -_WIDEST_INT <= value < _WIDEST_INT:
                raise Damage("it holds a whole number of more than 64 bits")
        level = [
            entry
            for value in level
            if isinstance(value, Mapping | list)
            for entry in (value.values() if isinstance(value, Mapping) else value)
        ]
        if not level:
            return
    raise Damage("it is nested too deeply")
