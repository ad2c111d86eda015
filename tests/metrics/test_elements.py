"""Every metric of classes refuses what does not fit, and leaves out labels that are no class."""

import jax.numpy as jnp
import numpy as np
import pytest

from jtl import metrics

OF = {
    "confusion": metrics.confusion(3),
    "f1": metrics.f1(3),
    "mean_iou": metrics.mean_iou(3),
    "entity_f1": metrics.entity_f1(("O", "B-a", "I-a")),
}
ALL = {**OF, "calibration_error": metrics.calibration_error()}
Y = np.array([[0, 1, 2, 1]])
LOGITS = np.random.default_rng(0).normal(size=(1, 4, 3)).astype(np.float32)


@pytest.mark.parametrize("metric", OF.values(), ids=OF)
def test_outputs_of_another_number_of_classes_are_refused(metric):
    """A prediction of a class beyond was left out, as if it were right."""
    with pytest.raises(ValueError, match=r"outputs of shape \(1, 4, 5\): this metric is of 3 classes"):
        metric.sums(jnp.zeros((1, 4, 5)), Y, None)


@pytest.mark.parametrize("metric", ALL.values(), ids=ALL)
def test_labels_that_do_not_fit_are_refused(metric):
    with pytest.raises(ValueError, match=r"labels y are float.*astype"):
        metric.sums(LOGITS, np.array([[0.5, 1.5, 2.0, 0.0]], np.float32), None)
    with pytest.raises(ValueError, match=r"labels y of shape \(1, 3\)"):
        metric.sums(LOGITS, Y[:, :3], None)
    with pytest.raises(ValueError, match=r"weights of shape \(2,\) does not fit values of shape \(1, 4\)"):
        metric.sums(LOGITS, Y, np.ones(2))


@pytest.mark.parametrize("metric", ALL.values(), ids=ALL)
@pytest.mark.parametrize("label", [-100, 255])
def test_a_label_that_is_no_class_does_not_count(metric, label):
    more = np.concatenate([np.full((1, 2), label), Y], 1), np.concatenate([9 * np.ones((1, 2, 3)), LOGITS], 1)
    found = metric.finish(metric.sums(more[1], more[0], None))
    np.testing.assert_equal(np.asarray(found), np.asarray(metric.finish(metric.sums(LOGITS, Y, None))))


def test_there_is_a_class():
    with pytest.raises(ValueError, match="classes=0"):
        metrics.mean_iou(0)
    for made in (metrics.mean_iou(1), metrics.confusion(1)):
        assert made.sums(LOGITS[..., :1], 0 * Y, None)[0] == 4
