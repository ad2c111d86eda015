"""Random resized windows against cutting and `jax.image.resize`, torchvision's rule for what fits, labels too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.data import augment


def drawn(crop, seed, x):
    return np.asarray(crop.draw(jax.random.key(seed), x))


@pytest.mark.parametrize("size", [9, 40])
def test_a_window_is_cut_and_resized(size):
    """Smaller and larger than the image, in float64; `jax.image.resize` is the reference, on the window alone."""
    x = np.random.default_rng(0).random((6, 23, 31, 3))
    crop = augment.resized_crop(size, (0.1, 1.0))
    with jax.enable_x64(True):
        found = jax.jit(crop)(jax.random.key(1), x)
        for image, (i, j, h, w), one in zip(x, drawn(crop, 1, x), found, strict=True):
            expected = jax.image.resize(image[i : i + h, j : j + w], (size, size, 3), "bilinear")
            np.testing.assert_allclose(one, expected, atol=1e-12)


def test_integers_are_rounded():
    x = np.random.default_rng(0).integers(0, 256, (4, 20, 20, 1), np.uint8)
    crop, key = augment.resized_crop(12), jax.random.key(0)
    found = crop(key, x)
    assert found.dtype == jnp.uint8
    np.testing.assert_array_equal(found, np.round(crop(key, x.astype(np.float32))))


def test_windows_have_the_areas_and_shapes_that_were_asked_for():
    """Of a square image every ratio fits: areas and logarithms of ratios are uniform, places too."""
    x = np.zeros((4000, 200, 200, 1), np.uint8)
    at = drawn(augment.resized_crop(8, (0.2, 0.5), (0.5, 2.0)), 0, x).astype(float)
    area, log = at[:, 2] * at[:, 3] / 200**2, np.log2(at[:, 3] / at[:, 2])
    assert area.min() > 0.197
    assert area.max() < 0.503
    assert area.mean() == pytest.approx(0.35, abs=4 * 0.3 / 12**0.5 / 4000**0.5)
    assert log.min() > -1.02
    assert log.max() < 1.02
    assert log.mean() == pytest.approx(0, abs=4 * 2 / 12**0.5 / 4000**0.5)
    assert (at[:, :2] + at[:, 2:] <= 200).all()
    assert (at[:, :2] >= 0).all()
    place = at[:, 0] / (200 - at[:, 2])
    assert place.mean() == pytest.approx(0.5, abs=4 / 12**0.5 / 4000**0.5)


def test_where_none_fits_the_middle_is_taken():
    """An image of 10 x 100 has no window of half its area and shape 1; torchvision then takes its middle."""
    x = np.zeros((3, 10, 100, 1), np.uint8)
    np.testing.assert_array_equal(drawn(augment.resized_crop(8, (0.5, 1.0), (1.0, 1.0)), 0, x), [[0, 45, 10, 10]] * 3)
    np.testing.assert_array_equal(
        drawn(augment.resized_crop(8, (0.5, 1.0), (1.0, 1.0)), 0, x.transpose(0, 2, 1, 3)), [[45, 0, 10, 10]] * 3
    )


def test_label_maps_and_boxes_move_along():
    """A rectangle of ones: its map keeps whole numbers, and its box stays the extent of what is seen of it."""
    x = np.zeros((8, 64, 64, 1), np.float32)
    x[:, 16:48, 24:40] = 1
    labels = {"map": x[..., 0].astype(np.int32), "boxes": np.tile(np.float32([[24, 16, 40, 48]]), (8, 1, 1))}

    moved, found = augment.resized_crop(64, (0.5, 1.0)).both(jax.random.key(0), x, labels, {})
    for one, seen_map, box in zip(moved, found["map"], found["boxes"], strict=True):
        assert set(np.unique(seen_map)) <= {0, 1}
        rows, columns = np.nonzero(np.asarray(one[..., 0]) > 0.5)
        x0, y0, x1, y1 = np.asarray(box[0])
        np.testing.assert_allclose(
            [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], [x0, y0, x1, y1], atol=1
        )
        assert abs(np.mean(np.asarray(one[..., 0]) > 0.5) - np.mean(seen_map)) < 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size=0"),
        ({"size": 8, "area": (0.5, 1.5)}, r"area=\(0.5, 1.5\)"),
        ({"size": 8, "area": (0.0, 1.0)}, "area="),
        ({"size": 8, "ratio": (2.0, 1.0)}, r"ratio=\(2.0, 1.0\)"),
    ],
)
def test_bad_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        augment.resized_crop(**options)


def test_another_rank_is_refused():
    with pytest.raises(ValueError, match="give \\[batch, height, width, channels\\]"):
        augment.resized_crop(8)(jax.random.key(0), np.zeros((8, 8, 3)))
