"""Labels that are no names of classes: numbers to predict, and several labels in one cell."""

import re

import numpy as np
import pytest

from jtl import cli
from jtl.command import labels, source
from jtl.command.settings import Settings


def table(path, names):
    path.write_text("text;label\n" + "".join(f"text {i};{name}\n" for i, name in enumerate(names)))
    return path


@pytest.mark.parametrize("number", ["{:.3f}", "{:.2e}", "-{:.1f}"])
def test_mostly_different_numbers_are_refused(tmp_path, number):
    drawn = np.random.default_rng(0).uniform(1, 1000, 12)
    names = [number.format(value) for value in drawn]
    with pytest.raises(ValueError, match=r"12 different numbers as labels of 12 examples.*--task regression"):
        source.read(table(tmp_path / "t.csv", names))


def test_many_different_whole_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"30 different numbers as labels of 40 examples, as '0'"):
        source.read(table(tmp_path / "t.csv", [*range(30), *range(10)]))


def test_a_command_names_the_task_of_numbers(tmp_path, capsys):
    """Of split tables too, whose later parts have other numbers."""
    for part in ("train", "val"):
        values = np.random.default_rng(len(part)).normal(size=9)
        table(tmp_path / f"{part}.csv", [f"{value:.3f}" for value in values])
    assert cli.main(["finetune", str(tmp_path), "--weights", "w", "--out", str(tmp_path.parent / "run")]) == 2
    assert "jtl finetune --task regression" in capsys.readouterr().err


def test_numbers_that_name_classes_are_read(tmp_path):
    for names in (range(10), [1, 2, 3, 4, 5] * 4, ["0.5", "1.0", "1.5"] * 3, ["1.5", "2.5", "none"]):
        (found,) = source.read(table(tmp_path / "t.csv", names)).values()
        assert len(found.classes) == len(set(names))


def test_other_numbers_than_the_classes_of_a_run_are_told_as_such(tmp_path):
    with pytest.raises(ValueError, match=r"have the class '1\.5', which is not one of"):
        source.read(table(tmp_path / "t.csv", ["1.5", "2.5"]), classes=("a", "b"))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["x", "y", "x|y", "x"], r"1 of 4 labels hold '\|', as 'x\|y': each combination .* jtl\.tasks\.multi_label"),
        (["x;y", "y;z", "x;z", "x;y;z"], "4 of 4 labels hold ';'"),
        (["x, y", "y", "y, z", "z, x"], "3 of 4 labels hold ','"),
        (["0.5", "1", "1.5"] * 3, r"labels are 3 numbers, as '0\.5': each is a class.*jtl finetune --task regression"),
        (["Cat", "cat"], "differ by upper and lower case alone"),
        (["1", "NA", "0", "NA"], "2 of 4 labels are 'NA', as a missing label is written, and are a class: if they are"),
    ],
)
def test_labels_that_may_mean_something_else_are_noted(names, told):
    (note,) = labels.notes(names)
    assert re.search(told, note)


@pytest.mark.parametrize(
    "names",
    [
        ["cat", "dog"] * 3,
        ["1", "2", "3"] * 3,
        ["Austin, TX", "Paris, France", "Rome, Italy"] * 2,
        ["yes", "no", "no, but it was close"] * 2,
        ["1,5", "2,5", "3,5"],
    ],
)
def test_plain_classes_have_no_note(names):
    assert labels.notes(names) == []


def test_the_help_says_what_is_predicted():
    assert "`--task regression`" in (Settings.__doc__ or "")
    assert "jtl.tasks.multi_label" in (Settings.__doc__ or "")
