"""The README's tables are those of the results that were measured."""

import json
from pathlib import Path

import pytest

from benchmarks import readme
from benchmarks.recipes import rows

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def test_the_readme_shows_what_was_measured():
    page = (ROOT / "README.md").read_text()
    assert readme.filled(page, RESULTS) == page, "run: python benchmarks/readme.py"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_table_is_of_its_result(path):
    assert path.with_suffix(".md").read_text() == readme.render(json.loads(path.read_text()))


def test_a_number_changed_by_hand_is_put_right():
    page = (ROOT / "README.md").read_text()
    shown = readme.MARKED.search(page)
    assert shown
    forged = page[: shown.end(1)] + "\n99.9\n" + page[shown.start(3) :]
    assert readme.filled(forged, RESULTS) == page


def test_a_page_without_tables_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no marker"):
        readme.filled("no numbers here", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        readme.filled("<!-- results: nothing -->\n<!-- end -->", tmp_path)


def test_nested_results_become_rows():
    seeds = {"mean": 0.5, "std": 0.1, "seeds": [0.4, 0.6]}
    assert rows({"(a)": {"scratch": seeds}, "dann": {"accuracy": 0.7}}) == [
        {"way": ("(a)", "scratch"), **seeds},
        {"way": ("dann", "accuracy"), "mean": 0.7},
    ]
