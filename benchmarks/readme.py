"""Measured tables of the README and of docs, made from `results/`: `python benchmarks/readme.py` rewrites them.

A table stands between `<!-- results: NAME -->` and `<!-- end -->`; NAME is a file of `results/` without its ending.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tables import render

MARKED = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, results: Path) -> str:
    """A page with its marked tables replaced by those of the results.

    Raises:
      FileNotFoundError: for a marker that names no result.
      ValueError: for a page without a marker, which has nothing to fill.
    """
    if not MARKED.search(text):
        raise ValueError("the page has no marker such as '<!-- results: NAME -->' ... '<!-- end -->'")

    def table(found: re.Match) -> str:
        return f"{found[1]}\n{render(json.loads((results / f'{found[2]}.json').read_text()))}\n{found[3]}"

    return MARKED.sub(table, text)


def pages() -> list[Path]:
    """The pages with markers: in the repository's root, in docs, and in this folder."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
    return sorted(path for path in found if MARKED.search(path.read_text()))


if __name__ == "__main__":
    for page in pages():
        page.write_text(filled(page.read_text(), ROOT / "benchmarks" / "results"))
