"""Average precision by hand, and against scikit-learn where both mean the same."""

import numpy as np
import pytest

from jtl import metrics
from jtl.metrics import Boxes

ONE, TWO, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]


def image(boxes, classes, scores=None):
    scores = np.ones(len(boxes)) if scores is None else np.array(scores)
    return Boxes(np.array(boxes, float).reshape(-1, 4), np.array(classes, int), scores)


def test_a_ranking_of_right_and_wrong_ones_by_hand():
    """Right, wrong, right of 3 true: precision 1 at recall 1/3, then 2/3 at 2/3: (1 + 2/3) / 3."""
    true = [image([ONE, TWO, FAR], [0, 0, 0])]
    predicted = [image([ONE, [70, 0, 80, 10], TWO], [0, 0, 0], [0.9, 0.8, 0.7])]
    found = metrics.mean_average_precision(predicted, true)
    np.testing.assert_allclose(found["map"], (1 + 2 / 3) / 3)


def test_a_double_is_wrong_and_precision_is_its_maximum_from_there_on():
    """Wrong (another image), right, double, right of 2 true: the envelope is 1/2 at both."""
    true = [image([ONE, TWO], [0, 0]), image([], [])]
    predicted = [image([ONE, [0, 0, 10, 9], TWO], [0, 0, 0], [0.8, 0.7, 0.6]), image([ONE], [0], [0.9])]
    found = metrics.mean_average_precision(predicted, true)
    np.testing.assert_allclose(found["map"], (1 / 2 + 1 / 2) / 2)


def test_boxes_apart_in_both_directions_share_nothing():
    """Two negative sides have a positive product."""
    assert metrics.box_iou(np.array([ONE]), np.array([[11, 12, 21, 22], [9, 9, 19, 19]])).tolist() == [[0, 1 / 199]]


def test_classes_and_thresholds_are_averaged():
    """Class 0 is found to 0.8 of its box, class 1 not at all, and class 2, which is nowhere true, does not count."""
    true = [image([ONE, TWO], [0, 1])]
    predicted = [image([[0, 0, 8, 10], TWO], [0, 2], [0.9, 0.8])]
    found = metrics.mean_average_precision(predicted, true, iou=(0.5, 0.9))
    assert found == {"map": 0.25, "map/0.5": 0.5, "map/0.9": 0.0}


def test_where_every_box_has_its_place_it_is_scikit_learns_average_precision():
    sk = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    scores = draw.permutation(40) / 40
    # Precision that falls with recall only: its envelope is then itself.
    right = np.zeros(40, bool)
    right[np.argsort(-scores)[:12]] = True
    places = np.stack([np.arange(40) * 20, np.zeros(40), np.arange(40) * 20 + 10, np.full(40, 10)], -1)
    found = metrics.mean_average_precision([image(places, [0] * 40, scores)], [image(places[right], [0] * 12)])
    np.testing.assert_allclose(found["map"], sk.average_precision_score(right, scores))


@pytest.mark.parametrize(
    ("scores", "iou", "message"),
    [
        ([np.nan], (0.5,), "detections of image 0 have a score that is NaN"),
        ([0.5], (50,), r"iou=\(50,\): .* in \(0, 1\]"),
        ([0.5], (0.0,), r"iou=\(0.0,\)"),
        ([0.5], (), r"iou=\(\)"),
    ],
)
def test_what_has_no_rank_or_threshold_is_named(scores, iou, message):
    with pytest.raises(ValueError, match=message):
        metrics.mean_average_precision([image([ONE], [0], scores)], [image([ONE], [0])], iou=iou)


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match="detections of 1 images and true boxes of 2"):
        metrics.mean_average_precision([image([], [])], [image([], [])] * 2)
    with pytest.raises(ValueError, match="no image has a true box"):
        metrics.mean_average_precision([image([ONE], [0])], [image([], [])])
