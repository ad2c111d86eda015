"""Edit distance against its recursion."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import metrics


def recursion(a, b):
    @cache
    def distance(i, j):
        if not i or not j:
            return i + j
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return distance(len(a), len(b))


def rows(draw, count, width):
    lengths = draw.integers(0, width + 1, count)
    return np.where(np.arange(width)[None] < lengths[:, None], draw.integers(1, 4, (count, width)), 0)


def test_every_pair_has_the_distance_of_the_recursion():
    draw = np.random.default_rng(0)
    for widths in ((5, 7), (7, 5), (1, 6)):
        a, b = (rows(draw, 40, width) for width in widths)
        found = jax.jit(metrics.edit_distance)(a, b)
        wanted = [recursion(tuple(x[x > 0]), tuple(y[y > 0])) for x, y in zip(a, b, strict=True)]
        assert found.tolist() == wanted


def test_the_error_rate_is_edits_over_elements_of_the_references_that_count():
    metric, draw = metrics.error_rate(), np.random.default_rng(1)
    a, b = rows(draw, 30, 6), rows(draw, 30, 5)
    kept = draw.random(30) < 0.6
    edits = sum(recursion(tuple(x[x > 0]), tuple(y[y > 0])) for x, y in zip(a[kept], b[kept], strict=True))
    found = metric.finish(metric.sums(jnp.asarray(a), jnp.asarray(b), kept))
    np.testing.assert_allclose(found, edits / (b[kept] > 0).sum(), rtol=1e-6)
    ended = metrics.error_rate(pad=-1)  # the same sequences of 0, 1 and 2
    np.testing.assert_array_equal(ended.finish(ended.sums(jnp.asarray(a - 1), jnp.asarray(b - 1), kept)), found)
    parts = [metric.sums(jnp.asarray(a[s]), jnp.asarray(b[s]), kept[s]) for s in (slice(0, 11), slice(11, 30))]
    np.testing.assert_allclose(metric.finish(jax.tree.map(jnp.add, *parts)), found, rtol=1e-6)


def test_rows_and_weights_that_do_not_fit_are_named():
    metric, ones = metrics.error_rate(), jnp.ones((3, 3), int)
    with pytest.raises(ValueError, match=r"int32\(3, 3\) and int32\(1, 3\): .* as many rows of each"):
        metrics.edit_distance(ones, ones[:1])
    with pytest.raises(ValueError, match=r"weights of shape \(3, 3\) does not fit values of shape \(3,\)"):
        metric.sums(ones, ones, jnp.ones((3, 3)))
