"""Laws of the augmentations of appearance, and references by loops of numpy."""

import jax
import numpy as np
import pytest

from jtl.data.appearance import erase, jitter, mask_patches, spec_augment


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(size=(6, 8, 10, 3)).astype(np.float32)


def test_jitter_blends_with_black_the_mean_and_grey(key, images):
    grey = images @ np.array([0.299, 0.587, 0.114], np.float32)
    mean = grey.mean((1, 2))[:, None, None, None] * np.ones_like(images)
    for i, (options, other) in enumerate(
        [
            ({"brightness": 0.4}, np.zeros_like(images)),
            ({"contrast": 0.4}, mean),
            ({"saturation": 0.4}, grey[..., None] * np.ones_like(images)),
        ]
    ):
        out = np.asarray(jax.jit(jitter(**options))(key, images))
        f = np.asarray(jax.random.uniform(jax.random.fold_in(key, i), (6, 1, 1, 1), minval=0.6, maxval=1.4))
        np.testing.assert_allclose(out, np.clip(f * images + (1 - f) * other, 0, 1), atol=1e-5)
        assert np.ptp(f) > 0.1
        assert out.min() >= 0
        assert out.max() <= 1


def test_erasing_is_a_rectangle_of_the_share_with_its_probability(key):
    x = np.ones((1000, 20, 30, 2), np.float32)
    out = np.asarray(jax.jit(erase(0.3, scale=(0.1, 0.3), value=-1.0))(key, x))
    gone = out[..., 0] == -1
    assert (out[..., 0] == out[..., 1]).all()
    assert ((out == 1) | (out == -1)).all()
    hit = gone.any((1, 2))
    assert abs(hit.mean() - 0.3) < 5 * (0.3 * 0.7 / 1000) ** 0.5
    for one in gone[hit]:
        rows, columns = np.nonzero(one)
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert abs(gone[hit].mean() - 0.2) < 0.02
    assert (np.asarray(erase(0.0)(key, x)) == 1).all()


def test_spec_augment_masks_whole_bands_of_uniform_width(key):
    x = np.ones((2000, 30, 12), np.float32)
    one = np.asarray(jax.jit(spec_augment(4, 6, 1, 0))(key, x))
    bands = (one == 0).all(1)
    np.testing.assert_array_equal((one == 0).any(1), bands)
    widths = bands.sum(1)
    padded = np.pad(bands, ((0, 0), (1, 1)))
    assert (padded[:, 1:] != padded[:, :-1]).sum(1).max() == 2
    np.testing.assert_allclose(np.bincount(widths, minlength=5) / 2000, 0.2, atol=5 * 0.4 / 2000**0.5)
    frames = np.asarray(spec_augment(4, 6, 0, 1)(key, x))
    np.testing.assert_array_equal((frames == 0).any(2), (frames == 0).all(2))
    np.testing.assert_allclose(np.bincount((frames == 0).all(2).sum(1)) / 2000, 1 / 7, atol=5 * 0.35 / 2000**0.5)
    both = np.asarray(spec_augment(4, 6)(key, x))
    assert (both == 0).all(1).sum(1).max() <= 8
    assert (both == 0).all(2).sum(1).max() <= 12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k, x: erase(scale=(0.5, 0.2)), "scale="),
        (lambda k, x: erase()(k, x[0]), "images of shape"),
        (lambda k, x: jitter(), "give one above 0"),
        (lambda k, x: jitter(0.1)(k, x.astype(np.uint8)), "divide by 255"),
        (lambda k, x: jitter(saturation=0.1)(k, x[..., :1]), "needs 3 channels"),
        (lambda k, x: erase(1.1), "probability=1.1"),
        (lambda k, x: spec_augment(0, 0), "a mask of some width"),
        (lambda k, x: spec_augment(3, 9)(k, x[..., 0]), "spectrograms of shape"),
    ],
)
def test_bad_input_raises(key, images, call, message):
    with pytest.raises(ValueError, match=message):
        call(key, images)


def test_patches_are_masked_whole_with_their_probability(key):
    x = np.random.default_rng(0).integers(1, 200, (500, 6, 4, 2)).astype(np.uint8)
    out = np.asarray(jax.jit(mask_patches(2, 0.7, value=255))(key, x))
    assert out.dtype == np.uint8
    gone = (out == 255).reshape(500, 3, 2, 2, 2, 2)
    masked = gone[:, :, 0, :, 0, 0]
    np.testing.assert_array_equal(gone, np.broadcast_to(masked[:, :, None, :, None, None], gone.shape))
    np.testing.assert_array_equal(out[out != 255], x[out != 255])
    n = masked.size
    assert abs(masked.mean() - 0.7) < 5 * (0.7 * 0.3 / n) ** 0.5
    both = (masked[:, :, 0] & masked[:, :, 1]).mean()  # independently
    assert abs(both - 0.49) < 5 * (0.49 * 0.51 / (n / 2)) ** 0.5
    for ratio, wanted in ((0, x), (1, np.zeros_like(x))):
        np.testing.assert_array_equal(mask_patches(2, ratio)(key, x), wanted)
    with pytest.raises(ValueError, match="images of 6 x 4 do not divide into patches of 4: give a divisor of 2"):
        mask_patches(4, 0.5)(key, x)
    for value in (0.5, -1, 256):
        with pytest.raises(ValueError, match=f"value={value}: images of uint8 hold whole numbers of 0 to 255"):
            mask_patches(2, 0.5, value)(key, x)
        with pytest.raises(ValueError, match=f"value={value}: images of uint8 hold whole numbers of 0 to 255"):
            erase(0.5, value=value)(key, x)
