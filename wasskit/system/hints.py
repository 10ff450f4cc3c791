"""The known words nearest to a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], count: int = 1) -> list[str]:
    """The known words, at most ``count``, that are close to ``word``, the closest first."""
    return difflib.get_close_matches(str(word), list(dict.fromkeys(known)), n=count)


def did_you_mean(word: str, known: Iterable[str], count: int = 1, *, otherwise: str = "") -> str:
    """A sentence, with a space before it, that offers the nearest known words; ``otherwise`` where none is close."""
    close = nearest(word, known, count)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else otherwise
