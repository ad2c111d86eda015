"""Mixup across domains against numpy, with the draws of its stream."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, dense, largest_difference, top

from jtl import alignments, rng
from jtl.metrics.accumulate import as_terms, total
from jtl.networks import network
from jtl.train.parallel.sharding import jit_step, mesh, put_batch
from jtl.train.step import make_step

KEY = jax.random.key(0)
NET = network(backbone=dense(8), head=top(3))


def data():
    source, target = batch(n=16), {"x": batch(n=16, seed=1)["x"]}
    source["mask"], target["mask"] = np.arange(16) % 4 != 1, np.arange(16) % 4 != 2
    source["y"][0] = -1  # an unlabelled row
    return {"source": source, "target": target}


ROWS = data()
OBJECTIVES = {
    shared: alignments.adapt(NET, alignments=[alignments.domain_mixup(NET, 0.7, alpha=0.5, shared=shared)], ignore=-1)
    for shared in (False, True)
}
VARIABLES = OBJECTIVES[False].init(KEY, ROWS)
run = jax.jit(
    jax.value_and_grad(
        lambda p, rows: total({"t": as_terms(OBJECTIVES[False](p, {}, rows, KEY, 0)[0])["domain_mixup"]})
    )
)


@pytest.mark.parametrize("shared", [False, True])
def test_the_term_is_that_of_numpy(shared):
    terms, _ = jax.jit(OBJECTIVES[shared].loss)(VARIABLES.params, {}, ROWS, KEY, 0)
    draw = rng.stream(rng.stream(KEY, "alignment", 0), "domain_mixup")
    b = np.broadcast_to(np.asarray(jax.random.beta(draw, 0.5, 0.5, () if shared else (16,))), (16,))
    xs, xt = ROWS["source"]["x"], ROWS["target"]["x"]

    def logits(x):
        return np.asarray(NET.apply(VARIABLES, x, train=False)[0].output)

    p = np.asarray(jax.nn.softmax(logits(xt)))
    logq = np.asarray(jax.nn.log_softmax(logits((b[:, None] * xs + (1 - b)[:, None] * xt).astype(np.float32))))
    values = []
    for i in np.flatnonzero(ROWS["source"]["mask"] & ROWS["target"]["mask"] & (ROWS["source"]["y"] >= 0)):
        wanted = (1 - b[i]) * p[i] + b[i] * np.eye(3)[ROWS["source"]["y"][i]]
        values.append(-(wanted * logq[i]).sum())
    np.testing.assert_allclose(terms["domain_mixup"].value, 0.7 * np.mean(values), rtol=1e-5)


def test_a_label_beyond_the_classes_is_nan_unless_it_is_masked():
    y, where = ROWS["source"]["y"], np.arange(16)
    for row, known in ((3, False), (1, True)):  # row 1 is masked
        source = {**ROWS["source"], "y": np.where(where == row, 3, y).astype(y.dtype)}
        found = run(VARIABLES.params, {**ROWS, "source": source})
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found)) == known


def test_masked_rows_reach_nothing():
    spoilt = {
        d: {**part, "x": np.where(part["mask"][:, None], part["x"], np.nan).astype(np.float32)}
        for d, part in ROWS.items()
    }
    (a, g), (b, h) = run(VARIABLES.params, ROWS), run(VARIABLES.params, spoilt)
    np.testing.assert_allclose(a, b, rtol=1e-6)
    assert largest_difference(g, h) < 1e-6
    value, g = run(VARIABLES.params, {**spoilt, "target": {**spoilt["target"], "mask": np.zeros(16, bool)}})
    assert value == 0
    assert largest_difference(g, jax.tree.map(jnp.zeros_like, g)) == 0


def test_eight_devices_take_the_step_of_one():
    step, results = make_step(OBJECTIVES[False], optax.sgd(0.1)), []
    for grid in (mesh(devices=jax.devices()[:1]), mesh()):
        update, state = jit_step(step, step.init(VARIABLES, KEY), grid)
        results.append(jax.device_get(update(state, put_batch(ROWS, grid))[0].params))
    assert largest_difference(*results) < 1e-5


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"alpha=0\.0"):
        alignments.domain_mixup(NET, alpha=0.0)
    fewer = {**ROWS, "target": {"x": ROWS["target"]["x"][:8]}}
    with pytest.raises(ValueError, match=r"shapes \(16, 5\) and \(8, 5\)"):
        OBJECTIVES[False](VARIABLES.params, {}, fewer, KEY, 0)
    soft = {**ROWS, "source": {**ROWS["source"], "y": np.ones((16, 3), np.float32)}}
    with pytest.raises(ValueError, match=r"the view 'source' has .*give integers"):
        alignments.adapt(NET, alignments=[alignments.domain_mixup(NET, alpha=1.0)], metrics={})(
            VARIABLES.params, {}, soft, KEY, 0
        )
