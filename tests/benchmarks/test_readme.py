"""The tables of README and docs are those of the results that were measured."""

import json
from pathlib import Path

import pytest

from benchmarks import readme
from benchmarks.recipes import rows

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def test_pages_show_what_was_measured():
    for path in readme.pages():
        page = path.read_text()
        assert readme.filled(page, RESULTS) == page, f"{path.name}: run python benchmarks/readme.py"


def test_every_result_is_on_a_page():
    shown = {name for path in readme.pages() for _, name, _ in readme.MARKED.findall(path.read_text())}
    missing = {path.stem for path in RESULTS.glob("*.json")} - shown
    assert not missing, "add `<!-- results: NAME -->` and `<!-- end -->` to docs/results.md, run benchmarks/readme.py"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_table_is_of_its_result(path):
    assert path.with_suffix(".md").read_text() == readme.render(json.loads(path.read_text()))


def test_a_number_changed_by_hand_is_put_right():
    page = (ROOT / "docs" / "results.md").read_text()
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


def test_a_gain_whose_interval_includes_zero_is_not_shown():
    base = {"way": ("(a)", "base"), "mean": 0.5, "std": 0.1, "seeds": [0.4, 0.6]}
    good = {**base, "way": ("(a)", "good"), "gain": 9.0, "half": 4.0, "over": "base"}
    weak = {**base, "way": ("(a)", "weak"), "gain": 3.3, "half": 5.4, "over": "base"}
    where = {"command": "c", "device": "d", "cores": 2, "jax": "j", "python": "p", "date": "2026-01-01", "load": [0]}
    page = readme.render({"benchmark": "recipe", "environment": where, "rows": [base, good, weak]})
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if "(a)" in line]
    assert [row[2] for row in cells] == ["-", "+9.0 ± 4.0", "not shown: +3.3 ± 5.4"]


def test_a_label_free_score_is_no_accuracy():
    """Class clustering of a recipe is between 0 and 1 in a column of its own; a way without one has a dash."""
    found = {"joint": {"loss": 0.4, "accuracy": 0.623, "clustering": 0.7941}, "other": {"accuracy": 0.5}}
    where = {"command": "c", "device": "d", "cores": 2, "jax": "j", "python": "p", "date": "2026-01-01", "load": [0]}
    page = readme.render({"benchmark": "recipe", "environment": where, "rows": rows(found)})
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    assert cells[0] == ["way", "accuracy", "clustering"]
    assert cells[2:] == [["joint", "62.3", "0.794"], ["other", "50.0", "-"]]
