"""Numbers are read strictly, and what is no number is named with its row and value."""

import numpy as np
import pytest

from jtl.command import source
from jtl.command.class_labels import class_labels
from jtl.command.number_labels import number_labels
from jtl.command.splits import folds, shared, split


def table(path, labels, texts=None):
    texts = [f"text {i}" for i in range(len(labels))] if texts is None else texts
    path.write_text("text;label\n" + "".join(f"{text};{y}\n" for text, y in zip(texts, labels, strict=True)))
    return path


def test_numbers_are_read_as_they_stand(tmp_path):
    given = ["3", " -2.5", "+.5", "1e-3", "7.", "2E2", "0"]
    (found,) = source.read(table(tmp_path / "t.csv", given), labels=number_labels).values()
    np.testing.assert_array_equal(found.labels, [3, -2.5, 0.5, 1e-3, 7, 200, 0])
    assert (found.classes, found.numeric, found.targets.dtype) == (("label",), True, np.float32)


@pytest.mark.parametrize("wrong", ["good", "nan", "NaN", "inf", "-Infinity", "1_000", "0x1", "3 stars", "٣", "1e"])
def test_what_is_no_number_is_named_with_its_row(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"line 3 of .*t\.csv' and 1 more have the 'label' '") as told:
        source.read(table(tmp_path / "t.csv", ["1", wrong, "2", wrong]), labels=number_labels)
    assert repr(wrong) in str(told.value)
    assert "--task regression could predict; to predict classes, leave --task out" in str(told.value)


def test_a_decimal_comma_and_a_number_too_large_are_told_as_such(tmp_path):
    with pytest.raises(ValueError, match=r"'3,5', which is no number .*: write decimals with a point"):
        source.read(table(tmp_path / "t.csv", ["3,5", "1,5"]), labels=number_labels)
    for large in ("1e39", "-1e999"):
        with pytest.raises(ValueError, match=f"line 2 .* has the 'label' '{large}', which is too large for 32 bits"):
            source.read(table(tmp_path / "t.csv", [large, "1"]), labels=number_labels)


def test_folders_of_classes_hold_no_numbers(tmp_path):
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").touch()
    with pytest.raises(ValueError, match=r"folders are classes, and --task regression needs numbers: give a table"):
        source.read(tmp_path, labels=number_labels)


def test_a_file_with_two_numbers_is_refused_and_one_written_twice_is_not(tmp_path):
    (tmp_path / "a.png").touch()
    for second, refused in (("4.0", False), ("4.5", True)):
        (tmp_path / "t.csv").write_text(f"file,label\na.png,4\na.png,{second}\n")
        if refused:
            with pytest.raises(ValueError, match=r"line 2 has the label '4\.0', line 3 '4\.5'"):
                source.read(tmp_path / "t.csv", file="file", labels=number_labels)
        else:
            assert len(source.read(tmp_path / "t.csv", file="file", labels=number_labels)["all"]) == 2


def test_splits_and_folds_are_drawn_from_all_and_keep_copies_together(tmp_path):
    """Each number occurs once, so nothing could be drawn within one."""
    texts = [f"text {i // 2}" for i in range(80)]
    (whole,) = source.read(table(tmp_path / "t.csv", np.arange(80) / 4, texts), labels=number_labels).values()
    parts = split({"all": whole}, 0)
    assert [len(parts[name]) for name in ("train", "val", "test")] == [56, 12, 12]
    assert shared(parts) == []
    assert sorted(np.concatenate([part.labels for part in parts.values()])) == (np.arange(80) / 4).tolist()
    dealt = folds(whole, 5, 0)
    np.testing.assert_array_equal(dealt[::2], dealt[1::2])
    assert np.bincount(dealt).tolist() == [16] * 5
    with pytest.raises(ValueError, match="there are 2 different examples: give at least 3"):
        split({"all": whole.rows(range(4))}, 0)


def test_the_labels_of_classes_are_read_as_before(tmp_path):
    (found,) = source.read(table(tmp_path / "t.csv", ["b", "a", "b"]), labels=class_labels).values()
    assert (found.labels.tolist(), found.classes, found.names) == ([1, 0, 1], ("a", "b"), ["b", "a", "b"])
    assert found.strata is found.labels is found.targets
