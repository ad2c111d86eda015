"""Laws of the augmentations."""

from inspect import unwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.data import augment


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3)).astype(np.uint8)


def test_flip(key, images):
    always = jax.jit(augment.flip(1.0))
    assert (always(key, images) == images[:, :, ::-1]).all()
    assert (always(key, always(key, images)) == images).all()
    assert (augment.flip(0.0)(key, images) == images).all()


def test_a_vertical_flip_is_numpys(key, images):
    np.testing.assert_array_equal(augment.flip(1.0, vertical=True)(key, images), np.flip(images, 1))


def test_flip_decides_for_each_example_with_its_probability(key):
    x = np.zeros((4000, 1, 2, 1), np.uint8)
    x[:, :, 0] = 1
    share = float(augment.flip(0.3)(key, x)[:, 0, 1, 0].astype(jnp.float32).mean())
    assert abs(share - 0.3) < 5 * (0.3 * 0.7 / 4000) ** 0.5  # five standard errors


def test_a_crop_is_a_window_of_the_padded_image(key, images):
    out = np.asarray(jax.jit(augment.crop(4, padding=2))(key, images))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    places = []
    for one, whole in zip(out, padded, strict=True):
        found = [(i, j) for i in range(6) for j in range(6) if (whole[i : i + 4, j : j + 4] == one).all()]
        assert found
        places.append(found[0])
    assert len(set(places)) > 1


def test_rotate_by_right_angles_is_rot90(images):
    x = images.astype(np.float32)
    for k in range(4):
        turned = augment.rotate_by(x, np.full(6, 90.0 * k, np.float32))
        # sines in float32 are off by 1e-7, times 255 and the sides of 5
        np.testing.assert_allclose(turned, np.rot90(x, k, axes=(1, 2)), atol=2e-3)
        exact = augment.rotate_by(images, np.full(6, 90.0 * k, np.float32))
        assert (exact == np.rot90(images, k, axes=(1, 2))).all()
    assert (augment.rotate(0.0)(jax.random.key(0), images) == images).all()


def test_a_turn_leaves_black_and_white_images_as_much_ink(images):
    """Rounded to the nearest of both: all that a turned stroke touches would be ink."""
    drawn = images > 200
    shares = np.asarray(augment.rotate_by(drawn.astype(np.float32), np.full(6, 30.0, np.float32)))
    turned = np.asarray(augment.rotate_by(drawn, np.full(6, 30.0, np.float32)))
    assert turned.dtype == bool
    assert (turned == (shares > 0.5)).all()


def test_noise_has_its_standard_deviation(key):
    out = np.asarray(augment.noise(0.5)(key, np.zeros((2, 100, 100, 1), np.float32)))
    assert abs(out.std() - 0.5) < 5 * 0.5 / (2 * out.size) ** 0.5  # five standard errors
    assert (out[0] != out[1]).any()


def test_normalise(images):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (images / 255 - np.array(mean)) / np.array(std)
    # float32 against float64, values up to 3
    np.testing.assert_allclose(augment.normalise(mean, std)(None, images), expected, atol=2e-6)
    floats = (images / 255).astype(np.float32)
    np.testing.assert_allclose(augment.normalise(mean, std)(None, floats), expected, atol=2e-6)
    drawn = images > 127  # black and white, as Omniglot's
    expected = (drawn - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(augment.normalise(mean, std)(None, drawn), expected, atol=2e-6)


def test_compose_gives_each_its_own_key(key, images):
    x = images.astype(np.float32)
    both = augment.compose(augment.noise(1.0), augment.noise(1.0))(key, x) - x
    once = augment.noise(1.0)(jax.random.fold_in(key, 0), x) - x
    twice = augment.noise(1.0)(jax.random.fold_in(key, 1), x) - x
    assert float(jnp.abs(once - twice).max()) > 0.1
    np.testing.assert_allclose(both, once + twice, atol=1e-4)  # float32 sums near 255


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda k, x: augment.flip(1.5), ValueError, "probability=1.5"),
        (lambda k, x: augment.crop(0), ValueError, "size=0"),
        (lambda k, x: augment.crop(9)(k, x), ValueError, "crop of 9 does not fit 5 x 5"),
        (
            lambda k, x: unwrap(augment.flip())(k, x[None]),
            ValueError,
            r"images of shape \(1, 6, 5, 5, 3\): give \[batch,",
        ),
        (lambda k, x: unwrap(augment.flip())(k, x[..., 0]), ValueError, r"images of shape \(6, 5, 5\): give"),
        (lambda k, x: unwrap(augment.crop(4))(k, x[None]), ValueError, r"images of shape \(1, 6, 5, 5, 3\): give"),
        (
            lambda k, x: unwrap(augment.rotate_by)(x[..., 0], np.zeros(6)),
            ValueError,
            r"images of shape \(6, 5, 5\): give",
        ),
        (lambda k, x: augment.rotate(-10.0), ValueError, "degrees=-10.0"),
        (lambda k, x: augment.rotate(float("nan")), ValueError, "degrees=nan"),
        (lambda k, x: augment.normalise((0.5,), (float("nan"),)), ValueError, r"std\[0\]=nan"),
        (lambda k, x: augment.normalise((), ()), ValueError, "not empty"),
        (lambda k, x: augment.noise(-1.0), ValueError, "std=-1"),
        (lambda k, x: augment.noise(float("nan")), ValueError, "std=nan"),
        (lambda k, x: augment.rotate(float("inf")), ValueError, "degrees=inf"),
        (lambda k, x: augment.noise(1.0)(k, {"wave": x, "mask": x}), TypeError, r"noise .* \['mask', 'wave'\]"),
        (lambda k, x: augment.flip()(k, {"image": x}), TypeError, r"flip was given the arrays \['image'\]"),
        (lambda k, x: augment.noise(1.0)(k, x), TypeError, "needs float images, got uint8"),
        (lambda k, x: augment.normalise((0.5,), (0.0,)), ValueError, r"std\[0\]=0.0"),
        (lambda k, x: augment.normalise((0.5,), (0.5,))(k, x), ValueError, "3 channels, mean and std have 1"),
    ],
)
def test_bad_use(key, images, call, error, message):
    with pytest.raises(error, match=message):
        call(key, images)
