"""Builds a report as one self-contained HTML page, with embedded pictures."""

import base64
import html
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jax
import numpy as np

from jtl.report.figures import NAMED, confusion, counted, shares

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
.across { margin: 0 0 1.5rem; overflow-x: auto; }
table { border-collapse: collapse; } td, th { padding: .25rem .75rem; border-bottom: 1px solid #eee; text-align: left; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } img { max-width: 100%; }
.big { font-size: 2.4rem; font-weight: 600; } .note { background: #fff6dd; padding: .5rem 1rem; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; } .card { width: 10rem; font-size: .85rem; }
.card small { display: block; overflow-wrap: anywhere; }
.card img { width: 10rem; height: 10rem; object-fit: cover; border-radius: 4px; } .text { width: 100%; }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: .8rem; } .wrong { color: #b00020; }
summary { cursor: pointer; } .wide { overflow: auto; max-height: 46rem; }
.matrix { border-collapse: separate; border-spacing: 1px; font-size: .75rem; } .matrix td { padding: 0 .3rem; }
.matrix td { background: #f4f7fb; }
.matrix td, .matrix thead th { min-width: 1.5rem; height: 1.5rem; text-align: center; border: 0; }
.matrix th { border: 0; background: #fff; position: sticky; left: 0; z-index: 1; }
.matrix th { font-weight: 400; white-space: nowrap; }
.matrix thead th { padding: .25rem .1rem; }
.matrix thead th { top: 0; vertical-align: bottom; z-index: 2; } .matrix thead th:first-child { z-index: 3; }
.matrix .up { writing-mode: vertical-rl; transform: rotate(180deg); display: inline-block; } .matrix .d { color: #fff; }
"""


AUDIO = {".wav": "audio/wav", ".flac": "audio/flac"}
NUMBERS = (int, float, np.integer, np.floating)
SOFTWARE = ("jtl", "jax", "flax", "optax", "numpy")
"""The libraries whose versions a page lists."""
HEARD = 1 << 20
"""The most bytes of a sound that is embedded into a page; a larger sound is shown by its name alone."""


class Links(NamedTuple):
    """A cell of links to files beside the page, which lead there wherever both are moved together.

    Args:
      files: pairs of the shown text and of the file, relative to the page's folder.
    """

    files: tuple[tuple[str, str], ...]


class Page:
    """An HTML page, built section by section; all text is escaped.

    Args:
      title: the title of the page.

    Example:
      >>> from jtl.report.page import Page
      >>> page = Page("A run")
      >>> page.heading("Settings")
      >>> page.table(("name", "value"), [("seed", 0)])
      >>> "<td class='n'>0</td>" in page.text()
      True
    """

    def __init__(self, title: str):
        self.title, self._parts = title, [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        """Begins a section."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def say(self, text: str, kind: str = "") -> None:
        """Adds a paragraph; `kind` is "big", "note" or ""."""
        self._parts.append(f"<p class='{kind}'>{html.escape(text)}</p>")

    def code(self, text: str, summary: str = "") -> None:
        """Adds preformatted lines; with a summary, they are folded until it is clicked."""
        lines = f"<pre>{html.escape(text)}</pre>"
        self._parts.append(f"<details><summary>{html.escape(summary)}</summary>{lines}</details>" if summary else lines)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Adds a table, whose cells may be `Links`; columns of numbers are right-aligned."""
        numeric = [all(isinstance(row[i], NUMBERS) for row in rows) for i in range(len(columns))]
        kinds = [" class='n'" if n else "" for n in numeric]
        head = "".join(f"<th{k}>{html.escape(str(c))}</th>" for k, c in zip(kinds, columns, strict=True))
        body = ["".join(f"<td{k}>{_content(v)}</td>" for k, v in zip(kinds, row, strict=True)) for row in rows]
        table = f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in body)}</table>"
        self._parts.append(f"<div class='across'>{table}</div>")

    def environment(self, settings: Mapping[str, Any]) -> None:
        """Adds a section with a run's settings, the first device, and the versions of Python and of the libraries."""
        self.heading("Settings and environment")
        self.table(("setting", "value"), [(name, str(value)) for name, value in settings.items()])
        rows = [("Python", platform.python_version()), ("device", jax.devices()[0].device_kind)]
        self.table(("software", "version"), [*rows, *((name, version(name)) for name in SOFTWARE)])

    def matrix(self, counts: Any, classes: Sequence[str]) -> None:
        """Adds a confusion matrix: one row per true class, one column per predicted class.

        A cell's shade is the square root of its share of the row, so that one mistake among many examples is visible.
        Names stay in view if the matrix is larger than the page.

        Args:
          counts: [classes, classes].
          classes: the names of the classes.

        Raises:
          ValueError: as `jtl.report.confusion` does.
        """
        counts = counted(counts, classes)
        depth = np.sqrt(shares(counts))
        names = [html.escape(name) for name in classes]
        upright = len(names) > 8 or max(map(len, classes)) > 12
        up = " class='up'" if upright else ""
        head = "".join(f"<th scope='col'><span{up}>{name}</span></th>" for name in names)
        rows = []
        for i, name in enumerate(names):
            cells = [
                _cell(int(counts[i, j]), float(depth[i, j]), f"{name} taken for {other}")
                for j, other in enumerate(names)
            ]
            rows.append(f"<tr><th scope='row'>{name}</th>{''.join(cells)}</tr>")
        corner = "<th>true \\ predicted</th>"
        table = f"<table class='matrix'><thead><tr>{corner}{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        self._parts.append(f"<div class='wide'>{table}</div>")

    def confusion(self, counts: Any, classes: Sequence[str], of: str) -> None:
        """Adds a confusion matrix as a table, or as a picture if there are too many classes for their numbers.

        Args:
          counts: as for `matrix`.
          classes: the names of the classes.
          of: the examples, for the sentence above.
        """
        self.say(f"Of the {of}; a row for each true class, a column for each predicted one.")
        if len(classes) <= NAMED:
            self.matrix(counts, classes)
        else:
            self.figure(
                lambda path: confusion(counts, classes, path, title=of),
                f"the confusion matrix of the {of}: rows are the true classes, columns the predicted ones",
            )

    def figure(self, draw: Callable[[Path], Any], told: str) -> None:
        """Adds a picture that `draw(path)` writes as PNG; `told` is its alternative text."""
        with tempfile.TemporaryDirectory() as folder:
            draw(Path(folder) / "figure.png")
            content = (Path(folder) / "figure.png").read_bytes()
        self._parts.append(f"<img alt='{html.escape(told, quote=True)}' src='{_inline(content, 'png')}'>")

    def cards(self, items: Sequence[tuple[Any, str, bool]]) -> None:
        """Adds examples, each (the file of an image or a sound, or a text; a caption; whether it is right)."""
        cards = []
        for item, words, right in items:
            said = f"<span class='{'' if right else 'wrong'}'>{html.escape(words)}</span>"
            if isinstance(item, Path) and (kind := AUDIO.get(item.suffix.lower())) is not None:
                cards.append(f"<div class='card text'>{html.escape(item.name)} {_player(item, kind)}<br>{said}</div>")
            elif isinstance(item, Path):
                picture = f"<img alt='{html.escape(item.name, quote=True)}' src='{thumbnail(item)}'>"
                cards.append(f"<div class='card'>{picture}<small>{html.escape(item.name)}</small>{said}</div>")
            else:
                cards.append(f"<div class='card text'>{html.escape(str(item)[:500])}<br>{said}</div>")
        self._parts.append(f"<div class='cards'>{''.join(cards)}</div>")

    def text(self) -> str:
        """Returns the HTML of the whole page."""
        head = f"<meta charset='utf-8'><title>{html.escape(self.title)}</title><style>{STYLE}</style>"
        return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(self._parts)}</body></html>"

    def write(self, path: Path) -> Path:
        """Writes the page and returns its path."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.text(), encoding="utf-8", errors="backslashreplace")  # for names that are not UTF-8
        return path


def _cell(count: int, depth: float, told: str) -> str:
    if not count:
        return "<td></td>"
    dark = " class='d'" if depth > 0.6 else ""
    return f"<td{dark} title='{told}' style='background:rgba(8,48,107,{depth:.2f})'>{count}</td>"


def _player(file: Path, kind: str) -> str:
    """Returns an element that plays a sound; "" if the sound is too large to embed."""
    if file.stat().st_size > HEARD:
        return ""
    return f"<audio controls src='data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}'></audio>"


def thumbnail(file: Path, side: int = 160) -> str:
    """Returns a small JPEG of an image as a `data:` URL."""
    import io

    from PIL import Image

    from jtl.preprocess import pixels

    small = pixels.short_side_crop(pixels.decode(file, "RGB"), side)
    stored = io.BytesIO()
    Image.fromarray(small).save(stored, "JPEG", quality=80)
    return _inline(stored.getvalue(), "jpeg")


def _inline(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _content(value: Any) -> str:
    """Returns the HTML of a cell."""
    if isinstance(value, Links):
        return ", ".join(f"<a href='{quote(os.fsencode(file))}'>{html.escape(text)}</a>" for text, file in value.files)
    return html.escape(f"{value:.4g}" if isinstance(value, float | np.floating) else str(value))
