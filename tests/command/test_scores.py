"""Scores equal scikit-learn's."""

import numpy as np
import pytest

from jtl.command.scores import interval, scored, shares, softmax

Z = np.random.default_rng(0).normal(size=(40, 3))
Y = np.random.default_rng(1).integers(0, 3, 40)


def test_scores_are_sklearns():
    metrics = pytest.importorskip("sklearn.metrics")
    found, predicted = scored(Z, Y, ("a", "b", "c")), Z.argmax(1)
    np.testing.assert_array_equal(found.matrix, metrics.confusion_matrix(Y, predicted))
    assert found.accuracy == metrics.accuracy_score(Y, predicted)
    expected = metrics.precision_recall_fscore_support(Y, predicted, zero_division=0)
    np.testing.assert_allclose([row[1:] for row in found.by_class()], np.transpose(expected))
    numbers = found.numbers()
    assert numbers["classes"][1]["class"] == "b"
    assert sum(row["examples"] for row in numbers["classes"]) == 40


def test_mistakes_are_the_most_certain_first():
    found = scored(Z, Y, ("a", "b", "c"))
    wrong = found.mistakes()
    assert set(wrong) == set(np.flatnonzero(Z.argmax(1) != Y))
    shares = found.shares[wrong].max(1)
    assert (np.diff(shares) <= 0).all()


def test_a_class_that_is_never_there_scores_zero():
    found = scored(np.eye(3)[[0, 0]], np.array([0, 0]), ("a", "b", "c"))
    assert found.by_class()[2] == ("c", 0.0, 0.0, 0.0, 0)


def test_outputs_that_are_not_finite_are_told():
    with pytest.raises(ValueError, match="example 1 is not finite"):
        scored(np.array([[0.0, 1.0], [np.nan, 0.0]]), np.array([0, 1]), ("a", "b"))


def test_pairs_of_confused_classes_are_counted():
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    said = np.array([0, 1, 1, 2, 1, 2, 2])
    found = scored(np.eye(3)[said], labels, ("a", "b", "c")).confused()
    assert found == [("a", "b", 2, 0.5), ("a", "c", 1, 0.25), ("b", "c", 1, 0.5)]
    assert scored(np.eye(3)[labels], labels, ("a", "b", "c")).confused() == []


@pytest.mark.parametrize(("right", "of"), [(0, 4), (141, 153), (7, 7), (1, 2)])
def test_the_interval_is_wilson_s(right, of):
    """As SciPy's."""
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(right, of).proportion_ci(method="wilson")
    np.testing.assert_allclose(interval(right, of, 1.959963984540054), expected, atol=1e-12)


def test_a_prediction_that_is_no_number_is_told():
    with pytest.raises(ValueError, match="output of example 1 is not finite"):
        shares(np.array([[0.0, 1.0], [np.nan, 0.0]]))
    np.testing.assert_allclose(shares(np.log([[1.0, 3.0]])), [[0.25, 0.75]], rtol=1e-12)


def test_the_softmax_is_along_the_last_axis_and_keeps_a_row_of_nan():
    """As SciPy's, where exp alone would be infinite too."""
    special = pytest.importorskip("scipy.special")
    z = np.stack([Z, 1000 * Z])
    z[1, 3] = np.nan
    np.testing.assert_allclose(softmax(z), special.softmax(z, axis=-1), rtol=1e-12)
    assert np.isnan(softmax(z)[1, 3]).all()
