"""Laws of labels that move with their images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.data import augment
from jtl.data.geometry import Composed, Geometric, Photometric, moved_together, moves, spatial

BATCH, SIDE = 6, 12
DRAW = np.random.default_rng(0)
CODES = DRAW.integers(0, 255, (BATCH, SIDE, SIDE)).astype(np.uint8)
FILL = 255


def boxes(n=4, side=SIDE):
    """Boxes on whole pixels, all with area."""
    low = DRAW.integers(0, side - 3, (BATCH, n, 2))
    return np.concatenate([low, low + DRAW.integers(1, 4, (BATCH, n, 2))], -1).astype(np.float32)


def painted(corners, side=SIDE):
    """Each box as a channel of its own: 1 within it, else 0."""
    x0, y0, x1, y1 = np.moveaxis(corners[:, None, None], -1, 0)
    rows, columns = np.mgrid[:side, :side].reshape(2, 1, side, side, 1)
    return ((columns >= x0) & (columns < x1) & (rows >= y0) & (rows < y1)).astype(np.uint8)


def around(image):
    """The smallest box around what is painted into each channel; zeros where nothing is."""
    found = np.zeros((*image.shape[::3], 4), np.float32)
    for i, j in np.ndindex(*image.shape[::3]):
        rows, columns = np.nonzero(image[i, :, :, j])
        if len(rows):
            found[i, j] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return found


def both(augment_, key, x, y, fill: int | None = FILL):
    """As `augmented` calls it, compiled."""
    run = jax.jit(lambda key, x, y: moved_together(augment_, key, x, {"y": y}, {"y": fill}))
    x, labels = run(key, x, y)
    return np.asarray(x), labels["y"]


EXACT = {
    "flip": augment.flip(),
    "vertical flip": augment.flip(vertical=True),
    "crop": augment.crop(8),
    "padded crop": augment.crop(10, padding=3),
    "flip and padded crop": augment.compose(augment.flip(), augment.crop(12, padding=4)),
}
STEPS = pytest.mark.parametrize("name", EXACT)


@STEPS
def test_a_map_is_where_its_image_is(name, key):
    """Of an image whose numbers are the labels themselves, 0 outside; `fill` is what comes from there."""
    for i in range(4):
        key = jax.random.fold_in(key, i)
        x, y = both(EXACT[name], key, CODES[..., None] + np.uint8(1), CODES)
        outside = x[..., 0] == 0
        np.testing.assert_array_equal(np.asarray(y), np.where(outside, FILL, x[..., 0] - np.uint8(1)))
        assert outside.any() == ("padded" in name)


@STEPS
def test_images_are_those_of_the_augmentation_alone(name, key):
    x = CODES[..., None]
    np.testing.assert_array_equal(both(EXACT[name], key, x, CODES)[0], EXACT[name](key, x))


@STEPS
def test_boxes_follow_their_pixels(name, key):
    """Painted and then moved, or moved and then painted: the same boxes, those that left the image empty."""
    for i in range(8):
        key = jax.random.fold_in(key, i)
        corners = boxes()
        moved, y = both(EXACT[name], key, painted(corners), {"boxes": corners})
        np.testing.assert_array_equal(y["boxes"], around(moved))


def test_emptied_boxes_lose_class_and_weight(key):
    """Some of these boxes leave a window of 4 pixels; padding, which has no area, stays padding."""
    corners = boxes()
    corners[:, 0] = 3.0
    y = {
        "boxes": corners,
        "classes": DRAW.integers(0, 5, (BATCH, 4)).astype(np.int32),
        "weights": np.ones((BATCH, 4), np.float32),
        "image": np.arange(BATCH),
    }
    _, found = both(augment.crop(4), key, painted(corners), y)
    gone = (np.asarray(found["boxes"]) == 0).all(-1)
    assert gone[:, 0].all()
    assert 0 < gone[:, 1:].mean() < 1
    np.testing.assert_array_equal(found["classes"], np.where(gone, -1, y["classes"]))
    np.testing.assert_array_equal(found["weights"], np.where(gone, 0, 1))
    np.testing.assert_array_equal(found["image"], y["image"])
    areas = (found["boxes"][..., 2] - found["boxes"][..., 0]) * (found["boxes"][..., 3] - found["boxes"][..., 1])
    assert ((areas > 0) != gone).all()


@pytest.mark.parametrize("turns", range(4))
def test_right_angles_turn_maps_and_boxes_exactly(turns, key):
    quarter = augment.rotate(0.0)
    assert isinstance(quarter, Geometric)
    drawn = Geometric("quarter", lambda key, x: jnp.full(len(x), 90.0 * turns), quarter.move, quarter.points)
    corners = boxes()
    x, y = both(drawn, key, painted(corners), {"boxes": corners, "map": CODES})
    np.testing.assert_array_equal(y["map"], np.rot90(CODES, turns, (1, 2)))
    np.testing.assert_allclose(y["boxes"], around(np.rot90(painted(corners), turns, (1, 2))), atol=1e-5)
    np.testing.assert_array_equal(x, np.rot90(painted(corners), turns, (1, 2)))


def test_any_angle(key):
    """Labels are the image's or the fill, the map is where the image is, and boxes hold their pixels."""
    corners = boxes(side=32) + 8
    side = 44
    image = painted(corners, side)
    codes = image.any(-1).astype(np.int32)
    turn = augment.rotate(40.0)
    assert isinstance(turn, Geometric)
    moved, y = both(turn, key, image.astype(np.float32), {"boxes": corners, "map": codes}, fill=-100)
    assert set(np.unique(y["map"])) == {-100, 0, 1}
    _, whole = both(turn, key, image.astype(np.float32), np.ones((BATCH, side, side), np.int32), fill=-100)
    np.testing.assert_array_equal(np.asarray(whole) == -100, np.asarray(y["map"]) == -100)
    # Where bilinear weights are over a half in one channel, the nearest pixel may be another than the heaviest sum.
    sure = (moved.sum(-1) > 0.999) | (moved.sum(-1) < 1e-3)
    inside = (np.asarray(y["map"]) >= 0) & sure
    np.testing.assert_array_equal(np.asarray(y["map"])[inside], (moved.sum(-1) > 0.5)[inside])
    centres = around((moved > 0.5).astype(np.uint8))
    there = (centres != 0).any(-1)
    assert there.mean() > 0.5
    got = np.asarray(y["boxes"])
    assert (got[there][:, :2] <= centres[there][:, :2] + 0.5).all()
    assert (got[there][:, 2:] >= centres[there][:, 2:] - 0.5).all()


