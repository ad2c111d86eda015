"""The sliced Wasserstein distance against scipy's of order one, and the best assignment of copied rows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from alignment_references import domains, same_value_and_gradient
from nets import batch, dense, top
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance

from jtl import alignments, ops, rng
from jtl.methods.adapt.sliced_wasserstein import quantile_gaps, sliced_wasserstein_loss
from jtl.methods.views import View
from jtl.networks import network
from jtl.train.parallel.sharding import jit_step, mesh, put_batch
from jtl.train.step import make_step

KEY = jax.random.key(0)
LINES = np.random.default_rng(4).normal(size=(6, 4))
LINES /= np.linalg.norm(LINES, axis=1, keepdims=True)


def by_copies(s, t, lines):
    """Both domains with as many rows, each copied, the rows of one assigned to those of the other at the least cost."""
    s, t = np.repeat(s, len(t), 0), np.repeat(t, len(s), 0)
    costs = [((s @ line)[:, None] - (t @ line)[None]) ** 2 for line in lines]
    return np.mean([c[linear_sum_assignment(c)].mean() for c in costs])


def test_value_and_gradient_are_those_of_the_best_assignment():
    fs, ft, ms, mt = domains()
    same_value_and_gradient(
        lambda s, t: sliced_wasserstein_loss(s, t, LINES, ms, mt),
        lambda s, t: by_copies(s[ms], t[mt], LINES),
        fs,
        ft,
    )


@pytest.mark.parametrize("rows", [(8, 12), (5, 5)])
def test_the_distance_of_order_one_is_scipys(rows):
    draw = np.random.default_rng(1)
    fs, ft = draw.normal(size=(rows[0], 3)), 2 * draw.integers(-2, 3, (rows[1], 3)).astype(float)  # with ties
    with jax.enable_x64(True):
        gaps, shares = quantile_gaps(jnp.asarray(fs), jnp.asarray(ft), np.ones(rows[0]), np.ones(rows[1]))
        gaps, shares = np.asarray(gaps), np.asarray(shares)
    wanted = [wasserstein_distance(a, b) for a, b in zip(fs.T, ft.T, strict=True)]
    np.testing.assert_allclose(shares @ np.abs(gaps), wanted, rtol=1e-12)
    np.testing.assert_allclose(shares.sum(), 1, rtol=1e-12)


def test_moved_equal_and_repeated_rows():
    draw = np.random.default_rng(2)
    s, c = draw.normal(size=(5, 4)).astype(np.float32), np.array([[1.0, -2.0, 0.5, 0.0]], np.float32)
    loss = jax.jit(jax.value_and_grad(sliced_wasserstein_loss))
    np.testing.assert_allclose(loss(s, s[::-1] + c, LINES)[0], ((LINES @ c[0]) ** 2).mean(), rtol=1e-5)
    for same in (s[::-1], np.repeat(s, 3, 0)):
        value, gradient = loss(s, same, LINES)
        assert value < 1e-12
        assert np.abs(gradient).max() < 1e-6


def test_pmapped_devices_take_the_lines_of_the_first():
    draw = np.random.default_rng(3)
    fs, ft = draw.normal(size=(6, 4)).astype(np.float32), (1 + draw.normal(size=(8, 4))).astype(np.float32)
    ms, mt = np.arange(6) != 2, np.arange(8) != 1
    alignment, keys = alignments.sliced_wasserstein(2.0, projections=3), jax.random.split(KEY, 2)

    def term(key, fs, ft, ms, mt):
        views = {
            d: View({"pooled": f}, None, None, None, m, {}) for d, f, m in (("source", fs, ms), ("target", ft, mt))
        }
        return alignment({}, {}, views, key, 0)[0]["sliced_wasserstein"].value

    def halves(a):
        return a.reshape(2, -1, *a.shape[1:])

    found = jax.jit(jax.vmap(term, axis_name=ops.BATCH_AXIS))(keys, *map(halves, (fs, ft, ms, mt)))
    drawn = [np.asarray(jax.random.normal(rng.stream(key, "sliced_wasserstein"), (3, 4))) for key in keys]
    values = [2 * by_copies(fs[ms], ft[mt], d / np.linalg.norm(d, axis=1, keepdims=True)) for d in drawn]
    np.testing.assert_allclose(found, [values[0]] * 2, rtol=1e-5)
    assert abs(values[0] - values[1]) > 0.1


def test_eight_devices_take_parts_that_they_hold_unevenly():
    """12 rows of a part on 8 devices: XLA ended the process in the gradient of a sort."""
    net, rows = network(backbone=dense(8), head=top(3)), {"source": batch(n=16), "target": {"x": batch(n=24)["x"] + 1}}
    objective = alignments.adapt(net, alignments=[alignments.sliced_wasserstein(projections=8)])
    step, grid = make_step(objective, optax.sgd(0.1), microbatch=2), mesh()
    run, state = jit_step(step, step.init(objective.init(KEY, rows), KEY), grid)
    assert 0 < run(state, put_batch(rows, grid))[1]["sliced_wasserstein"] < np.inf


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="projections=0"):
        alignments.sliced_wasserstein(projections=0)
    with pytest.raises(ValueError, match="65536 and 32768 rows"):
        jax.eval_shape(lambda s, t: quantile_gaps(s, t, s[:, 0], t[:, 0]), jnp.zeros((2**16, 1)), jnp.zeros((2**15, 1)))
