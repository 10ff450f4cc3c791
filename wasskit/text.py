"""Text from outside - names of files, classes and runs, titles, sources - in what is written: one function per format.

Such text is data. Whatever it holds, it changes neither the structure of a document nor the state of a terminal:
control characters, line breaks and marks that reorder text are spelled out (``\\n``, ``\\x1b``, ``\\u202e``), and what
the format gives a meaning is escaped.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$",
    # A bracket or a star that begins a row would be an argument of the \\ or \midrule before it.
    "[": "{[}", "]": "{]}", "*": "{*}",
}  # fmt: skip
_MARKDOWN = {**{character: "\\" + character for character in "\\`*_[]|~$#!"}, "&": "&amp;", "<": "&lt;", ">": "&gt;"}
_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_FORMULA = frozenset("=+-@\t\r")


def hidden(character: str) -> bool:
    """Whether a character controls instead of showing: control and format characters, surrogates, line separators.

    The joiners of some scripts and of emoji are not among them.
    """
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and character not in "\u200c\u200d"


def controls(character: str) -> bool:
    """Whether no name, title or path that a user types has this character: control characters, line separators, and
    what overrides the direction of text. Marks of direction, which names in some scripts hold, are not among them.
    """
    return unicodedata.category(character) in {"Cc", "Zl", "Zp"} or character in _OVERRIDES


def plain_text(text: object) -> str:
    """One line in which every hidden character is spelled out, as Python spells it."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if hidden(c) else c for c in text)


def short_text(text: object, longest: int = 80) -> str:
    """One line of at most ``longest`` characters, as :func:`plain_text`; what is longer ends in ``...``."""
    # Cut before it is spelled out, too: what comes from a file may have any length.
    shown = plain_text(str(text)[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."


def terminal_text(text: object) -> str:
    """Text that Rich prints as it is, square brackets included."""
    from rich.markup import escape

    return escape(plain_text(text))


def latex_text(text: object) -> str:
    """Text for LaTeX, at any place of a table or a caption."""
    return "".join(_LATEX.get(character, character) for character in plain_text(text))


def markdown_text(text: object) -> str:
    """Text for Markdown as GitHub reads it, in a cell of a table too; an underscore inside a word is left alone."""
    plain = plain_text(text)
    return "".join(
        character
        if character == "_" and plain[i - 1 : i].isalnum() and plain[i + 1 : i + 2].isalnum()
        else _MARKDOWN.get(character, character)
        for i, character in enumerate(plain)
    )


def html_text(text: object) -> str:
    """Text for HTML, in an element or a quoted attribute."""
    import html

    return html.escape(plain_text(text))


def figure_text(text: object) -> str:
    """Text for matplotlib: no formula between dollars; a label that begins with an underscore stays in the legend."""
    plain = plain_text(text).replace("$", r"\$")
    return " " + plain if plain.startswith("_") else plain


def csv_cell(value: Any) -> Any:
    """A cell of a CSV file that a spreadsheet shows instead of computing; numbers, also as text, are left alone.

    Text that would be a formula gets an apostrophe in front. A path keeps all its characters, so that it can be opened,
    and gets ``./`` in front instead.
    """
    if isinstance(value, PurePath):
        return f"./{value}" if _is_formula(str(value)) else str(value)
    if isinstance(value, str):
        return ("'" if _is_formula(value) else "") + plain_text(value)
    return value


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as the lines of a CSV file, their cells by :func:`csv_cell`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([csv_cell(value) for value in row] for row in rows)
    return text.getvalue()


def counted(number: float, noun: str) -> str:
    """``1 epoch``, ``2 epochs``, ``1.5 epochs``."""
    return f"{number:.4g} {noun}" + ("" if number == 1 else "s") if number < 1e4 else f"{number:.0f} {noun}s"


def is_number(text: str) -> bool:
    """Whether a text spells a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_formula(text: str) -> bool:
    # Full-width signs begin a formula too, in spreadsheets set to some languages.
    text = text.lstrip(" ")
    if len(text) < 2 or unicodedata.normalize("NFKC", text[0]) not in _FORMULA:
        return False
    return not is_number(text)
