import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.data.geometry import moved_together, moves
from jtl.data.policies import MOVES, NAMES, _ranged, operate, rand_augment, trivial_augment

DRAW = np.random.default_rng(0)
PHOTO = DRAW.integers(0, 256, (12, 17, 3)).astype(np.uint8)
DARK = (40 + 0.4 * PHOTO * np.linspace(0.2, 1, 17)[None, :, None]).astype(np.uint8)
run = jax.jit(operate)

VALUES = {
    "Brightness": (0.1, 0.6, 1.75),
    "Color": (0.1, 0.6, 1.75),
    "Contrast": (0.1, 0.6, 1.75),
    "Sharpness": (0.1, 0.6, 1.75),
    "Posterize": (8, 5, 2),
    "Solarize": (255, 100, 0),
    "AutoContrast": (0,),
    "Equalize": (0,),
    "Identity": (0,),
    "ShearX": (0.3, -0.21),
    "ShearY": (0.3, -0.21),
    "TranslateX": (5, -3),
    "TranslateY": (5, -3),
    "Rotate": (30.0, -77.0),
}


def _pil(image, name, value):
    pil, ops, enhance = (pytest.importorskip(f"PIL.{part}") for part in ("Image", "ImageOps", "ImageEnhance"))
    image = pil.fromarray(image)
    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        return np.asarray(getattr(enhance, name)(image).enhance(value))
    if name in ("Posterize", "Solarize", "AutoContrast", "Equalize"):
        return np.asarray(getattr(ops, name.lower())(image, *([value] if name[0] in "PS" else [])))
    affine = {
        "ShearX": (1, -value, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, -value, 1, 0),
        "TranslateX": (1, 0, -value, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, -value),
    }
    if name in affine:
        return np.asarray(image.transform(image.size, pil.Transform.AFFINE, affine[name], pil.Resampling.NEAREST))
    return np.asarray(image.rotate(value, pil.Resampling.NEAREST) if name == "Rotate" else image)


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_is_pils(name):
    for image in (PHOTO, DARK):
        for value in VALUES[name]:
            found = np.asarray(run(image, jnp.int32(NAMES.index(name)), jnp.float32(value)))
            expected = _pil(image, name, value)
            wrong = (found != expected).any(-1).mean()
            # A source on a pixel's edge may be rounded either way, and so may a blend that is a whole number.
            exact = name in ("Posterize", "Solarize", "Equalize", "Identity", "TranslateX", "TranslateY", "Brightness")
            assert wrong <= (0 if exact else 0.05), (value, wrong)
            if name not in ("Rotate", "ShearX", "ShearY"):
                assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_the_policies_are_of_the_ranges_of_torchvision():
    places = jnp.arange(14)
    narrow = jax.vmap(lambda p: _ranged(p, 9 / 30, -1.0, (10, 331, 3), False)[1])(places)
    expected = [-0.09, -0.09, -45.0, -1.0, -9.0, 0.73, 0.73, 0.73, 0.73, 7.0, 178.5, 0, 0, 0]
    np.testing.assert_allclose(narrow, expected, rtol=1e-5)
    wide = jax.vmap(lambda p: _ranged(p, 1.0, 1.0, (10, 331, 3), True)[1])(places)
    np.testing.assert_allclose(wide, [0.99, 0.99, 32, 32, 135, 1.99, 1.99, 1.99, 1.99, 2, 0, 0, 0, 0], rtol=1e-5)


def test_every_image_draws_an_operation_of_its_own():
    x = jnp.broadcast_to(jnp.asarray(PHOTO), (96, *PHOTO.shape))
    found = np.asarray(jax.jit(trivial_augment())(jax.random.key(0), x))
    assert len(np.unique(found.reshape(96, -1), axis=0)) > 45
    twice = np.asarray(jax.jit(rand_augment(2, 9))(jax.random.key(0), x))
    values = [
        np.asarray(run(PHOTO, *_ranged(jnp.int32(p), 9 / 30, s, PHOTO.shape, False)))
        for p in range(14)
        for s in (-1.0, 1.0)
    ]
    pairs = {
        np.asarray(run(first, *_ranged(jnp.int32(p), 9 / 30, s, PHOTO.shape, False))).tobytes()
        for first in values
        for p in range(14)
        for s in (-1.0, 1.0)
    }
    assert all(image.tobytes() in pairs for image in twice)


@pytest.mark.parametrize("policy", [trivial_augment(), rand_augment(1, 30)], ids=["trivial", "rand"])
def test_maps_and_boxes_move_with_the_image(policy):
    """A map is moved as the image's pixels are, and a box is around where the map's pixels of it are, to a pixel."""
    draw, (rows, side) = np.random.default_rng(1), (160, 40)
    x = draw.integers(1, 256, (rows, side, side, 1)).astype(np.uint8).repeat(3, -1)
    corner = draw.integers(10, 18, (rows, 1, 2))
    boxes = np.concatenate([corner, corner + draw.integers(4, 13, (rows, 1, 2))], -1).astype(np.float32)
    x0, y0, x1, y1 = np.moveaxis(boxes, -1, 0)[..., None]
    at = np.arange(side)
    painted = ((at >= x0) & (at < x1))[:, 0][:, None] & ((at >= y0) & (at < y1))[:, 0][:, :, None]
    labels = {"y": {"codes": x[..., 0], "painted": painted, "boxes": boxes, "classes": np.ones((rows, 1), np.int32)}}
    run = jax.jit(lambda key, x, labels: moved_together(policy, key, x, labels, {"y": 0}))
    moved, found = jax.tree.map(np.asarray, run(jax.random.key(0), x, labels))
    found, one = found["y"], policy if policy.__class__.__name__ == "Geometric" else policy.parts[0]
    own = jax.random.key(0) if one is policy else jax.random.fold_in(jax.random.key(0), 0)
    places = np.asarray(one.draw(own, x)[0])
    assert moves(policy)
    assert set(range(14)) == set(places.tolist())
    moving = places < len(MOVES)
    np.testing.assert_array_equal(found["codes"][moving], moved[moving][..., 0])
    np.testing.assert_array_equal(found["codes"][~moving], x[~moving][..., 0])
    there = 0
    for i in np.flatnonzero(moving):
        ys, xs = np.nonzero(found["painted"][i])
        box = found["boxes"][i, 0]
        if not len(xs):
            assert (box[2:] - box[:2]).min() <= 1
            continue
        seen = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        if seen.min() > 0 and seen.max() < side:  # cut off, a turned box is around its corners, not around what is seen
            np.testing.assert_allclose(box, seen, rtol=0, atol=1, err_msg=NAMES[places[i]])
            there += not np.allclose(box, boxes[i, 0], atol=1)
    assert there > 15
    np.testing.assert_array_equal(found["boxes"][~moving], boxes[~moving])
    np.testing.assert_array_equal(found["classes"][:, 0] == -1, (found["boxes"] == 0).all(-1)[:, 0])


def test_bad_input_raises():
    with pytest.raises(ValueError, match="magnitude=31"):
        rand_augment(2, 31)
    with pytest.raises(ValueError, match="bins=1"):
        trivial_augment(1)
    with pytest.raises(ValueError, match="uint8 images of 3 channels"):
        trivial_augment()(jax.random.key(0), jnp.zeros((2, 4, 4, 3)))
