"""Swapped amplitudes, beside numpy's whole and shifted spectra, and the hook on a pair of batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import alignments
from jtl.methods.adapt.fda import fda, fda_images
from jtl.typing import Aux

swapped = jax.jit(fda_images, static_argnums=2)


def images(n=3, size=(9, 12), seed=0):
    return np.random.default_rng(seed).normal(size=(n, *size, 2)).astype(np.float32)


def spectrum(x):
    return np.fft.fftshift(np.fft.fft2(np.asarray(x, np.float64), axes=(1, 2)), axes=(1, 2))


def window(size, beta):
    """A square of half-size b about the centre of the shifted spectrum, cut off at its borders."""
    b = int(np.floor(min(size) * beta))
    return tuple(slice(max(n // 2 - b, 0), n // 2 + b + 1) for n in size)


def expected(source, target, beta):
    ours, theirs = spectrum(source), np.abs(spectrum(target))
    amplitude, inside = np.abs(ours), (slice(None), *window(source.shape[1:3], beta))
    amplitude[inside] = theirs[inside]
    mixed = np.fft.ifftshift(amplitude * np.exp(1j * np.angle(ours)), axes=(1, 2))
    return np.real(np.fft.ifft2(mixed, axes=(1, 2)))


@pytest.mark.parametrize(("size", "beta"), [((9, 12), 0.01), ((9, 12), 0.3), ((12, 9), 0.25), ((8, 8), 0.5)])
def test_the_images_are_those_of_the_shifted_spectrum(size, beta):
    source, target = images(size=size), 2 * images(size=size, seed=1) + 3
    found = swapped(source, target, beta)
    np.testing.assert_allclose(found, expected(source, target, beta), atol=1e-5)
    assert np.abs(found - source).max() > 0.1
    # Amplitudes are the target's inside and the source's outside, and phases stay.
    inside, ours, now = (slice(None), *window(size, beta)), spectrum(source), spectrum(found)
    amplitude = np.abs(ours)
    amplitude[inside] = np.abs(spectrum(target))[inside]
    np.testing.assert_allclose(np.abs(now), amplitude, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(now / np.abs(now), ours / np.abs(ours), atol=2e-4)


def test_nothing_changes_at_0_and_by_the_same_image():
    source, target = images(), images(seed=1)
    np.testing.assert_array_equal(fda_images(source, target, 0), source)
    np.testing.assert_array_equal(swapped(source, source, 0.3), source)
    half = fda_images(jnp.asarray(source, jnp.bfloat16), jnp.asarray(target, jnp.bfloat16), 0.3)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(half, np.float32), swapped(source, target, 0.3), atol=0.1)


def test_a_window_of_one_frequency_swaps_the_means():
    source, target = images() + 1, images(seed=1) + 5
    found = np.asarray(swapped(source, target, 0.05))
    np.testing.assert_allclose(found, source + (target - source).mean((1, 2), keepdims=True), atol=1e-5)
    black = np.zeros_like(source)  # has no phase
    np.testing.assert_allclose(swapped(black, target, 0.05), target.mean((1, 2), keepdims=True) + black, rtol=1e-5)


def seen(rows, **options):
    """The batch that the objective gets."""
    found = []
    objective = fda(lambda params, stats, batch, key, step: found.append(batch) or (0.0, Aux({})), 0.3, **options)
    objective.loss({}, {}, rows, jax.random.key(0), 0)
    return found[0]


def test_rows_are_paired_with_those_of_the_target_that_count():
    source, target, mask = images(5), images(4, seed=1), np.array([False, True, True, False])
    target[0] = np.nan
    rows = {"source": {"x": source, "y": np.arange(5)}, "target": {"x": target, "mask": mask}}
    found = seen(rows)
    np.testing.assert_allclose(found["source"]["x"], swapped(source, target[[1, 2, 1, 2, 1]], 0.3), atol=1e-6)
    assert found["target"] is rows["target"]
    assert found["source"]["y"] is rows["source"]["y"]
    alone = seen({"a": rows["source"], "b": {"x": target[1:3]}}, source="a", target="b")
    np.testing.assert_array_equal(alone["a"]["x"], found["source"]["x"])
    empty = seen({**rows, "target": {"x": np.full_like(target, np.nan), "mask": np.zeros(4, bool)}})
    np.testing.assert_array_equal(empty["source"]["x"], source)


def test_what_does_not_fit_is_refused():
    x = images()
    for beta in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="beta="):
            alignments.fda(lambda params, stats, batch, key, step: 0.0, beta)
        with pytest.raises(ValueError, match="beta="):
            fda_images(x, x, beta)
    with pytest.raises(ValueError, match="3 images of the source and 2 of the target"):
        fda_images(x, x[:2], 0.1)
    with pytest.raises(ValueError, match=r"\(9, 12, 2\) and \(9, 9, 2\): give both domains one size"):
        fda_images(x, x[:, :, :9], 0.1)
    with pytest.raises(ValueError, match="fda needs a view 'target'"):
        seen({"source": {"x": x}})
    for bad, said in ((x[0], "float32"), ((255 * x).astype(np.uint8), "uint8"), ({"image": x}, "dict")):
        with pytest.raises(ValueError, match=f"x of 'source' is {said}.*give images.* divide integers by 255"):
            seen({"source": {"x": bad}, "target": {"x": x}})
    with pytest.raises(ValueError, match="x of 'target' is NoneType"):
        seen({"source": {"x": x}, "target": {"y": x}})
    with pytest.raises(ValueError, match=r"mask of shape \(2,\) does not fit 3 rows"):
        seen({"source": {"x": x}, "target": {"x": x, "mask": np.ones(2, bool)}})
