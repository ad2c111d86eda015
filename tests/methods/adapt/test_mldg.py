"""MLDG against the gradient written out, in float64, and equal steps on one and on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import batch, dense, largest_difference, top

from jtl import alignments, losses, rng
from jtl.metrics.accumulate import as_terms, total
from jtl.model import cast_floating, upcast
from jtl.networks import network
from jtl.params import select
from jtl.train.parallel.pmap import pmap_step, replicated, split_batch, unreplicated
from jtl.train.step import make_step

KEY = jax.random.key(0)
NAMES = ("a", "b", "c")
NET = network(backbone=dense(6), head=top(3))
ROWS = {n: batch(n=16, seed=i, masked=True) for i, n in enumerate(NAMES)}
VARIABLES = alignments.mldg(NET, NAMES, inner_lr=0.5).init(KEY, ROWS)


def risk(params, rows):
    h = jnp.maximum(rows["x"] @ params["backbone"]["layer0"]["kernel"] + params["backbone"]["layer0"]["bias"][None], 0)
    z = h @ params["head"]["out"]["kernel"] + params["head"]["out"]["bias"][None]
    kept = np.flatnonzero(rows["mask"])
    return losses.cross_entropy(z[kept], jnp.asarray(rows["y"])[kept]).mean()


@pytest.mark.parametrize(("held_out", "order"), [(1, 2), (2, 2), (1, 1)])
def test_value_and_gradient_are_the_papers(held_out, order):
    with jax.enable_x64(True):
        params, rows = (cast_floating(tree, jnp.float64) for tree in (VARIABLES.params, ROWS))
        rows = {n: {**part, "mask": ROWS[n]["mask"]} for n, part in rows.items()}
        objective = alignments.mldg(NET, NAMES, inner_lr=0.5, weight=0.7, held_out=held_out, order=order)
        found = jax.jit(jax.value_and_grad(lambda p: total(as_terms(objective(p, {}, rows, KEY, 0)[0]))))(params)
        out = np.asarray(jax.random.permutation(rng.stream(KEY, "mldg"), jnp.arange(3) < held_out))
        assert out.sum() == held_out

        def mean_risk(params, which):
            chosen = [risk(params, rows[n]) for n, there in zip(NAMES, which, strict=True) if there]
            return sum(chosen) / len(chosen)

        def wanted(params):
            g = jax.grad(mean_risk)(params, ~out)
            g = jax.lax.stop_gradient(g) if order == 1 else g
            moved = jax.tree.map(lambda p, g: p - 0.5 * g, params, g)
            return mean_risk(params, ~out) + 0.7 * mean_risk(moved, out)

        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
            found,
            jax.jit(jax.value_and_grad(wanted))(params),
        )


def test_steps_hold_out_other_domains():
    objective = alignments.mldg(NET, NAMES, inner_lr=0.5, metrics={})
    run = jax.jit(lambda key: {n: t.total for n, t in objective(VARIABLES.params, {}, ROWS, key, 0)[0].items()})
    held = set()
    for seed in range(20):
        terms = run(jax.random.key(seed))
        (out,) = [n for n in NAMES if terms[f"{n}/held_out"] != 0]
        assert terms[f"{out}/train"] == 0
        held.add(out)
    assert held == set(NAMES)


def test_eight_devices_step_as_one():
    step = make_step(alignments.mldg(NET, NAMES, inner_lr=0.5), optax.sgd(0.5))
    start = step.init(VARIABLES, KEY)
    eight, _ = pmap_step(step)(replicated(start), split_batch(ROWS))
    found, one = jax.device_get(unreplicated(eight)).params, jax.jit(step)
    # Pmapped devices draw by keys of their own, so the domain held out is another: it is one of the three.
    gaps = [
        largest_difference(found, one(start._replace(key=jax.random.key(seed)), ROWS)[0].params) for seed in range(12)
    ]
    assert min(gaps) < 1e-6 < 1e-3 < max(gaps)


def test_the_inner_step_changes_what_is_adapted_alone():
    """A head that alone is adapted: the features of the second pass are those of the first."""
    objective = alignments.mldg(NET, NAMES, inner_lr=0.5, adapted=select("head/.*"), metrics={})
    terms, _ = jax.jit(objective.loss)(VARIABLES.params, {}, ROWS, KEY, 0)
    out = np.asarray(jax.random.permutation(rng.stream(KEY, "mldg"), jnp.arange(3) < 1))
    train = [n for n, o in zip(NAMES, out, strict=True) if not o]
    g = jax.jit(jax.grad(lambda p: sum(risk(p, ROWS[n]) for n in train) / 2))(VARIABLES.params)
    moved = {**VARIABLES.params, "head": jax.tree.map(lambda p, g: p - 0.5 * g, VARIABLES.params["head"], g["head"])}
    (name,) = set(NAMES) - set(train)
    np.testing.assert_allclose(terms[f"{name}/held_out"].value, risk(moved, ROWS[name]), rtol=1e-5)


def test_the_inner_step_survives_bfloat16():
    """A step of 5e-4 is below the 8 bits of such parameters: the second pass must not see it rounded away."""
    objective = alignments.mldg(NET, NAMES, inner_lr=5e-3, metrics={})
    low = cast_floating(VARIABLES.params, jnp.bfloat16)
    rows = {n: {**part, "x": jnp.asarray(part["x"], jnp.bfloat16)} for n, part in ROWS.items()}
    gaps = []
    for params, data in ((low, rows), (upcast(low), {n: {**p, "x": upcast(p["x"])} for n, p in rows.items()})):
        far = alignments.mldg(NET, NAMES, inner_lr=1e-9, metrics={})
        one, other = (jax.jit(o.loss)(params, {}, data, KEY, 0)[0] for o in (objective, far))
        (name,) = [n for n in NAMES if float(one[f"{n}/held_out"].value) != 0]
        gaps.append(float(one[f"{name}/held_out"].value) - float(other[f"{name}/held_out"].value))
    np.testing.assert_allclose(gaps[0], gaps[1], rtol=0.2)
    assert abs(gaps[1]) > 1e-5


def test_masked_rows_reach_nothing():
    objective = alignments.mldg(NET, NAMES, inner_lr=0.5)
    run = jax.jit(jax.value_and_grad(lambda p, rows: total(as_terms(objective(p, {}, rows, KEY, 0)[0]))))
    spoilt = {
        n: {**part, "x": np.where(part["mask"][:, None], part["x"], np.nan).astype(np.float32)}
        for n, part in ROWS.items()
    }
    a, b = run(VARIABLES.params, ROWS), run(VARIABLES.params, spoilt)
    np.testing.assert_allclose(a[0], b[0], rtol=1e-6)
    assert largest_difference(a[1], b[1]) < 1e-6
    none = {n: {**part, "mask": np.zeros(16, bool)} for n, part in spoilt.items()}
    value, g = run(VARIABLES.params, none)
    assert value == 0
    assert largest_difference(g, jax.tree.map(jnp.zeros_like, g)) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [({"inner_lr": 0.0}, "inner_lr=0"), ({"held_out": 3}, "held_out=3 of 3"), ({"order": 3}, "order=3")],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        alignments.mldg(NET, NAMES, **{"inner_lr": 0.1, **given})
