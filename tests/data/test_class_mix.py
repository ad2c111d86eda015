"""Laws of ClassMix, and its images pixel by pixel."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.data.mixing import class_mix, half_of_classes

CLASSES = 4
half = jax.jit(half_of_classes, static_argnums=2)


def maps(n=64, seed=0):
    """Label maps in 8 bits of 1 to 5 labels, 255 among them."""
    draw = np.random.default_rng(seed)
    kinds = [draw.permutation([0, 1, 2, 3, 255])[: 1 + i % 5] for i in range(n)]
    return np.stack([draw.choice(kind, (3, 5)) for kind in kinds]).astype(np.uint8)


def test_half_of_the_classes_of_each_map_is_chosen_whole(key):
    y = maps()
    weights = np.where(y == 2, 0.0, 0.5)  # class 2 has no pixel that counts
    for found, absent in ((half(key, y, CLASSES), {255}), (half(key, y, CLASSES, weights=weights), {2, 255})):
        for labels, chosen in zip(y, np.asarray(found), strict=True):
            there, taken = set(labels.ravel().tolist()) - absent, set(labels[chosen].tolist())
            assert taken <= there
            assert len(taken) == (len(there) + 1) // 2
            np.testing.assert_array_equal(chosen, np.isin(labels, list(taken)))


def test_all_halves_are_equally_likely(key):
    n = 4096
    y = np.broadcast_to(np.arange(CLASSES), (n, 1, CLASSES))
    found = Counter(tuple(np.flatnonzero(row[0]).tolist()) for row in np.asarray(half(key, y, CLASSES)))
    assert len(found) == 6
    # Six standard deviations of a count of Binomial(n, 1/6).
    assert max(abs(count - n / 6) for count in found.values()) < 6 * (n * 5 / 36) ** 0.5


def test_pixels_and_labels_are_pasted_together(key):
    y, labels, draw = maps(8), np.full((8, 3, 5), 3), np.random.default_rng(1)
    x, onto = draw.integers(0, 256, (2, 8, 3, 5, 2), np.uint8)
    mixed, found, pasted = jax.jit(class_mix, static_argnums=5)(key, x, y, onto, labels, CLASSES)
    assert mixed.dtype == np.uint8
    assert class_mix(key, x[:0], y[:0], onto[:0], labels[:0], CLASSES)[0].shape == (0, 3, 5, 2)
    np.testing.assert_array_equal(pasted, half(key, y, CLASSES))
    for at in np.ndindex(y.shape):
        assert found[at] == (y[at] if pasted[at] else labels[at])
        np.testing.assert_array_equal(mixed[at], x[at] if pasted[at] else onto[at])


def test_what_does_not_fit_is_refused(key):
    y, x = jnp.zeros((2, 3, 5), int), jnp.zeros((2, 3, 5, 1))
    with pytest.raises(ValueError, match="classes=0"):
        half_of_classes(key, y, 0)
    with pytest.raises(ValueError, match=r"weights of shape \(2,\) for labels of \(2, 3, 5\)"):
        half_of_classes(key, y, 3, weights=np.ones(2))
    with pytest.raises(ValueError, match=r"class_mix: images and labels of shapes .*\(1, 3, 5\)"):
        class_mix(key, x, y[:1], x, y, 3)
    with pytest.raises(ValueError, match="in pairs"):
        class_mix(key, x, y, x[:1], y[:1], 3)
