"""Boxes by hand and by counting pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.tasks import boxes as geometry


def pixels(box, side=20):
    y, x = np.mgrid[:side, :side]
    return (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])


def test_generalised_iou_is_what_counting_pixels_gives():
    draw = np.random.default_rng(0)
    low, size = draw.integers(0, 10, (2, 50, 2)), draw.integers(1, 10, (2, 50, 2))
    a, b = np.concatenate([low, low + size], -1)
    wanted = []
    for one, other in zip(a, b, strict=True):
        mine, theirs = pixels(one), pixels(other)
        around = pixels([*np.minimum(one[:2], other[:2]), *np.maximum(one[2:], other[2:])])
        union = (mine | theirs).sum()
        wanted.append((mine & theirs).sum() / union - (around.sum() - union) / around.sum())
    assert min(wanted) < -0.3 < 0.3 < max(wanted)
    found = geometry.giou(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_box_without_area_has_finite_gradients():
    flat = jnp.zeros((1, 4))
    value, grad = jax.value_and_grad(lambda a: geometry.giou(a, flat).sum())(flat)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_each_cell_gets_its_box_by_hand():
    """A grid of 4 x 3 cells of 10 pixels: a large box, a small one in it, a tiny one between centres, and padding."""
    cells = geometry.centres(3, 4, 10)
    assert cells[:5].tolist() == [[5, 5], [15, 5], [25, 5], [35, 5], [5, 15]]
    boxes = jnp.array([[[0, 0, 30, 30], [12, 2, 18, 8], [36, 26, 39, 29], [0, 0, 0, 0], [0, 0, 40, 30]]], jnp.float32)
    classes = jnp.array([[3, 1, 2, 5, -1]])
    found = geometry.targets(boxes, classes, cells, 10)
    # The large box's centre is (15, 15): all cells within 15 pixels of it, but the one that the small box takes. The
    # tiny box holds no centre of a cell; the cell that its own centre lies in is to find it.
    assert found.classes.reshape(3, 4).tolist() == [[3, 1, 3, -1], [3, 3, 3, -1], [3, 3, 3, 2]]
    np.testing.assert_array_equal(found.boxes[0, 1], boxes[0, 1])
    np.testing.assert_array_equal(found.boxes[0, 11], boxes[0, 2])


def test_cells_far_from_the_centre_of_a_large_box_find_nothing():
    cells = geometry.centres(5, 5, 10)
    found = geometry.targets(jnp.array([[[0, 0, 50, 50]]], jnp.float32), jnp.array([[0]]), cells, 10)
    middle = np.full((5, 5), -1)
    middle[1:4, 1:4] = 0
    np.testing.assert_array_equal(found.classes.reshape(5, 5), middle)


def test_raw_numbers_are_an_offset_and_two_logarithms():
    raw = jnp.array([[[0.5, -0.5, jnp.log(2.0), jnp.log(4.0)]]])
    found = geometry.placed(raw, np.array([[10.0, 20.0]], np.float32), 8)
    np.testing.assert_allclose(found, [[[14 - 8, 16 - 16, 14 + 8, 16 + 16]]], rtol=1e-6)


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.6])
def test_suppression_keeps_what_no_better_box_of_its_class_covers(overlap):
    draw = np.random.default_rng(1)
    low, size = draw.integers(0, 10, (30, 2)), draw.integers(3, 10, (30, 2))
    boxes, scores, classes = np.concatenate([low, low + size], -1), draw.random(30), draw.integers(0, 2, 30)
    left, wanted = list(np.argsort(-scores)), []
    while left:
        best = left.pop(0)
        wanted.append(best)
        mine = pixels(boxes[best])
        left = [
            i
            for i in left
            if classes[i] != classes[best]
            or (mine & pixels(boxes[i])).sum() / (mine | pixels(boxes[i])).sum() <= overlap
        ]
    assert geometry.suppressed(boxes, scores, classes, overlap).tolist() == wanted
    assert 2 < len(wanted) < 30
