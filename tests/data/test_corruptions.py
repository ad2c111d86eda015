"""Corruptions against their definitions: moments of the noises, and images that are known."""

import colorsys
from inspect import unwrap

import numpy as np
import pytest

from jtl.data.corruptions import NAMES, corrupt

GREY = np.full((40, 32, 32, 3), 128, np.uint8)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_a_corruption_is_the_same_each_time_and_grows(name):
    before = IMAGES.copy()
    error = []
    for severity in range(1, 6):
        found = corrupt(IMAGES, name, severity, seed=3)
        assert found.dtype == np.uint8
        assert found.shape == IMAGES.shape
        np.testing.assert_array_equal(found, corrupt(IMAGES, name, severity, seed=3))
        error.append(np.abs(found.astype(float) - IMAGES).mean())
    np.testing.assert_array_equal(IMAGES, before)
    assert error == sorted(error)
    assert error[0] > 0


@pytest.mark.parametrize(("severity", "std"), [(1, 0.04), (3, 0.08), (5, 0.10)])
def test_gaussian_noise_has_its_deviation(severity, std):
    noise = corrupt(GREY, "gaussian_noise", severity) / 255 - 128 / 255
    np.testing.assert_allclose(noise.std(), std, rtol=0.02)
    np.testing.assert_allclose(noise.mean(), -0.5 / 255, atol=1e-3)  # rounded down


@pytest.mark.parametrize(("severity", "c"), [(1, 500), (5, 50)])
def test_shot_noise_has_the_variance_of_counts(severity, c):
    noise = corrupt(GREY, "shot_noise", severity) / 255
    np.testing.assert_allclose(noise.var(), 128 / 255 / c, rtol=0.05)


def test_impulses_are_black_and_white_in_equal_parts():
    found = corrupt(GREY, "impulse_noise", 5)
    np.testing.assert_allclose((found == 0).mean(), 0.035, rtol=0.1)
    np.testing.assert_allclose((found == 255).mean(), 0.035, rtol=0.1)
    assert ((found == 128) | (found == 0) | (found == 255)).all()


def test_blur_spreads_a_point_as_a_gaussian():
    point = np.zeros((1, 15, 15, 3), np.uint8)
    point[0, 7, 7] = 255
    found = corrupt(point, "gaussian_blur", 5)[0, :, :, 0] / 255
    at = np.arange(-4, 5)
    kernel = np.exp(-(at**2) / 2)
    kernel /= kernel.sum()
    np.testing.assert_allclose(found[3:12, 3:12], np.outer(kernel, kernel), atol=1 / 255)


def test_contrast_keeps_each_channels_mean():
    found = corrupt(IMAGES, "contrast", 5).astype(float)
    mean = IMAGES.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(found, mean + 0.15 * (IMAGES - mean), atol=1.01)


def test_brightness_is_the_value_of_hsv():
    found = corrupt(IMAGES, "brightness", 2)
    for pixel, new in zip(IMAGES.reshape(-1, 3)[:50] / 255, found.reshape(-1, 3)[:50], strict=True):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        np.testing.assert_allclose(new, 255 * np.array(colorsys.hsv_to_rgb(h, s, min(v + 0.1, 1))), atol=1.01)
    assert corrupt(np.zeros((1, 1, 1, 3), np.uint8), "brightness", 2)[0, 0, 0].tolist() == [25, 25, 25]


def test_another_name_or_severity_is_told():
    with pytest.raises(ValueError, match="name='fog': there are gaussian_noise"):
        corrupt(IMAGES, "fog", 1)
    for severity in (6, 3.0):
        with pytest.raises(ValueError, match=f"severity={severity}: an integer, 1 to 5"):
            unwrap(corrupt)(IMAGES, "jpeg", severity)


@pytest.mark.parametrize(
    ("images", "what"),
    [
        (IMAGES / 255, r"float64 \[3, 16, 16, 3\]"),
        (IMAGES[..., :1], r"uint8 \[3, 16, 16, 1\]"),
        (IMAGES[0], r"uint8 \[16, 16, 3\]"),
    ],
)
def test_images_of_another_type_or_shape_are_told(images, what):
    with pytest.raises(ValueError, match=f"images are {what}: give uint8 .rows, height, width, 3"):
        unwrap(corrupt)(images, "contrast", 1)
