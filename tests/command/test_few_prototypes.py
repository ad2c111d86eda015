"""Prototypes of a few examples, against sums written out."""

import numpy as np
import pytest

from jtl.command.few_prototypes import closed_form, halves, held_out


def _features():
    z = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    y = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2], np.int32)
    return z + 2 * np.eye(3, 4, dtype=np.float32)[y], y


def test_the_head_gives_the_scaled_cosine_to_the_means():
    z, y = _features()
    kernel, bias = closed_form(z, y, 3, 0.7)
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    found = x @ kernel + bias
    for i in range(5):
        for k in range(3):
            c = z[y == k].mean(0)
            cosine = (x[i] @ c) / (np.linalg.norm(x[i]) * np.linalg.norm(c))
            np.testing.assert_allclose(found[i, k], 0.7 * np.linalg.norm(x[i]) * cosine, rtol=1e-4, atol=1e-5)


def test_held_out_logits_are_those_of_prototypes_without_the_example():
    z, y = _features()
    scale, found = held_out(z, y, 3)
    for i in range(len(z)):
        rest = np.arange(len(z)) != i
        for k in range(3):
            c = z[rest & (y == k)].mean(0)
            np.testing.assert_allclose(found[i, k], scale * (z[i] @ c) / np.linalg.norm(c), rtol=1e-4, atol=1e-5)


def test_the_scale_is_the_best_of_a_grid_by_smoothed_cross_entropy():
    z, y = _features()
    scale, found = held_out(z, y, 3)
    off = 1 / (len(y) + 2) / 2
    target = np.full((9, 3), off)
    target[np.arange(9), y] = 1 - 2 * off

    def loss(s):
        a = found / scale * s
        return -(target * (a - np.log(np.exp(a).sum(1, keepdims=True)))).sum()

    assert loss(scale) < min(loss(scale * 2**0.5), loss(scale / 2**0.5))


def test_a_lone_example_is_not_judged_and_no_difference_raises():
    z, y = _features()
    _, found = held_out(np.concatenate([z[:7], z[7:8]]), y[:8], 3)
    assert np.isnan(found[7]).all()
    assert np.isfinite(found[:7]).all()
    scale, alone = held_out(z[[0, 3, 7]], y[[0, 3, 7]], 3)
    assert np.isnan(alone).all()
    np.testing.assert_allclose(scale, 10 / np.linalg.norm(z[[0, 3, 7]], axis=1).mean(), rtol=1e-6)
    with pytest.raises(ValueError, match="mean features of all classes are the same"):
        held_out(np.ones((4, 2), np.float32), np.array([0, 0, 1, 1]), 2)


def test_an_example_is_left_out_with_its_copies_and_counts_once():
    """Every photo twice, in any order, is each once: the scale and the logits are the same."""
    z, y = _features()
    scale, found = held_out(z, y, 3)
    order = np.random.default_rng(2).permutation(18)
    rows = np.tile(np.arange(9), 2)[order]
    first = np.array([rows.tolist().index(i) for i in rows])
    again, twice = held_out(z[rows], y[rows], 3, first)
    np.testing.assert_allclose(again, scale, rtol=1e-12)
    np.testing.assert_allclose(twice, found[rows], rtol=1e-9)
    pair = np.array([0, 0, 3, 4])  # a class that has one photo, twice
    _, alone = held_out(z[pair], y[pair], 2, np.array([0, 0, 2, 3]))
    assert np.isnan(alone).all(1).tolist() == [True, True, False, False]


def test_copies_are_in_one_half():
    half = halves(np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 2, 0, 4, 5]))
    assert half.tolist() == [0, 0, 1, 0, 0, 1]


def test_every_class_is_in_both_halves():
    y = np.array([1, 0, 1, 1, 0, 2, 2, 0, 1])
    half = halves(y)
    counts = np.array([[((y == k) & (half == h)).sum() for k in range(3)] for h in (0, 1)])
    np.testing.assert_array_equal(counts, [[2, 2, 1], [1, 2, 1]])
