"""Pieces of a self-contained HTML page: tables, definitions, images inside the page."""

from __future__ import annotations

import base64
import io
import tempfile
import typing
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from wasskit import __version__
from wasskit.pictures.style import save_figure
from wasskit.plugins.plot.groups import show_setting
from wasskit.system.readers import Damage, reader
from wasskit.text import html_text

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}
MOST_ROWS = 60
_LARGEST_SIDE = 1600
_EMBEDDABLE = 1_500_000


def page(title: str, header: str, sections: Iterable[tuple[str, str]]) -> str:
    """A page of its own style; empty sections are left out."""
    shown = [(name, content) for name, content in sections if content]
    links = "".join(f'<a href="#{anchor(name)}">{html_text(name)}</a>' for name, _ in shown)
    body = "".join(
        f'<section id="{anchor(name)}"><h2>{html_text(name)}</h2>{content}</section>' for name, content in shown
    )
    template, style = (_own_file(name) for name in ("page.html", "page.css"))
    return template.format(
        title=html_text(title), style=style, header=header, links=links, body=body, version=html_text(__version__)
    )


def _own_file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def figures(figures: Iterable[tuple[str, Figure]], *, wide: bool = False) -> str:
    """Figures as images: drawings for lines, pixels for clouds, whose thousands of points would swell a drawing."""
    parts = []
    kind = ".png" if wide else ".svg"
    with tempfile.TemporaryDirectory() as folder:
        for name, fig in figures:
            data = save_figure(fig, Path(folder) / f"figure{kind}", dpi=160).read_bytes()
            parts.append(image(name, IMAGES[kind], data, wide=wide))
    return f'<div class="figures">{"".join(parts)}</div>' if parts else ""


def image(name: str, kind: str, data: bytes, *, wide: bool = False) -> str:
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    shape = ' class="wide"' if wide else ""
    return (
        f'<figure{shape}><div class="scroll"><img alt="{html_text(name)}" src="{source}"></div>'
        f"<figcaption>{html_text(name)}</figcaption></figure>"
    )


@reader("image", suffixes=tuple(IMAGES), advice="remove it", largest=1 << 28)
def read_image(path: Path) -> tuple[str, bytes]:
    """An image file as it is, or made smaller where it would swell the page."""
    from wasskit.data.images import opened

    data = path.read_bytes()
    kind = IMAGES[path.suffix.lower()]
    if path.suffix.lower() == ".svg":
        if b"<svg" not in data[:4096]:
            raise Damage("it is no SVG")
        return kind, data
    with opened(data) as picture:
        picture.load()
        if len(data) <= _EMBEDDABLE:
            return kind, data
        picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
        smaller = io.BytesIO()
        picture.convert("RGB").save(smaller, "JPEG", quality=88)
    return IMAGES[".jpg"], smaller.getvalue()


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    numeric = [all(_is_numeric(row[i]) for row in rows) for i in range(len(heads))]
    classes = [' class="n"' if number else "" for number in numeric]
    head = "".join(f"<th{c}>{html_text(h)}</th>" for h, c in zip(heads, classes, strict=True))
    shown = rows[:MOST_ROWS]
    body = "".join(
        "<tr>" + "".join(f"<td{c}>{html_text(_shown(v))}</td>" for v, c in zip(row, classes, strict=True)) + "</tr>"
        for row in shown
    )
    more = f'<p class="note">The first {len(shown)} of {len(rows)} rows.</p>' if len(rows) > len(shown) else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}'


def scalars(document: Any) -> str:
    """The plain values of a JSON object, those one level down under their key."""
    if not isinstance(document, Mapping):
        return ""
    plain: dict[str, Any] = {}
    nestings: dict[str, dict[str, Any]] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            inner = {k: v for k, v in value.items() if isinstance(v, str | int | float | bool)}
            if inner:
                nestings[str(key)] = inner
        elif isinstance(value, str | int | float | bool):
            plain[str(key)] = value
    content = definitions(plain)
    for key, value in document.items():
        if isinstance(value, Mapping) and len(value) > 1:
            content += _grid(str(key), value)
    same = list(nestings.values())
    if len(same) > 1 and all(list(entry) == list(same[0]) for entry in same):
        return content + table(["", *same[0]], [[name, *entry.values()] for name, entry in nestings.items()])
    for name, entry in nestings.items():
        numbers = all(isinstance(v, int | float) for v in entry.values())
        listed = table(["metric", name], [[k, v] for k, v in entry.items()]) if numbers else definitions(entry)
        content += ("" if numbers else f"<h4>{html_text(name)}</h4>") + listed
    return content


def _grid(name: str, rows: Mapping[str, Any]) -> str:
    """A table of numbers under two keys; empty for anything else."""
    if not all(isinstance(row, Mapping) and row and all(map(_is_numeric, row.values())) for row in rows.values()):
        return ""
    heads = list(dict.fromkeys(key for row in rows.values() for key in row))
    body = [[key, *(row.get(head) for head in heads)] for key, row in rows.items()]
    return f"<h4>{html_text(name)}</h4>" + table(["", *heads], body)


def definitions(values: Mapping[str, Any]) -> str:
    items = "".join(
        f"<div{_long(value)}><dt>{html_text(key)}</dt><dd>{html_text(_plain(value))}</dd></div>"
        for key, value in values.items()
        if value is not None
    )
    return f'<dl class="settings">{items}</dl>' if items else ""


def _long(value: Any) -> str:
    """A text of more than a line takes the width of the page."""
    return ' class="long"' if len(_plain(value)) > 45 else ""


def _plain(value: Any) -> str:
    return (
        value
        if isinstance(value, str)
        else ", ".join(map(_plain, value))
        if isinstance(value, list)
        else show_setting(value)
    )


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e9 else f"{value:.4g}"
    return str(value)


def typed(cell: str) -> Any:
    try:
        return float(cell)
    except ValueError:
        return cell


def _is_numeric(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, int | float)
        or (isinstance(value, str) and value[:1] in "+-" and value[1:2].isdigit())
    )


def moment(text: Any) -> str | None:
    """``2024-05-01T10:00:00+00:00`` as ``2024-05-01 10:00 UTC``; any other text as it is."""
    try:
        moment = datetime.fromisoformat(str(text)).astimezone(timezone.utc)
    except ValueError:
        return str(text) if text else None
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def duration(seconds: Any) -> str | None:
    if not isinstance(seconds, int | float):
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
