import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.data.policies import NAMES, _ranged, operate, rand_augment, trivial_augment

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


def test_bad_input_raises():
    with pytest.raises(ValueError, match="magnitude=31"):
        rand_augment(2, 31)
    with pytest.raises(ValueError, match="bins=1"):
        trivial_augment(1)
    with pytest.raises(ValueError, match="uint8 images of 3 channels"):
        trivial_augment()(jax.random.key(0), jnp.zeros((2, 4, 4, 3)))
