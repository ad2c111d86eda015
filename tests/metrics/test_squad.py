"""SQuAD's scores by hand."""

import numpy as np
import pytest

from jtl import metrics


@pytest.mark.parametrize(
    ("predicted", "answers", "exact", "f1"),
    [
        ("The Nile!", ["nile"], 1, 1),
        ("a  red\tcar", ["the Red car."], 1, 1),
        ("big red car", ["red car"], 0, 4 / 5),
        ("big red car", ["a truck", "big red"], 0, 4 / 5),
        ("car car", ["car"], 0, 2 / 3),
        ("", [], 1, 1),
        ("something", [], 0, 0),
        ("", ["something"], 0, 0),
        ("U.S.", ["us"], 1, 1),
        ("theatre", ["atre"], 0, 0),  # an article is a word of its own
    ],
)
def test_one_answer_by_hand(predicted, answers, exact, f1):
    found = metrics.squad([predicted], [answers])
    assert found["exact"] == exact
    np.testing.assert_allclose(found["f1"], f1)


def test_questions_are_averaged_and_counted():
    assert metrics.squad(["x", "y"], [["x"], ["z"]]) == {"exact": 0.5, "f1": 0.5}
    with pytest.raises(ValueError, match="1 predictions for 2 questions"):
        metrics.squad(["x"], [["x"], ["z"]])
