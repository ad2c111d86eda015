"""The loss of detection by its formulas, and its decoding by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import tasks


def test_the_loss_of_one_object_by_hand():
    """A map of 1 x 2 cells of 8 pixels, one class, one box that the first cell is to find."""
    output = {"classes": jnp.array([[[[0.0], [0.0]]]]), "boxes": jnp.zeros((1, 1, 2, 4))}
    y = {"boxes": np.array([[[0.0, 0.0, 4.0, 8.0]]], np.float32), "classes": np.array([[0]])}
    found = tasks.detection_loss(output, y, 8)
    # The centre of the box is (2, 4), within 1.5 cells of the first cell's (4, 4), which lies on its border, not in it;
    # but the centre lies in that cell. The second cell's centre (12, 4) is outside.
    hit, miss = 0.25 * 0.5**2 * np.log(2), 0.75 * 0.5**2 * np.log(2)
    np.testing.assert_allclose(found["class"], [hit + miss], rtol=1e-5)
    # The cell's box is (0, 0, 8, 8): half of it is the target, and nothing lies beyond both.
    np.testing.assert_allclose(found["box"], [1 - 0.5], rtol=1e-5)


def test_an_image_without_objects_has_no_box_term_and_finite_gradients():
    y = {"boxes": np.zeros((1, 2, 4), np.float32), "classes": np.full((1, 2), -1)}

    def loss(output):
        found = tasks.detection_loss(output, y, 8)
        return found["class"].sum() + found["box"].sum()

    output = {"classes": jnp.zeros((1, 2, 2, 3)), "boxes": jnp.zeros((1, 2, 2, 4))}
    value, grad = jax.jit(jax.value_and_grad(loss))(output)
    np.testing.assert_allclose(value, 12 * 0.75 * 0.25 * np.log(2), rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grad))
    np.testing.assert_array_equal(grad["boxes"], 0)


def test_a_class_that_is_none_is_nan():
    """It counted as background, in silence; class -1 is padding."""
    output = {"classes": jnp.zeros((3, 4, 4, 2)), "boxes": jnp.zeros((3, 4, 4, 4))}
    box = np.full((3, 1, 4), [4.0, 4.0, 28.0, 28.0])
    run = jax.jit(lambda *y: tasks.detection_loss(output, dict(zip(("boxes", "classes"), y, strict=True)), 8))
    found = run(box, np.array([[1], [2], [-1]]))
    assert all(np.isnan(value).tolist() == [False, True, False] for value in found.values())
    box[0, 0, 2] = np.nan
    found = run(box, np.array([[1], [0], [-1]]))
    assert all(np.isnan(value).tolist() == [True, False, False] for value in found.values())


@pytest.mark.parametrize("pad", [np.full((1, 1, 4), np.nan), np.zeros((1, 0, 4))], ids=["NaN", "no boxes"])
def test_padding_of_any_kind_is_no_object(pad):
    output = {"classes": jnp.zeros((1, 2, 2, 2)), "boxes": jnp.full((1, 2, 2, 4), 0.3)}

    def loss(output, boxes, classes):
        found = tasks.detection_loss(output, {"boxes": boxes, "classes": classes}, 8)
        return found["class"].sum() + found["box"].sum()

    for box, own in ((np.array([[[1.0, 1.0, 9.0, 9.0]]]), [[1]]), (np.zeros((1, 1, 4)), [[-1]])):
        more = np.concatenate([box, pad], 1), np.concatenate([own, np.full((1, pad.shape[1]), -1)], 1)
        given = (pad, np.full((1, pad.shape[1]), -1)) if own == [[-1]] else more
        found, wanted = (jax.jit(jax.value_and_grad(loss))(output, *y) for y in (given, (box, np.array(own))))
        jax.tree.map(np.testing.assert_allclose, found, wanted)
        assert jax.tree.all(jax.tree.map(lambda a: bool(np.isfinite(a).all()), found))


def test_a_low_score_keeps_the_end_of_the_precision_recall_curve():
    task = tasks.detection(1, stride=10)
    logits = np.array([2.0, -2.0]).reshape(1, 1, 2, 1)
    output = {"classes": logits, "boxes": np.zeros((1, 1, 2, 4))}
    assert [len(task.decode(output)[0].boxes), len(task.decode(output, score=0.05)[0].boxes)] == [1, 2]
    with pytest.raises(ValueError, match=r"score=0.0"):
        task.decode(output, score=0.0)


def test_likely_boxes_are_decoded_without_their_doubles():
    task = tasks.detection(2, stride=10, score=0.5, overlap=0.5)
    logits, boxes = np.full((1, 1, 3, 2), -5.0), np.zeros((1, 1, 3, 4), np.float32)
    logits[0, 0, 0, 0], logits[0, 0, 1, 0], logits[0, 0, 2, 1] = 1.0, 2.0, 3.0
    boxes[0, 0, 0, 0] = 1.0  # one cell to the right: the box of the second cell again
    (found,) = task.decode({"classes": logits, "boxes": boxes})
    np.testing.assert_allclose(found.boxes, [[20, 0, 30, 10], [10, 0, 20, 10]])
    assert found.classes.tolist() == [1, 0]
    np.testing.assert_allclose(found.scores, 1 / (1 + np.exp([-3.0, -2.0])))


def test_padding_is_no_true_box():
    y = {"boxes": np.array([[[0, 0, 2, 2], [3, 3, 3, 5], [0, 0, 9, 9]]]), "classes": np.array([[1, 0, -1]])}
    (found,) = tasks.true_boxes(y)
    assert found.boxes.tolist() == [[0, 0, 2, 2]]
    assert found.classes.tolist() == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"classes": 0, "stride": 8}, "classes=0"), ({"classes": 1, "stride": 8, "score": 1.0}, "score=1.0")],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tasks.detection(**options)