def test_boxes_of_integers_and_maps_with_channels(key):
    corners = boxes().astype(np.int32)
    deep = np.stack([CODES, CODES[::-1]], -1)
    x, y = both(augment.flip(1.0), key, painted(corners), {"boxes": corners, "map": deep, "seen": CODES > 9})
    assert y["boxes"].dtype == jnp.int32
    np.testing.assert_array_equal(y["boxes"], around(x).astype(np.int32))
    np.testing.assert_array_equal(y["map"], deep[:, :, ::-1])
    np.testing.assert_array_equal(y["seen"], CODES[:, :, ::-1] > 9)


def test_photometric_ones_leave_labels(key):
    y = {"boxes": boxes(), "map": CODES}
    light = augment.compose(augment.normalise((0.5,), (0.5,)), augment.noise(0.1))
    _, found = both(light, key, CODES[..., None], y)
    jax.tree.map(np.testing.assert_array_equal, found, y)
    assert not moves(light)
    assert moves(augment.compose(light, augment.flip()))
    assert moves(lambda key, x: x)


def test_what_lies_in_the_image():
    x = CODES[..., None]
    labels = {
        "y": {"a": CODES, "boxes": boxes(), "c": np.arange(BATCH), "d": np.ones((BATCH, 9)), "e": (1, 2), "f": None}
    }
    assert spatial(labels, x) == (["y/a"], ["y/boxes"])
    assert spatial({"y": CODES}, np.ones((BATCH, 9))) == ([], [])
    assert spatial({"y": CODES}, {"ids": CODES}) == ([], [])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda k, x: both(augment.crop(12, 2), k, x, CODES, fill=None),
            r"crop brings pixels from outside .* ignore=255",
        ),
        (lambda k, x: both(augment.rotate(9.0), k, x, CODES, fill=None), r"rotate brings pixels from outside"),
        (
            lambda k, x: both(augment.rotate(9.0), k, x, CODES, fill=-100),
            r"ignore=-100: a label map of uint8 holds 0 to 255",
        ),
        (
            lambda k, x: both(augment.flip(), k, x, CODES[:, ::2, ::2]),
            r"'y' of shape \(6, 6, 6\) cannot move with images",
        ),
        (lambda k, x: both(augment.flip(), k, x, (CODES, CODES)), r"'y' of shape \(6, 12, 12\) cannot move"),
        (lambda k, x: both(squeezed, k, x, CODES), r"squeezed does not say where pixels go"),
        (
            lambda k, x: both(Composed((augment.flip(), squeezed)), k, x, CODES),
            r"squeezed does not say where pixels go",
        ),
    ],
)
def test_what_cannot_move_is_refused_by_name(call, message, key):
    with pytest.raises(ValueError, match=message):
        call(key, CODES[..., None])


def squeezed(key, x):
    return x[:, ::2]


def test_a_function_of_ones_own_says_what_it_does(key):
    def move(drawn, x, fill=0, nearest=False):
        return jnp.asarray(x)[:, ::-1]

    upside = Geometric(
        "upside",
        lambda key, x: (),
        move,
        lambda drawn, xy, h, w: xy * jnp.asarray([1.0, -1.0]).reshape(1, 1, 2) + jnp.asarray([0.0, h]).reshape(1, 1, 2),
        fills=False,
    )
    corners = boxes()
    x, y = both(upside, key, painted(corners), {"boxes": corners, "map": CODES}, fill=None)
    np.testing.assert_array_equal(y["boxes"], around(x))
    np.testing.assert_array_equal(y["map"], CODES[:, ::-1])
    dark = Photometric("dark", lambda key, x: x // 2)
    np.testing.assert_array_equal(both(dark, key, CODES[..., None], CODES)[1], CODES)
